"""From stain amounts to what a scanner writes."""

from __future__ import annotations

from dataclasses import dataclass

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float32]

# Published H-DAB vectors (nuclear, DAB) that a look is drawn around.
_HDAB_PAIRS = np.array(
    [
        # Ruifrok and Johnston 2001 (Anal Quant Cytol Histol 23:291).
        [[0.65, 0.70, 0.29], [0.27, 0.57, 0.78]],
        # Kather 2018 (eLife 7:e36967), QuPath scripts.
        [[0.65111, 0.70119, 0.29049], [0.26917, 0.56824, 0.77759]],
        # QuPath's example OS-2 (Ki67, Hamamatsu): a greener blue; estimated from the image.
        [[0.791, 0.580, 0.194], [0.350, 0.567, 0.746]],
        # scikit-image's FHL2 example: a more orange brown; estimated from the image.
        [[0.666, 0.649, 0.367], [0.237, 0.470, 0.850]],
        # Violet haematoxylin, as in the CD31 example of Kather's ColorDeconvolutionMatlab; estimated.
        [[0.663, 0.688, 0.295], [0.416, 0.614, 0.670]],
    ],
    np.float32,
)


@dataclass(frozen=True)
class Look:
    """How one staining batch on one scanner looks.

    stain_vectors : (3, 3) unit rows nuclear, CD8, residual; white_point : red, green, blue of empty glass.
    counterstain, brown : scale of the amounts. blur_um : of the optics; sharpen : of the scanner, 0 to 1.
    noise : of the sensor, grey levels; jpeg_quality : None for uncompressed. chromatic_um : shift of red
    against blue.
    """

    stain_vectors: NDArray[np.float32]
    white_point: NDArray[np.float32]
    counterstain: float
    brown: float
    blur_um: float
    sharpen: float
    noise: float
    jpeg_quality: int | None
    chromatic_um: float


def draw_look(rng: np.random.Generator) -> Look:
    """Draw the look of a slide: vectors within some 6 degrees of published ones, every intensity in use."""
    pair = _HDAB_PAIRS[rng.integers(len(_HDAB_PAIRS))] + rng.normal(0, 0.035, (2, 3))
    pair = np.maximum(pair, 0.05)
    pair /= np.linalg.norm(pair, axis=1, keepdims=True)
    residual = np.cross(pair[0], pair[1])
    vectors = np.vstack([pair, residual / np.linalg.norm(residual)]).astype(np.float32)
    grey = rng.uniform(222, 250)
    return Look(
        stain_vectors=vectors,
        white_point=np.clip(grey + rng.normal(0, 3.0, 3), 210, 254).astype(np.float32),
        counterstain=float(np.exp(rng.uniform(np.log(0.16), np.log(1.15)))),
        brown=float(np.exp(rng.uniform(np.log(0.75), np.log(1.8)))),
        # One field in ten is out of focus.
        blur_um=float(rng.uniform(0.1, 0.55) if rng.random() < 0.9 else rng.uniform(0.55, 1.1)),
        sharpen=float(max(0.0, rng.uniform(-0.4, 0.9))),
        noise=float(rng.uniform(0.3, 3.0)),
        jpeg_quality=int(rng.integers(30, 96)),
        chromatic_um=float(max(0.0, rng.uniform(-0.5, 0.5))),
    )


@dataclass(frozen=True)
class Lamp:
    """How one fluorescence scan looks; tuples are nuclear, CD8, autofluorescence, then further markers.

    autofluorescence, cd8 : scale of the signals. spill : share of autofluorescence in the nuclear channel, of
    nuclear and autofluorescence in CD8, of CD8 in autofluorescence. floor, slope, phase : background and its
    unevenness. gain : counts per unit signal. photons : per unit signal; the fewer, the noisier.
    """

    autofluorescence: float
    cd8: float
    spill: tuple[float, float, float, float]
    floor: tuple[float, ...]
    slope: tuple[float, ...]
    phase: tuple[float, ...]
    gain: tuple[float, ...]
    photons: float
    blur_um: float


def draw_lamp(rng: np.random.Generator) -> Lamp:
    """Draw a fluorescence scan: intensities over two decades."""
    full = float(np.exp(rng.uniform(np.log(250), np.log(30_000))))
    spill = rng.uniform(0, 0.12, 4) * (1, 1, 3, 1)
    floor = rng.uniform(0.01, 0.08, 3)
    slope = rng.uniform(-0.4, 0.4, 3) * floor
    gain = full * np.exp(rng.uniform(-0.7, 0.7, 3))
    return Lamp(
        autofluorescence=float(rng.uniform(0.3, 1.0)),
        cd8=float(rng.uniform(0.5, 1.3)),
        spill=(float(spill[0]), float(spill[1]), float(spill[2]), float(spill[3])),
        floor=_three(floor),
        slope=_three(slope),
        phase=_three(rng.uniform(0, 2 * np.pi, 3)),
        gain=_three(gain),
        photons=float(np.exp(rng.uniform(np.log(60), np.log(4000)))),
        blur_um=float(rng.uniform(0.2, 0.7) if rng.random() < 0.8 else rng.uniform(0.7, 1.2)),
    )


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def blurred(image: FloatArray, sigma_px: float) -> FloatArray:
    """Gaussian blur of the first two axes, truncated at 2.5 sigma; none where it would not be seen."""
    if sigma_px < 0.25:
        return image
    result = image
    for axis in (0, 1):
        result = ndimage.gaussian_filter1d(result, sigma_px, axis=axis, mode="nearest", truncate=2.5)
    return result


def box_blurred(image: FloatArray, size_px: int) -> FloatArray:
    """Mean over a square of the first two axes."""
    result = image
    for axis in (0, 1):
        result = ndimage.uniform_filter1d(result, size_px, axis=axis, mode="nearest")
    return result


def transmitted(amounts: FloatArray, look: Look) -> FloatArray:
    """Beer-Lambert: (..., 3) stain amounts to (..., 3) intensities, white point at none."""
    density = amounts @ (look.stain_vectors * np.float32(np.log(10)))
    np.negative(density, out=density)
    np.exp(density, out=density)
    density *= look.white_point
    result: FloatArray = density
    return result


def jpeg_round_trip(pixels: NDArray[np.uint8], quality: int | None) -> NDArray[np.uint8]:
    """Compress and decompress as a slide file would; 4:2:0 below quality 80."""
    if quality is None:
        return pixels
    subsampling = "420" if quality < 80 else "444"
    code = imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=quality, subsampling=subsampling)
    result: NDArray[np.uint8] = imagecodecs.jpeg8_decode(code)
    return result
