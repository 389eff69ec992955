"""Colour deconvolution: pixels to stain amounts and back.

Optical density follows Beer-Lambert (base 10, as in Ruifrok and Johnston 2001, Anal Quant Cytol Histol
23:291-299): the densities of stains add up, so three stains and three colours are one linear system.
Pure functions; the work is done on the device of the tensor given.
"""

from __future__ import annotations

from math import isfinite

import numpy as np
import torch
from torch import Tensor

from histo.config import StainVectors
from histo.errors import ConfigError
from histo.stain.names import STAINS as STAINS

# What the network sees is clipped to this range of stain amounts, in both modalities.
AMOUNT_RANGE = (-0.5, 3.0)

_LOG10 = np.log10(np.maximum(np.arange(256), 1)).astype(np.float32)


def optical_density(pixels: Tensor, white_point: Tensor) -> Tensor:
    """Return the optical density -log10(I / I0).

    Parameters
    ----------
    pixels : (..., 3) red, green, blue grey levels, any dtype. Levels below 1 count as 1.
    white_point : (3,) grey levels of bare glass, I0; at least 1.

    Returns
    -------
    (..., 3) float32; negative where a pixel is brighter than the glass.
    """
    glass = white_point.to(device=pixels.device, dtype=torch.float32).clamp_min(1.0)
    if pixels.dtype == torch.uint8 and pixels.device.type == "cpu":
        # Looked up: three times faster than the logarithm, and than torch's own indexing.
        logarithm = torch.from_numpy(_LOG10[pixels.numpy()])
    else:
        logarithm = torch.log10(pixels.to(torch.float32).clamp_min(1.0))
    return torch.sub(torch.log10(glass), logarithm)


def stain_matrix(vectors: StainVectors) -> Tensor:
    """Return the stain vectors as unit rows: nuclear, CD8, residual.

    A residual of None is the direction that neither stain has, their cross product.

    Returns
    -------
    (3, 3) float32.

    Raises
    ------
    ConfigError : a vector is zero, or they are (nearly) linearly dependent and cannot be told apart.
    """
    nuclear = torch.tensor(vectors.nuclear, dtype=torch.float64)
    cd8 = torch.tensor(vectors.cd8, dtype=torch.float64)
    if vectors.residual is None:
        residual = torch.linalg.cross(_unit(nuclear), _unit(cd8))
    else:
        residual = torch.tensor(vectors.residual, dtype=torch.float64)
    matrix = torch.stack([_unit(nuclear), _unit(cd8), _unit(residual)])
    # Unit rows: the determinant is the volume they span. 0.02 is about 1 degree between two of them.
    if abs(float(torch.linalg.det(matrix))) < 0.02:
        raise ConfigError(
            "the stain vectors are too much alike to be told apart", fix="Correct stain.vectors in the config"
        )
    return matrix.to(torch.float32)


def unmix(od: Tensor, matrix: Tensor) -> Tensor:
    """Return how much of each stain makes up an optical density.

    Parameters
    ----------
    od : (..., 3) optical density.
    matrix : (3, 3) unit stain vectors as rows, see `stain_matrix`.

    Returns
    -------
    (..., 3) signed amounts, in optical density along each unit vector.
    """
    inverse = torch.linalg.inv(matrix.to(torch.float64)).to(device=od.device, dtype=torch.float32)
    amounts: Tensor = od @ inverse
    return amounts


def mix(amounts: Tensor, matrix: Tensor) -> Tensor:
    """Return the optical density (..., 3) of stain amounts (..., 3): the inverse of `unmix`."""
    return amounts @ matrix.to(device=amounts.device, dtype=amounts.dtype)


def transmitted(od: Tensor, white_point: Tensor) -> Tensor:
    """Return the grey levels (..., 3) float32 that an optical density lets through: I0 * 10 ** -od."""
    return white_point.to(device=od.device, dtype=torch.float32) * torch.pow(10.0, -od.to(torch.float32))


def _unit(vector: Tensor) -> Tensor:
    length = float(torch.linalg.vector_norm(vector))
    if not isfinite(length) or length < 1e-6:
        raise ConfigError("a stain vector is zero or not a number", fix="Correct stain.vectors in the config")
    return vector / length
