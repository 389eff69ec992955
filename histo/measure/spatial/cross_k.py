"""Cross-K and cross-L: how many T lie round a point of X, against what chance would put there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo.errors import PointsError
from histo.measure.spatial.edge import isotropic_weight, translation_weight
from histo.measure.spatial.points import as_points, as_radii, pairs_within
from histo.measure.spatial.window import MaskWindow, PolygonWindow, Window, check_inside

Correction = Literal["border", "translation", "isotropic"]

# A crossing within this share of the distances is noise (SPIAT).
_CROSSING_FROM = 0.04


@dataclass(frozen=True, eq=False)
class CrossK:
    """A cross-K function at distances `r_um`; NaN where it cannot be estimated. Arrays (k,).

    Above `theoretical_um2` the two kinds attract, below it they keep apart.
    """

    r_um: NDArray[np.float64]
    k_um2: NDArray[np.float64]

    @property
    def theoretical_um2(self) -> NDArray[np.float64]:
        """K without interaction: pi r**2."""
        return pi * self.r_um**2

    @property
    def l_um(self) -> NDArray[np.float64]:
        """L(r) = sqrt(K(r) / pi): r without interaction."""
        return np.sqrt(self.k_um2 / pi)


def cross_k(
    x: ArrayLike,
    t: ArrayLike,
    window: Window,
    r_um: ArrayLike,
    *,
    correction: Correction = "translation",
    intensity_x_per_um2: ArrayLike | None = None,
    intensity_t_per_um2: ArrayLike | None = None,
) -> CrossK:
    """Return cross-K from X to T, homogeneous or, with both intensities, inhomogeneous.

    With l the intensities (homogeneous: count / |W|), d the distance of a pair, b the distance of a point of
    X to the edge and w the weight of a pair (see `edge`):
    translation, isotropic: K(r) = sum_ij w_ij 1{d_ij <= r} / (l_i l_j) / |W|;
    border: K(r) = sum_i 1{b_i >= r} sum_j 1{d_ij <= r} / (l_i l_j) / sum_i 1{b_i >= r} / l_i.
    Ripley 1977, J R Stat Soc B 39:172; inhomogeneous: Baddeley, Moller and Waagepetersen 2000, Stat Neerl
    54:329. The reference is spatstat's `Kcross` and `Kcross.inhom`, with exact distances and weights in place
    of its histograms and pixels.

    Parameters
    ----------
    x, t : (n, 2), (m, 2) um, two kinds of points in the window; a point is of one kind.
    r_um : (k,), increasing. Trust K up to about a quarter of the window's width.
    correction : isotropic needs a `PolygonWindow`.
    intensity_x_per_um2, intensity_t_per_um2 : (n,), (m,), above 0: expected points per um2 at each point.

    Raises
    ------
    PointsError : no points, points outside the window, or intensities that do not fit.
    """
    x, t, radii = as_points(x, "points of X"), as_points(t, "points of T"), as_radii(r_um)
    for points, what in ((x, "points of X"), (t, "points of T")):
        if len(points) == 0:
            raise PointsError(f"there are no {what}", fix="Without them there is no cross-K.")
        check_inside(points, window, what)
    if (intensity_x_per_um2 is None) != (intensity_t_per_um2 is None):
        raise PointsError("intensities of one kind of points only", fix="Give both or none.")
    inverse_x = 1 / _intensity(intensity_x_per_um2, len(x), window, "X")
    inverse_t = 1 / _intensity(intensity_t_per_um2, len(t), window, "T")
    if correction == "border":
        return CrossK(radii, _border(x, t, window, radii, inverse_x, inverse_t))
    weight = _pair_weight(window, correction, radii[-1])
    total = np.zeros(len(radii) + 1)
    for i, j, distance in pairs_within(x, t, radii[-1]):
        share = weight(x[i], t[j], distance) * inverse_x[i] * inverse_t[j]
        total += np.bincount(np.searchsorted(radii, distance), share, len(total))
    return CrossK(radii, np.cumsum(total[:-1]) / window.area_um2)


def _border(
    x: NDArray[np.float64],
    t: NDArray[np.float64],
    window: Window,
    radii: NDArray[np.float64],
    inverse_x: NDArray[np.float64],
    inverse_t: NDArray[np.float64],
) -> NDArray[np.float64]:
    # The distances from the nearest on count at these radii: those not yet past the point's own edge.
    n_radii = np.searchsorted(radii, window.border_distance_um(x), side="right")
    total = np.zeros(len(radii) + 1)
    for i, j, distance in pairs_within(x, t, radii[-1]):
        first, stop = np.searchsorted(radii, distance), n_radii[i]
        counts = first < stop
        share = (inverse_x[i] * inverse_t[j])[counts]
        total += np.bincount(first[counts], share, len(total)) - np.bincount(stop[counts], share, len(total))
    left = np.bincount(n_radii, inverse_x, len(radii) + 1)
    at_risk = np.cumsum(left[::-1])[::-1][1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(at_risk > 0, np.cumsum(total[:-1]) / at_risk, np.nan)


def _pair_weight(
    window: Window, correction: Correction, reach_um: float
) -> Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]:
    if correction == "translation":
        overlap = window.overlap(reach_um)
        area = window.area_um2
        return lambda x, t, _: translation_weight(area, overlap(t[:, 0] - x[:, 0], t[:, 1] - x[:, 1]))
    if isinstance(window, MaskWindow):
        raise PointsError(
            "the isotropic correction needs a polygon, not a mask",
            fix="Use the translation correction, which is exact for a mask.",
        )
    polygon: PolygonWindow = window
    return lambda x, _, distance: isotropic_weight(polygon, x, distance)


def _intensity(given: ArrayLike | None, n: int, window: Window, what: str) -> NDArray[np.float64]:
    if given is None:
        return np.full(n, n / window.area_um2)
    intensity = np.asarray(given, dtype=np.float64)
    if intensity.shape != (n,) or not np.isfinite(intensity).all() or (intensity <= 0).any():
        raise PointsError(
            f"the intensity of {what} must be a number above 0 at each of its {n} points",
            fix="See kernel_intensity.",
        )
    return intensity


def auc_difference(r: ArrayLike, observed: ArrayLike, theoretical: ArrayLike) -> float:
    """Return the area between a cross function and its theory, as a share of the plot's area.

    (trapz(observed) - trapz(theoretical)) / (max(r) * max of both): `AUC_of_cross_function` of SPIAT (Feng et
    al. 2023, Nat Commun 14:2697). Above 0 the two kinds mix, below 0 they keep apart. Distances at which the
    function is NaN are left out.
    """
    curves = np.stack([np.asarray(curve, dtype=np.float64) for curve in (r, observed, theoretical)])
    distance, seen, expected = curves[:, np.isfinite(curves).all(axis=0)]
    if len(distance) < 2:
        return float("nan")
    area = np.trapezoid(seen, distance) - np.trapezoid(expected, distance)
    return float(area / (distance.max() * max(seen.max(), expected.max())))


def crossing(k: CrossK) -> float | None:
    """Return where cross-K crosses its theory, as 1 less the share of distances before; None without one.

    `crossing_of_crossK` of SPIAT: the signs of theory less K at all distances but the first change exactly
    once, after more than 4 % of the distances. A crossing tells of a ring of one kind round the other: few T
    near X, many further out, and the higher the nearer. Distances must be evenly spaced and start at 0.
    """
    sign = np.sign(k.theoretical_um2 - k.k_um2)[1:]
    sign = sign[np.isfinite(sign)]
    changes = np.flatnonzero(np.diff(sign) != 0) + 1
    share = changes / len(k.r_um)
    return float(1 - share[0]) if len(share) == 1 and share[0] > _CROSSING_FROM else None
