"""Copies of remote slides on the local disk: made ahead of need, whole or not there, removed when done."""

from __future__ import annotations

import errno
import logging
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout
from fsspec.callbacks import Callback

from histo.config import RunConfig
from histo.errors import ConfigError, HistoError, SlideError
from histo.results.atomic import discard, part_path
from histo.run.names import safe_name
from histo.run.remote import CHECK, MANY_FILES, RemoteSlide, is_final, open_store, reason_of, version_of

log = logging.getLogger("histo")

# So many copies lie ready beside that of the slide in work.
AHEAD = 2
TRIES = 3
_WAIT_S = 1.0
_TICK_S = 0.5
_PREFIX = "histo-stage"
# Left free for results and for whoever else needs the disk.
_RESERVE_BYTES = 1 << 29
_ROOM = "Make room, name another folder with --stage, or give it more with --set run.stage_gb=N"

# Called often while a copy is made; what it raises stops that.
Tick = Callable[[], None]


class Ahead:
    """Copies the remote slides of a run in a thread of its own, in their order; a context manager.

    Parameters
    ----------
    slides : by number; copied in this order.
    needed : whether a slide of such a number has to be copied; asked right before.
    run : where copies go, and how much of them at once.

    Raises
    ------
    ConfigError : there is no writing to the folder for copies.
    """

    def __init__(
        self, slides: Mapping[int, RemoteSlide], needed: Callable[[int], bool], run: RunConfig
    ) -> None:
        self._slides = slides
        self._needed = needed
        self._run = run
        self._copies: dict[int, Future[Path | None]] = {number: Future() for number in slides}
        # Bytes of the copies that are there or being made; guarded by the condition.
        self._held: dict[int, int] = {}
        self._stopped = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="staging", daemon=True)
        self._stack = ExitStack()

    @contextmanager
    def copy(self, number: int) -> Iterator[Path | None]:
        """Give the copy of a slide, once it is there; None where none is needed. It is removed afterwards.

        Raises
        ------
        SlideError : it cannot be copied.
        """
        try:
            yield self._copies[number].result()
        finally:
            self._drop(number)

    def __enter__(self) -> Self:
        if self._slides:
            self._folder = self._stack.enter_context(staging_folder(self._run))
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        if self._slides:
            # A store that does not answer must not hold up Ctrl-C.
            self._thread.join(timeout=5)
        self._stack.close()

    def _work(self) -> None:
        for number in self._slides:
            try:
                self._copies[number].set_result(self._copied(number))
            except _StoppedError:
                return
            except BaseException as error:
                self._drop(number)
                self._copies[number].set_exception(error)

    def _copied(self, number: int) -> Path | None:
        if not self._needed(number):
            return None
        slide = self._slides[number]
        with self._condition:
            self._condition.wait_for(lambda: self._stopped or len(self._held) <= AHEAD)
        self._tick()
        while True:
            with self._condition:
                before = self._held.copy()
                self._held[number] = slide.n_bytes
            try:
                return copy_slide(
                    slide, self._folder / str(number), self._run, self._tick, held_bytes=sum(before.values())
                )
            except _NoRoomError as error:
                self._drop(number)
                if not before:
                    raise error.told() from None
                with self._condition:
                    self._condition.wait(_TICK_S)
                self._tick()

    def _drop(self, number: int) -> None:
        if number in self._held:
            discard(self._folder / str(number))
        with self._condition:
            self._held.pop(number, None)
            self._condition.notify_all()

    def _tick(self) -> None:
        if self._stopped:
            raise _StoppedError


@contextmanager
def copied(slide: RemoteSlide, run: RunConfig, tick: Tick) -> Iterator[Path]:
    """Copy a slide now, and remove the copy afterwards.

    Raises
    ------
    SlideError : it cannot be copied.
    ConfigError : there is no writing to the folder for copies.
    """
    with staging_folder(run) as folder:
        try:
            yield copy_slide(slide, folder / "0", run, tick)
        except _NoRoomError as error:
            raise error.told() from None


def staging_parent(run: RunConfig) -> Path:
    """Return where copies go: where the system has its temporary files, as results may be on a network."""
    return Path(run.stage_dir or tempfile.gettempdir()).absolute()


@contextmanager
def staging_folder(run: RunConfig) -> Iterator[Path]:
    """Make a folder for the copies of this process, removed at the end; what dead processes left goes first.

    Raises
    ------
    ConfigError : there is no writing to the folder that it is to lie in.
    """
    parent = staging_parent(run)
    mine = f"{_PREFIX}-{safe_name(socket.gethostname())}-"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f"{mine}*.lock"):
            _remove_if_dead(left)
        folder = parent / f"{mine}{secrets.token_hex(4)}"
        lock = FileLock(folder.with_suffix(".lock"))
        lock.acquire(timeout=0)
        # Others of this machine have no business with slides of patients.
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"copies of remote slides cannot be written there ({error.strerror or error})",
            path=parent,
            fix="Name another folder with --stage",
        ) from None
    try:
        yield folder
    finally:
        discard(folder)
        lock.release()
        folder.with_suffix(".lock").unlink(missing_ok=True)


