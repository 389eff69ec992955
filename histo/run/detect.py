"""Pixels to cells over a whole slide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histo.cells.detect import CellDetector, TileCells
from histo.config import RunConfig
from histo.errors import TileReadError
from histo.slide import Box, Slide
from histo.slide.reading import read_ahead
from histo.slide.tiles import Tile, TilePlan
from histo.stain.space import StainTransform

TileProgress = Callable[[int, int], None]

# Edge of the pieces that a tile is read in where it cannot be read whole.
_PIECE_PX = 128


def detect_tiles(
    slide: Slide,
    plan: TilePlan,
    stain: StainTransform,
    detector: CellDetector,
    config: RunConfig,
    progress: TileProgress | None,
) -> Iterator[tuple[Tile, TileCells | TileReadError]]:
    """Read, transform and detect, tile by tile, in the order of the plan.

    Parameters
    ----------
    progress : called with (tiles done, tiles in all).

    Yields
    ------
    A tile and its cells, or the error where it cannot be read. An unreadable tile comes in pieces, so that
    what can be read of it is.
    """
    done = 0

    def cells_of(tiles: list[Tile], pixels: list[NDArray[Any]]) -> Iterator[tuple[Tile, TileCells]]:
        batch = torch.from_numpy(np.stack(pixels)).to(detector.device)
        yield from zip(tiles, detector.detect(stain(batch), tiles), strict=True)

    def report(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, len(plan.tiles))

    report(0)
    tiles: list[Tile] = []
    pixels: list[NDArray[Any]] = []
    reads = read_ahead(
        slide, plan.tiles, plan.mpp, threads=config.reader_threads, ahead=config.read_ahead_tiles
    )
    for tile, read in reads:
        if not isinstance(read, TileReadError):
            tiles.append(tile)
            pixels.append(read)
        if tiles and (len(tiles) == config.batch_size or isinstance(read, TileReadError)):
            yield from cells_of(tiles, pixels)
            report(len(tiles))
            tiles, pixels = [], []
        if isinstance(read, TileReadError):
            for piece in _pieces(tile, detector):
                try:
                    part = slide.read(piece.read, plan.mpp)
                except TileReadError as error:
                    yield piece, error
                else:
                    yield from cells_of([piece], [part])
            report(1)
    if tiles:
        yield from cells_of(tiles, pixels)
        report(len(tiles))


def _pieces(tile: Tile, detector: CellDetector) -> Iterator[Tile]:
    """Cut a tile into small ones with halos of their own: a damaged spot costs no more than it must."""
    halo, size = detector.halo_px, -(-_PIECE_PX // detector.multiple) * detector.multiple
    core = tile.core
    for y in range(core.y, core.bottom, size):
        for x in range(core.x, core.right, size):
            piece = Box(x, y, min(size, core.right - x), min(size, core.bottom - y))
            read = Box(x - halo, y - halo, piece.width + 2 * halo, piece.height + 2 * halo)
            yield Tile(tile.index, piece, read)
