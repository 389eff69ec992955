"""A bounded sample of a slide's tissue, the same every time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.errors import TileReadError
from histo.slide.base import Slide
from histo.slide.geometry import Box
from histo.slide.tissue import Tissue

# A block is 16 survey pixels wide: 128 um on a survey at 8 um.
_BLOCK_PX = 16
_SAMPLE_MPP = 0.5


def sample_tissue(
    slide: Slide,
    tissue: Tissue,
    interest: NDArray[np.float32] | None = None,
    n_blocks: int = 32,
    mpp: float = _SAMPLE_MPP,
) -> NDArray[Any]:
    """Read some blocks of assessed tissue.

    Half of them evenly spread over the tissue, half where `interest` is highest: a stain may be rare.

    Parameters
    ----------
    slide, tissue : what to sample, and where it has tissue.
    interest : (rows, columns) of the survey.
    n_blocks : how many blocks at most, of 16 x 16 survey pixels.
    mpp : um per pixel wanted.

    Returns
    -------
    (n, channels) assessed pixels at about `mpp`, or as fine as the slide is; the slide's dtype. n is 0 where
    there is no assessed tissue.
    """
    columns, rows = tissue.mask.shape[1], tissue.mask.shape[0]
    blocks = [
        Box(x, y, min(_BLOCK_PX, columns - x), min(_BLOCK_PX, rows - y))
        for y in range(0, rows, _BLOCK_PX)
        for x in range(0, columns, _BLOCK_PX)
    ]
    shares = _block_sums(tissue.assessed.astype(np.float32)) / _BLOCK_PX**2
    good = np.flatnonzero(shares >= min(0.5, float(shares.max()) / 2)) if shares.any() else np.array([], int)
    good = good[shares[good] > 0]
    chosen = (
        set(good[np.unique(np.linspace(0, len(good) - 1, n_blocks // 2).round().astype(int))].tolist())
        if len(good)
        else set()
    )
    if interest is not None and len(good):
        scores = _block_sums(np.where(tissue.assessed, interest, 0).astype(np.float32))[good]
        for index in good[np.argsort(-scores, kind="stable")].tolist():
            if len(chosen) >= n_blocks:
                break
            chosen.add(index)
    factor = max(1, round(tissue.mpp / max(mpp, *slide.mpp)))
    parts = [np.empty((0, len(slide.channels)), slide.info.dtype)]
    for index in sorted(chosen):
        block = blocks[index]
        box = Box(block.x * factor, block.y * factor, block.width * factor, block.height * factor)
        try:
            pixels = slide.read(box, tissue.mpp / factor)
        except TileReadError:
            continue
        inside = tissue.assessed[block.y : block.bottom, block.x : block.right]
        full = (tissue.coverage >= 1)[block.y : block.bottom, block.x : block.right]
        keep = np.repeat(np.repeat(inside & full, factor, axis=0), factor, axis=1)
        parts.append(pixels[keep])
    return np.concatenate(parts)


def _block_sums(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum over blocks, row by row of blocks."""
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], _BLOCK_PX), axis=0)
    sums: NDArray[np.float32] = np.add.reduceat(rows, np.arange(0, values.shape[1], _BLOCK_PX), axis=1)
    return sums.ravel()
