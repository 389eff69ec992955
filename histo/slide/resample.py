"""Resampling on a grid that belongs to the slide, not to the tile.

Each output pixel is computed from its absolute position by the same operations in the same order, so that two
reads that overlap agree bit by bit.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.slide.geometry import Box

_EPS = 1e-9


def source_span(start: int, count: int, scale: float) -> tuple[int, int]:
    """Return the half-open range of source pixels that `count` grid pixels from `start` need.

    `scale` is source pixels per grid pixel.
    """
    if scale >= 1 - _EPS:
        return floor(start * scale + _EPS), ceil((start + count) * scale - _EPS)
    return floor((start + 0.5) * scale - 0.5), floor((start + count - 0.5) * scale - 0.5) + 2


def area_average(
    pixels: NDArray[Any], box: Box, scale: tuple[float, float], origin: tuple[int, int]
) -> NDArray[Any]:
    """Resample source pixels to a box of the grid.

    Parameters
    ----------
    pixels : (height, width, channels) source pixels that cover `source_span` of both axes.
    box : grid pixels wanted.
    scale : source pixels per grid pixel, (x, y). Area averaging where >= 1, bilinear where < 1.
    origin : (x, y) of `pixels[0, 0]` in the source.

    Returns
    -------
    (box.height, box.width, channels), the dtype of `pixels`; integers are rounded to the nearest.
    """
    whole = (round(scale[0]), round(scale[1]))
    if all(abs(s - w) < _EPS and w >= 1 for s, w in zip(scale, whole, strict=True)):
        return _block_mean(pixels, whole)
    rows = _resample_rows(pixels.astype(np.float32), box.y, box.height, scale[1], origin[1])
    columns = _resample_rows(rows.swapaxes(0, 1), box.x, box.width, scale[0], origin[0])
    out = columns.swapaxes(0, 1)
    if np.issubdtype(pixels.dtype, np.integer):
        out = np.rint(out)
    return np.ascontiguousarray(out.astype(pixels.dtype))


def _block_mean(pixels: NDArray[Any], factor: tuple[int, int]) -> NDArray[Any]:
    if factor == (1, 1):
        return pixels
    fx, fy = factor
    integer = np.issubdtype(pixels.dtype, np.integer)
    rows: NDArray[Any] = pixels[0::fy].astype(np.uint32 if integer else np.float32)
    for k in range(1, fy):
        rows += pixels[k::fy]
    total = rows[:, 0::fx].copy()
    for k in range(1, fx):
        total += rows[:, k::fx]
    n = fx * fy
    if integer:
        return ((total + n // 2) // n).astype(pixels.dtype)
    return (total / np.float32(n)).astype(pixels.dtype)


def _resample_rows(
    pixels: NDArray[np.float32], start: int, count: int, scale: float, origin: int
) -> NDArray[np.float32]:
    """Resample axis 0 with one weighted sum per output row, in a fixed order."""
    out_index = np.arange(start, start + count, dtype=np.float64)
    if scale >= 1 - _EPS:
        low, high = out_index * scale, (out_index + 1) * scale
        first = np.floor(low + _EPS).astype(np.int64)
        taps = int(np.max(np.ceil(high - _EPS).astype(np.int64) - first))
        index = first[:, None] + np.arange(taps)
        weight = np.minimum(high[:, None], index + 1.0) - np.maximum(low[:, None], index)
        weight = np.clip(weight, 0.0, None) / scale
    else:
        centre = (out_index + 0.5) * scale - 0.5
        first = np.floor(centre).astype(np.int64)
        index = first[:, None] + np.arange(2)
        weight = 1.0 - np.abs(centre[:, None] - index)
    # A tap past the last source row has weight 0: its row may be any.
    rows = np.clip(index - origin, 0, pixels.shape[0] - 1)
    weight32 = weight.astype(np.float32)[:, :, None, None]
    out: NDArray[np.float32] = pixels[rows[:, 0]] * weight32[:, 0]
    for k in range(1, rows.shape[1]):
        out += pixels[rows[:, k]] * weight32[:, k]
    return out
