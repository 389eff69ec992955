"""Mixing of two kinds of cells: pairs, shared squares, entropy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo.errors import PointsError
from histo.measure.density_map import DensityMap
from histo.measure.spatial.nearest import count_pairs
from histo.measure.spatial.points import as_points
from histo.measure.spatial.window import MaskWindow, check_inside


@dataclass(frozen=True)
class Mixing:
    """How often reference cells neighbour targets, against how often they neighbour each other.

    score : reference-target pairs / reference-reference pairs, each pair once (Keren et al. 2018, Cell
        174:1373); None where no two reference cells are neighbours.
    normalised : score * (n_reference - 1) / (2 * n_target): 1 where chance mixes them (SPIAT).
    """

    n_reference_target_pairs: int
    n_reference_reference_pairs: int
    score: float | None
    normalised: float | None


def mixing_score(reference: ArrayLike, target: ArrayLike, radius_um: float = 20.0) -> Mixing:
    """Return the mixing score of targets (m, 2) among reference cells (n, 2); um.

    SPIAT's `mixing_score_summary`; not corrected for the edge, which takes pairs of both kinds alike.
    """
    reference, target = as_points(reference, "reference points"), as_points(target, "target points")
    across = count_pairs(reference, target, radius_um)
    among = (count_pairs(reference, reference, radius_um) - len(reference)) // 2
    score = across / among if among else None
    normalised = None if score is None or len(target) == 0 else score * (len(reference) - 1) / len(target) / 2
    return Mixing(across, among, score, normalised)


def square_counts(points: ArrayLike, window: MaskWindow, size_um: float) -> NDArray[np.int64]:
    """Return how many points (n, 2) of the window lie in each square of a grid from the raster's corner.

    Returns
    -------
    (rows, columns) of the squares that cover the raster.

    Raises
    ------
    PointsError : points outside the window, or squares without a size.
    """
    points = as_points(points)
    check_inside(points, window, "points")
    grid = square_grid(window, size_um)
    grid.add(points[:, 0], points[:, 1])
    return grid.counts


def square_areas_mm2(window: MaskWindow, size_um: float) -> NDArray[np.float64]:
    """Return the tissue in each square, (rows, columns) as `square_counts` has them."""
    return square_grid(window, size_um).area_on(window.mask, window.mpp)


def square_grid(window: MaskWindow, size_um: float) -> DensityMap:
    """Return an empty grid of squares over the raster of a window."""
    if not size_um >= window.mpp:
        raise PointsError(
            f"squares of {size_um} um on a raster of {window.mpp} um", fix="Give larger squares."
        )
    rows, columns = window.mask.shape
    return DensityMap((columns * window.mpp, rows * window.mpp), size_um)


def morisita_horn(counts_x: ArrayLike, counts_t: ArrayLike) -> float:
    """Return the Morisita-Horn index of two kinds over the same squares: 0 apart, 1 in equal proportions.

    2 sum p q / (sum p**2 + sum q**2), with p and q the share of each kind's cells in a square (Horn 1966, Am
    Nat 100:419; for tumours Maley et al. 2015, Breast Cancer Res 17:131). Squares that hold neither, such as
    those without tissue, do not matter. It depends on the size of the squares. NaN where a kind is absent.

    Parameters
    ----------
    counts_x, counts_t : of one shape.
    """
    x, t = np.asarray(counts_x, dtype=np.float64), np.asarray(counts_t, dtype=np.float64)
    if x.sum() == 0 or t.sum() == 0:
        return float("nan")
    p, q = x / x.sum(), t / t.sum()
    return float(2 * (p * q).sum() / ((p**2).sum() + (q**2).sum()))


def entropy_bits(counts: ArrayLike) -> NDArray[np.float64]:
    """Return Shannon's entropy of the mix of kinds, -sum p log2 p, in bits.

    SPIAT's `calculate_entropy`; over squares, its `grid_metrics`.

    Parameters
    ----------
    counts : (..., kinds).

    Returns
    -------
    (...); 0 where there is one kind only, or nothing.
    """
    n = np.asarray(counts, dtype=np.float64)
    share = n / np.maximum(n.sum(axis=-1, keepdims=True), 1)
    entropy: NDArray[np.float64] = -(share * np.log2(np.where(share > 0, share, 1))).sum(axis=-1)
    # No minus zero.
    return entropy + 0.0


def percentage_above(values: ArrayLike, threshold: float) -> float:
    """Return the percentage of values that reach a threshold, SPIAT's `calculate_percentage_of_grids`.

    NaN where there are no values.
    """
    array = np.asarray(values, dtype=np.float64)
    return float((array >= threshold).mean() * 100) if array.size else float("nan")
