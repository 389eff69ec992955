"""Reading ahead: tiles are decoded by threads while the consumer works on earlier ones."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from numpy.typing import NDArray

from histo.errors import TileReadError
from histo.slide.base import Slide
from histo.slide.tiles import Tile

# For the reads that are under way when nobody wants them any more.
_END_S = 10.0
_Job = tuple[Tile, "Future[NDArray[Any]]"]


def read_ahead(
    slide: Slide, tiles: Sequence[Tile], mpp: float, *, threads: int = 2, ahead: int = 8
) -> Iterator[tuple[Tile, NDArray[Any] | TileReadError]]:
    """Read the `read` box of each tile, in the order given.

    At most `ahead` tiles are being decoded or wait decoded. The threads end, and their handles are closed,
    when the iterator is exhausted, closed or interrupted; one that hangs in a read is not waited
    for. How long a read may take is the slide's to say, see `Slide.limit_reads`.

    Parameters
    ----------
    slide : where to read; each thread uses a handle of its own.
    tiles : what to read, boxes of the grid at `mpp`.
    mpp : um per pixel wanted.
    threads : how many threads decode.
    ahead : how many tiles may be under way at once.

    Yields
    ------
    The tile and its pixels (height, width, channels), or the TileReadError where it cannot be decoded or the
    read hung.

    Raises
    ------
    Whatever else `Slide.read` raises, at the tile that it concerns.
    """
    if threads < 1 or ahead < 1:
        raise ValueError("threads and ahead must be at least 1")
    jobs: SimpleQueue[_Job | None] = SimpleQueue()

    def work() -> None:
        try:
            while (job := jobs.get()) is not None:
                tile, future = job
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    future.set_result(slide.read(tile.read, mpp))
                except BaseException as error:  # handed to the consumer, who raises it
                    future.set_exception(error)
        finally:
            slide.close()

    n_threads = min(threads, ahead, max(1, len(tiles)))
    workers = [threading.Thread(target=work, name=f"read-ahead-{i}", daemon=True) for i in range(n_threads)]
    waiting: deque[_Job] = deque()
    upcoming = iter(tiles)

    def ask_for_next() -> None:
        tile = next(upcoming, None)
        if tile is not None:
            job = (tile, Future[NDArray[Any]]())
            waiting.append(job)
            jobs.put(job)

    for worker in workers:
        worker.start()
    try:
        for _ in range(ahead):
            ask_for_next()
        while waiting:
            tile, future = waiting.popleft()
            result: NDArray[Any] | TileReadError
            try:
                result = future.result()
            except TileReadError as error:
                result = error
            # Before the yield: the threads decode while the consumer works.
            ask_for_next()
            del future
            yield tile, result
    finally:
        for _, future in waiting:
            future.cancel()
        for _ in workers:
            jobs.put(None)
        until = time.monotonic() + _END_S
        for worker in workers:
            worker.join(max(0.0, until - time.monotonic()))
