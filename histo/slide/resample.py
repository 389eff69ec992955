"""Resampling on a grid that belongs to the slide, not to the tile.

Each output pixel is computed from its absolute position by the same operations in the same order, so that two
reads that overlap agree bit by bit.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.compiled import compiled
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
    if (scale_x, scale_y) == (1.0, 1.0):
        return pixels
    # What is compiled takes the processor's own byte order, and no float16; channels lie beside each other.
    dtype = np.dtype(np.float32) if pixels.dtype == np.float16 else pixels.dtype.newbyteorder("=")
    flat = np.ascontiguousarray(pixels, dtype).reshape(len(pixels), -1)
    channels = pixels.shape[2]
    integer = np.issubdtype(pixels.dtype, np.integer)
    if integer and scale_x.is_integer() and scale_y.is_integer():
        # The sum of n pixels and n / 2 must fit; the narrowest type that holds it is the fastest.
        n = int(scale_x) * int(scale_y)
        most = int(np.iinfo(dtype.str).max)
        line = np.empty(flat.shape[1], np.min_scalar_type(most * (n + 1)))
        out = np.empty((box.height, box.width * channels), dtype)
        _block_mean(flat, int(scale_y), int(scale_x), channels, line, out)
        return out.reshape(box.height, box.width, channels).astype(pixels.dtype, copy=False)
    rows = _taps(box.y, box.height, scale_y, origin[1], pixels.shape[0])
    columns = _taps(box.x, box.width, scale_x, origin[0], pixels.shape[1])
    weighted = _weighted(flat, channels, *rows, *columns)
    if integer:
        # Weights in float32 sum to 1 within a few parts in 10^7: never past the type's range once rounded.
        np.rint(weighted, out=weighted)
    return weighted.astype(pixels.dtype).reshape(box.height, box.width, channels)


@compiled
def _block_mean(
    pixels: NDArray[Any], fy: int, fx: int, channels: int, line: NDArray[Any], out: NDArray[Any]
) -> None:
    """Average blocks of whole numbers into `out`, rounded to the nearest, halves up; `line` holds sums."""
    n = fy * fx
    half = line.dtype.type(n // 2)
    shift = 0
    while 1 << shift < n:
        shift += 1
    for y in range(len(out)):
        line[:] = pixels[y * fy]
        for k in range(1, fy):
            line += pixels[y * fy + k]
        for x in range(out.shape[1] // channels):
            for channel in range(channels):
                total = line[x * fx * channels + channel] + half
                for k in range(1, fx):
                    total += line[(x * fx + k) * channels + channel]
                # Shifts are many times faster than divisions.
                out[y, x * channels + channel] = total >> shift if 1 << shift == n else total // n


def _taps(
    start: int, count: int, scale: float, origin: int, available: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return which source rows (or columns) make up each of the grid's, (count, taps), and their weights."""
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
    return np.clip(index - origin, 0, available - 1), weight.astype(np.float32)


@compiled
def _weighted(
    pixels: NDArray[Any],
    channels: int,
    rows: NDArray[np.int64],
    row_weights: NDArray[np.float32],
    columns: NDArray[np.int64],
    column_weights: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Sum over rows, then over columns, each in the order of the taps."""
    (height, row_taps), (width, column_taps) = rows.shape, columns.shape
    out = np.empty((height, width * channels), np.float32)
    line = np.empty(pixels.shape[1], np.float32)
    for y in range(height):
        source, weight = pixels[rows[y, 0]], row_weights[y, 0]
        for place in range(len(line)):
            line[place] = np.float32(source[place]) * weight
        for k in range(1, row_taps):
            source, weight = pixels[rows[y, k]], row_weights[y, k]
            for place in range(len(line)):
                line[place] += np.float32(source[place]) * weight
        for x in range(width):
            for channel in range(channels):
                total = line[columns[x, 0] * channels + channel] * column_weights[x, 0]
                for k in range(1, column_taps):
                    total += line[columns[x, k] * channels + channel] * column_weights[x, k]
                out[y, x * channels + channel] = total
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
