"""From the network's maps to instances.

A centre is a peak of the centre map. Each foreground pixel votes, by its offset, for the place where its
cell's centre should be, and joins the nearest peak to its vote; so cells that touch come apart along the line
where the votes part. Everything is local: nothing further than `REACH_PX` from a cell's centroid changes the
cell, and ties are resolved by position on the slide's grid, so that a cell comes out the same from every tile
that holds it whole.
"""

from __future__ import annotations

from math import floor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from histo.cells.instances import (
    Instances,
    fill_holes,
    largest_parts,
    no_instances,
    number_by_centroid,
)
from histo.cells.maps import TileMaps
from histo.compiled import compiled

# A peak is the largest value within this many pixels of the centre map (twice the pixel size) to each side.
_PEAK_RADIUS: Final = 2
# A vote joins a peak within this distance (centre-map pixels).
_VOTE_RADIUS: Final = 4
# No cell reaches further from its peak than this (pixels); its centroid therefore lies within it too.
_MAX_RADIUS_PX: Final = 22
# What can change a cell lies within this distance of its centroid (pixels), beside the network's own reach.
REACH_PX: Final = 2 * _MAX_RADIUS_PX


def decode(
    maps: TileMaps, *, mpp: float, centre_threshold: float, area_um2: tuple[float, float]
) -> Instances:
    """Turn the maps of a tile into instances. Threads may decode several tiles at once.

    Parameters
    ----------
    maps : of the tile.
    mpp : pixel size of the maps in um.
    centre_threshold : probability, 0-1, that a centre must reach.
    area_um2 : smallest and largest area of a cell.

    Returns
    -------
    Instances, which may touch the tile's edge: the caller keeps those it owns.
    """
    logit = np.float32(np.log(centre_threshold / (1 - centre_threshold)))
    peaks = _peaks(maps.centre, logit)
    nearest = _nearest_peak(peaks, maps.centre.shape)
    voted = _join_peaks(maps.classes, maps.offsets, np.float32(mpp), peaks, nearest)
    labels = fill_holes(largest_parts(voted))
    return _measure(labels, voted > 0, maps.classes, (area_um2[0] / mpp**2, area_um2[1] / mpp**2))


