"""A first look at the whole slide: colours, focus and what can be read, at some um per pixel.

One pass over the stored pixels, block by block, whether the file has a pyramid or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from histo.errors import SlideError, TileReadError
from histo.slide.base import Slide
from histo.slide.geometry import Box
from histo.slide.reading import read_ahead
from histo.slide.tiles import Tile

# Pixels read per survey pixel, each way: 8 um are surveyed from 2 um pixels, where nuclei are still seen.
_FINE = 4
# Stored pixels per block.
_BLOCK_PX = 4_000_000
# Sharpness is a ratio of energies summed over so many survey pixels each way.
_WINDOW = 5
# Of an 8-bit grey level at the fine scale: rounding alone makes 1/12.
_NOISE_VARIANCE = np.float32(0.12)


@dataclass(frozen=True)
class Survey:
    """The slide on the grid at `mpp`; all arrays have its (rows, columns).

    overview : (rows, columns, channels) mean pixel, the slide's dtype; white or 0 where nothing was read.
    sharpness : float32, energy of diagonal detail at `mpp`/4 um over that at `mpp`/2 um, in a window of 5 x 5
        survey pixels: 1/16 where out of focus, 4 for mere noise. NaN where the slide itself is too coarse to
        say, or nothing was read.
    contrast : float32, standard deviation of detail between `mpp`/4 and `mpp` um in the same window: of the
        optical density in green for brightfield, of the summed square roots for fluorescence.
    coverage : float32 share of each pixel that lies on the slide.
    unread : bool, pixels under which stored data could not be decoded.
    """

    mpp: float
    overview: NDArray[Any]
    sharpness: NDArray[np.float32]
    contrast: NDArray[np.float32]
    coverage: NDArray[np.float32]
    unread: NDArray[np.bool_]


def survey_slide(slide: Slide, mpp: float = 8.0, *, threads: int = 1) -> Survey:
    """Survey a slide.

    Parameters
    ----------
    slide : any slide; memory does not depend on whether it has a pyramid.
    mpp : um per survey pixel.
    threads : how many threads decode.

    Raises
    ------
    SlideError : nothing at all could be decoded.
    """
    columns, rows = slide.grid_size(mpp)
    fill = 255 if slide.kind == "brightfield" else 0
    overview = np.full((rows, columns, len(slide.channels)), fill, slide.info.dtype)
    fine, coarse, detail = (np.zeros((rows, columns), np.float32) for _ in range(3))
    unread = np.zeros((rows, columns), bool)
    coverage = coverage_of(slide.size_um, (rows, columns), mpp)
    first_error: TileReadError | None = None

    for block, pixels in _read_blocks(slide, mpp, threads):
        where = np.s_[block.y : block.bottom, block.x : block.right]
        if isinstance(pixels, TileReadError):
            unread[where] = True
            first_error = first_error or pixels
            continue
        overview[where] = _mean(pixels, slide.info.dtype)
        fine[where], coarse[where], detail[where] = _detail_energies(_grey(pixels, slide))
    if first_error is not None and unread.all():
        raise SlideError(
            f"no part of the slide can be decoded ({first_error.what})",
            path=slide.path,
            fix="Check that the file is complete, e.g. copy it again",
        )
    _undo_padding(overview, coverage, fill)
    for energy in (fine, coarse, detail):
        energy[coverage < 1] = 0
    if slide.kind == "brightfield":
        # Rounding and what is left of sensor noise, as density; white noise has a quarter at twice the scale.
        noise = (
            _NOISE_VARIANCE * (np.float32(0.4343) / np.maximum(overview[..., 1].astype(np.float32), 8.0)) ** 2
        )
        fine -= noise / 4
        coarse -= noise / 16
    contrast = np.sqrt(_window_mean(detail))
    ratio = _window_mean(fine) / np.maximum(_window_mean(coarse), 1e-10)
    sharpness = np.asarray(ratio, np.float32)
    sharpness[unread] = np.nan
    if max(slide.mpp) > 1.5 * mpp / _FINE:
        sharpness[:] = np.nan
    return Survey(mpp, overview, sharpness, contrast, coverage, unread)


def coverage_of(size_um: tuple[float, float], shape: tuple[int, int], mpp: float) -> NDArray[np.float32]:
    """Return the share of each pixel of a grid (rows, columns) at `mpp` um that lies on a slide."""
    rows, columns = shape
    across = np.clip(size_um[0] / mpp - np.arange(columns), 0, 1)
    down = np.clip(size_um[1] / mpp - np.arange(rows), 0, 1)
    return np.outer(down, across).astype(np.float32)


def _undo_padding(overview: NDArray[Any], coverage: NDArray[np.float32], fill: int) -> None:
    """Take out the fill that was averaged into pixels reaching past the slide's edge, in place."""
    partial = (coverage < 1) & (coverage > 0.01)
    share = coverage[partial][:, None]
    pixels = (overview[partial] - fill * (1 - share)) / share
    if np.issubdtype(overview.dtype, np.integer):
        pixels = np.clip(np.rint(pixels), 0, np.iinfo(overview.dtype).max)
    overview[partial] = pixels


