"""Polygons onto a grid: a pixel belongs to a polygon where its centre lies inside."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry


def rasterise(geometry: BaseGeometry, shape: tuple[int, int], mpp: float) -> NDArray[np.bool_]:
    """Return which pixels of a grid have their centre inside a polygon or multipolygon.

    Every edge toggles the pixels to the right of where it crosses the line through a row's pixel centres;
    what is toggled an odd number of times lies inside (even-odd scan conversion, exact for valid polygons).
    Centres on an edge belong to one side only: polygons that share an edge share no pixel and leave none out.

    Parameters
    ----------
    geometry : valid, um in the slide's frame; may reach outside the grid.
    shape : rows and columns of the grid.
    mpp : um per pixel.

    Returns
    -------
    (rows, columns) mask.
    """
    mask = np.zeros(shape, dtype=np.bool_)
    paint(mask, geometry, mpp, True)
    return mask


def paint(raster: NDArray[Any], geometry: BaseGeometry, mpp: float, value: int | bool) -> None:
    """Set the pixels of a (rows, columns) raster whose centres lie inside a polygon or multipolygon."""
    if geometry.is_empty:
        return
    # Pixel centres are whole numbers from here on.
    x0, y0, x1, y1 = (bound / mpp - 0.5 for bound in geometry.bounds)
    top, left = max(0, ceil(y0)), max(0, ceil(x0))
    bottom, right = min(raster.shape[0], ceil(y1)), min(raster.shape[1], ceil(x1))
    if top >= bottom or left >= right:
        return
    rings = shapely.get_rings(shapely.get_parts(geometry))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    points = points / mpp - 0.5
    points -= left, top
    inside = _parity(points, ring, bottom - top, right - left)
    raster[top:bottom, left:right][inside] = value


def _parity(
    points: NDArray[np.float64], ring: NDArray[np.int64], rows: int, columns: int
) -> NDArray[np.bool_]:
    start, end = points[:-1], points[1:]
    edge = (ring[:-1] == ring[1:]) & (start[:, 1] != end[:, 1])
    start, end = start[edge], end[edge]
    down = start[:, 1] < end[:, 1]
    low = np.where(down[:, None], start, end)
    high = np.where(down[:, None], end, start)
    # Rows i with low.y <= i < high.y.
    first = np.clip(np.ceil(low[:, 1]), 0, rows).astype(np.int64)
    last = np.clip(np.ceil(high[:, 1]), 0, rows).astype(np.int64)
    n_rows = last - first
    index = np.repeat(np.arange(len(low)), n_rows)
    row = first[index] + np.arange(len(index)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
    slope = (high[:, 0] - low[:, 0]) / (high[:, 1] - low[:, 1])
    crossing = low[index, 0] + (row - low[index, 1]) * slope[index]
    column = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)
    toggles = np.zeros((rows, columns + 1), dtype=np.uint8)
    # Counts wrap at 256, which leaves their parity as it is.
    np.add.at(toggles, (row, column), np.uint8(1))
    return (np.add.accumulate(toggles, axis=1, dtype=np.uint8) & 1)[:, :columns].astype(np.bool_)


def pixels_under(
    x_um: NDArray[np.float64], y_um: NDArray[np.float64], shape: tuple[int, ...], mpp: float
) -> tuple[NDArray[np.bool_], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return which points lie on a grid, and the (row, column) of the pixel under each.

    The pixel of a point that lies beside the grid is (0, 0).

    Parameters
    ----------
    x_um, y_um : (n,) um in the slide's frame.
    shape : (rows, columns) of the grid.
    mpp : um per pixel of the grid.
    """
    row, column = np.floor(y_um / mpp).astype(np.int64), np.floor(x_um / mpp).astype(np.int64)
    on_grid = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    return on_grid, (np.where(on_grid, row, 0), np.where(on_grid, column, 0))
