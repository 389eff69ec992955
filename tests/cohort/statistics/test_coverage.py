"""The coverage study in small: does it run, and do the statistics keep about what they promise?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_coverage_and_false_positives_in_small(tmp_path: Path) -> None:
    call = [sys.executable, ROOT / "benchmarks" / "coverage.py", "--out", tmp_path]
    settings = ["--replicates", "200", "--fits", "200", "--designs", "25 vs 17", "20 pairs"]
    subprocess.run([*call, *settings], check=True)
    table = pd.read_csv(tmp_path / "coverage.csv")
    assert set(table["design"]) == {"25 vs 17", "20 pairs"}
    # 200 cohorts tell a share to 3 %: three standard errors of 95 % are 5 %.
    judged = table[table["verdict"] != "beyond"]
    assert (judged["share"] > judged["low"] - 0.05).all()
    assert (judged["share"] < judged["high"] + 0.05).all()
