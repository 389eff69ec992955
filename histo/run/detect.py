"""Pixels to cells over a whole slide."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.cells.build import Detector
from histo.cells.detect import TileCells
from histo.cells.markers import with_markers
from histo.config import RunConfig
from histo.errors import TileReadError
from histo.run.device import threads_of
from histo.slide import Box, Slide
from histo.slide.reading import read_ahead
from histo.slide.tiles import Tile, TilePlan
from histo.stain.panel import PanelTransform
from histo.stain.space import StainTransform

TileProgress = Callable[[int, int], None]
Found = tuple[Tile, TileCells | TileReadError]

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
    keep: Callable[[Tile, TileCells], None] | None = None,
) -> Generator[Found]:
    """Read, transform, detect and measure, tile by tile, in the order of the plan.

    Each tile is the work of one thread, from its pixels to its cells; there are `config.threads` of them.

    Parameters
    ----------
    panel : markers to measure in every cell, from the pixels that the detector sees.
    progress : called with (tiles done, tiles in all).
    keep : called with every tile that was read whole and its cells, by the thread that has found them.

    Yields
    ------
    A tile and its cells, or the error where it cannot be read. An unreadable tile comes in pieces, so that
    what can be read of it is.
    """

    def cells_of(tile: Tile, pixels: NDArray[Any]) -> TileCells:
        amounts = stain(pixels)
        cells = detector.detect(amounts, tile)
        if panel is not None:
            seen = np.moveaxis(amounts, 0, -1) if panel.unit == "optical density" else pixels
            cells = with_markers(cells, seen, panel)
        return replace(cells, parts=None)

    def piece_by_piece(tile: Tile) -> list[Found]:
        found: list[Found] = []
        for piece in _pieces(tile, detector):
            try:
                found.append((piece, cells_of(piece, slide.read(piece.read, plan.mpp))))
            except TileReadError as unreadable:
                found.append((piece, unreadable))
        return found

    def work(tile: Tile, pixels: NDArray[Any] | TileReadError) -> list[Found]:
        if isinstance(pixels, TileReadError):
            return piece_by_piece(tile)
        cells = cells_of(tile, pixels)
        if keep is not None:
            keep(tile, cells)
        return [(tile, cells)]

    n_threads = threads_of(config)
    reads = read_ahead(
        slide, plan.tiles, plan.mpp, threads=config.reader_threads, ahead=config.read_ahead_tiles
    )
    under_way: deque[Future[list[Found]]] = deque()
    done = 0

    def report() -> None:
        if progress is not None:
            progress(done, len(plan.tiles))

    def finished(at_most_left: int) -> Iterator[Found]:
        nonlocal done
        while len(under_way) > at_most_left:
            yield from under_way.popleft().result()
            done += 1
            report()

    report()
    with ThreadPoolExecutor(n_threads, "tiles") as pool:
        try:
            for tile, pixels in reads:
                under_way.append(pool.submit(work, tile, pixels))
                # One more than there are threads: none waits while the consumer writes.
                yield from finished(at_most_left=n_threads)
            yield from finished(at_most_left=0)
        finally:
            for future in under_way:
                future.cancel()


def _pieces(tile: Tile, detector: Detector) -> Iterator[Tile]:
    """Cut a tile into small ones with halos of their own: a damaged spot costs no more than it must."""
    halo, size = detector.halo_px, -(-_PIECE_PX // detector.multiple) * detector.multiple
    core = tile.core
    for y in range(core.y, core.bottom, size):
        for x in range(core.x, core.right, size):
            piece = Box(x, y, min(size, core.right - x), min(size, core.bottom - y))
            read = Box(x - halo, y - halo, piece.width + 2 * halo, piece.height + 2 * halo)
            yield Tile(tile.index, piece, read)