def _read_blocks(
    slide: Slide, mpp: float, threads: int
) -> Iterator[tuple[Box, NDArray[Any] | TileReadError]]:
    """Yield boxes of the survey grid with their pixels at `mpp` / _FINE."""
    level = slide.info.levels[slide.level_for(mpp / _FINE)]
    # Stored tile in survey pixels.
    tile = tuple(level.tile_px[a] * slide.mpp[a] * level.downsample[a] / mpp for a in (0, 1))
    side = int(_BLOCK_PX**0.5)
    across = max(1, min(side, level.size_px[0]) // level.tile_px[0])
    down = max(1, _BLOCK_PX // max(1, across * level.tile_px[0]) // level.tile_px[1])
    blocks = _lattice(slide, mpp, (across * tile[0], down * tile[1]))
    for work, pixels in read_ahead(slide, blocks, mpp / _FINE, threads=threads, ahead=threads + 1):
        if not isinstance(pixels, TileReadError):
            yield work.core, pixels
            continue
        # Only the stored tiles that are damaged are lost, not the block around them.
        for part in _lattice(slide, mpp, (tile[0], tile[1]), within=work.core):
            try:
                yield part.core, slide.read(part.read, mpp / _FINE)
            except TileReadError as error:
                yield part.core, error


def _lattice(slide: Slide, mpp: float, step: tuple[float, float], within: Box | None = None) -> list[Tile]:
    """Cut the survey grid (or a part of it) at the multiples of `step`, rounded to whole survey pixels."""
    if within is None:
        within = Box(0, 0, *slide.grid_size(mpp))
    xs = _cuts(within.x, within.right, step[0])
    ys = _cuts(within.y, within.bottom, step[1])
    parts: list[Tile] = []
    for top, bottom in pairwise(ys):
        for left, right in pairwise(xs):
            core = Box(left, top, right - left, bottom - top)
            read = Box(left * _FINE, top * _FINE, core.width * _FINE, core.height * _FINE)
            parts.append(Tile(len(parts), core, read))
    return parts


def _cuts(start: int, stop: int, step: float) -> list[int]:
    step = max(step, 1.0)
    inner = np.rint(np.arange(1, int(stop / step) + 2) * step).astype(int)
    return [start, *(int(cut) for cut in np.unique(inner) if start < cut < stop), stop]


def _mean(pixels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    height, width, channels = pixels.shape
    blocks = pixels.reshape(height // _FINE, _FINE, width // _FINE, _FINE, channels)
    n = _FINE * _FINE
    mean: NDArray[Any]
    if np.issubdtype(dtype, np.integer):
        mean = (blocks.sum(axis=(1, 3), dtype=np.uint32) + n // 2) // n
    else:
        mean = blocks.mean(axis=(1, 3))
    return mean.astype(dtype)


def _grey(pixels: NDArray[Any], slide: Slide) -> NDArray[np.float32]:
    """One value per pixel in which nuclei stand out, on a scale where noise is about the same everywhere."""
    if slide.kind == "brightfield":
        # Green carries most of haematoxylin and half of DAB; log: Beer-Lambert.
        return -np.log10(np.maximum(pixels[..., 1].astype(np.float32), 8.0))
    # Square roots stabilise the variance of counts, so that no single bright channel decides.
    grey: NDArray[np.float32] = np.sqrt(np.maximum(pixels, 0).astype(np.float32)).sum(axis=2)
    return grey


def _detail_energies(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Return energies of the two finest Haar scales in each survey pixel.

    Diagonal detail of the finest scale, of the next one, and all detail of both. Haar details need no
    neighbours, so blocks can be cut anywhere. The diagonal ones are blind to plain gradients, which are what
    is left of cells out of focus: of such a picture the second scale has 16 times the energy of the first.
    """
    diagonal, every, half = _haar(grey)
    diagonal_half, every_half, _ = _haar(half)
    return _pair_mean(diagonal), diagonal_half, _pair_mean(every) + every_half


def _haar(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    a, b, c, d = grey[0::2, 0::2], grey[0::2, 1::2], grey[1::2, 0::2], grey[1::2, 1::2]
    quarter = np.float32(0.25)
    across, down, diagonal = (a - b + c - d) * quarter, (a + b - c - d) * quarter, (a - b - c + d) * quarter
    diagonal *= diagonal
    return diagonal, across * across + down * down + diagonal, (a + b + c + d) * quarter


def _pair_mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    total: NDArray[np.float32] = (
        values[0::2, 0::2] + values[0::2, 1::2] + values[1::2, 0::2] + values[1::2, 1::2]
    )
    return total * np.float32(0.25)


def _window_mean(energy: NDArray[np.float32]) -> NDArray[np.float32]:
    # Running sums may leave a trace below zero.
    mean = ndimage.uniform_filter(energy, _WINDOW, mode="nearest")
    return np.asarray(np.maximum(mean, 0.0), np.float32)
