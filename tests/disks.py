"""Small disks of their own, in memory, for tests of full and read-only ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """A disk that is mounted at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remount(self, options: str) -> None:
        _call("mount", "-o", f"remount,{options}", str(self.path))


@contextmanager
def small_disk(path: Path, n_bytes: int) -> Iterator[Disk]:
    """Mount a new disk of so many bytes (whole blocks of 4 kB); skips the test where that is not allowed."""
    if sys.platform != "linux":
        pytest.skip("disks in memory are mounted on Linux only")
    path.mkdir()
    try:
        _call("mount", "-t", "tmpfs", "-o", f"size={-(-n_bytes // 4096) * 4}k", "tmpfs", str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        told = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        pytest.skip(f"no disk can be mounted here, which takes root: {told}")
    try:
        yield Disk(path)
    finally:
        _call("umount", "--lazy", str(path))


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
