"""The parts of a cell that are measured: its nucleus, and the ring along its outline."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Compartments(NamedTuple):
    """The pixels of n cells, those of the nuclei first, then those of the rings.

    A pixel is listed once for each cell that it belongs to. Within a compartment, the pixels of a cell come
    in an order that depends on the cell alone.

    n : number of cells.
    rows, columns : (p,) where the pixels lie.
    owner : (p,) int32, 1 ... n.
    n_nucleus : how many of the p belong to nuclei.
    """

    n: int
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
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
    height, width = labels.shape
    r = half_ring_px
    framed = np.pad(labels, r)
    # Nothing outside the image counts as free ground.
    taken = np.pad(occupied | (labels > 0), r, constant_values=True)
    steps = _steps_within(r)
    deep = labels > 0
    for dy, dx in steps:
        deep &= framed[r + dy : r + dy + height, r + dx : r + dx + width] == labels

    band = np.flatnonzero((labels > 0) & ~deep)
    value = labels.ravel()[band]
    band_rows, band_columns = np.divmod(band, width)
    start = (band_rows + r) * framed.shape[1] + band_columns + r
    pairs: list[NDArray[np.int64]] = []
    for dy, dx in steps:
        beside = start + (dy * framed.shape[1] + dx)
        free = ~taken.ravel()[beside]
        pairs.append(value[free].astype(np.int64) * framed.size + beside[free])
    # A pixel is reached from several pixels of the same cell, but counts once (np.unique hashes: slower).
    reached = np.sort(np.concatenate(pairs))
    owner, place = np.divmod(reached[np.diff(reached, prepend=-1) > 0], framed.size)
    outside = np.divmod(place, framed.shape[1])

    inside = np.flatnonzero(deep)
    inside_rows, inside_columns = np.divmod(inside, width)
    return Compartments(
        n=int(labels.max(initial=0)),
        rows=np.concatenate([inside_rows, band_rows, outside[0] - r]),
        columns=np.concatenate([inside_columns, band_columns, outside[1] - r]),
        owner=np.concatenate([labels.ravel()[inside], value, owner.astype(np.int32)]),
        n_nucleus=len(inside),
    )


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


def _steps_within(radius: int) -> list[tuple[int, int]]:
    span = range(-radius, radius + 1)
    return [(dy, dx) for dy in span for dx in span if 0 < abs(dy) + abs(dx) <= radius]


def _means(stain: NDArray[np.float32], parts: Compartments, which: slice) -> NDArray[np.float64]:
    owner, pixels = parts.owner[which], parts.rows[which] * stain.shape[2] + parts.columns[which]
    count = np.bincount(owner, minlength=parts.n + 1)[1:].astype(np.float64)
    count[count == 0] = np.nan
    sums = [np.bincount(owner, channel.ravel()[pixels], minlength=parts.n + 1)[1:] for channel in stain]
    return np.stack(sums, axis=1) / count[:, None]
