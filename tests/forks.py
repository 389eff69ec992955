"""Runs of `infer.py` as processes of their own, which can be stopped and killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
_PATIENCE_S = 300.0


class Run:
    """A run that can be killed."""

    def __init__(self, pid: int, ended: Callable[[], int]) -> None:
        self.pid = pid
        self.ended = ended

    def lives(self) -> bool:
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def kill(self) -> bool:
        """Kill it; tell whether it still lived."""
        try:
            psutil.Process(self.pid).kill()
        except psutil.NoSuchProcess:
            return False
        return True


class Forker:
    """Starts runs that need not import anything."""

    def __init__(self, log: Path) -> None:
        self.log = log
        command = [sys.executable, str(ROOT / "tests" / "forked_infer.py"), str(log)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def start(self, arguments: list[str]) -> Run:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        return Run(int(self.process.stdout.readline()), self._code)

    def _code(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@contextmanager
def forker(log: Path) -> Iterator[Forker]:
    made = Forker(log)
    try:
        yield made
    finally:
        made.process.kill()
        # Closes the pipes.
        made.process.communicate()


def wait_until(happened: Callable[[], object], run: Run) -> bool:
    """Wait for something; tell whether it happened before the run ended."""
    until = time.monotonic() + _PATIENCE_S
    while not happened():
        if not run.lives() or time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


def seen(out: Path) -> dict[str, bytes]:
    """All files under their final names, but for when and where: what is hidden is not finished."""
    found = {}
    for path in sorted(out.rglob("*")):
        inner = path.relative_to(out)
        if path.is_file() and not any(part.startswith(".") for part in inner.parts):
            found[str(inner)] = path.read_bytes()
    return {name: data for name, data in found.items() if name not in ("run.json", "run.log")}
