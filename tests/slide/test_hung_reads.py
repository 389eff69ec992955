"""Reads that never return."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from slides import ArraySlide

from histo.errors import NoAnswerError, SlideError, TileReadError
from histo.slide import Box, open_slide
from histo.slide import open as opening
from histo.slide.patience import answer, hung_reads
from histo.slide.reading import read_ahead
from histo.slide.survey import survey_slide
from histo.slide.tiles import Tile

pytestmark = pytest.mark.fault

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 1024, 3), np.uint8)
TILES = [Tile(i, Box(64 * i, 0, 64, 64), Box(64 * i, 0, 64, 64)) for i in range(16)]
# Long for a read of an array, short for a test.
LIMIT_S = 0.5


class Hanging(ArraySlide):
    """A slide that does not answer for some of its columns, until it is let go."""

    def __init__(self, *hang_at: int, limit_s: float | None = LIMIT_S) -> None:
        super().__init__(PIXELS, on_read=self._wait)
        self.hang_at = set(hang_at)
        self.free = threading.Event()
        self.opened: list[str] = []
        self.closed = 0
        self.limit_reads(limit_s)

    def _wait(self, level: int, box: Box) -> None:
        if self.hang_at & set(range(box.x, box.right)):
            self.free.wait()

    def _open_handle(self) -> object:
        self.opened.append(threading.current_thread().name)
        return object()

    def _close_handle(self, handle: object) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    until = time.monotonic() + 10
    while time.monotonic() < until and (hung_reads() or threads()):
        time.sleep(0.01)
    assert (hung_reads(), threads()) == (0, [])


def threads() -> list[str]:
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith(("read-ahead", "patient-read"))
    ]


def test_with_a_limit_tiles_are_the_same_and_all_is_closed() -> None:
    slide = Hanging()
    with slide:
        for tile, pixels in read_ahead(slide, TILES, 0.5, threads=3):
            np.testing.assert_array_equal(pixels, PIXELS[:, tile.read.x : tile.read.right])
        np.testing.assert_array_equal(slide.read(TILES[3].read, 0.5), PIXELS[:, 192:256])
    assert len(slide.opened) == slide.closed > 0


def test_a_tile_that_hangs_is_lost_and_the_others_are_not() -> None:
    slide = Hanging(330)
    found = dict(read_ahead(slide, TILES, 0.5))
    lost = {tile.index: str(error) for tile, error in found.items() if isinstance(error, TileReadError)}
    assert list(lost) == [5]
    assert "array.tif: the read took longer than 0.5 s. " in lost[5]
    assert "run.read_timeout_s" in lost[5]
    assert hung_reads() == 1
    # The read after it has a thread and a handle of its own.
    np.testing.assert_array_equal(slide.read(TILES[6].read, 0.5), PIXELS[:, 384:448])
    slide.close()
    slide.free.set()


def test_three_in_a_row_are_the_end_of_the_slide_and_cost_no_more_time() -> None:
    slide = Hanging(*range(320, 1024))
    with pytest.raises(NoAnswerError, match=r"file system does not answer: 3 reads in a row .* than 0\.5 s"):
        list(read_ahead(slide, TILES, 0.5))
    begun = time.monotonic()
    with pytest.raises(NoAnswerError, match="does not answer"):
        slide.read(TILES[0].read, 0.5)
    assert time.monotonic() - begun < LIMIT_S
    slide.free.set()


def test_a_survey_of_a_slide_that_hangs_ends() -> None:
    slide = Hanging(*range(1024))
    with pytest.raises(NoAnswerError):
        survey_slide(slide)
    slide.free.set()


def test_a_consumer_that_stops_does_not_wait_for_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histo.slide.reading._END_S", 0.2)
    slide = Hanging(330, limit_s=None)
    reads = read_ahead(slide, TILES, 0.5, threads=1, ahead=2)
    for tile, _ in reads:
        if tile.index == 4:
            break
    reads.close()  # type: ignore[attr-defined]
    assert len(threads()) == 1
    slide.free.set()


def test_errors_of_reads_are_passed_on_and_no_limit_is_the_callers_thread() -> None:
    slide = ArraySlide(PIXELS, broken=[Box(0, 0, 10, 10)])
    slide.limit_reads(5)
    with pytest.raises(TileReadError, match="cannot be decoded"):
        slide.read(TILES[0].read, 0.5)

    def timed_out() -> None:
        # As a network file system that is mounted "soft" does it.
        raise TimeoutError(110, "Connection timed out")

    slide.on_read = lambda *_: timed_out()
    with pytest.raises(TimeoutError, match="timed out"):
        slide.read(TILES[1].read, 0.5)
    slide.close()
    with pytest.raises(TimeoutError, match="timed out"):
        answer(timed_out, 5, Path("a"))
    readers: list[threading.Thread] = []
    slide.on_read = lambda *_: readers.append(threading.current_thread())
    for limit in (None, 0):
        slide.limit_reads(limit)
        slide.read(TILES[1].read, 0.5)
    assert readers == [threading.current_thread()] * 2


def test_a_limited_slide_travels() -> None:
    slide = ArraySlide(PIXELS)
    slide.limit_reads(5)
    slide._lock = None  # type: ignore[assignment]
    there = pickle.loads(pickle.dumps(slide))
    there._lock = threading.Lock()
    np.testing.assert_array_equal(there.read(TILES[1].read, 0.5), PIXELS[:, 64:128])
    there.close()


def test_a_slide_that_is_dropped_ends_its_thread() -> None:
    slide = Hanging()
    slide.read(TILES[0].read, 0.5)
    assert len(threads()) == 1
    del slide
    # It refers to itself.
    gc.collect()


def test_opening_that_hangs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(opening, "_inspect", lambda path: free.wait())
    with pytest.raises(SlideError, match=r"a\.svs: its file system does not answer: .* within 0\.3 s"):
        open_slide(tmp_path / "a.svs", mpp=0.5, timeout_s=0.1)
    free.set()
    assert answer(partial(str, 1), 0.1, tmp_path) == "1"


_ENDS = """
import sys, threading
import histo.cli
from histo.errors import NoAnswerError
from histo.slide.patience import answer
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

def hangs():
    # As zarr reads: in a pool whose threads Python waits for.
    ThreadPoolExecutor(1).submit(threading.Event().wait).result()

@histo.cli.app.command()
def hang():
    answer(hangs, 0.1, Path("a.zarr"))

sys.argv = ["histo", "hang"]
histo.cli.main()
"""


def test_a_process_ends_though_a_read_hangs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ENDS], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "does not answer" in done.stderr
