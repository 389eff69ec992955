"""A run on a CPU does without torch, which takes half a gigabyte and seconds to load."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import histo.run.batch
from histo.config import load_config
from histo.run.detector import ready_detector
detector, trial = ready_detector(load_config(None, ["run.device=cpu", "run.threads=2", "cells.precision={}"]))
print(detector.name, trial is not None)
print(sorted(name for name in sys.modules if name.split(".")[0] in ("torch", "lightning", "torchvision")))
"""


@pytest.mark.parametrize(
    ("precision", "said"), [("float32", "network cd8 False"), ("bfloat16", "network cd8 in bfloat16 True")]
)
def test_a_run_on_the_cpu_loads_no_torch(precision: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(precision)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [said, "[]"]
