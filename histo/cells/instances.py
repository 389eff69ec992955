"""The instances of one tile, whatever found them: made whole, kept or dropped, put in order."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histo.compiled import compiled

# Holes up to this size are filled (pixels); larger ones are not inside one cell's nucleus.
MAX_HOLE_PX: Final = 160

# Steps to the neighbours of a pixel, (row, column).
_AROUND: Final = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
# Marks a pixel of the gap that is being looked at.
_IN_LIST: Final = -1


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


def number_by_centroid(labels: NDArray[np.int32], limits_px: tuple[float, float]) -> Numbered:
    """Drop instances outside the area limits and number the rest by their centroids (row, then column).

    Parameters
    ----------
    labels : (H, W), 0 for none, else from 1; not every number need be in use.
    limits_px : smallest and largest area.
    """
    area, row_sum, column_sum = _sums(labels, int(labels.max(initial=0)))
    kept = np.flatnonzero((area >= max(limits_px[0], 1)) & (area <= limits_px[1]))
    kept = kept[np.lexsort((column_sum[kept] / area[kept], row_sum[kept] / area[kept]))]
    number = np.zeros(len(area), np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    return Numbered(kept, number, area[kept], row_sum[kept], column_sum[kept])


@compiled
def _sums(labels: NDArray[np.int32], n: int) -> NDArray[np.int64]:
    """Return (3, n + 1) number, sum of rows and sum of columns of the pixels of each instance from 1."""
    out = np.zeros((3, n + 1), np.int64)
    height, width = labels.shape
    for row in range(height):
        for column in range(width):
            owner = labels[row, column]
            if owner > 0:
                out[0, owner] += 1
                out[1, owner] += row
                out[2, owner] += column
    return out


def no_instances(occupied: NDArray[np.bool_]) -> Instances:
    """Return the result of a tile in which nothing is kept."""
    none = np.zeros(0, np.int64)
    return Instances(np.zeros(occupied.shape, np.int32), occupied, none, none, none, none, np.zeros(0))


def largest_parts(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Keep each instance's largest part (connected by sides), of equal ones the first in reading order."""
    # A frame of 0 around spares every test for the image's edge.
    framed = np.zeros((labels.shape[0] + 2, labels.shape[1] + 2), np.int32)
    framed[1:-1, 1:-1] = labels
    _keep_largest(framed.ravel(), framed.shape[1], int(labels.max(initial=0)))
    return framed[1:-1, 1:-1].copy()


@compiled
def _keep_largest(labels: NDArray[np.int32], width: int, n: int) -> None:
    # The pixels of one part after the other, and of each instance where its largest so far begins and ends.
    pixels = np.empty(len(labels), np.uint32)
    begin = np.zeros(n + 1, np.int64)
    end = np.zeros(n + 1, np.int64)
    found = 0
    for start in range(len(labels)):
        owner = labels[start]
        if owner <= 0:
            continue
        # Flood the part; what is in the list is marked by a negative number.
        first = found
        pixels[found] = start
        labels[start] = -owner
        found += 1
        i = first
        while i < found:
            for step in (-width, -1, 1, width):
                # An index without a sign is faster.
                beside = np.uintp(pixels[i] + step)
                if labels[beside] == owner:
                    pixels[found] = beside
                    labels[beside] = -owner
                    found += 1
            i += 1
        if found - first > end[owner] - begin[owner]:
            begin[owner], end[owner] = first, found
    for i in range(found):
        labels[pixels[i]] = 0
    for owner in range(1, n + 1):
        for i in range(begin[owner], end[owner]):
            labels[pixels[i]] = owner


def fill_holes(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give each hole of up to `MAX_HOLE_PX` that lies within one instance to it.

    A hole is what is connected by sides or corners; one that is open to the tile's edge is none.
    """
    out = labels.copy()
    _fill(out)
    return out


@compiled
def _fill(labels: NDArray[np.int32]) -> None:
    height, width = labels.shape
    rows = np.empty(MAX_HOLE_PX, np.int64)
    columns = np.empty(MAX_HOLE_PX, np.int64)
    for first_row in range(1, height - 1):
        for first_column in range(1, width - 1):
            # A gap is looked at from its first pixel; one whose earlier pixels are still there is no hole.
            if (
                labels[first_row, first_column] != 0
                or labels[first_row, first_column - 1] == 0
                or labels[first_row - 1, first_column - 1] == 0
                or labels[first_row - 1, first_column] == 0
                or labels[first_row - 1, first_column + 1] == 0
            ):
                continue
            # Flood the gap until it proves to be no hole; what is in the list is marked.
            owner = labels[first_row, first_column - 1]
            rows[0], columns[0] = first_row, first_column
            labels[first_row, first_column] = _IN_LIST
            found = 1
            is_hole = True
            i = 0
            while is_hole and i < found:
                for dy, dx in _AROUND:
                    row, column = rows[i] + dy, columns[i] + dx
                    value = labels[row, column]
                    if value == 0:
                        earlier = row < first_row or (row == first_row and column < first_column)
                        at_edge = row == 0 or row == height - 1 or column == 0 or column == width - 1
                        if earlier or at_edge or found == MAX_HOLE_PX:
                            is_hole = False
                            break
                        rows[found], columns[found] = row, column
                        labels[row, column] = _IN_LIST
                        found += 1
                    elif value != owner and value != _IN_LIST and dy * dx == 0:
                        is_hole = False
                        break
                i += 1
            for i in range(found):
                labels[rows[i], columns[i]] = owner if is_hole else 0
