"""Runs that are stopped: Ctrl-C, and the SIGTERM that schedulers send before they kill."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from forks import Forker, forker, seen, wait_until

from histo.synthetic.slide import SlideSpec, render_slide

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked"),
]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    for seed in range(2):
        spec = SlideSpec(slide_id=f"tiny{seed}", seed=seed, size_um=(440.0, 420.0), margin_um=60.0)
        render_slide(spec, folder)
    return folder


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    with forker(tmp_path_factory.mktemp("log") / "log.txt") as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_leaves_a_table_and_no_scraps_and_goes_on(
    how: signal.Signals, code: int, forks: Forker, slides: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    told = len(forks.log.read_text()) if forks.log.exists() else 0
    run = forks.start([str(slides), "--out", str(out)])
    # In the middle of the second slide.
    assert wait_until(lambda: any(out.glob("tiny1/.*")), run)
    os.kill(run.pid, how)
    assert run.ended() == code
    text = forks.log.read_text()[told:]
    assert "stopped; run the same command again to go on where it was" in text
    assert "Traceback" not in text
    assert [path for path in out.rglob(".*") if path.name.startswith((".running", ".part"))] == []
    assert pd.read_csv(out / "slides.csv")["slide_id"].tolist() == ["tiny0"]
    assert not json.loads((out / "run.json").read_text())["complete"]
    summary = (out / "tiny0" / "summary.json").stat().st_mtime_ns

    assert forks.start([str(slides), "--out", str(out)]).ended() == 0
    assert (out / "tiny0" / "summary.json").stat().st_mtime_ns == summary
    assert json.loads((out / "run.json").read_text())["n_kept"] == 1
    undisturbed = tmp_path / "undisturbed"
    assert forks.start([str(slides), "--out", str(undisturbed)]).ended() == 0
    assert seen(out) == seen(undisturbed)
