"""Colour deconvolution: pixels to stain amounts and back.

Optical density follows Beer-Lambert (base 10, as in Ruifrok and Johnston 2001, Anal Quant Cytol Histol
23:291-299): the densities of stains add up, so three stains and three colours are one linear system.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo.compiled import compiled
from histo.config import StainVectors
from histo.errors import ConfigError
from histo.stain.names import STAINS as STAINS

FloatArray = NDArray[np.float32]

# What the network sees is clipped to this range of stain amounts, in both modalities.
AMOUNT_RANGE: Final = (-0.5, 3.0)

_LOG10 = np.log10(np.maximum(np.arange(256), 1)).astype(np.float32)


def optical_density(pixels: NDArray[Any], white_point: ArrayLike) -> FloatArray:
    """Return the optical density -log10(I / I0).

    Parameters
    ----------
    pixels : (..., 3) red, green, blue grey levels, any dtype. Levels below 1 count as 1.
    white_point : (3,) grey levels of bare glass, I0; at least 1.

    Returns
    -------
    (..., 3) float32; negative where a pixel is brighter than the glass.
    """
    if pixels.dtype == np.uint8:
        # Looked up: three times faster than the logarithm.
        logarithm = _LOG10[pixels]
    else:
        logarithm = np.log10(np.maximum(pixels.astype(np.float32), np.float32(1)))
    return np.asarray(_log_glass(white_point) - logarithm, np.float32)


def stain_matrix(vectors: StainVectors) -> FloatArray:
    """Return the stain vectors as unit rows: nuclear, CD8, residual.

    A residual of None is the direction that neither stain has, their cross product.

    Returns
    -------
    (3, 3) float32.

    Raises
    ------
    ConfigError : a vector is zero, or they are (nearly) linearly dependent and cannot be told apart.
    """
    nuclear, cd8 = _unit(vectors.nuclear), _unit(vectors.cd8)
    residual = np.cross(nuclear, cd8) if vectors.residual is None else np.asarray(vectors.residual)
    matrix = np.stack([nuclear, cd8, _unit(residual)])
    # Unit rows: the determinant is the volume they span. 0.02 is about 1 degree between two of them.
    if abs(float(np.linalg.det(matrix))) < 0.02:
        raise ConfigError(
            "the stain vectors are too much alike to be told apart", fix="Correct stain.vectors in the config"
        )
    return matrix.astype(np.float32)


def unmix(od: NDArray[Any], matrix: NDArray[Any]) -> FloatArray:
    """Return how much of each stain makes up an optical density.

    Parameters
    ----------
    od : (..., 3) optical density.
    matrix : (3, 3) unit stain vectors as rows, see `stain_matrix`.

    Returns
    -------
    (..., 3) signed amounts, in optical density along each unit vector.
    """
    return np.asarray(od @ _inverse(matrix), np.float32)


def stain_amounts(pixels: NDArray[Any], white_point: ArrayLike, matrix: NDArray[Any]) -> FloatArray:
    """Return the stain amounts of an image, clipped to `AMOUNT_RANGE`, with the stains first.

    `unmix` of `optical_density`, for whole tiles: a pixel's amounts depend on nothing but the pixel.

    Parameters
    ----------
    pixels : (H, W, 3) red, green, blue grey levels, any dtype.
    white_point, matrix : see `optical_density` and `unmix`.

    Returns
    -------
    (3, H, W) float32.
    """
    if pixels.dtype == np.uint8:
        low, high = (np.float32(limit) for limit in AMOUNT_RANGE)
        # Density by colour and grey level.
        density = np.ascontiguousarray(_log_glass(white_point)[:, None] - _LOG10)
        return _amounts_of_bytes(np.ascontiguousarray(pixels), density, _inverse(matrix), low, high)
    amounts = unmix(optical_density(pixels, white_point), matrix).clip(*AMOUNT_RANGE)
    return np.ascontiguousarray(np.moveaxis(amounts, -1, 0))


def mix(amounts: NDArray[Any], matrix: NDArray[Any]) -> FloatArray:
    """Return the optical density (..., 3) of stain amounts (..., 3): the inverse of `unmix`."""
    return np.asarray(amounts @ matrix, np.float32)


def transmitted(od: NDArray[Any], white_point: ArrayLike) -> FloatArray:
    """Return the grey levels (..., 3) float32 that an optical density lets through: I0 * 10 ** -od."""
    return np.asarray(np.asarray(white_point, np.float32) * np.float32(10) ** -od, np.float32)


def _log_glass(white_point: ArrayLike) -> FloatArray:
    return np.asarray(np.log10(np.maximum(np.asarray(white_point, np.float32), np.float32(1))))


def _inverse(matrix: NDArray[Any]) -> FloatArray:
    return np.ascontiguousarray(np.linalg.inv(matrix.astype(np.float64)).astype(np.float32))


@compiled
def _amounts_of_bytes(
    pixels: NDArray[np.uint8], density: FloatArray, inverse: FloatArray, low: np.float32, high: np.float32
) -> FloatArray:
    height, width, _ = pixels.shape
    out = np.empty((3, height, width), np.float32)
    for y in range(height):
        for x in range(width):
            red, green, blue = pixels[y, x, 0], pixels[y, x, 1], pixels[y, x, 2]
            for stain in range(3):
                amount = density[0, red] * inverse[0, stain]
                amount += density[1, green] * inverse[1, stain]
                amount += density[2, blue] * inverse[2, stain]
                out[stain, y, x] = min(max(amount, low), high)
    return out


def _unit(vector: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(vector, np.float64)
    length = float(np.linalg.norm(values))
    if not isfinite(length) or length < 1e-6:
        raise ConfigError("a stain vector is zero or not a number", fix="Correct stain.vectors in the config")
    return values / length
