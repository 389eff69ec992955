"""Tileable noise: textures whose value at a pixel depends on its absolute position only.

Each texture is periodic, so a window of it is a copy, and windows of neighbouring tiles join without a seam.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from histo.slide.geometry import Box

FloatArray = NDArray[np.float32]

_PERIOD_PX = 1024
_BANK_SEED = 20_180_901


@lru_cache(maxsize=48)
def _gaussian_texture(sigma_rows_64th: int, sigma_columns_64th: int, variant: int) -> FloatArray:
    """Periodic Gaussian noise of unit variance, smoothed by (rows, columns) sigmas in 1/64 px."""
    rng = np.random.default_rng([_BANK_SEED, variant, sigma_rows_64th, sigma_columns_64th])
    white = rng.standard_normal((_PERIOD_PX, _PERIOD_PX), dtype=np.float32)
    rows = fft.fftfreq(_PERIOD_PX)[:, None] * (sigma_rows_64th / 64)
    columns = fft.rfftfreq(_PERIOD_PX)[None] * (sigma_columns_64th / 64)
    transfer = np.exp(-2 * np.pi**2 * (rows**2 + columns**2)).astype(np.float32)
    transfer[0, 0] = 0.0
    texture = fft.irfft2(fft.rfft2(white) * transfer, s=white.shape)
    texture /= texture.std()
    result: FloatArray = texture.astype(np.float32)
    result.setflags(write=False)
    return result


def _half_octave(sigma_px: float) -> int:
    """Round a sigma to half an octave, so that slides of many pixel sizes share few textures."""
    halves = round(2 * float(np.log2(max(sigma_px, 0.25))))
    result: int = round(64.0 * 2.0 ** (halves / 2))
    return result


def noise(
    box: Box,
    sigma_px: float | tuple[float, float],
    offset_px: tuple[int, int] = (0, 0),
    variant: int = 0,
) -> FloatArray:
    """Return a window of smooth Gaussian noise.

    Parameters
    ----------
    box : window on the pixel grid; any position.
    sigma_px : correlation length, or (rows, columns) for an oriented texture; rounded to half an octave.
    offset_px : (columns, rows) shift of the texture: what makes one slide differ from another.
    variant : 0, 1, ... independent textures of one sigma.

    Returns
    -------
    (height, width) float32, zero mean and unit variance over a period of 1024 px.
    """
    rows_sigma, columns_sigma = sigma_px if isinstance(sigma_px, tuple) else (sigma_px, sigma_px)
    texture = _gaussian_texture(_half_octave(rows_sigma), _half_octave(columns_sigma), variant)
    top, left = (box.y + offset_px[1]) % _PERIOD_PX, (box.x + offset_px[0]) % _PERIOD_PX
    if top + box.height <= _PERIOD_PX and left + box.width <= _PERIOD_PX:
        return texture[top : top + box.height, left : left + box.width]
    window = np.empty((box.height, box.width), np.float32)
    # Copies of whole pieces between the seams of the period.
    row = 0
    while row < box.height:
        source_row = (top + row) % _PERIOD_PX
        rows = min(box.height - row, _PERIOD_PX - source_row)
        column = 0
        while column < box.width:
            source = (left + column) % _PERIOD_PX
            columns = min(box.width - column, _PERIOD_PX - source)
            window[row : row + rows, column : column + columns] = texture[
                source_row : source_row + rows, source : source + columns
            ]
            column += columns
        row += rows
    return window


def noise_at(
    x_um: FloatArray, y_um: FloatArray, sigma_um: float, offset_px: tuple[int, int] = (0, 0), variant: int = 3
) -> FloatArray:
    """Return a smooth noise field at points, of pixels of a fourth of its correlation length."""
    texture = noise(Box(0, 0, _PERIOD_PX, _PERIOD_PX), 4.0, offset_px, variant)
    step_um = sigma_um / 4
    rows, columns = np.floor(y_um / step_um).astype(np.int64), np.floor(x_um / step_um).astype(np.int64)
    result: FloatArray = texture[rows % _PERIOD_PX, columns % _PERIOD_PX]
    return result


def as_float(values: NDArray[Any]) -> FloatArray:
    """Return the values as float32, without a copy where they are already."""
    result: FloatArray = values.astype(np.float32, copy=False)
    return result


def smoothstep(values: FloatArray, low: float, high: float) -> FloatArray:
    """Return 0 below `low`, 1 above `high`, a smooth rise between them."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return as_float(t * t * (3 - 2 * t))
