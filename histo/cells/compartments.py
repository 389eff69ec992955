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
    parts = _list_parts(ground, _steps_within(r), r)
    rows, columns, owner = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Compartments(n, rows, columns, owner, n_nucleus=parts[0].shape[1])


@compiled
def _list_parts(
    ground: NDArray[np.int32], steps: NDArray[np.int64], r: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return (3, p) rows, columns (less the frame's `r`) and owners of nuclei, of rings inside and outside.

    Each in reading order.
    """
    height, width = ground.shape
    flat = ground.ravel()
    ahead = steps[:, 0] * width + steps[:, 1]
    n_inside = (flat > 0).sum()
    nucleus, band = np.empty((3, n_inside), np.int32), np.empty((3, n_inside), np.int32)
    n_nucleus = n_band = n_beside = 0
    is_beside = np.zeros(len(flat), np.bool_)
    for row in range(r, height - r):
        for column in range(r, width - r):
            cell = ground[row, column]
            if cell <= 0:
                continue
            is_deep = True
            for i in range(len(ahead)):
                # Flat, and without a sign: several times faster.
                beside = np.uintp(row * width + column + ahead[i])
                if flat[beside] != cell:
                    is_deep = False
                    if flat[beside] == 0:
                        is_beside[beside] = True
                        n_beside += 1
            if is_deep:
                nucleus[0, n_nucleus], nucleus[1, n_nucleus] = row - r, column - r
                nucleus[2, n_nucleus] = cell
                n_nucleus += 1
            else:
                band[0, n_band], band[1, n_band], band[2, n_band] = row - r, column - r, cell
                n_band += 1

    outside = np.empty((3, n_beside), np.int32)
    n_outside = 0
    for row in range(r, height - r):
        for column in range(r, width - r):
            if not is_beside[np.uintp(row * width + column)]:
                continue
            # Once for each of the cells within reach.
            first = n_outside
            for i in range(len(ahead)):
                cell = flat[np.uintp(row * width + column + ahead[i])]
                is_new = cell > 0
                for k in range(first, n_outside):
                    is_new &= outside[2, k] != cell
                if is_new:
                    outside[0, n_outside], outside[1, n_outside] = row - r, column - r
                    outside[2, n_outside] = cell
                    n_outside += 1
    return nucleus[:, :n_nucleus], band[:, :n_band], outside[:, :n_outside]


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
    for i in range(len(owner)):
        count[np.uint32(owner[i] - 1)] += 1
    sums = np.zeros((len(stain), n))
    width = stain.shape[2]
    for channel in range(len(stain)):
        plane, sum_of = stain[channel].ravel(), sums[channel]
        for i in range(len(owner)):
            sum_of[np.uint32(owner[i] - 1)] += plane[np.uint32(rows[i] * width + columns[i])]
    return count, sums.T
