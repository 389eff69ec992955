"""Random labelling: is a kind of cell placed otherwise than cells at large?

Labels are permuted over the same cells. These stay where they are, so tissue, holes, glands and cell density
are the same in every permutation; nothing is thrown into an empty window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo.errors import PointsError
from histo.measure.spatial.points import as_points, as_radii, pairs_within
from histo.measure.spatial.window import Window, check_inside


@dataclass(frozen=True, eq=False)
class Envelope:
    """A curve against those of permuted labels; arrays (k,).

    low, high : pointwise envelope; at any one place the level's share of permuted curves lies within.
    mean, sd : of the permuted curves.
    effect : (observed - mean) / sd; NaN where permuted curves do not vary.
    p_pointwise : two-sided, by rank, at each place by itself.
    p_global : for the whole curve at once, by the largest studentised deviation from the mean (Myllymaki et
        al. 2017, J R Stat Soc B 79:381), so that looking at many distances costs nothing.
    """

    observed: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    effect: NDArray[np.float64]
    p_pointwise: NDArray[np.float64]
    p_global: float
    n_permutations: int


def random_labelling(
    curve_of: Callable[[NDArray[np.bool_]], NDArray[np.float64]],
    is_x: NDArray[np.bool_],
    *,
    n_permutations: int = 199,
    level: float = 0.95,
    seed: int = 0,
) -> Envelope:
    """Return a curve against those of as many labels strewn at random over the same points.

    Parameters
    ----------
    curve_of : takes labels (n,) and returns a curve (k,), such as `cross_g_by_label` makes.
    is_x : (n,), the labels observed.
    seed : the same seed gives the same result.
    """
    if n_permutations < 19:
        raise PointsError(
            f"{n_permutations} permutations cannot reach p = 0.05", fix="Ask for at least 19, better 199."
        )
    rng = np.random.default_rng(seed)
    n_x = int(is_x.sum())
    curves = []
    for _ in range(n_permutations):
        labels = np.zeros(len(is_x), dtype=np.bool_)
        labels[rng.choice(len(is_x), n_x, replace=False, shuffle=False)] = True
        curves.append(curve_of(labels))
    return envelope(curve_of(is_x), np.stack(curves), level=level)


def envelope(
    observed: NDArray[np.float64], permuted: NDArray[np.float64], *, level: float = 0.95
) -> Envelope:
    """Return an observed curve (k,) against permuted ones (s, k).

    p values are (1 + number of permuted curves at least as extreme) / (s + 1): exact where labels are
    exchangeable. The global test studentises by mean and sd of all s + 1 curves, which treats them alike.

    Raises
    ------
    PointsError : curves of different lengths, or with a value that is not finite.
    """
    if permuted.ndim != 2 or permuted.shape[1:] != observed.shape:
        raise PointsError(
            f"permuted curves of shape {permuted.shape} for one of {observed.shape}",
            fix="Give (s, k) and (k,).",
        )
    n = len(permuted)
    every = np.concatenate([observed[None], permuted])
    if not np.isfinite(every).all():
        raise PointsError(
            "a curve is not known at all distances", fix="Leave out the distances where it is not."
        )
    spread = every.std(axis=0)
    deviation = np.abs(every - every.mean(axis=0))
    # A ulp of noise must not be taken for variation.
    varies = spread > 1e-12 * np.abs(every).max(axis=0)
    largest = (deviation[:, varies] / spread[varies]).max(axis=1, initial=0.0)
    below, above = (permuted <= observed).sum(axis=0), (permuted >= observed).sum(axis=0)
    mean, sd = permuted.mean(axis=0), permuted.std(axis=0, ddof=1)
    low, high = np.quantile(permuted, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Envelope(
        observed=observed,
        low=low,
        high=high,
        mean=mean,
        sd=sd,
        effect=np.divide(observed - mean, sd, out=np.full(len(mean), np.nan), where=varies & (sd > 0)),
        p_pointwise=np.minimum(1.0, 2 * (1 + np.minimum(below, above)) / (n + 1)),
        # Equal but for rounding counts as equal.
        p_global=float((1 + (largest[1:] >= largest[0] * (1 - 1e-12)).sum()) / (n + 1)),
        n_permutations=n,
    )


def cross_g_by_label(
    points: ArrayLike, is_candidate: NDArray[np.bool_], window: Window, r_um: ArrayLike
) -> Callable[[NDArray[np.bool_]], NDArray[np.float64]]:
    """Return what gives cross-G from the points with a label to the candidates without, for any labels.

    Neighbours are looked up once. The estimate is the reduced sample of the points at least max(r) from the
    edge: at max(r) it is the border estimate of `cross_g`, at smaller r it uses the same points.

    Parameters
    ----------
    points : (n, 2) um, all cells, in the window.
    is_candidate : (n,), which may be a target: cells of the tumour region, whatever their label.
    r_um : (k,), increasing.

    Returns
    -------
    A function of labels (n,) that returns (k,); NaN where no labelled point is far enough from the edge.
    """
    points, radii = as_points(points), as_radii(r_um)
    check_inside(points, window, "points")
    eligible = window.border_distance_um(points) >= radii[-1]
    offset, neighbour, bin_of = _neighbours(points, eligible, is_candidate, radii)

    def curve_of(is_x: NDArray[np.bool_]) -> NDArray[np.float64]:
        rows = np.flatnonzero(is_x & eligible)
        if len(rows) == 0:
            return np.full(len(radii), np.nan)
        n = offset[rows + 1] - offset[rows]
        rows, n = rows[n > 0], n[n > 0]
        first = np.cumsum(n) - n
        at = np.repeat(offset[rows] - first, n) + np.arange(n.sum())
        bins = np.where(is_x[neighbour[at]], len(radii), bin_of[at])
        nearest = np.minimum.reduceat(bins, first) if len(rows) else bins
        n_eligible = np.count_nonzero(is_x & eligible)
        return np.cumsum(np.bincount(nearest, minlength=len(radii) + 1))[: len(radii)] / n_eligible

    return curve_of


def _neighbours(
    points: NDArray[np.float64],
    eligible: NDArray[np.bool_],
    is_candidate: NDArray[np.bool_],
    radii: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int16]]:
    """Return the candidates round each eligible point: where each point's begin, which, and the bin of r."""
    rows, candidates = np.flatnonzero(eligible), np.flatnonzero(is_candidate)
    i_of, which, bin_of = [np.empty(0, np.int32)], [np.empty(0, np.int32)], [np.empty(0, np.int16)]
    for i, j, distance in pairs_within(points[rows], points[candidates], radii[-1]):
        i_of.append(rows[i].astype(np.int32))
        which.append(candidates[j].astype(np.int32))
        bin_of.append(np.searchsorted(radii, distance).astype(np.int16))
    i, j, bins = np.concatenate(i_of), np.concatenate(which), np.concatenate(bin_of)
    # By point, and none as its own neighbour.
    order = np.argsort(i, kind="stable")
    order = order[i[order] != j[order]]
    n_neighbours = np.bincount(i[order], minlength=len(points))
    return np.concatenate([[0], np.cumsum(n_neighbours)]), j[order], bins[order]
