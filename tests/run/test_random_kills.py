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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import psutil
import pytest

from histo.synthetic.slide import SlideSpec, render_slide

ROOT = Path(__file__).resolve().parents[2]
N_KILLS = int(os.environ.get("HISTO_KILLS", "100"))
N_SLIDES = 4
# Of the kills, those of runs over workers: these take longest to start.
CLUSTER_SHARE = 0.12
# Files get their final names within a hundredth of the time: some kills wait for that.
COMMIT_SHARE = 0.3
PATIENCE_S = 300.0

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


class Run:
    """A run that can be killed."""

    def __init__(self, pid: int, ended: Callable[[], int]) -> None:
        self.pid = pid
        self.ended = ended

    def lives(self) -> bool:
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def kill(self) -> None:
        psutil.Process(self.pid).kill()


class Forker:
    """Starts runs that need not import anything."""

    def __init__(self, log: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("forked_infer.py")), str(log)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def start(self, arguments: list[str]) -> Run:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        return Run(int(self.process.stdout.readline()), self._code)

    def _code(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@contextmanager
def forker(log: Path) -> Iterator[Forker]:
    made = Forker(log)
    try:
        yield made
    finally:
        made.process.kill()
        # Closes the pipes.
        made.process.communicate()


def with_workers(arguments: list[str], log: Path) -> Run:
    with log.open("ab") as told:
        process = subprocess.Popen(
            [sys.executable, "infer.py", *arguments, "--cluster", "local:2"],
            cwd=ROOT,
            stdout=told,
            stderr=told,
        )
    return Run(process.pid, process.wait)


def seen(out: Path) -> dict[str, bytes]:
    """All files under their final names, but for when and where: what is hidden is not finished."""
    found = {}
    for path in sorted(out.rglob("*")):
        inner = path.relative_to(out)
        if path.is_file() and not any(part.startswith(".") for part in inner.parts):
            found[str(inner)] = path.read_bytes()
    return {name: data for name, data in found.items() if name not in ("run.json", "run.log")}


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


def wait_until(happened: Callable[[], object], run: Run) -> bool:
    """Wait for something; tell whether it happened before the run ended."""
    until = time.monotonic() + PATIENCE_S
    while not happened():
        if not run.lives() or time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


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
    for child in psutil.Process(run.pid).children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_a_hundred_kills_lose_nothing(slides: Path, tmp_path: Path) -> None:
    random = Random(7)
    n_cluster = round(N_KILLS * CLUSTER_SHARE)
    kills: Counter[str] = Counter()
    rounds = restarts = kept_in_all = 0
    log = tmp_path / "log.txt"
    with forker(log) as forks:
        alone = tmp_path / "alone"
        run = forks.start([str(slides), "--out", str(alone)])
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
                arguments = [str(slides), "--out", str(out)]
                over_workers = kills["worker"] + kills["run with workers"] < n_cluster and rounds % 2 == 0
                run = with_workers(arguments, log) if over_workers else forks.start(arguments)
                restarts += 1
                left_s = whole_s * (0.3 + (N_SLIDES - len(before)) / N_SLIDES)
                victim = None
                if kills.total() < N_KILLS and wait_until(
                    lambda out=out: (out / ".running.json").exists() and any(out.glob("tiny*/.*")), run
                ):
                    if random.random() < COMMIT_SHARE:
                        there = moved(out)
                        wait_until(lambda out=out, there=there: moved(out) != there, run)
                        time.sleep(random.uniform(0, 0.03))
                    else:
                        time.sleep(random.uniform(0, left_s))
                    victim = "run with workers" if over_workers else "run"
                    if over_workers and random.random() < 0.5:
                        victim = "worker"
                if victim is not None and run.lives():
                    if victim == "worker":
                        chosen = workers_of(run)
                        if chosen:
                            random.choice(chosen).kill()
                            kills[victim] += 1
                    else:
                        run.kill()
                        kills[victim] += 1
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
                    missing = {name for name in reference if name.startswith(f"{slide_id}/")} - seen(
                        out
                    ).keys()
                    assert not missing, f"{slide_id} counts as finished without {missing}"
                complete = code == 0
                if complete:
                    kept = json.loads((out / "run.json").read_text())["n_kept"]
                    assert kept == len(before) or over_workers
                    kept_in_all += kept
                before = now
            assert seen(out) == reference
            hidden = [path for path in out.rglob(".*") if path.name != ".zattrs"]
            assert hidden == []
            shutil.rmtree(out)
    told = ", ".join(f"{n} of {what}" for what, n in sorted(kills.items()))
    print(
        f"{kills.total()} kills ({told}) of {restarts} runs in {rounds} rounds of {N_SLIDES} slides; an "
        f"undisturbed one works {whole_s:.1f} s; {kept_in_all} slides were kept from a killed run to the last"
    )
