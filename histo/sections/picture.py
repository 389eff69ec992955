"""What is registered: the nuclear stain of a slide at a few um per pixel, and its tissue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histo.errors import SlideError, TileReadError
from histo.slide import Box, Slide
from histo.slide.tissue import Tissue
from histo.stain.space import StainTransform

_STRIP_PX = 2_000_000
# Amounts above this percentile of the tissue count as this much: folds and ink must not decide.
_BRIGHTEST = 98.0


@dataclass(frozen=True, eq=False)
class NuclearPicture:
    """The nuclear stain of a slide on its grid at `mpp`.

    nuclear : float32 (rows, columns), 0 to 1; 0 outside tissue. tissue : bool, likewise.
    """

    mpp: float
    nuclear: NDArray[np.float32]
    tissue: NDArray[np.bool_]

    @property
    def size_um(self) -> tuple[float, float]:
        """Width and height that the grid covers."""
        rows, columns = self.nuclear.shape
        return columns * self.mpp, rows * self.mpp

    def coarser(self, factor: int) -> NuclearPicture:
        """Return it averaged over blocks of `factor` pixels each way."""
        if factor == 1:
            return self
        rows, columns = (-(-length // factor) for length in self.nuclear.shape)
        pad = ((0, rows * factor - self.nuclear.shape[0]), (0, columns * factor - self.nuclear.shape[1]))
        blocks = (rows, factor, columns, factor)
        nuclear = np.pad(self.nuclear, pad).reshape(blocks).mean(axis=(1, 3))
        tissue = np.pad(self.tissue, pad).reshape(blocks).mean(axis=(1, 3)) >= 0.5
        return NuclearPicture(self.mpp * factor, nuclear.astype(np.float32), tissue)


def picture_mpp(slides: tuple[Slide, ...], finest_mpp: float, max_px: int) -> float:
    """Return the finest of finest_mpp, 2 finest_mpp, ... at which no slide has more than `max_px` pixels."""
    mpp = finest_mpp
    while any(np.prod(slide.grid_size(mpp), dtype=np.float64) > max_px for slide in slides):
        mpp *= 2
    return mpp


def nuclear_picture(slide: Slide, tissue: Tissue, stain: StainTransform, mpp: float) -> NuclearPicture:
    """Read the nuclear stain of a slide, strip by strip.

    Parameters
    ----------
    mpp : um per pixel; tissue that cannot be read counts as none.

    Raises
    ------
    SlideError : there is no tissue on the slide.
    """
    if not tissue.mask.any():
        raise SlideError("there is no tissue on it that could be registered", path=slide.path)
    columns, rows = slide.grid_size(mpp)
    nuclear = np.zeros((rows, columns), np.float32)
    step = max(1, _STRIP_PX // columns)
    for top in range(0, rows, step):
        box = Box(0, top, columns, min(step, rows - top))
        try:
            pixels = slide.read(box, mpp)
        except TileReadError:
            continue
        nuclear[box.y : box.bottom] = stain(pixels)[0]
    row = np.minimum((np.arange(rows) + 0.5) * mpp / tissue.mpp, tissue.mask.shape[0] - 1).astype(np.intp)
    column = np.minimum((np.arange(columns) + 0.5) * mpp / tissue.mpp, tissue.mask.shape[1] - 1).astype(
        np.intp
    )
    mask = tissue.mask[row[:, None], column]
    highest = max(float(np.percentile(nuclear[mask], _BRIGHTEST)), 1e-3)
    nuclear = np.where(mask, np.clip(nuclear / highest, 0, 1), 0).astype(np.float32)
    return NuclearPicture(mpp, nuclear, mask)
