"""Pictures with known content for tests of tissue, quality and stain."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

# Unit vectors of optical density: haematoxylin, DAB (Kather 2018), eosin (Ruifrok and Johnston 2001).
HAEMATOXYLIN = np.array([0.65111, 0.70119, 0.29049]) / np.linalg.norm([0.65111, 0.70119, 0.29049])
DAB = np.array([0.26917, 0.56824, 0.77759]) / np.linalg.norm([0.26917, 0.56824, 0.77759])
EOSIN = np.array([0.07, 0.99, 0.11]) / np.linalg.norm([0.07, 0.99, 0.11])
GLASS = (238.0, 236.0, 241.0)


_PERIOD = 512


def blobs(shape: tuple[int, int], share: float, size_px: float, seed: int) -> NDArray[np.float32]:
    """Random round-ish spots, 0 to 1 with soft edges, over about `share` of the picture; periodic."""
    return _tiled(_blobs(share, size_px, seed), shape)


@cache
def _blobs(share: float, size_px: float, seed: int) -> NDArray[np.float32]:
    white = np.random.default_rng(seed).normal(size=(_PERIOD, _PERIOD))
    noise = ndimage.gaussian_filter(white, size_px, mode="wrap")
    edge = np.quantile(noise, 1 - share)
    return np.clip((noise - edge) / (0.1 * noise.std()), 0, 1).astype(np.float32)


@cache
def _noise(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(_PERIOD, _PERIOD, 3)).astype(np.float32)


def _tiled(period: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    times = [-(-length // _PERIOD) for length in shape]
    repeats = (*times, 1)[: period.ndim]
    return np.tile(period, repeats)[: shape[0], : shape[1]]


def stained(
    size: tuple[int, int] = (640, 640),
    *,
    nuclear: float = 0.8,
    cd8: float = 1.2,
    cd8_share: float = 0.04,
    haze: float = 0.04,
    vectors: tuple[NDArray[Any], NDArray[Any]] = (HAEMATOXYLIN, DAB),
    glass: tuple[float, float, float] = GLASS,
    where: NDArray[np.bool_] | None = None,
    noise: float = 1.5,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Nuclei and CD8+ cells at 0.5 um/px by Beer-Lambert; `where` is tissue, the rest glass."""
    nuclei = blobs(size, 0.3, 3.0, seed) * nuclear + haze
    cells = blobs(size, cd8_share, 3.0, seed + 1) * cd8 if cd8_share > 0 else np.zeros(size, np.float32)
    first, second = (np.asarray(vector, np.float32) for vector in vectors)
    od = nuclei[..., None] * first + cells[..., None] * second
    if where is not None:
        od *= where[..., None]
    levels = np.array(glass, np.float32) * np.exp(np.float32(-np.log(10)) * od)
    levels += noise * _tiled(_noise(seed + 2), size)
    return np.clip(levels, 0, 255).round().astype(np.uint8)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Red, green, blue of a file; transparency becomes white."""
    if path.suffix in {".tif", ".svs"}:
        return np.asarray(tifffile.imread(path))
    with Image.open(path) as image:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        white.alpha_composite(rgba)
        return np.asarray(white.convert("RGB"))
