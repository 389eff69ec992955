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
# A scale this close to a whole number is meant to be it: the two part by 0.01 px over 100,000 px.
_SNAP = 1e-7


def snap_scale(scale: float) -> float:
    """Return the whole number that a scale is meant to be, or the scale itself."""
    whole = round(scale)
    return float(whole) if whole >= 1 and abs(scale - whole) <= _SNAP * whole else scale


def source_span(start: int, count: int, scale: float) -> tuple[int, int]:
    """Return the half-open range of source pixels that `count` grid pixels from `start` need.

    `scale` is source pixels per grid pixel.
    """
    scale = snap_scale(scale)
    if scale >= 1:
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
    origin : (x, y) of `pixels[0, 0]` in the source: where `source_span` starts.

    Returns
    -------
    (box.height, box.width, channels), the dtype of `pixels`; integers are rounded to the nearest.
    """
    scale_x, scale_y = snap_scale(scale[0]), snap_scale(scale[1])
    if scale_x.is_integer() and scale_y.is_integer():
        return _block_mean(pixels, (int(scale_x), int(scale_y)))
    rows = _resample(pixels, 0, box.y, box.height, scale_y, origin[1])
    out = _resample(rows, 1, box.x, box.width, scale_x, origin[0])
    if np.issubdtype(pixels.dtype, np.integer):
        # Weights in float32 sum to 1 within a few parts in 10^7: never past the type's range once rounded.
        np.rint(out, out=out)
    return out.astype(pixels.dtype)


def _block_mean(pixels: NDArray[Any], factor: tuple[int, int]) -> NDArray[Any]:
    if factor == (1, 1):
        return pixels
    fx, fy = factor
    n = fx * fy
    integer = np.issubdtype(pixels.dtype, np.integer)
    # The sum of n pixels and n / 2 must fit; the narrowest type that holds it is the fastest.
    total_type = np.min_scalar_type(np.iinfo(pixels.dtype).max * (n + 1)) if integer else np.float32
    rows: NDArray[Any] = pixels[0::fy].astype(total_type)
    for k in range(1, fy):
        rows += pixels[k::fy]
    total = rows[:, 0::fx].copy()
    for k in range(1, fx):
        total += rows[:, k::fx]
    if integer:
        total += total.dtype.type(n // 2)
        total //= total.dtype.type(n)
    else:
        total /= np.float32(n)
    out: NDArray[Any] = total.astype(pixels.dtype)
    return out


def _resample(
    pixels: NDArray[Any], axis: int, start: int, count: int, scale: float, origin: int
) -> NDArray[np.float32]:
    """Resample axis 0 or 1 with one weighted sum per output row or column, in a fixed order."""
    out_index = np.arange(start, start + count, dtype=np.float64)
    if scale >= 1:
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
    source = np.clip(index - origin, 0, pixels.shape[axis] - 1)
    weight32 = weight.astype(np.float32)
    shape = (count, 1, 1) if axis == 0 else (1, count, 1)
    out: NDArray[np.float32] | None = None
    for k in range(source.shape[1]):
        part = np.take(pixels, source[:, k], axis=axis).astype(np.float32, copy=False)
        part *= weight32[:, k].reshape(shape)
        if out is None:
            out = part
        else:
            out += part
    assert out is not None
    return out


def nearest_labels(
    labels: NDArray[np.int32], mpp: float, shape: tuple[int, int], new_mpp: float
) -> NDArray[np.int32]:
    """Return the label under the centre of each pixel of another grid with the same origin.

    Parameters
    ----------
    labels : (H, W) at `mpp`. shape : (rows, columns) of the new grid, at `new_mpp`; where it reaches past the
        labels it repeats their last row and column.
    """
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * new_mpp / mpp).astype(np.int64), have - 1)
        for n, have in zip(shape, labels.shape, strict=True)
    )
    sampled: NDArray[np.int32] = labels[rows[:, None], columns]
    return sampled
