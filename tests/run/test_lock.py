from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from histo.config import load_config
from histo.errors import ConfigError, LockLostError
from histo.run import lock
from histo.run.batch import run_batch
from histo.run.lock import check_owner, guarded, hold, read_owner

# Holds the lock of a folder as a host of that name, with leases of that length, until it is killed.
_HOLDER = """
import socket, sys, time
from pathlib import Path
folder, host, lease_s = sys.argv[1:]
socket.gethostname = lambda: host
from histo.run import lock
lock.LEASE_S = float(lease_s)
with lock.hold(Path(folder)):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def held_by_another(
    folder: Path, host: str, lease_s: float = lock.LEASE_S
) -> Iterator[subprocess.Popen[str]]:
    """Start a process that holds the lock; give it once it does."""
    command = [sys.executable, "-c", _HOLDER, str(folder), host, str(lease_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.mark.fault
def test_a_second_run_is_refused_and_told_who_is_there(tmp_path: Path, slides_folder: Path) -> None:
    with hold(tmp_path) as held:
        assert held.before is None
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on .* since 2.*another --out"):
            run_batch([slides_folder], tmp_path, load_config())
        # The one that was refused has left it alone.
        check_owner(tmp_path, held.owner.token)
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault
def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    with (
        held_by_another(tmp_path, socket.gethostname()) as process,
        pytest.raises(ConfigError, match=f"process {process.pid} on"),
        hold(tmp_path),
    ):
        pass
    with hold(tmp_path) as held:
        assert held.before is not None
        assert held.before.pid == process.pid
        assert read_owner(tmp_path) == held.owner
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault
def test_another_host_is_dead_once_it_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LEASE_S", 1.0)
    with held_by_another(tmp_path, "elsewhere", 1.0) as process:
        time.sleep(1.5)
        # It lives, and renews its lock.
        with pytest.raises(ConfigError, match=f"process {process.pid} on elsewhere"), hold(tmp_path):
            pass
    # From here nobody can tell whether a process of another host lives; but a lock that rests can be seen.
    with pytest.raises(ConfigError, match="on elsewhere"), hold(tmp_path):
        pass
    time.sleep(1.5)
    with hold(tmp_path) as held:
        assert held.before is not None
        assert held.before.host == "elsewhere"


def test_a_run_that_lost_its_folder_stops_at_the_next_tile(tmp_path: Path) -> None:
    told = []
    with hold(tmp_path) as held:
        report = guarded(lambda done, of: told.append((done, of)), tmp_path, held.owner.token)
        report(0, 2)
        check_owner(tmp_path, held.owner.token)
        with pytest.raises(LockLostError, match="another run has taken over"):
            check_owner(tmp_path, "of another run")
    with pytest.raises(LockLostError, match="has ended"):
        guarded(report, tmp_path, held.owner.token)(1, 2)
    assert told == [(0, 2)]


def test_an_owner_file_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / ".running.json").write_text("{")
    check_owner(tmp_path, "any")
    assert read_owner(tmp_path) is None
    with hold(tmp_path) as held:
        assert held.before is None
