"""Files that are whole or not there: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from histo.errors import DiskError, ResultsError

_DISK: Final = {
    errno.ENOSPC: ("is full", "Free space there"),
    errno.EDQUOT: ("takes no more: a quota is used up", "Free space there, or have the quota raised"),
    errno.EROFS: ("can only be read", "Make it writable"),
}


def part_path(path: Path) -> Path:
    """Return the temporary name of a file or folder.

    It is always the same, so that what a killed run left behind is overwritten, not added to.
    """
    return path.with_name(f".{path.name}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write a file to; renamed to `path` at a clean end, removed on an error.

    Raises
    ------
    ResultsError : the file cannot be written.
    """
    part = part_path(path)
    try:
        yield part
        commit(part, path)
    except OSError as error:
        discard(part)
        raise unwritable(path, error) from error
    except BaseException:
        discard(part)
        raise


class StreamedOutput(ABC):
    """A file or folder that is written bit by bit; a context manager.

    It appears under its name when the block ends without an error, not before. An error leaves nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = part_path(path)

    @abstractmethod
    def _finish(self) -> None:
        """Write what is left and close it."""

    @abstractmethod
    def _release(self) -> None:
        """Close what is open; called after an error."""

    def close(self) -> None:
        """Finish the output and give it its name; raises ResultsError where it cannot be written."""
        try:
            self._finish()
            commit(self._part, self._path)
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                raise unwritable(self._path, error) from error
            raise

    def abort(self) -> None:
        """Leave nothing behind."""
        self._release()
        discard(self._part)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file at once; raises ResultsError where it cannot be."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file at once, as UTF-8; raises ResultsError where it cannot be."""
    write_bytes(path, text.encode("utf-8"))


def commit(part: Path, path: Path) -> None:
    """Put a finished file or folder in its place, over an older one.

    A file reaches the disk before its name does. A folder cannot replace another in one step: the older one
    is moved aside first, so a reader sees the old one, none, or the new one, never a mixture.
    """
    if part.is_dir():
        old = path.with_name(f".{path.name}.old")
        discard(old)
        if path.exists():
            path.replace(old)
        part.replace(path)
        discard(old)
        return
    # Windows flushes only handles that may write.
    with part.open("r+b") as file:
        os.fsync(file.fileno())
    part.replace(path)


def discard(part: Path) -> None:
    """Remove a temporary file or folder; one that is not there is no error."""
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> ResultsError:
    """Say that a file could not be written, why, and what to do; a DiskError where none could be."""
    if error.errno in _DISK:
        what, fix = _DISK[error.errno]
        return DiskError(
            f"cannot be written: the disk at {_mount_point(path)} {what}{_left(path)}",
            path=path,
            fix=f"{fix}, and run the same command again: what is finished is kept",
        )
    return ResultsError(
        f"cannot be written ({error.strerror or error})",
        path=path,
        fix="Check that the folder exists, is writable and has space left",
    )


def _mount_point(path: Path) -> Path:
    """Return the folder that the disk of a file is mounted at."""
    folder = path.absolute().parent
    try:
        while not folder.is_mount() and folder != folder.parent:
            folder = folder.parent
    except OSError:
        pass
    return folder


def _left(path: Path) -> str:
    try:
        usage = shutil.disk_usage(_mount_point(path))
    except OSError:
        return ""
    return f" ({usage.free / 1e6:,.1f} of {usage.total / 1e6:,.1f} MB free)"
