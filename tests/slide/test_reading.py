from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from slides import ArraySlide

from histo.errors import TileReadError
from histo.slide.geometry import Box
from histo.slide.reading import read_ahead
from histo.slide.tiles import Tile

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 1024, 3), np.uint8)


def tiles(n: int = 16) -> list[Tile]:
    return [Tile(i, Box(64 * i, 0, 64, 64), Box(64 * i - 4, -4, 72, 72)) for i in range(n)]


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (2, 8), (4, 2), (3, 100)])
def test_tiles_come_in_order_with_their_pixels(threads: int, ahead: int) -> None:
    slide = ArraySlide(PIXELS, on_read=lambda level, box: time.sleep(0.002 * (box.x % 3)))
    seen = []
    for tile, pixels in read_ahead(slide, tiles(), 0.5, threads=threads, ahead=ahead):
        assert not isinstance(pixels, TileReadError)
        np.testing.assert_array_equal(pixels, slide.read(tile.read, 0.5))
        seen.append(tile.index)
    assert seen == list(range(16))
    assert not reader_threads()


def test_look_ahead_is_bounded() -> None:
    started: list[int] = []
    slide = ArraySlide(PIXELS, on_read=lambda level, box: started.append(box.x))
    for n, _ in enumerate(read_ahead(slide, tiles(), 0.5, threads=2, ahead=3), start=1):
        time.sleep(0.005)
        assert len(started) <= n + 3


def test_damaged_tiles_are_handed_over_as_errors() -> None:
    slide = ArraySlide(PIXELS, broken=[Box(330, 0, 10, 64)])
    results = dict(read_ahead(slide, tiles(), 0.5))
    damaged = {tile.index for tile, pixels in results.items() if isinstance(pixels, TileReadError)}
    assert damaged == {5}


def test_other_errors_reach_the_consumer_and_end_the_threads() -> None:
    def fail(level: int, box: Box) -> None:
        if box.x > 300:
            raise RuntimeError("disk gone")

    with pytest.raises(RuntimeError, match="disk gone"):
        list(read_ahead(ArraySlide(PIXELS, on_read=fail), tiles(), 0.5))
    assert not reader_threads()


def test_a_consumer_that_stops_early_ends_the_threads_and_their_handles() -> None:
    opened, closed = [], []

    class Counting(ArraySlide):
        def _open_handle(self) -> object:
            opened.append(1)
            return object()

        def _close_handle(self, handle: object) -> None:
            closed.append(1)

    slide = Counting(PIXELS, on_read=lambda level, box: time.sleep(0.002))
    reads = read_ahead(slide, tiles(), 0.5, threads=2, ahead=8)
    next(reads)
    reads.close()  # type: ignore[attr-defined]
    assert not reader_threads()
    assert len(opened) == len(closed) >= 1


def test_no_tiles_is_no_work() -> None:
    assert list(read_ahead(ArraySlide(PIXELS), [], 0.5)) == []


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        next(iter(read_ahead(ArraySlide(PIXELS), tiles(), 0.5, threads=0)))
