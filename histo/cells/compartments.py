"""The parts of a cell that are measured: its nucleus, and the ring along its outline."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histo.compiled import compiled

# In an image of labels: a pixel of no cell with a number, but no free ground.
_TAKEN: Final = -1


class Compartments(NamedTuple):
    """The pixels of n cells, those of the nuclei first, then those of the rings.

    A pixel is listed once for each cell that it belongs to. Within a compartment, the pixels of a cell come
    in an order that depends on the cell alone.

    n : number of cells.
    rows, columns : (p,) int32, where the pixels lie.
    owner : (p,) int32, 1 ... n.
    n_nucleus : how many of the p belong to nuclei.
    """

    n: int
    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    owner: NDArray[np.int32]
    n_nucleus: int

    @property
    def nucleus(self) -> slice:
        """Which pixels belong to nuclei."""
        return slice(0, self.n_nucleus)

    @property
    def ring(self) -> slice:
        """Which pixels belong to rings."""
        return slice(self.n_nucleus, None)


def compartments(
    labels: NDArray[np.int32], occupied: NDArray[np.bool_], *, half_ring_px: int
) -> Compartments:
    """Find nucleus and ring of each cell.

    The ring is the band within `half_ring_px` of the outline on either side (by steps along rows and
    columns), without pixels of other cells; the nucleus is the rest of the inside. An outside pixel next to
    two cells belongs to the rings of both.

    Parameters
    ----------
    labels : (H, W), 0 or 1 ... n.
    occupied : (H, W), True where any cell lies, with a label or without.
    half_ring_px : at least 1.
    """
    r = half_ring_px
    n = int(labels.max(initial=0))
    # Nothing outside the image counts as free ground.
    ground = np.full((labels.shape[0] + 2 * r, labels.shape[1] + 2 * r), _TAKEN, np.int32)
    ground[r:-r, r:-r] = np.where(occupied & (labels == 0), _TAKEN, labels)
    nucleus, ring = _list_parts(ground, _boxes(ground, n), _steps_within(r), r)
    return Compartments(
        n=n,
        rows=np.concatenate([nucleus[0], ring[0]]),
        columns=np.concatenate([nucleus[1], ring[1]]),
        owner=np.concatenate([nucleus[2], ring[2]]),
        n_nucleus=nucleus.shape[1],
    )


@compiled
def _boxes(ground: NDArray[np.int32], n: int) -> NDArray[np.int64]:
    """Return (n + 1, 4) first row, first column, and ends of rows and columns of each cell from 1."""
    height, width = ground.shape
    boxes = np.zeros((n + 1, 4), np.int64)
    for row in range(height):
        for column in range(width):
            cell = ground[row, column]
            if cell <= 0:
                continue
            box = boxes[cell]
            if box[2] == 0:
                box[0], box[1] = row, column
            box[1] = min(box[1], column)
            box[2] = row + 1
            box[3] = max(box[3], column + 1)
    return boxes


@compiled
def _list_parts(
    ground: NDArray[np.int32], boxes: NDArray[np.int64], steps: NDArray[np.int64], r: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return (3, p) rows, columns (less the frame's `r`) and owners of the nuclei's pixels, and the rings'.

    Cell after cell; of each first the pixels inside, then those outside, both in reading order.
    """
    n = len(boxes) - 1
    size = 0
    for cell in range(1, n + 1):
        top, left, bottom, right = boxes[cell]
        size += (bottom - top + 2 * r) * (right - left + 2 * r)
    nucleus, ring = np.empty((3, size), np.int32), np.empty((3, size), np.int32)
    n_nucleus = n_ring = 0
    reached = np.zeros(ground.shape, np.int32)
    for cell in range(1, n + 1):
        top, left, bottom, right = boxes[cell]
        for row in range(top, bottom):
            for column in range(left, right):
                if ground[row, column] != cell:
                    continue
                is_deep = True
                for i in range(len(steps)):
                    y, x = row + steps[i, 0], column + steps[i, 1]
                    beside = ground[y, x]
                    if beside != cell:
                        is_deep = False
                        if beside == 0:
                            reached[y, x] = cell
                if is_deep:
                    nucleus[0, n_nucleus], nucleus[1, n_nucleus] = row - r, column - r
                    nucleus[2, n_nucleus] = cell
                    n_nucleus += 1
                else:
                    ring[0, n_ring], ring[1, n_ring], ring[2, n_ring] = row - r, column - r, cell
                    n_ring += 1
        for row in range(top - r, bottom + r):
            for column in range(left - r, right + r):
                if reached[row, column] == cell:
                    ring[0, n_ring], ring[1, n_ring], ring[2, n_ring] = row - r, column - r, cell
                    n_ring += 1
    return nucleus[:, :n_nucleus], ring[:, :n_ring]


def stain_means(
    stain: NDArray[np.float32], parts: Compartments
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average each stain over nucleus and ring of each cell.

    Parameters
    ----------
    stain : (C, H, W) stain amounts.

    Returns
    -------
    (n, C) means of the nucleus, and of the ring; NaN where a cell has no such pixel.
    """
    return _means(stain, parts, parts.nucleus), _means(stain, parts, parts.ring)


def _steps_within(radius: int) -> NDArray[np.int64]:
    span = range(-radius, radius + 1)
    return np.array([(dy, dx) for dy in span for dx in span if 0 < abs(dy) + abs(dx) <= radius], np.int64)


def _means(stain: NDArray[np.float32], parts: Compartments, which: slice) -> NDArray[np.float64]:
    count, sums = _sums(stain, parts.rows[which], parts.columns[which], parts.owner[which], parts.n)
    count[count == 0] = np.nan
    return sums / count[:, None]


@compiled
def _sums(
    stain: NDArray[np.float32],
    rows: NDArray[np.int32],
    columns: NDArray[np.int32],
    owner: NDArray[np.int32],
    n: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (n,) numbers of pixels of each owner, and (n, C) sums of the stains over them."""
    count = np.zeros(n)
    sums = np.zeros((n, len(stain)))
    for i in range(len(owner)):
        count[owner[i] - 1] += 1
        for channel in range(len(stain)):
            sums[owner[i] - 1, channel] += stain[channel, rows[i], columns[i]]
    return count, sums
