"""Does a slide look like the stain that the configuration says it has?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.config import BrightfieldStain, FluorescenceStain
from histo.slide.base import Slide
from histo.slide.tissue import Tissue
from histo.stain.deconvolution import optical_density, stain_matrix, unmix
from histo.stain.sample import sample_tissue
from histo.stain.space import BrightfieldTransform, FluorescenceTransform, StainTransform

# Of the tissue's density, by the hue of eosin. Measured on published slides: H-DAB 0.000 (three slides), H&E
# 0.40 and more (six).
_PINK_LIMIT = 0.15
# Stain amounts of a unit density this far below 0 (or of an unconfigured residual off 0) are still noise.
_BESIDE = 0.15
_MIN_PIXELS = 200


def stain_flags(
    slide: Slide, tissue: Tissue, stain: StainTransform, config: BrightfieldStain | FluorescenceStain
) -> list[tuple[str, str]]:
    """Return (code, message) for what does not look like the configured stain.

    "not_the_stain": much of the tissue has the pink of eosin, as in H&E, and the configured stains do not mix
    to it. "no_signal": a fluorescence channel shows nothing clearly above its background.
    """
    if isinstance(stain, FluorescenceTransform):
        return [("no_signal", stain.note)] if stain.note else []
    assert isinstance(config, BrightfieldStain)
    share = pink_share(slide, tissue, stain, config)
    if share is None or share <= _PINK_LIMIT:
        return []
    message = f"{share:.0%} of the tissue's stain is pink, as in H&E: this may not be the configured stain"
    return [("not_the_stain", message)]


def pink_share(
    slide: Slide, tissue: Tissue, stain: BrightfieldTransform, config: BrightfieldStain
) -> float | None:
    """Return the share of the tissue's optical density with the hue of eosin; None with too little tissue.

    Pink: the direction of optical density has at least 0.35 more green than red and 0.2 more than blue, as
    eosin has even beside haematoxylin, and no haematoxylin, DAB, or mixture of them. Pixels that the
    configured stains do mix to (a red chromogen) are not counted.
    """
    pixels = sample_tissue(slide, tissue, n_blocks=32)
    od = optical_density(pixels, stain.white_point)
    length = np.linalg.norm(od, axis=1)
    stained = length > 0.15
    if int(stained.sum()) < _MIN_PIXELS:
        return None
    unit, weight = od[stained] / length[stained, None], length[stained]
    pink = (unit[:, 1] - unit[:, 0] > 0.35) & (unit[:, 1] - unit[:, 2] > 0.2)
    foreign = pink & ~_explained(unit, config)
    return float((weight * foreign).sum() / weight.sum())


def _explained(unit: NDArray[Any], config: BrightfieldStain) -> NDArray[np.bool_]:
    """Return which directions are (nearly) a sum of the configured stains."""
    amounts = unmix(unit, stain_matrix(config.vectors))
    explained = np.asarray((amounts[:, :2] > -_BESIDE).all(axis=1))
    if config.vectors.residual is None:
        explained &= np.abs(amounts[:, 2]) < _BESIDE
    else:
        explained &= amounts[:, 2] > -_BESIDE
    return explained
