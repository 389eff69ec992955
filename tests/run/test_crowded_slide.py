"""More cells in one field than any tissue has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tifffile
from forks import ROOT
from numpy.typing import NDArray
from scipy import ndimage

# As lymphocytes in a follicle: 6 um apart at 0.5 um/px, every other one stained.
SPACING_PX = 12
BLOCK_CELLS, BLOCKS = 64, 7
MAX_PEAK_GB = 2.0


def crowd() -> NDArray[np.uint8]:
    """Return a picture of 200,704 blue nuclei, half of them in a brown ring."""
    size = BLOCK_CELLS * SPACING_PX
    y, x = np.mgrid[:size, :size] + 0.5
    row, column = np.floor(y / SPACING_PX), np.floor(x / SPACING_PX)
    from_centre = np.hypot(y - (row + 0.5) * SPACING_PX, x - (column + 0.5) * SPACING_PX)
    block = np.full((size, size, 3), (225, 215, 225), np.float32)
    block[(from_centre < 5.6) & ((row + column) % 2 == 0)] = (135, 85, 45)
    block[from_centre < 4.2] = (95, 90, 150)
    block += np.random.default_rng(0).normal(0, 3, block.shape)
    block = ndimage.gaussian_filter(block, (0.7, 0.7, 0), mode="wrap")
    return np.tile(block.clip(0, 255).astype(np.uint8), (BLOCKS, BLOCKS, 1))


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="peak memory is that of os.wait4")
def test_200_000_cells_in_one_field_are_all_found_in_bounded_memory(tmp_path: Path) -> None:
    n = (BLOCK_CELLS * BLOCKS) ** 2
    slide, out = tmp_path / "crowd.tif", tmp_path / "out"
    tifffile.imwrite(slide, crowd(), photometric="rgb", tile=(512, 512), compression="zlib")
    command = [sys.executable, "infer.py", str(slide), "--out", str(out), "--mpp", "0.5"]
    run = subprocess.Popen(command, cwd=ROOT)
    _, status, usage = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    assert run.returncode == 0
    row = pd.read_csv(out / "slides.csv").iloc[0]
    assert row["n_cells"] == pytest.approx(n, rel=0.01)
    assert row["n_cd8"] == pytest.approx(n / 2, rel=0.01)
    assert pq.ParquetFile(out / "crowd" / "cells.parquet").metadata.num_rows == row["n_cells"]
    peak_gb = usage.ru_maxrss * (1024 if sys.platform == "linux" else 1) / 1e9
    print(f"{row['n_cells']} cells, {row['n_cd8']} of them CD8+, peak memory {peak_gb:.2f} GB")
    assert peak_gb < MAX_PEAK_GB