@compiled
def _peaks(centre: NDArray[np.float32], logit: np.float32) -> NDArray[np.int32]:
    """Return (n, 2) rows and columns of the peaks above a threshold, in reading order.

    Of (necessarily equal) peaks within reach of each other only the first is kept.
    """
    r = _PEAK_RADIUS
    height, width = centre.shape
    highest = np.zeros((height, width), np.bool_)
    # Those kept are more than r apart.
    kept = np.empty(((height // (r + 1) + 1) * (width // (r + 1) + 1), 2), np.int32)
    n = 0
    for row in range(height):
        for column in range(width):
            value = centre[row, column]
            if not value > logit:
                continue
            is_highest, is_first = True, True
            for y in range(max(row - r, 0), min(row + r + 1, height)):
                for x in range(max(column - r, 0), min(column + r + 1, width)):
                    is_highest &= centre[y, x] <= value
                    # What lies further on in reading order is not marked yet.
                    is_first &= not highest[y, x]
                if not is_highest:
                    break
            if is_highest:
                highest[row, column] = True
                if is_first:
                    kept[n, 0], kept[n, 1] = row, column
                    n += 1
    return kept[:n].copy()


@compiled
def _nearest_peak(peaks: NDArray[np.int32], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Return 1 + the index of the nearest peak within the vote radius of each centre-map pixel, or 0.

    Of peaks equally near, the first.
    """
    r = _VOTE_RADIUS
    nearest = np.zeros(shape, np.int32)
    distance2 = np.full(shape, r * r + 1, np.uint8)
    for i in range(len(peaks)):
        row, column = peaks[i]
        for y in range(max(row - r, 0), min(row + r + 1, shape[0])):
            for x in range(max(column - r, 0), min(column + r + 1, shape[1])):
                d2 = (y - row) ** 2 + (x - column) ** 2
                if d2 < distance2[y, x]:
                    distance2[y, x] = d2
                    nearest[y, x] = i + 1
    return nearest


@compiled
def _join_peaks(
    classes: NDArray[np.float32],
    offsets: NDArray[np.float32],
    mpp: np.float32,
    peaks: NDArray[np.int32],
    nearest: NDArray[np.int32],
) -> NDArray[np.int32]:
    """Return, for each pixel, 1 + the index of the peak that it joins; 0 for none, and for the background."""
    _, height, width = classes.shape
    joined = np.zeros((height, width), np.int32)
    for row in range(height):
        for column in range(width):
            if not max(classes[1, row, column], classes[2, row, column]) > classes[0, row, column]:
                continue
            # From the pixel's centre by its offset, then to the centre map's pixel there.
            x = floor((column + 0.5 + offsets[0, row, column] / mpp) / 2)
            y = floor((row + 0.5 + offsets[1, row, column] / mpp) / 2)
            owner = nearest[min(max(y, 0), nearest.shape[0] - 1), min(max(x, 0), nearest.shape[1] - 1)]
            if owner == 0:
                continue
            # A peak's centre in pixels is 2 i + 1; a pixel's i + 0.5.
            dy, dx = row - 2 * peaks[owner - 1, 0] - 0.5, column - 2 * peaks[owner - 1, 1] - 0.5
            if dy * dy + dx * dx <= (_MAX_RADIUS_PX - 1) ** 2:
                joined[row, column] = owner
    return joined


def _measure(
    labels: NDArray[np.int32],
    occupied: NDArray[np.bool_],
    classes: NDArray[np.float32],
    limits_px: tuple[float, float],
) -> Instances:
    """Drop instances outside the area limits, number the rest (in place) and say what they are."""
    cells = number_by_centroid(labels, limits_px)
    if len(cells.kept) == 0:
        return no_instances(occupied)
    below = np.empty((int(cells.area_px.sum()), 3), np.float32)
    _renumber(labels, cells.number, classes, below)
    # numpy's exponential is the fastest, and its last digits are those of all results so far.
    total = _class_sums(labels, np.exp(below), len(cells.kept))
    cell_class = total.argmax(axis=1)
    probability = total[np.arange(len(total)), cell_class] / cells.area_px
    return Instances(
        labels, occupied, cells.area_px, cells.row_sum, cells.column_sum, cell_class, probability
    )


@compiled
def _renumber(
    labels: NDArray[np.int32],
    number: NDArray[np.int32],
    classes: NDArray[np.float32],
    below: NDArray[np.float32],
) -> None:
    """Number instances anew; write by how much each logit of each of their pixels is below the largest."""
    height, width = labels.shape
    i = 0
    for row in range(height):
        for column in range(width):
            if labels[row, column] == 0:
                continue
            labels[row, column] = number[labels[row, column]]
            if labels[row, column] > 0:
                a, b, c = classes[0, row, column], classes[1, row, column], classes[2, row, column]
                largest = max(a, b, c)
                below[i, 0], below[i, 1], below[i, 2] = a - largest, b - largest, c - largest
                i += 1


@compiled
def _class_sums(labels: NDArray[np.int32], exponents: NDArray[np.float32], n: int) -> NDArray[np.float64]:
    """Return (n, 2) sums over each instance of the probabilities of the classes of cells."""
    height, width = labels.shape
    total = np.zeros((n, 2))
    i = 0
    for row in range(height):
        for column in range(width):
            if labels[row, column] > 0:
                whole = exponents[i, 0] + exponents[i, 1] + exponents[i, 2]
                total[labels[row, column] - 1, 0] += exponents[i, 1] / whole
                total[labels[row, column] - 1, 1] += exponents[i, 2] / whole
                i += 1
    return total
