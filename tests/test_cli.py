from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from histo.cli import main
from histo.synthetic.slide import SlideSpec, render_slide

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small slides."""
    path = tmp_path_factory.mktemp("three")
    for seed in (1, 2, 3):
        render_slide(SlideSpec(slide_id=f"s{seed}", seed=seed, size_um=(640.0, 480.0), margin_um=40.0), path)
    return path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--out"),
        (["--demo"], "--out"),
        (["absent", "--out", "OUT"], "absent"),
        (["a.svs", "--out", "OUT", "--set", "run.nonsense=1"], "run.nonsense"),
        (["a.svs", "--out", "OUT", "--device", "cuda:99"], "cuda:99"),
        (["a.svs", "--demo", "--out", "OUT"], "--demo"),
    ],
)
def test_bad_usage_exits_2_and_says_what(
    tmp_path: Path,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.svs").write_bytes(b"x")
    named = [
        str(tmp_path / "out")
        if part == "OUT"
        else str(tmp_path / part)
        if part in ("absent", "a.svs")
        else part
        for part in arguments
    ]
    monkeypatch.setattr(sys, "argv", ["infer.py", *named])
    with pytest.raises(SystemExit) as stopped:
        main("infer")
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_a_batch_exits_0_and_a_bad_slide_makes_it_1(folder: Path, tmp_path: Path) -> None:
    good = run("infer.py", folder, "--out", tmp_path / "out")
    assert good.returncode == 0, good.stderr
    bad = tmp_path / "broken.svs"
    bad.write_bytes(b"no slide")
    mixed = run("infer.py", folder, bad, "--out", tmp_path / "out")
    assert mixed.returncode == 1
    assert "3 kept from before" in mixed.stderr
    assert str(bad) in mixed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_started_again_gives_what_an_unbroken_run_gives(
    folder: Path, tmp_path: Path, how: signal.Signals
) -> None:
    assert run("infer.py", folder, "--out", tmp_path / "whole").returncode == 0
    out = tmp_path / "killed"
    # A shell that starts the tests in the background makes them, and so the child, deaf to Ctrl-C.
    child = subprocess.Popen(
        [sys.executable, "infer.py", folder, "--out", out],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 120
    while not (out / "s1" / "summary.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(child.pid, how)
    _, told = child.communicate()
    assert child.returncode != 0
    assert ("run the same command again" in told) == (how == signal.SIGINT)
    first = (out / "s1" / "summary.json").stat().st_mtime_ns
    again = run("infer.py", folder, "--out", out)
    assert again.returncode == 0
    assert (out / "s1" / "summary.json").stat().st_mtime_ns == first
    for name in (
        "slides.csv",
        *(f"s{i}/{file}" for i in (1, 2, 3) for file in ("cells.parquet", "cells.geojson.gz")),
    ):
        assert (tmp_path / "whole" / name).read_bytes() == (out / name).read_bytes(), name
    assert len(pd.read_csv(out / "slides.csv")) == 3
    assert not list(out.rglob("*.part"))


def test_doctor_passes_here() -> None:
    done = run("-m", "histo.cli", "doctor")
    assert done.returncode == 0, done.stdout
    told = " ".join(done.stdout.replace("│", " ").split())
    assert "cells as in float32 on the CPU" in told
