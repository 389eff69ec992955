"""File systems that do not answer. A read that blocks in the kernel cannot be stopped, only given up.

So it is done by a thread that somebody waits for. Where that takes too long the thread is left to itself, and
the next read gets a new one, with a handle of its own.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from histo.errors import NoAnswerError, TileReadError

T = TypeVar("T")

# So many reads of a slide in a row that take too long: its file system is gone.
IN_A_ROW: Final = 3
# A handle that is closed in vain is no loss.
_CLOSING_S = 5.0
_FIX = "Check the disk or the network; run.read_timeout_s sets how long a read may take, 0 for ever"

_Job = tuple["Future[Any]", Callable[[], Any]]
# Reads that were given up and have not returned.
_hung: set[Future[Any]] = set()


def hung_reads() -> int:
    """Return how many reads were given up and still hang: their threads may hold up the end of a process."""
    return sum(not future.done() for future in list(_hung))


class Patience:
    """Limits how long the reads of one slide may take. Shared by threads, each served by one of its own.

    Parameters
    ----------
    seconds : that a read may take.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._in_a_row = 0
        self._lock = threading.Lock()
        self._local = threading.local()

    def __reduce__(self) -> tuple[type[Patience], tuple[float]]:
        return Patience, (self.seconds,)

    def read(self, work: Callable[[], T], path: Path) -> T:
        """Do `work`, a read of the slide at `path`.

        Raises
        ------
        TileReadError : it took too long.
        NoAnswerError : so did the ones before.
        """
        if self._in_a_row < IN_A_ROW:
            helper: _Helper | None = getattr(self._local, "helper", None)
            if helper is None:
                helper = self._local.helper = _Helper()
            future = helper.ask(work)
            if _in_time(future, self.seconds):
                self._in_a_row = 0
                return future.result()
            self._local.helper = None
            helper.end()
            with self._lock:
                self._in_a_row += 1
        if self._in_a_row < IN_A_ROW:
            raise TileReadError(f"the read took longer than {self.seconds:g} s", path=path, fix=_FIX)
        raise NoAnswerError(
            f"its file system does not answer: {IN_A_ROW} reads in a row took longer than {self.seconds:g} s",
            path=path,
            fix=_FIX,
        )

    def close(self, work: Callable[[], object]) -> None:
        """Do `work`, which closes what reads have opened, where the calling thread has read; then end it."""
        helper: _Helper | None = getattr(self._local, "helper", None)
        if helper is not None:
            self._local.helper = None
            future = helper.ask(work)
            helper.end()
            _in_time(future, _CLOSING_S)


def answer(work: Callable[[], T], seconds: float | None, path: Path) -> T:
    """Do `work`, several reads that must all succeed, in the time of `IN_A_ROW` that may take `seconds` each.

    Parameters
    ----------
    seconds : None or 0 for as long as it takes.

    Raises
    ------
    NoAnswerError : it took too long. Whatever `work` raises.
    """
    if not seconds:
        return work()
    helper = _Helper()
    future = helper.ask(work)
    helper.end()
    if not _in_time(future, IN_A_ROW * seconds):
        raise NoAnswerError(
            f"its file system does not answer: it could not be opened within {IN_A_ROW * seconds:g} s",
            path=path,
            fix=_FIX,
        )
    return future.result()


def _in_time(future: Future[Any], seconds: float) -> bool:
    """Wait for an answer; tell whether it is there."""
    # Not by a TimeoutError: network file systems raise that themselves.
    wait([future], seconds)
    if not future.done():
        _hung.add(future)
        future.add_done_callback(_hung.discard)
    return future.done()


class _Helper:
    """A thread that does what it is asked, in turn."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        threading.Thread(target=_work, args=(self._jobs,), name="patient-read", daemon=True).start()
        # The thread must not outlive whom it serves.
        weakref.finalize(self, self._jobs.put, None).atexit = False

    def ask(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.put((future, work))
        return future

    def end(self) -> None:
        """End the thread once it has done what it was asked."""
        self._jobs.put(None)


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        future, work = job
        try:
            future.set_result(work())
        except BaseException as error:  # handed to whom waits
            future.set_exception(error)
        # Nothing of it is kept while the thread waits.
        del job, future, work
