"""Features of a slide, window by window: memory does not grow with the slide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histo.errors import ClassifierError, TileReadError
from histo.regions.features import CELL_PX, CELL_UM, FEATURE_MPP_UM, STAINED, feature_maps
from histo.slide.base import Slide
from histo.slide.geometry import Box
from histo.slide.reading import read_ahead
from histo.slide.resample import nearest_labels
from histo.slide.tiles import Tile
from histo.slide.tissue import Tissue
from histo.stain.deconvolution import STAINS
from histo.stain.sample import sample_tissue
from histo.stain.space import BrightfieldTransform, StainTransform

Channel = Literal["nuclear", "residual"]

# Cells of a window, each way: 3.2 mm.
WINDOW_CELLS = 400
# Of the slide's tissue: what counts as none and as much of a stain.
_SCALE_PERCENTILES = (5.0, 95.0)
_SCALE_BLOCKS = 256
# Edge of the pieces that a damaged window is read in, px.
_PIECE_PX = 128
# Pixels this much coarser than those of the features show no nuclei.
_COARSEST = 1.25


@dataclass(frozen=True)
class ClassifiedSlide:
    """A slide as the tissue classifier takes it.

    assessed : (rows, columns) of the grid at `CELL_UM`.
    channels : which amounts are looked at. scales : of each, the amount that stands for
        none, and how much more stands for much.
    """

    slide: Slide
    stain: StainTransform
    assessed: NDArray[np.bool_]
    channels: tuple[Channel, ...]
    scales: tuple[tuple[float, float], ...]


def channels_of(stain: StainTransform, residual_name: str | None) -> tuple[Channel, ...]:
    """Return the channels in which a slide's tissues differ, apart from CD8.

    The residual is one where it is a stain (`stain.residual_name`) or the autofluorescence. What colour
    deconvolution of two stains leaves over is not: it shows how well the vectors fit the slide, and a
    classifier trained on one slide takes that for tissue.
    """
    if isinstance(stain, BrightfieldTransform):
        return ("nuclear",) if residual_name is None else ("nuclear", "residual")
    return ("nuclear",) if stain.channels[2] is None else ("nuclear", "residual")


def prepare(
    slide: Slide, stain: StainTransform, tissue: Tissue, channels: tuple[Channel, ...]
) -> ClassifiedSlide:
    """Put a slide's assessed tissue on the grid of cells and take the scales of its stains.

    Raises
    ------
    ClassifierError : the slide's pixels are too coarse to show nuclei.
    """
    if max(slide.mpp) > _COARSEST * FEATURE_MPP_UM:
        raise ClassifierError(
            f"pixels of {max(slide.mpp):.2f} um are too coarse for the tissue classifier, which needs "
            f"{FEATURE_MPP_UM:g} um",
            path=slide.path,
            fix="Annotate the tumour of this slide",
        )
    columns, rows = slide.grid_size(CELL_UM)
    assessed = nearest_labels(tissue.assessed.astype(np.int32), tissue.mpp, (rows, columns), CELL_UM) > 0
    pixels = sample_tissue(slide, tissue, n_blocks=2 * _SCALE_BLOCKS, mpp=FEATURE_MPP_UM)
    scales = [(0.0, 1.0)] * len(channels)
    if len(pixels):
        amounts = stain(pixels[None])[:, 0]
        unstained = amounts[STAINS.index("cd8")] <= STAINED
        for index, channel in enumerate(channels):
            values = amounts[STAINS.index(channel)]
            low, high = np.percentile(values[unstained] if unstained.any() else values, _SCALE_PERCENTILES)
            scales[index] = float(low), max(float(high - low), 0.01)
    return ClassifiedSlide(slide, stain, assessed, channels, tuple(scales))


def windows(
    of: ClassifiedSlide,
    wanted: NDArray[np.bool_],
    halo_cells: int,
    *,
    threads: int = 2,
    window_cells: int = WINDOW_CELLS,
) -> Iterator[tuple[Tile, Iterator[NDArray[np.float32]]]]:
    """Read the windows that hold wanted cells and give the features of each.

    Parameters
    ----------
    wanted : (rows, columns) of the grid of cells.
    halo_cells : how many cells around its core a window has.
    threads : how many threads decode.
    window_cells : how wide and high a window's core is at most; memory grows with its square.

    Yields
    ------
    The window (boxes in cells; the read box may reach outside the slide) and its `feature_maps`, which must
    be taken before the next window. What cannot be read looks like glass: it is not assessed.
    """
    for tile, pixels in _read(of.slide, _plan(wanted, halo_cells, window_cells), threads):
        amounts = of.stain(pixels)
        scaled = [
            np.asarray((amounts[STAINS.index(channel)] - low) / span, np.float32)
            for channel, (low, span) in zip(of.channels, of.scales, strict=True)
        ]
        yield tile, feature_maps(scaled, amounts[STAINS.index("cd8")])


def _plan(wanted: NDArray[np.bool_], halo: int, size: int) -> list[Tile]:
    tiles: list[Tile] = []
    rows, columns = wanted.shape
    for y, x in product(range(0, rows, size), range(0, columns, size)):
        core = Box(x, y, min(size, columns - x), min(size, rows - y))
        if wanted[core.y : core.bottom, core.x : core.right].any():
            read = Box(core.x - halo, core.y - halo, core.width + 2 * halo, core.height + 2 * halo)
            tiles.append(Tile(len(tiles), core, read))
    return tiles


def _read(slide: Slide, tiles: list[Tile], threads: int) -> Iterator[tuple[Tile, NDArray[Any]]]:
    fine = [Tile(tile.index, tile.core, _in_pixels(tile.read)) for tile in tiles]
    for job, pixels in read_ahead(slide, fine, FEATURE_MPP_UM, threads=threads, ahead=threads + 1):
        if isinstance(pixels, TileReadError):
            pixels = _read_in_pieces(slide, job.read)
        yield tiles[job.index], pixels


def _in_pixels(cells: Box) -> Box:
    return Box(*(CELL_PX * value for value in (cells.x, cells.y, cells.width, cells.height)))


def _read_in_pieces(slide: Slide, box: Box) -> NDArray[Any]:
    fill = 255 if slide.kind == "brightfield" else 0
    pixels = np.full((box.height, box.width, len(slide.channels)), fill, slide.info.dtype)
    for y, x in product(range(0, box.height, _PIECE_PX), range(0, box.width, _PIECE_PX)):
        piece = Box(box.x + x, box.y + y, min(_PIECE_PX, box.width - x), min(_PIECE_PX, box.height - y))
        try:
            pixels[y : y + piece.height, x : x + piece.width] = slide.read(piece, FEATURE_MPP_UM)
        except TileReadError:
            continue
    return pixels
