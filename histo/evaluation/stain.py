"""An annotated image on the way to stain space, exactly as a slide goes there in inference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.config import BrightfieldStain, FluorescenceStain, TissueConfig
from histo.datasets.image import AnnotatedImage
from histo.slide.base import Level, Slide, SlideInfo
from histo.slide.geometry import Box
from histo.slide.survey import survey_slide
from histo.slide.tissue import Tissue, detect_tissue
from histo.stain.space import StainTransform, fit_stain

_CHANNELS = {"brightfield": ("red", "green", "blue"), "fluorescence": ("nuclear", "CD8", "autofluorescence")}


class ArraySlide(Slide):
    """A picture in memory, read like a slide.

    Parameters
    ----------
    image : its pixels and pixel size.
    name : what errors call it.
    """

    def __init__(self, image: AnnotatedImage, name: str = "image") -> None:
        height, width = image.pixels.shape[:2]
        info = SlideInfo(
            size_px=(width, height),
            mpp=(image.mpp, image.mpp),
            channels=_CHANNELS[image.kind],
            kind=image.kind,
            dtype=image.pixels.dtype,
            levels=(Level((width, height), (1.0, 1.0), (width, height)),),
            backend="memory",
            decoder="none",
        )
        super().__init__(Path(name), info, (image.mpp, image.mpp), "metadata")
        self._pixels = image.pixels

    def _open_handle(self) -> NDArray[Any]:
        return self._pixels

    def _close_handle(self, handle: NDArray[Any]) -> None:
        pass

    def _read_level(self, handle: NDArray[Any], level: int, box: Box) -> NDArray[Any]:
        return handle[box.y : box.bottom, box.x : box.right].copy()


@dataclass(frozen=True)
class Prepared:
    """An image ready to be read in stain space.

    slide : the image as a slide.
    stain : the way to stain space, fitted to this image alone.
    tissue : where inference would look for cells.
    """

    slide: ArraySlide
    stain: StainTransform
    tissue: Tissue

    def amounts(self, box: Box, mpp: float) -> NDArray[np.float32]:
        """Return the stain amounts (3, box.height, box.width) float32 of a box of the grid at `mpp`.

        Outside the image all is white, or dark in fluorescence, as inference sees what is beyond a slide.
        """
        return self.stain(self.slide.read(box, mpp))


def prepare(
    image: AnnotatedImage, config: BrightfieldStain | FluorescenceStain | None = None, *, name: str = "image"
) -> Prepared:
    """Fit the way to stain space to an image, by the steps that a slide goes through.

    Parameters
    ----------
    image : any annotated image.
    config : staining protocol of brightfield images; None for the default. `AnnotatedImage` says which
        channel of a fluorescence image is which, and may know a white point that is to be estimated.
    name : what errors call it.

    Raises
    ------
    SlideError : a brightfield image, and a protocol for fluorescence.
    """
    slide = ArraySlide(image, name)
    tissue_config = TissueConfig()
    survey = survey_slide(slide, tissue_config.mpp_um)
    tissue = detect_tissue(survey, slide.kind, tissue_config)
    return Prepared(slide, fit_stain(slide, survey, tissue, _stain_config(image, config)), tissue)


def stain_of(
    image: AnnotatedImage, mpp: float, config: BrightfieldStain | FluorescenceStain | None = None
) -> NDArray[np.float32]:
    """Return the stain amounts of a whole image, (3, H, W) float32 on the grid at `mpp`.

    H and W are the numbers of pixels of that grid that cover the image; see `prepare` and `Prepared.amounts`.
    """
    prepared = prepare(image, config)
    columns, rows = prepared.slide.grid_size(mpp)
    return prepared.amounts(Box(0, 0, columns, rows), mpp)


def _stain_config(
    image: AnnotatedImage, config: BrightfieldStain | FluorescenceStain | None
) -> BrightfieldStain | FluorescenceStain:
    if image.kind == "brightfield":
        config = config or BrightfieldStain()
        if config.kind == "brightfield" and config.white_point == "estimate" and image.white_point:
            return config.model_copy(update={"white_point": image.white_point})
        return config
    nuclear, cd8, auto = _CHANNELS["fluorescence"]
    has_auto = bool(np.any(image.pixels[..., 2]))
    return FluorescenceStain(
        kind="fluorescence", nuclear=nuclear, cd8=cd8, autofluorescence=auto if has_auto else None
    )
