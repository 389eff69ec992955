"""The instances of one tile, whatever found them: made whole, kept or dropped, put in order."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label as connected_components

# Holes up to this size are filled (pixels); larger ones are not inside one cell's nucleus.
MAX_HOLE_PX: Final = 160


class Instances(NamedTuple):
    """Instances of one tile, in the order of their centroids (row, then column).

    labels : (H, W) int32, 0 where there is none, else 1 ... n.
    occupied : (H, W) where any pixel belongs to a cell, kept or not.
    area_px : (n,) int64.
    row_sum, column_sum : (n,) int64 sums of the rows and columns of the pixels: exact, whatever the tile.
    cell_class : (n,) int64, index into `CELL_CLASSES`.
    probability : (n,) float64 of that class, mean over the cell; NaN from a method that has none.
    """

    labels: NDArray[np.int32]
    occupied: NDArray[np.bool_]
    area_px: NDArray[np.int64]
    row_sum: NDArray[np.int64]
    column_sum: NDArray[np.int64]
    cell_class: NDArray[np.int64]
    probability: NDArray[np.float64]


class Numbered(NamedTuple):
    """Which instances of a label image are kept, and how they are numbered anew.

    kept : (n,) old numbers in the new order. number : old number to new, 0 for those dropped.
    area_px, row_sum, column_sum : (n,) int64, as in `Instances`.
    """

    kept: NDArray[np.intp]
    number: NDArray[np.int32]
    area_px: NDArray[np.int64]
    row_sum: NDArray[np.int64]
    column_sum: NDArray[np.int64]


def number_by_centroid(
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    owner: NDArray[np.int32],
    limits_px: tuple[float, float],
) -> Numbered:
    """Drop instances outside the area limits and number the rest by their centroids (row, then column).

    Parameters
    ----------
    rows, columns, owner : of every pixel of an instance, the owner from 1.
    limits_px : smallest and largest area.
    """
    area = np.bincount(owner)
    # Sums below 2**53 are exact in the float64 of bincount.
    row_sum = np.bincount(owner, rows).astype(np.int64)
    column_sum = np.bincount(owner, columns).astype(np.int64)
    kept = np.flatnonzero((area >= max(limits_px[0], 1)) & (area <= limits_px[1]))
    kept = kept[kept > 0]
    kept = kept[np.lexsort((column_sum[kept] / area[kept], row_sum[kept] / area[kept]))]
    number = np.zeros(len(area), np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    return Numbered(kept, number, area[kept], row_sum[kept], column_sum[kept])


def no_instances(occupied: NDArray[np.bool_]) -> Instances:
    """Return the result of a tile in which nothing is kept."""
    none = np.zeros(0, np.int64)
    return Instances(np.zeros(occupied.shape, np.int32), occupied, none, none, none, none, np.zeros(0))


def largest_parts(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Keep each instance's largest part (connected by sides), of equal ones the first in reading order."""
    parts: NDArray[Any] = connected_components(  # type: ignore[no-untyped-call]
        labels, connectivity=1, background=0
    )
    inside = np.flatnonzero(parts > 0)
    part = parts.ravel()[inside]
    size = np.bincount(part)
    owner = np.zeros(len(size), np.int32)
    owner[part] = labels.ravel()[inside]
    # Parts are numbered in reading order; sorted so that the first of each owner is the one to keep.
    order = np.lexsort((np.arange(len(size)), -size, owner))
    order = order[owner[order] > 0]
    _, first = np.unique(owner[order], return_index=True)
    keep = np.zeros(len(size), bool)
    keep[order[first]] = True
    out = np.zeros_like(labels)
    out.ravel()[inside] = np.where(keep[part], labels.ravel()[inside], 0)
    return out


def fill_holes(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give each hole of up to `MAX_HOLE_PX` that lies within one instance to it."""
    gaps, n = ndimage.label(labels == 0, np.ones((3, 3)))
    if n < 2:
        return labels
    size = np.bincount(gaps.ravel(), minlength=n + 1)
    small = (size <= MAX_HOLE_PX) & (np.arange(n + 1) > 0)
    pixels = np.flatnonzero(small[gaps.ravel()])
    if len(pixels) == 0:
        return labels
    height, width = labels.shape
    rows, columns = np.divmod(pixels, width)
    gap = gaps.ravel()[pixels]
    lowest = np.full(n + 1, np.iinfo(np.int32).max, np.int32)
    highest = np.zeros(n + 1, np.int32)
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        y, x = rows + dy, columns + dx
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        neighbour = labels[np.where(inside, y, 0), np.where(inside, x, 0)]
        # Open to the tile's edge: not enclosed.
        highest[gap[~inside]] = np.iinfo(np.int32).max
        touching = inside & (neighbour > 0)
        np.minimum.at(lowest, gap[touching], neighbour[touching])
        np.maximum.at(highest, gap[touching], neighbour[touching])
    filled = labels.copy()
    filled.ravel()[pixels] = np.where(lowest[gap] == highest[gap], lowest[gap], 0)
    return filled
