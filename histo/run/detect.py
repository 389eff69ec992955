"""Pixels to cells over a whole slide."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histo.cells.build import Detector
from histo.cells.detect import TileCells
from histo.cells.markers import with_markers
from histo.config import RunConfig
from histo.errors import TileReadError
from histo.slide import Box, Slide
from histo.slide.reading import read_ahead
from histo.slide.tiles import Tile, TilePlan
from histo.stain.panel import PanelTransform
from histo.stain.space import StainTransform

TileProgress = Callable[[int, int], None]

# Edge of the pieces that a tile is read in where it cannot be read whole.
_PIECE_PX = 128


def detect_tiles(
    slide: Slide,
    plan: TilePlan,
    stain: StainTransform,
    detector: Detector,
    config: RunConfig,
    progress: TileProgress | None,
    panel: PanelTransform | None = None,
) -> Iterator[tuple[Tile, TileCells | TileReadError]]:
    """Read, transform, detect and measure, tile by tile, in the order of the plan.

    Parameters
    ----------
    panel : markers to measure in every cell, from the pixels that the detector sees.
    progress : called with (tiles done, tiles in all).

    Yields
    ------
    A tile and its cells, or the error where it cannot be read. An unreadable tile comes in pieces, so that
    what can be read of it is.
    """
    done = 0

    def report(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, len(plan.tiles))

    report(0)
    # The network works on one batch while the maps of the batch before it are decoded.
    with ThreadPoolExecutor(1, "decode") as decoder:
        decoding: deque[tuple[list[Tile], Future[list[TileCells]]]] = deque()

        def measured(
            found: Any, amounts: torch.Tensor, tiles: list[Tile], pixels: list[NDArray[Any]]
        ) -> list[TileCells]:
            cells = detector.cells(found, amounts, tiles)
            if panel is None:
                return cells
            if panel.unit == "optical density":
                pixels = list(amounts.movedim(1, -1).cpu().numpy())
            return [with_markers(each, seen, panel) for each, seen in zip(cells, pixels, strict=True)]

        def begin(tiles: list[Tile], pixels: list[NDArray[Any]]) -> None:
            amounts = stain(torch.from_numpy(np.stack(pixels)).to(detector.device))
            found = detector.predict(amounts, tiles)
            decoding.append(
                (tiles, decoder.submit(measured, found, amounts, tiles, [] if panel is None else pixels))
            )

        def finished(at_most_left: int) -> Iterator[tuple[Tile, TileCells]]:
            while len(decoding) > at_most_left:
                tiles, cells = decoding.popleft()
                yield from zip(tiles, cells.result(), strict=True)

        for tiles, pixels, error in _batches(slide, plan, config):
            if tiles:
                begin(tiles, pixels)
                yield from finished(at_most_left=1)
            if error is not None:
                yield from finished(at_most_left=0)
                for piece in _pieces(error, detector):
                    try:
                        part = slide.read(piece.read, plan.mpp)
                    except TileReadError as unreadable:
                        yield piece, unreadable
                    else:
                        begin([piece], [part])
                        yield from finished(at_most_left=0)
            report(len(tiles) + (error is not None))
        yield from finished(at_most_left=0)


def _batches(
    slide: Slide, plan: TilePlan, config: RunConfig
) -> Iterator[tuple[list[Tile], list[NDArray[Any]], Tile | None]]:
    """Yield tiles of one size with their pixels, and the unreadable tile that ended the batch, if one did."""
    tiles: list[Tile] = []
    pixels: list[NDArray[Any]] = []
    reads = read_ahead(
        slide, plan.tiles, plan.mpp, threads=config.reader_threads, ahead=config.read_ahead_tiles
    )
    for tile, read in reads:
        if isinstance(read, TileReadError):
            yield tiles, pixels, tile
            tiles, pixels = [], []
            continue
        if tiles and (len(tiles) == config.batch_size or pixels[0].shape != read.shape):
            yield tiles, pixels, None
            tiles, pixels = [], []
        tiles.append(tile)
        pixels.append(read)
    if tiles:
        yield tiles, pixels, None


def _pieces(tile: Tile, detector: Detector) -> Iterator[Tile]:
    """Cut a tile into small ones with halos of their own: a damaged spot costs no more than it must."""
    halo, size = detector.halo_px, -(-_PIECE_PX // detector.multiple) * detector.multiple
    core = tile.core
    for y in range(core.y, core.bottom, size):
        for x in range(core.x, core.right, size):
            piece = Box(x, y, min(size, core.right - x), min(size, core.bottom - y))
            read = Box(x - halo, y - halo, piece.width + 2 * halo, piece.height + 2 * halo)
            yield Tile(tile.index, piece, read)
