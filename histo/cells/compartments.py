"""How much stain a cell has, in its nucleus and in the ring along its outline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stain_means(
    stain: NDArray[np.float32],
    labels: NDArray[np.int32],
    occupied: NDArray[np.bool_],
    *,
    half_ring_px: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average each stain over nucleus and ring of each cell.

    The ring is the band within `half_ring_px` of the outline on either side (by steps along rows and
    columns), without pixels of other cells; the nucleus is the rest of the inside. An outside pixel next to
    two cells belongs to the rings of both.

    Parameters
    ----------
    stain : (C, H, W) stain amounts.
    labels : (H, W), 0 or 1 ... n.
    occupied : (H, W), True where any cell lies, with a label or without.
    half_ring_px : at least 1.

    Returns
    -------
    (n, C) means of the nucleus, and of the ring; NaN where a cell has no such pixel.
    """
    n = int(labels.max(initial=0))
    height, width = labels.shape
    r = half_ring_px
    framed = np.pad(labels, r)
    # Nothing outside the image counts as free ground.
    taken = np.pad(occupied | (labels > 0), r, constant_values=True)
    steps = _steps_within(r)
    deep = labels > 0
    for dy, dx in steps:
        deep &= framed[r + dy : r + dy + height, r + dx : r + dx + width] == labels

    band = np.nonzero((labels > 0) & ~deep)
    value = labels[band]
    start = (band[0] + r) * framed.shape[1] + band[1] + r
    pairs: list[NDArray[np.int64]] = []
    for dy, dx in steps:
        beside = start + (dy * framed.shape[1] + dx)
        free = ~taken.ravel()[beside]
        pairs.append(value[free].astype(np.int64) * framed.size + beside[free])
    # A pixel is reached from several pixels of the same cell, but counts once.
    owner, place = np.divmod(np.unique(np.concatenate(pairs)), framed.size)
    outside = np.divmod(place, framed.shape[1])

    inside = np.nonzero(deep)
    nucleus = _means(stain, inside, labels[inside], n)
    ring = _means(
        stain,
        (np.concatenate([band[0], outside[0] - r]), np.concatenate([band[1], outside[1] - r])),
        np.concatenate([value, owner.astype(np.int32)]),
        n,
    )
    return nucleus, ring


def _steps_within(radius: int) -> list[tuple[int, int]]:
    span = range(-radius, radius + 1)
    return [(dy, dx) for dy in span for dx in span if 0 < abs(dy) + abs(dx) <= radius]


def _means(
    stain: NDArray[np.float32],
    pixels: tuple[NDArray[np.intp], ...],
    owner: NDArray[np.int32],
    n: int,
) -> NDArray[np.float64]:
    count = np.bincount(owner, minlength=n + 1)[1:].astype(np.float64)
    count[count == 0] = np.nan
    sums = [np.bincount(owner, channel[pixels], minlength=n + 1)[1:] for channel in stain]
    return np.stack(sums, axis=1) / count[:, None]
