"""How much stain a cell has, in its nucleus and in the ring along its outline."""

from __future__ import annotations

from typing import Any

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
    flat = stain.reshape(len(stain), -1)
    inside = np.flatnonzero(labels)
    value = labels.ravel()[inside]
    rows, columns = np.divmod(inside, width)

    steps = _steps_within(half_ring_px)
    depth_ok = np.ones(len(inside), bool)
    pairs: list[NDArray[np.int64]] = []
    for dy, dx in steps:
        y, x = rows + dy, columns + dx
        valid = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        other = np.where(valid, y * width + x, 0)
        differs = ~valid | (labels.ravel()[other] != value)
        depth_ok &= ~differs
        outside = differs & valid
        outside[outside] = ~occupied.ravel()[other[outside]]
        pairs.append(other[outside] + value[outside].astype(np.int64) * (height * width))
    # A pixel is reached from several pixels of the same cell, but counts once.
    owner, pixel = np.divmod(np.unique(np.concatenate(pairs)), height * width)

    nucleus = _means(flat, inside[depth_ok], value[depth_ok], n)
    band = ~depth_ok
    ring = _means(
        flat, np.concatenate([inside[band], pixel]), np.concatenate([value[band], owner.astype(np.int32)]), n
    )
    return nucleus, ring


def _steps_within(radius: int) -> list[tuple[int, int]]:
    span = range(-radius, radius + 1)
    return [(dy, dx) for dy in span for dx in span if 0 < abs(dy) + abs(dx) <= radius]


def _means(
    flat: NDArray[np.float32], pixels: NDArray[Any], owner: NDArray[np.int32], n: int
) -> NDArray[np.float64]:
    count = np.bincount(owner, minlength=n + 1)[1:].astype(np.float64)
    count[count == 0] = np.nan
    sums = [np.bincount(owner, channel[pixels], minlength=n + 1)[1:] for channel in flat]
    return np.stack(sums, axis=1) / count[:, None]
