"""What a training run tells while it goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from rich.console import Console
from rich.progress import track

log = logging.getLogger("histo")

Job = TypeVar("Job")
Result = TypeVar("Result")

# Fewer jobs than this are done before a second process has started.
_FEW = 8


def each(work: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int, what: str) -> list[Result]:
    """Do independent jobs on several processes and return their results in order; progress is shown.

    Parameters
    ----------
    work : picklable.
    what : said with the number done, e.g. "fields rendered".
    """
    start = time.monotonic()
    if workers == 1 or len(jobs) < _FEW:
        results = list(_tracked(map(work, jobs), len(jobs), what))
    else:
        # Spawned: a fork would carry torch's threads along.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            results = list(_tracked(pool.map(work, jobs, chunksize=4), len(jobs), what))
    log.info("%d %s in %.0f s", len(results), what, time.monotonic() - start)
    return results


def _tracked(results: Iterable[Result], total: int, what: str) -> Iterator[Result]:
    """Show progress on the console, and in the log at every tenth."""
    start = time.monotonic()
    console = Console(stderr=True)
    done = track(results, what, total=total, console=console, disable=not console.is_terminal)
    for number, result in enumerate(done, 1):
        if number * 10 // total > (number - 1) * 10 // total and number < total:
            log.info("%d of %d %s (%.0f s)", number, total, what, time.monotonic() - start)
        yield result
