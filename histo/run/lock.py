"""One run at a time on a results folder: a lock that knows the dead from the living."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import SoftFileLease, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from histo.errors import ConfigError, LockLostError
from histo.results.atomic import unwritable, write_text

# All runs on a folder must agree: a lock that was not renewed for so long belongs to nobody.
LEASE_S = 60.0
_CHECK_S = 2.0
_LOCK = ".running.lock"
_OWNER = ".running.json"


class Owner(BaseModel):
    """Who works on a results folder. The token is of this run alone."""

    model_config = ConfigDict(frozen=True)

    token: str
    host: str
    pid: int
    since_utc: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since_utc}"


@dataclass(frozen=True)
class Held:
    """A lock that is held; `before` is the dead run that it was taken over from, if there is one."""

    folder: Path
    owner: Owner
    before: Owner | None


@contextmanager
def hold(folder: Path) -> Iterator[Held]:
    """Hold the lock of a results folder, which exists.

    The lock is a file that names a process and is renewed while it lives, on network file systems too. It is
    taken over at once from a process of this host that is gone, and from one of another host once it has been
    seen not to be renewed for `LEASE_S` seconds.

    Raises
    ------
    ConfigError : another run works on this folder.
    ResultsError : nothing can be written there.
    """
    lease = SoftFileLease(folder / _LOCK, lease_duration=LEASE_S)
    before = read_owner(folder)
    try:
        lease.acquire(timeout=0)
    except Timeout:
        _wait_for_silent(lease, folder)
    except OSError as error:
        raise unwritable(folder / _LOCK, error) from error
    owner = Owner(
        token=secrets.token_hex(8),
        host=socket.gethostname(),
        pid=os.getpid(),
        since_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    try:
        write_text(folder / _OWNER, owner.model_dump_json())
        yield Held(folder, owner, before)
    finally:
        if read_owner(folder) == owner:
            (folder / _OWNER).unlink(missing_ok=True)
        lease.release()


def _wait_for_silent(lease: SoftFileLease, folder: Path) -> None:
    """Take the lock of a run that is silent; raise ConfigError where it is not."""
    try:
        # A probe has the time of the file server, whose clock may differ from ours.
        with tempfile.TemporaryFile(dir=folder) as probe:
            silent_s = os.fstat(probe.fileno()).st_mtime - (folder / _LOCK).stat().st_mtime
    except OSError:
        silent_s = 0.0
    if silent_s > LEASE_S:
        try:
            lease.acquire(timeout=LEASE_S * 1.5, poll_interval=min(1.0, LEASE_S / 10))
        except Timeout:
            pass
        else:
            return
    owner = read_owner(folder)
    raise ConfigError(
        f"another run works on this folder ({owner or 'it does not say which'})",
        path=folder,
        fix="Wait for it, stop it, or name another --out",
    )


def read_owner(folder: Path) -> Owner | None:
    """Return who says to work on a results folder; None where nobody does."""
    try:
        return Owner.model_validate_json((folder / _OWNER).read_bytes())
    except (OSError, ValidationError):
        return None


def check_owner(folder: Path, token: str) -> None:
    """Raise LockLostError where a run no longer holds its folder: it has ended, or another took over."""
    try:
        owner = Owner.model_validate_json((folder / _OWNER).read_bytes())
    except FileNotFoundError:
        raise LockLostError("the run that this belongs to has ended", path=folder) from None
    except (OSError, ValidationError):
        # The file system is slow or away for a moment; that says nothing about who holds the folder.
        return
    if owner.token != token:
        raise LockLostError(
            f"another run has taken over this folder ({owner})",
            path=folder,
            fix="Let it finish, or stop it and start this one again",
        )


def guarded(report: Callable[[int, int], None], folder: Path, token: str) -> Callable[[int, int], None]:
    """Return a progress report that looks every few seconds whether the run still holds its folder.

    It raises as `check_owner`, which stops the slide whose progress it reports.
    """
    checked = -_CHECK_S

    def guarded_report(done: int, of: int) -> None:
        nonlocal checked
        now = time.monotonic()
        if now - checked >= _CHECK_S:
            checked = now
            check_owner(folder, token)
        report(done, of)

    return guarded_report
