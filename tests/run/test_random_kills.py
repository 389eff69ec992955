"""A hundred kills at random moments: nothing finished is lost or redone, nothing half-written is taken.

A round is a results folder that is worked on, killed, and worked on again until it is complete. Most runs are
forked from a process that has imported everything; the others are `infer.py` with local workers, where the
run or one of its workers is killed. HISTO_KILLS sets how many kills there are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil
import pytest
from forks import ROOT, Run, forker, seen, wait_until

from histo.synthetic.slide import SlideSpec, render_slide

N_KILLS = int(os.environ.get("HISTO_KILLS", "100"))
N_SLIDES = 4
# Of the kills, those of runs over workers: these take longest to start.
CLUSTER_SHARE = 0.12
# Files get their final names within a hundredth of the time: some kills wait for that.
COMMIT_SHARE = 0.3
# The network is not tried out at each start.
SETTINGS = ("--set", "cells.precision=float32")

pytestmark = [
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked"),
]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    for number in range(N_SLIDES):
        render_slide(
            SlideSpec(slide_id=f"tiny{number}", seed=20 + number, size_um=(440.0, 420.0), margin_um=60.0),
            folder,
        )
    return folder


def with_workers(arguments: list[str], log: Path) -> Run:
    with log.open("ab") as told:
        process = subprocess.Popen(
            [sys.executable, "infer.py", *arguments, "--cluster", "local:2"],
            cwd=ROOT,
            stdout=told,
            stderr=told,
        )
    return Run(process.pid, process.wait)


def finished(out: Path) -> dict[str, dict[str, int]]:
    """The files of each slide that is finished, and when they were written (ns)."""
    return {
        summary.parent.name: {
            str(path.relative_to(out)): path.stat().st_mtime_ns
            for path in summary.parent.rglob("*")
            if path.is_file() and not path.relative_to(summary.parent).parts[0].startswith(".")
        }
        for summary in out.glob("*/summary.json")
    }


def moved(out: Path) -> frozenset[str]:
    """Final names that are there now, of any slide."""
    return frozenset(
        f"{folder.name}/{entry.name}"
        for folder in out.glob("tiny*")
        for entry in os.scandir(folder)
        if not entry.name.startswith(".")
    )


def workers_of(run: Run) -> list[psutil.Process]:
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(run.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "spawn_main" in " ".join(child.cmdline()):
                    found.append(child)
    return found


def test_a_hundred_kills_lose_nothing(slides: Path, tmp_path: Path) -> None:
    random = Random(7)
    n_cluster = round(N_KILLS * CLUSTER_SHARE)
    kills: Counter[str] = Counter()
    rounds = restarts = kept_in_all = 0
    log = tmp_path / "log.txt"
    with forker(log) as forks:
        alone = tmp_path / "alone"
        run = forks.start([str(slides), "--out", str(alone), *SETTINGS])
        assert wait_until((alone / ".running.json").exists, run)
        begun = time.monotonic()
        assert run.ended() == 0, log.read_text()[-3000:]
        whole_s = time.monotonic() - begun
        reference = seen(alone)
        assert len(finished(alone)) == N_SLIDES

        while kills.total() < N_KILLS:
            rounds += 1
            out = tmp_path / f"round{rounds}"
            before: dict[str, dict[str, int]] = {}
            complete = False
            while not complete:
                arguments = [str(slides), "--out", str(out), *SETTINGS]
                over_workers = kills["workers"] + kills["runs with workers"] < n_cluster and rounds % 2 == 0
                run = with_workers(arguments, log) if over_workers else forks.start(arguments)
                restarts += 1
                left_s = whole_s * (0.3 + (N_SLIDES - len(before)) / N_SLIDES)
                begun_work = kills.total() < N_KILLS and wait_until(
                    lambda out=out: (out / ".running.json").exists() and any(out.glob("tiny*/.*")), run
                )
                while begun_work and kills.total() < N_KILLS:
                    if random.random() < COMMIT_SHARE:
                        there = moved(out)
                        wait_until(lambda out=out, there=there: moved(out) != there, run)
                        time.sleep(random.uniform(0, 0.03))
                    else:
                        time.sleep(random.uniform(0, left_s))
                    if not run.lives():
                        break
                    if over_workers and random.random() < 0.6:
                        chosen = workers_of(run)
                        if chosen:
                            with suppress(psutil.NoSuchProcess):
                                random.choice(chosen).kill()
                                kills["workers"] += 1
                    else:
                        orphans = workers_of(run)
                        kills["runs with workers" if over_workers else "runs"] += run.kill()
                        # They see that it is gone.
                        assert psutil.wait_procs(orphans, timeout=120)[1] == []
                        break
                code = run.ended()
                # A slide whose workers were killed three times is a failed row, which the next run mends.
                assert code in (0, -9) or (over_workers and code == 1), log.read_text()[-3000:]
                now = finished(out)
                for slide_id, files in before.items():
                    assert now.get(slide_id) == files, f"{slide_id} was lost or done again"
                for name, data in seen(out).items():
                    if name not in ("slides.csv", "slides.parquet"):
                        assert data == reference[name], f"{name} is half-written, or another"
                for slide_id in now:
                    whole = {name for name in reference if name.startswith(f"{slide_id}/")}
                    missing = whole - seen(out).keys()
                    assert not missing, f"{slide_id} counts as finished without {missing}"
                complete = code == 0
                if complete:
                    kept = json.loads((out / "run.json").read_text())["n_kept"]
                    # A worker may be killed between its slide and its answer.
                    assert kept == len(before) or (over_workers and kept > len(before))
                    kept_in_all += kept
                before = now
            assert seen(out) == reference
            hidden = [path for path in out.rglob(".*") if path.name != ".zattrs"]
            assert hidden == []
            shutil.rmtree(out)
            told = ", ".join(f"{n} of {what}" for what, n in sorted(kills.items()))
            print(f"round {rounds}: {kills.total()} kills ({told})", flush=True)
    print(
        f"{kills.total()} kills ({told}) in {restarts} runs and {rounds} rounds of {N_SLIDES} slides; an "
        f"undisturbed one works {whole_s:.1f} s; {kept_in_all} slides were kept from a killed run to the last"
    )
