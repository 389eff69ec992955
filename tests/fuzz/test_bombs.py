"""Bombs of every kind, in a process that may not have more than 900 MB beyond its libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.bombs import all_bombs

_RUN = Path(__file__).parent / "run.py"
_LIMIT_MB = 900
# On a machine that does other things as well.
_MAX_S = 60.0


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, str]]:
    """Return how long each took, and what became of it, by "reader/name"."""
    folder = tmp_path_factory.mktemp("bombs")
    files = []
    for reader, bombs in all_bombs().items():
        (folder / reader).mkdir()
        for name, data in bombs.items():
            files.append(folder / reader / name)
            files[-1].write_bytes(data)
    command = [sys.executable, str(_RUN), "--limit-mb", str(_LIMIT_MB), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [line.split("\t") for line in done.stdout.splitlines() if line.count("\t") >= 2]
    return {row[0]: (float(row[1]), "\t".join(row[2:])) for row in rows}


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited through /proc")
@pytest.mark.parametrize("reader", sorted(all_bombs()))
def test_a_bomb_is_refused_with_a_reason(outcomes: dict[str, tuple[float, str]], reader: str) -> None:
    told = {
        name: outcomes.get(f"{reader}/{name}", (0.0, "the process ended")) for name in all_bombs()[reader]
    }
    assert {name: what for name, (_, what) in told.items() if not what.startswith("refused")} == {}
    assert {name: seconds for name, (seconds, _) in told.items() if seconds > _MAX_S} == {}
