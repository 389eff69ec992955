"""The log file that a run leaves behind."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from histo.results.atomic import unwritable

log = logging.getLogger("histo")


class _Handler(logging.FileHandler):
    """A disk that takes no line of the log is told of where a result cannot be written, not at every line."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextmanager
def log_file(path: Path, *, quiet: bool = False) -> Iterator[None]:
    """Keep what is logged during a run in a file too; runs add to it. `quiet`: do not.

    Raises
    ------
    ResultsError : the file cannot be opened.
    """
    if quiet:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _Handler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise unwritable(path, error) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        with suppress(OSError):
            handler.close()
