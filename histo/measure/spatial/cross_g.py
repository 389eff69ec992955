"""Cross-G: the distribution of the distance from a point of X to the nearest T."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo.errors import PointsError
from histo.measure.spatial.nearest import nearest_neighbour
from histo.measure.spatial.points import as_points, as_radii
from histo.measure.spatial.window import Window, check_inside


@dataclass(frozen=True, eq=False)
class CrossG:
    """A cross-G function at distances `r_um`, by two estimators; arrays (k,), 0 to 1.

    border : reduced sample; NaN where no point is that far from the edge.
    kaplan_meier : uses all points.
    theoretical : T strewn at random: 1 - exp(-intensity of T * pi * r**2).
    """

    r_um: NDArray[np.float64]
    border: NDArray[np.float64]
    kaplan_meier: NDArray[np.float64]
    theoretical: NDArray[np.float64]


def cross_g(x: ArrayLike, t: ArrayLike, window: Window, r_um: ArrayLike) -> CrossG:
    """Return cross-G from X to T.

    The reference is spatstat's `Gcross`, with exact distances in place of its histograms.

    Parameters
    ----------
    x, t : (n, 2), (m, 2) um, two kinds of points in the window; a point is of one kind.
    r_um : (k,), increasing.

    Raises
    ------
    PointsError : no points, or points outside the window.
    """
    x, t, radii = as_points(x, "points of X"), as_points(t, "points of T"), as_radii(r_um)
    for points, what in ((x, "points of X"), (t, "points of T")):
        if len(points) == 0:
            raise PointsError(f"there are no {what}", fix="Without them there is no cross-G.")
        check_inside(points, window, what)
    distance, _ = nearest_neighbour(x, t)
    edge = window.border_distance_um(x)
    return CrossG(
        r_um=radii,
        border=reduced_sample(distance, edge, radii),
        kaplan_meier=kaplan_meier(distance, edge, radii),
        theoretical=1 - np.exp(-len(t) / window.area_um2 * pi * radii**2),
    )


def reduced_sample(
    distance_um: NDArray[np.float64], border_distance_um: NDArray[np.float64], r_um: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the border-corrected distribution of distances.

    Of the points at least r from the edge, the share whose distance is at most r.

    Parameters
    ----------
    distance_um, border_distance_um : (n,) of each point: to its nearest neighbour, to the edge.
    r_um : (k,), increasing.
    """
    n_radii = np.searchsorted(r_um, border_distance_um, side="right")
    first = np.searchsorted(r_um, distance_um)
    counts = first < n_radii
    size = len(r_um) + 1
    events = np.cumsum(
        np.bincount(first[counts], minlength=size) - np.bincount(n_radii[counts], minlength=size)
    )
    at_risk = np.cumsum(np.bincount(n_radii, minlength=size)[::-1])[::-1][1:]
    with np.errstate(invalid="ignore"):
        return np.where(at_risk > 0, events[:-1] / at_risk, np.nan)


def kaplan_meier(
    distance_um: NDArray[np.float64], border_distance_um: NDArray[np.float64], r_um: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the Kaplan-Meier estimate of the distribution of distances, censored by the edge.

    G(r) = 1 - prod over s <= r of (1 - #{distance = s <= border distance} / #{min(distance, border distance)
    >= s}). Baddeley and Gill 1997, Ann Stat 25:263. Past the last point it stays where it was.

    Parameters are those of `reduced_sample`.
    """
    at, survival = _survival(distance_um, border_distance_um)
    return 1 - np.concatenate([[1.0], survival])[np.searchsorted(at, r_um, side="right")]


def kaplan_meier_mean(distance_um: NDArray[np.float64], border_distance_um: NDArray[np.float64]) -> float:
    """Return the mean distance under the Kaplan-Meier distribution, made to sum to 1 where it does not."""
    at, survival = _survival(distance_um, border_distance_um)
    if len(at) == 0:
        return float("nan")
    share = -np.diff(np.concatenate([[1.0], survival]))
    return float((at * share).sum() / share.sum())


def _survival(
    distance_um: NDArray[np.float64], border_distance_um: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances at which points meet a neighbour before the edge, and the share left beyond."""
    seen = np.sort(np.minimum(distance_um, border_distance_um))
    at, n_events = np.unique(distance_um[distance_um <= border_distance_um], return_counts=True)
    at_risk = len(seen) - np.searchsorted(seen, at)
    return at, np.cumprod(1 - n_events / at_risk, dtype=np.float64)


def auc_um(r_um: ArrayLike, g: ArrayLike, reach_um: float = 20.0) -> float:
    """Return the area under a G function from 0 to `reach_um`, by the trapezoidal rule; 0 to `reach_um`.

    Over 0 to 20 um it measures infiltration (Barua et al. 2018, Lung Cancer 117:73). NaN where the function
    is not known as far as that.

    Parameters
    ----------
    r_um : from 0 to `reach_um` or beyond.
    """
    radii, values = np.asarray(r_um, dtype=np.float64), np.asarray(g, dtype=np.float64)
    if radii[0] > 0 or radii[-1] < reach_um:
        raise PointsError(
            f"a function from {radii[0]:g} to {radii[-1]:g} um has no area from 0 to {reach_um:g} um",
            fix="Estimate it from 0 on, as far as the area is wanted.",
        )
    upto = np.append(radii[radii < reach_um], reach_um)
    return float(np.trapezoid(np.interp(upto, radii, values), upto))
