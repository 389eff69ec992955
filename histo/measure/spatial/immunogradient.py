"""The Immunogradient: cell density by rank of hexagons across the tumour edge."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation

from histo.errors import PointsError
from histo.measure.spatial.points import as_points
from histo.measure.spatial.window import MaskWindow, check_inside

SIDE_UM = 65.0
REACH = 4

# A hexagon counts where this share of it is tissue, and is tumour where this share of that is.
_HALF = 0.5
# In axial coordinates (row r, column q) a hexagon's neighbours are these and not the other diagonal.
_NEIGHBOURS = np.array([[0, 1, 1], [1, 1, 1], [1, 1, 0]], dtype=np.bool_)
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Immunogradient:
    """Cell density by rank of hexagons: 0 along the tumour edge, above 0 inwards, below 0 outwards.

    rank : (2 k + 1,), from -k to k.
    n_hexagons, n_cells, area_mm2, density_per_mm2 : (2 k + 1,) of each rank; density NaN without tissue.
    centre_of_mass : sum of rank * density / sum of density: above 0 where cells have moved into the tumour.
    immunodrop : density at rank -1 / density at rank 1: above 1 where it drops on the way in.
    Both None where a rank has no tissue, or there is nothing to divide by.
    """

    rank: NDArray[np.int64]
    n_hexagons: NDArray[np.int64]
    n_cells: NDArray[np.int64]
    area_mm2: NDArray[np.float64]
    density_per_mm2: NDArray[np.float64]
    centre_of_mass: float | None
    immunodrop: float | None


def immunogradient(
    points: ArrayLike,
    window: MaskWindow,
    tumour: NDArray[np.bool_],
    *,
    side_um: float = SIDE_UM,
    reach: int = REACH,
) -> Immunogradient:
    """Return the Immunogradient indicators of cells.

    After Rasmusson et al. 2020, Am J Pathol 190:1309. Their exact ranks of the Immunodrop, the side of their
    hexagons and how they find the edge could not be read again, so here is what this function does. Hexagons
    that are at least half tissue count; one is tumour where at least half of its tissue is. The edge, rank 0,
    are the tumour hexagons that touch one that is not tumour. Every other hexagon has as rank its grid
    distance to the nearest edge hexagon, above 0 in the tumour and below 0 outside. The density of a rank is
    all its cells over all its tissue.

    Parameters
    ----------
    points : (n, 2) um, in the window, such as CD8+ cells.
    tumour : bool, on the raster of the window.
    side_um : side of a hexagon.
    reach : the highest rank.

    Raises
    ------
    PointsError : points outside the window, or a tumour raster of another shape.
    """
    points = as_points(points)
    check_inside(points, window, "points")
    if tumour.shape != window.mask.shape:
        raise PointsError(
            f"a tumour raster of shape {tumour.shape} for tissue of {window.mask.shape}",
            fix="Give both on one grid.",
        )
    tissue_mm2, tumour_mm2 = _areas_mm2(window, tumour, side_um)
    tissue = tissue_mm2 >= _HALF * 1.5 * sqrt(3) * side_um**2 / 1e6
    inside = tissue & (tumour_mm2 >= _HALF * tissue_mm2)
    rank = _ranks(tissue, inside, reach)
    ranks = np.arange(-reach, reach + 1)
    n_cells = np.zeros(tissue.shape, dtype=np.int64)
    np.add.at(n_cells, _hexagon_of(points, side_um, window), 1)
    ranked = np.abs(rank) <= reach
    at = rank[ranked] + reach
    n = np.bincount(at, n_cells[ranked], len(ranks)).astype(np.int64)
    area = np.bincount(at, tissue_mm2[ranked], len(ranks)).astype(np.float64)
    density = np.divide(n, area, out=np.full(len(ranks), np.nan), where=area > 0)
    before, after = density[reach - 1], density[reach + 1]
    known = bool(np.isfinite(density).all())
    return Immunogradient(
        rank=ranks,
        n_hexagons=np.bincount(at, minlength=len(ranks)),
        n_cells=n,
        area_mm2=area,
        density_per_mm2=density,
        centre_of_mass=float((ranks * density).sum() / density.sum())
        if known and density.sum() > 0
        else None,
        immunodrop=float(before / after) if np.isfinite(before) and after > 0 else None,
    )


def _ranks(tissue: NDArray[np.bool_], inside: NDArray[np.bool_], reach: int) -> NDArray[np.int64]:
    """Return the rank of each hexagon; reach + 1 for those without."""
    reached = inside & binary_dilation(tissue & ~inside, _NEIGHBOURS)
    rank = np.full(tissue.shape, reach + 1, dtype=np.int64)
    rank[reached] = 0
    for distance in range(1, reach + 1):
        new = binary_dilation(reached, _NEIGHBOURS) & ~reached
        rank[new & inside] = distance
        rank[new & tissue & ~inside] = -distance
        reached |= new
    return rank


def _areas_mm2(
    window: MaskWindow, tumour: NDArray[np.bool_], side_um: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return tissue, and tumour tissue, of each hexagon; a pixel belongs to the one that holds its centre."""
    rows, columns = window.mask.shape
    height, width = rows * window.mpp / side_um, columns * window.mpp / side_um
    shape = (int(2 / 3 * height) + 3, int(width / sqrt(3)) + _first_column(window, side_um) + 3)
    areas = np.zeros((2, shape[0] * shape[1]))
    for top in range(0, rows, _ROWS_AT_ONCE):
        row, column = np.nonzero(window.mask[top : top + _ROWS_AT_ONCE])
        centres = (np.stack([column, row + top], axis=1).astype(np.float64) + 0.5) * window.mpp
        r, q = _hexagon_of(centres, side_um, window)
        flat = r * shape[1] + q
        areas[0] += np.bincount(flat, minlength=areas.shape[1])
        areas[1] += np.bincount(flat, tumour[row + top, column], areas.shape[1])
    areas *= window.mpp**2 / 1e6
    return areas[0].reshape(shape), areas[1].reshape(shape)


def _hexagon_of(
    points: NDArray[np.float64], side_um: float, window: MaskWindow
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row r and column q, axial coordinates from 0 on, of the pointy-topped hexagon of each point."""
    x, y = points.T / side_um
    axes = np.stack([x / sqrt(3) - y / 3, 2 / 3 * y, -x / sqrt(3) - y / 3])
    # Rounded in the three axes, which sum to 0; the one that is furthest off follows from the others.
    q, r, s = np.rint(axes)
    worst = np.abs(np.stack([q, r, s]) - axes).argmax(axis=0)
    row, column = np.where(worst == 1, -q - s, r), np.where(worst == 0, -r - s, q)
    return row.astype(np.int64), column.astype(np.int64) + _first_column(window, side_um)


def _first_column(window: MaskWindow, side_um: float) -> int:
    """Return how far left of the first row, which starts at column 0, the last one reaches."""
    return int(window.mask.shape[0] * window.mpp / side_um / 3) + 2
