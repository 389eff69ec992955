"""Bombs of every kind, in a process that may not have more than 900 MB beyond its libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.bombs import BOMBS
from fuzz.readers import READERS

_RUN = Path(__file__).parent / "run.py"
_LIMIT_MB = 900
# On a machine that does other things as well.
_MAX_S = 60.0


Outcomes = dict[str, dict[str, tuple[float, str]]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Return how long each took, and what became of it, by reader and name."""
    folder = tmp_path_factory.mktemp("bombs")
    found: Outcomes = {}
    for reader, bombs in BOMBS.items():
        (folder / reader).mkdir()
        for name, data in bombs(READERS[reader].seeds()[0]).items():
            (folder / reader / name).write_bytes(data)
            found.setdefault(reader, {})[name] = (0.0, "not reached: the process ended")
    files = [str(folder / reader / name) for reader, bombs in found.items() for name in bombs]
    command = [sys.executable, str(_RUN), "--limit-mb", str(_LIMIT_MB), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        place, *told = line.split("\t")
        if len(told) == 2:
            reader, _, name = place.partition("/")
            found[reader][name] = (float(told[0]), told[1])
    return found


@pytest.mark.fault
@pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited through /proc")
@pytest.mark.parametrize("reader", sorted(BOMBS))
def test_a_bomb_is_refused_with_a_reason(outcomes: Outcomes, reader: str) -> None:
    told = outcomes[reader]
    assert {name: what for name, (_, what) in told.items() if not what.startswith("refused")} == {}
    assert {name: seconds for name, (seconds, _) in told.items() if seconds > _MAX_S} == {}
