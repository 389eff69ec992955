"""A minute of damage for each reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.readers import READERS


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("reader", sorted(READERS))
def test_a_minute_of_damage_finds_nothing(tmp_path: Path, reader: str) -> None:
    run = Path(__file__).parent / "run.py"
    options = ["--blind", "--reader", reader, "--seconds", "60", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, str(run), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