def copy_slide(slide: RemoteSlide, target: Path, run: RunConfig, tick: Tick, *, held_bytes: int = 0) -> Path:
    """Copy a slide with all its files and the annotations beside it into a new folder.

    The folder has another name until all is there. A store that fails is asked `TRIES` times in all.

    Parameters
    ----------
    held_bytes : of other copies that count for `run.stage_gb`.

    Returns
    -------
    The file or folder to open.

    Raises
    ------
    SlideError : it cannot be copied, or was changed since it was listed.
    """
    if slide.error is not None:
        raise SlideError(f"{slide.address}: {slide.error}", fix=CHECK)
    part = part_path(target)
    begun = time.monotonic()
    try:
        for tries_left in reversed(range(TRIES)):
            _check_room(slide, target.parent, run, held_bytes)
            discard(part)
            try:
                _fetch(slide, part, tick)
            except (HistoError, _StoppedError):
                raise
            except Exception as error:  # every driver has its own
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise _NoRoomError(slide, f"the disk of {target.parent} is full") from None
                reason = reason_of(error, slide.url)
                if is_final(error) or not tries_left:
                    raise SlideError(f"{slide.address}: it cannot be copied ({reason})", fix=CHECK) from None
                log.warning("%s: trying again (%s)", slide.address, reason)
                _pause(_WAIT_S * 2 ** (TRIES - 1 - tries_left), tick)
            else:
                break
        part.replace(target)
    finally:
        discard(part)
    log.info("copied  %s  %.1f MB in %.1f s", slide.address, slide.n_bytes / 1e6, time.monotonic() - begun)
    return target / slide.name


def _fetch(slide: RemoteSlide, folder: Path, tick: Tick) -> None:
    store, _ = open_store(slide.url)
    files = (*slide.files, *slide.annotations)
    paths = [folder / file.name for file in files]
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    store.get([file.key for file in files], [str(path) for path in paths], callback=_Ticking(tick))
    for file, path in zip(files, paths, strict=True):
        size = path.stat().st_size
        if file.size is not None and size != file.size:
            raise OSError(f"{file.name}: {size} bytes came, the store says {file.size}")
    if len(files) > MANY_FILES:
        return
    store.invalidate_cache()
    for file in files:
        now = version_of(store.info(file.key))
        if file.version is not None and now != file.version:
            raise SlideError(
                f"{slide.address}: {file.name} was changed in the store since this run began",
                fix="Run the same command again",
            )


def _check_room(slide: RemoteSlide, folder: Path, run: RunConfig, held_bytes: int) -> None:
    if run.stage_gb is not None and held_bytes + slide.n_bytes > run.stage_gb * 1e9:
        raise _NoRoomError(slide, f"run.stage_gb allows {run.stage_gb:g} GB at once")
    free = shutil.disk_usage(folder).free - _RESERVE_BYTES
    if slide.n_bytes > free:
        raise _NoRoomError(slide, f"{folder} has {max(0, free) / 1e9:.1f} GB to spare")


def _pause(seconds: float, tick: Tick) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        tick()
        time.sleep(min(seconds, _TICK_S))


def _remove_if_dead(lock_file: Path) -> None:
    """Remove the folder that a lock stands for, where no process holds the lock."""
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        # Alive, or of another user.
        return
    discard(lock_file.with_suffix(""))
    lock_file.unlink(missing_ok=True)
    lock.release()


class _Ticking(Callback):  # type: ignore[misc]
    """Calls a function when a store tells how far a copy is, but not too often."""

    def __init__(self, tick: Tick) -> None:
        super().__init__()
        self._tick = tick
        self._ticked = -_TICK_S

    def call(self, *_: Any, **__: Any) -> None:
        if time.monotonic() - self._ticked >= _TICK_S:
            self._ticked = time.monotonic()
            self._tick()

    def branched(self, *_: Any, **__: Any) -> Self:
        return self


class _StoppedError(Exception):
    """The run has ended."""


class _NoRoomError(Exception):
    """No room for a copy, at present."""

    def __init__(self, slide: RemoteSlide, why: str) -> None:
        super().__init__(why)
        self._slide = slide

    def told(self) -> SlideError:
        return SlideError(
            f"{self._slide.address}: no room for a copy of {self._slide.n_bytes / 1e9:.1f} GB ({self})",
            fix=_ROOM,
        )
