"""Nearest neighbours and what lies within a radius."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.stats import norm

from histo.errors import PointsError
from histo.measure.spatial.points import as_points


@dataclass(frozen=True)
class AnnIndex:
    """The average nearest neighbour index of Clark and Evans: below 1 clustered, above 1 spread out.

    observed_um, expected_um : mean distance to the nearest neighbour, and that of points strewn at random.
    z : (observed - expected) / its standard error.
    p_one_sided : normal tail beyond |z|, as SPIAT gives it; twice as much is the two-sided p.
    """

    index: float
    observed_um: float
    expected_um: float
    z: float
    p_one_sided: float


@dataclass(frozen=True)
class DistanceSummary:
    """All distances between two kinds of points, um; sd with n - 1."""

    mean_um: float
    min_um: float
    max_um: float
    median_um: float
    sd_um: float


def nearest_neighbour(x: ArrayLike, t: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the distance (n,) in um from each point of x to the nearest of t, and the index of that (n,).

    Parameters
    ----------
    x, t : (n, 2), (m, 2) um.

    Raises
    ------
    PointsError : t is empty.
    """
    x, t = as_points(x, "points of X"), as_points(t, "points of T")
    if len(t) == 0:
        raise PointsError("there are no points of T", fix="Without them nothing is nearest.")
    distance, index = cKDTree(t).query(x, workers=-1)
    return np.asarray(distance, dtype=np.float64), np.asarray(index, dtype=np.int64)


def nearest_other(points: ArrayLike) -> NDArray[np.float64]:
    """Return the distance (n,) in um from each point to the nearest other; its mean is SPIAT's
    `average_minimum_distance`.

    Raises
    ------
    PointsError : fewer than two points.
    """
    points = as_points(points)
    if len(points) < 2:
        raise PointsError(f"{len(points)} points have no neighbours", fix="Give two or more.")
    # The point itself comes first, or another at the same place: at distance 0 either way.
    distance, _ = cKDTree(points).query(points, k=[2], workers=-1)
    return np.reshape(distance, len(points))


def ann_index(points: ArrayLike, area_um2: float) -> AnnIndex:
    """Return the average nearest neighbour index: mean distance over 0.5 / sqrt(n / area).

    The standard error is 0.26136 / sqrt(n**2 / area). Clark and Evans 1954, Ecology 35:445; not corrected for
    the edge (see `kaplan_meier_mean` for a mean that is). SPIAT's `average_nearest_neighbor_index` takes the
    bounding box of all cells for the area.

    Raises
    ------
    PointsError : fewer than two points, or no area.
    """
    points = as_points(points)
    if not area_um2 > 0:
        raise PointsError(f"an area of {area_um2} um2", fix="Give the area in which the points were seen.")
    observed = float(nearest_other(points).mean())
    n = len(points)
    expected = 0.5 / sqrt(n / area_um2)
    z = (observed - expected) / (0.26136 / sqrt(n**2 / area_um2))
    return AnnIndex(observed / expected, observed, expected, z, float(norm.sf(abs(z))))


def count_within(x: ArrayLike, t: ArrayLike, radius_um: float) -> NDArray[np.int64]:
    """Return how many points of t (m, 2) lie within a radius of each point of x (n, 2)."""
    x, t = as_points(x, "points of X"), as_points(t, "points of T")
    if len(t) == 0:
        return np.zeros(len(x), dtype=np.int64)
    counts = cKDTree(t).query_ball_point(x, radius_um, return_length=True, workers=-1)
    return np.asarray(counts, dtype=np.int64)


def percentage_within(
    points: ArrayLike, is_reference: NDArray[np.bool_], is_target: NDArray[np.bool_], radius_um: float
) -> float:
    """Return the percentage of targets among the points within a radius of a reference, averaged over these.

    SPIAT's `average_percentage_of_cells_within_radius`: the reference itself is left out, and so are
    references without any point round them. NaN where all are.

    Parameters
    ----------
    points : (n, 2) um, of all kinds.
    is_reference, is_target : (n,) which of them are of which kind.
    """
    points = as_points(points)
    reference = points[is_reference]
    all_round = count_within(reference, points, radius_um) - 1
    targets = count_within(reference, points[is_target], radius_um) - is_target[is_reference]
    known = all_round > 0
    return float((targets[known] / all_round[known]).mean() * 100) if known.any() else float("nan")


def count_pairs(x: ArrayLike, t: ArrayLike, radius_um: float) -> int:
    """Return how many pairs of a point of x (n, 2) and one of t (m, 2) are at most `radius_um` apart."""
    return int(count_within(x, t, radius_um).sum())


def distance_summary(x: ArrayLike, t: ArrayLike) -> DistanceSummary:
    """Return mean, extremes, median and standard deviation of all n * m distances, held at once.

    SPIAT's `calculate_summary_distances_between_celltypes` on pairwise distances.

    Raises
    ------
    PointsError : fewer than two pairs.
    """
    x, t = as_points(x, "points of X"), as_points(t, "points of T")
    if len(x) * len(t) < 2:
        raise PointsError(f"{len(x) * len(t)} pairs of points", fix="Give two or more.")
    distance = cdist(x, t)
    return DistanceSummary(
        mean_um=float(distance.mean()),
        min_um=float(distance.min()),
        max_um=float(distance.max()),
        median_um=float(np.median(distance)),
        sd_um=float(distance.std(ddof=1)),
    )
