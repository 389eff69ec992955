"""Slides on a file system that does not answer: failed rows, and the run goes on and ends."""

from __future__ import annotations

import os
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from forks import forker
from rich.console import Console

from histo.config import load_config
from histo.run.batch import run_batch
from histo.slide.tiff_backend import TiffSlide
from histo.synthetic.slide import SlideSpec, render_slide

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = SlideSpec(slide_id="tiny", seed=3, size_um=(440.0, 420.0), margin_um=60.0)
    return render_slide(spec, tmp_path_factory.mktemp("tiny")).slide


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_slide_that_hangs_in_the_kernel_costs_its_own_row_and_the_process_ends(
    tiny: Path, tmp_path: Path
) -> None:
    # To open a pipe that nobody writes to takes for ever.
    hangs = tmp_path / "hangs.svs"
    os.mkfifo(hangs)
    out = tmp_path / "out"
    with forker(tmp_path / "log.txt") as forks:
        run = forks.start([str(hangs), str(tiny), "--out", str(out), "--set", "run.read_timeout_s=4"])
        assert run.ended() == 1, forks.log.read_text()
    table = pd.read_csv(out / "slides.csv").set_index("slide_id")
    assert table["status"].to_dict() == {"hangs": "failed", "tiny": "done"}
    assert "hangs.svs: its file system does not answer: it could not be opened within 12 s" in str(
        table.loc["hangs", "error"]
    )


def test_a_slide_that_stops_answering_is_a_row_and_leaves_no_scraps(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    real = TiffSlide._read_level
    n_reads = 0

    def read_level(self: TiffSlide, *args: Any) -> Any:
        nonlocal n_reads
        n_reads += 1
        if n_reads > 2:
            free.wait()
        return real(self, *args)

    monkeypatch.setattr(TiffSlide, "_read_level", read_level)
    config = load_config(None, ["run.read_timeout_s=1", "cells.precision=float32"])
    result = run_batch([tiny], tmp_path / "out", config, console=Console(file=StringIO()))
    free.set()
    assert "its file system does not answer: 3 reads in a row took longer than 1 s" in str(
        result.rows[0].error
    )
    assert list((tmp_path / "out" / "tiny").iterdir()) == []
