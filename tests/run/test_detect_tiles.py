"""Tiles to cells by several threads: in order, and without a thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from numpy.typing import NDArray
from slides import ArraySlide

from histo.cells.compartments import compartments
from histo.cells.detect import TileCells
from histo.cells.table import DETECTION_COLUMNS, cell_frame
from histo.config import RunConfig
from histo.errors import TileReadError
from histo.run.detect import Found, detect_tiles
from histo.slide.geometry import Box
from histo.slide.tiles import Tile, TilePlan
from histo.stain.space import BrightfieldTransform

STAIN = BrightfieldTransform(
    (255.0, 255.0, 255.0), "config", ((1, 0, 0), (0, 1, 0), (0, 0, 1)), ("config", "config")
)
SIZE, CORE, HALO = 256, 32, 8


class Slow:
    """Finds no cells; the earlier a tile, the longer it takes. Breaks at the tile `breaks_at`."""

    name, sha256, device = "slow", "0", "cpu"
    mpp, halo_px, multiple = 0.5, HALO, 8

    def __init__(self, breaks_at: int = -1) -> None:
        self.breaks_at = breaks_at
        self.done: list[int] = []
        self.most, self._at_once, self._lock = 0, 0, threading.Lock()

    def detect(self, stain: NDArray[np.float32], tile: Tile) -> TileCells:
        assert stain.shape == (3, tile.read.height, tile.read.width)
        with self._lock:
            self._at_once += 1
            self.most = max(self.most, self._at_once)
        time.sleep(0.03 if tile.index % 4 == 0 else 0.002)
        with self._lock:
            self._at_once -= 1
            self.done.append(tile.index)
        if tile.index == self.breaks_at:
            raise ValueError("a tile that breaks")
        labels = np.zeros(stain.shape[1:], np.int32)
        empty = cell_frame({name: np.empty(0) for name in DETECTION_COLUMNS}, DETECTION_COLUMNS)
        return TileCells(empty, np.empty(0, object), labels, compartments(labels, labels > 0, half_ring_px=1))


def _plan() -> TilePlan:
    cores = [Box(x, y, CORE, CORE) for y in range(0, SIZE, CORE) for x in range(0, SIZE, CORE)]
    tiles = [
        Tile(i, b, Box(b.x - HALO, b.y - HALO, CORE + 2 * HALO, CORE + 2 * HALO)) for i, b in enumerate(cores)
    ]
    return TilePlan(mpp=0.5, core_px=(CORE, CORE), origin_px=(0, 0), tiles=tuple(tiles))


def _found(
    detector: Slow,
    threads: int,
    *,
    broken: tuple[Box, ...] = (),
    told: list[tuple[int, int]] | None = None,
) -> Iterator[Found]:
    slide = ArraySlide(np.full((SIZE, SIZE, 3), 200, np.uint8), 0.5, broken=broken)
    progress = None if told is None else lambda done, total: told.append((done, total))
    return detect_tiles(slide, _plan(), STAIN, detector, RunConfig(threads=threads), progress)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until = time.monotonic() + 20
    while (left := set(threading.enumerate()) - before) and time.monotonic() < until:
        time.sleep(0.01)
    assert not left


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_tiles_come_in_order_however_many_threads_work(threads: int) -> None:
    detector, told = Slow(), list[tuple[int, int]]()
    tiles = [tile for tile, _ in _found(detector, threads, told=told)]
    n = len(_plan().tiles)
    assert tiles == list(_plan().tiles)
    assert sorted(detector.done) == list(range(n))
    assert told == [(done, n) for done in range(n + 1)]
    assert detector.most <= threads
    assert (detector.most == 1) == (threads == 1)


def test_an_unreadable_tile_comes_in_pieces_in_its_place() -> None:
    found = list(_found(Slow(), 3, broken=(Box(108, 108, 4, 4),)))
    order = [tile.index for tile, _ in found]
    assert order == sorted(order)
    unread = [tile.core for tile, cells in found if isinstance(cells, TileReadError)]
    assert unread == [Box(96, 96, CORE, CORE)]
    assert len(found) == len(_plan().tiles)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_tile_that_breaks_ends_the_run(threads: int) -> None:
    detector = Slow(breaks_at=10)
    seen: list[int] = []
    with pytest.raises(ValueError, match="a tile that breaks"):
        # What came before the error is kept.
        seen.extend(tile.index for tile, _ in _found(detector, threads))
    assert seen == list(range(10))
    # What had not begun never does.
    assert len(detector.done) <= 10 + 1 + threads + 1


def test_who_stops_early_leaves_no_thread() -> None:
    detector = Slow()
    with closing(_found(detector, 4)) as found:  # type: ignore[type-var]
        for tile, _ in found:
            if tile.index == 5:
                break
    n = len(detector.done)
    assert n <= 6 + 4 + 1
    time.sleep(0.1)
    assert len(detector.done) == n
