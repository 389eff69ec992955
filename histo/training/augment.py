"""From pixels to stain space as estimation would get it wrong, and how stains and scanners vary.

All draws come from the generator given, so that a sample is the same whenever it is drawn again.
"""

from __future__ import annotations

from math import radians
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from histo.config import StainVectors
from histo.stain.deconvolution import AMOUNT_RANGE, optical_density, stain_matrix, unmix
from histo.training.config import AugmentConfig

FloatArray = NDArray[np.float32]


def estimated_vectors(vectors: FloatArray, config: AugmentConfig, rng: np.random.Generator) -> FloatArray:
    """Return stain vectors as they might be estimated, (3, 3) unit rows.

    Either those of the default configuration, or the true nuclear and CD8 vectors, each turned by an error,
    with their cross product as the residual.
    """
    if rng.random() < config.default_vectors_share:
        return stain_matrix(StainVectors())
    error = rng.normal(0, radians(config.vector_error_deg) / np.sqrt(2), (2, 3))
    # Light is absorbed, never given: no estimate is negative.
    nuclear, cd8 = np.maximum(vectors[:2] + error, 0.01).tolist()
    return stain_matrix(StainVectors(nuclear=tuple(nuclear), cd8=tuple(cd8)))


def estimated_white_point(
    white_point: FloatArray, config: AugmentConfig, rng: np.random.Generator
) -> FloatArray:
    """Return a white point with its error of estimation."""
    return (white_point * np.exp(rng.normal(0, config.white_point_error, 3))).clip(1, 255).astype(np.float32)


def brightfield_amounts(
    pixels: NDArray[np.uint8], white_points: FloatArray, matrices: FloatArray
) -> FloatArray:
    """Unmix a batch.

    Parameters
    ----------
    pixels : (N, H, W, 3) uint8. white_points : (N, 3). matrices : (N, 3, 3), stain vectors as rows.

    Returns
    -------
    (N, 3, H, W) float32 stain amounts, not yet clipped.
    """
    od = optical_density(pixels, white_points[:, None, None, :])
    return np.moveaxis(unmix(od, matrices[:, None]), -1, 1)


def fluorescence_amounts(pixels: NDArray[Any], background: FloatArray, full_scale: FloatArray) -> FloatArray:
    """Normalise a batch: (N, H, W, 3) counts, (N, 3) background and full scale, to (N, 3, H, W) float32."""
    levels = pixels.astype(np.float32)
    return np.moveaxis((levels - background[:, None, None, :]) / full_scale[:, None, None, :], -1, 1)


def vary(amounts: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Vary stain amounts as staining and scanners do, and clip them to what the network sees.

    Parameters
    ----------
    amounts : (N, 3, H, W).
    generator : on the CPU.
    """
    n, device = len(amounts), amounts.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    gamma = torch.exp(config.gamma * normal(n, 3, 1, 1))
    varied = amounts.abs().clamp_min_(1e-4).pow_(gamma).copysign_(amounts)
    varied.mul_(torch.exp(config.scale * normal(n, 3, 1, 1))).add_(config.shift * normal(n, 3, 1, 1))
    sigma = config.blur_max_px * torch.rand(n, generator=generator)
    chosen = (torch.rand(n, generator=generator) < config.blur_share).nonzero()[:, 0]
    if len(chosen):
        varied[chosen.to(device)] = _blurred(varied[chosen.to(device)], sigma[chosen].to(device))
    strength = config.noise * torch.rand(n, 1, 1, 1, generator=generator).to(device)
    varied.addcmul_(strength, normal(*varied.shape))
    varied[(torch.rand(n, generator=generator) < config.no_residual_share).to(device), 2] = 0.0
    return varied.clamp_(*AMOUNT_RANGE)


def _blurred(amounts: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own Gaussian (sigma in pixels, up to about 1)."""
    n, channels, height, width = amounts.shape
    x = torch.arange(-3, 4, device=amounts.device, dtype=torch.float32)
    kernel = torch.exp(-x.square() / (2 * sigma.clamp_min(0.1)[:, None].square()))
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    flat = amounts.reshape(1, n * channels, height, width)
    flat = F.conv2d(F.pad(flat, (3, 3, 0, 0), "replicate"), kernel[:, None, None, :], groups=n * channels)
    flat = F.conv2d(F.pad(flat, (0, 0, 3, 3), "replicate"), kernel[:, None, :, None], groups=n * channels)
    return flat.reshape(n, channels, height, width)
