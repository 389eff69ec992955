from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
import pandas as pd
import psutil
import pytest
from distributed import LocalCluster

from histo.config import load_config
from histo.errors import ClusterError, ConfigError
from histo.run import batch
from histo.run.batch import run_batch
from histo.run.cluster import device_of
from histo.run.cluster_config import LocalWorkers, RunningScheduler, SlurmWorkers, read_cluster

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def alone(slides_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run without a cluster."""
    out = tmp_path_factory.mktemp("alone")
    run_batch([slides_folder], out, load_config())
    return out


def files(folder: Path) -> dict[str, bytes]:
    """All that a run wrote, but for when and where."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.json", "run.log")
    }


@contextmanager
def killer(reads: str, writes: Path, times: int) -> Iterator[list[int]]:
    """Kill children of this process while they have a file of one name open and write below a folder."""
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while len(killed) < times and not over.wait(0.02):
            for child in psutil.Process().children():
                try:
                    opened = [file.path for file in child.open_files()]
                except psutil.Error:
                    continue
                if any(path.endswith(reads) for path in opened) and any(
                    path.startswith(str(writes)) for path in opened
                ):
                    child.kill()
                    killed.append(child.pid)
                    break

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@contextmanager
def threads_as_workers(**resources: int) -> Iterator[RunningScheduler]:
    """A scheduler that can be connected to, with a worker that is a thread: quick to start."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        dashboard_address=None,
        resources=resources,
    ) as cluster:
        yield RunningScheduler(cluster.scheduler_address)


@pytest.mark.fault
def test_workers_give_the_same_bytes_also_where_one_is_killed_in_the_middle(
    alone: Path, slides_folder: Path, tmp_path: Path
) -> None:
    with killer("again/small.tif", tmp_path / "out", times=1) as killed:
        result = run_batch([slides_folder], tmp_path / "out", load_config(), cluster=LocalWorkers(2))
    assert len(killed) == 1
    assert [row.status for row in result.rows].count("failed") == 1
    assert files(tmp_path / "out") == files(alone)
    log = (tmp_path / "out" / "run.log").read_text()
    assert f"process {killed[0]} on" in log
    assert "begun again by process" in log
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["cluster"] == "local:2"
    assert killed[0] not in [worker["pid"] for worker in run["workers"]]
    assert sum(worker["n_slides"] for worker in run["workers"]) == 3


def test_a_running_scheduler_gives_the_same_and_relative_paths_hold(
    alone: Path, slides_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with threads_as_workers() as workers:
        run_batch([slides_folder], Path("out"), load_config(), cluster=workers)
        assert files(tmp_path / "out") == files(alone)
        again = run_batch([slides_folder], Path("out"), load_config(), cluster=workers)
    assert again.n_kept == 2
    assert "broken" in (tmp_path / "out" / "run.log").read_text()


def test_without_the_gpu_that_is_asked_for_nothing_begins(slides_folder: Path, tmp_path: Path) -> None:
    config = load_config(None, ["run.device=cuda"])
    with threads_as_workers() as workers, pytest.raises(ConfigError, match="--resources GPU=1"):
        run_batch([slides_folder], tmp_path, config, cluster=workers)


def test_a_worker_that_announces_a_gpu_gets_the_slides(slides_folder: Path, tmp_path: Path) -> None:
    config = load_config(None, ["run.device=cuda:99"])
    with threads_as_workers(GPU=1) as workers, pytest.raises(ClusterError, match="cuda:99"):
        run_batch([slides_folder], tmp_path, config, cluster=workers)


def test_a_worker_with_other_weights_ends_the_run(
    slides_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = batch.build_detector

    def other(*args: object) -> object:
        detector = real(*args)  # type: ignore[arg-type]
        detector.sha256 = "other"
        return detector

    monkeypatch.setattr(batch, "build_detector", other)
    with threads_as_workers() as workers, pytest.raises(ClusterError, match="other weights"):
        run_batch([slides_folder], tmp_path, load_config(), cluster=workers)


def test_no_scheduler_is_an_error_with_a_way_out(slides_folder: Path, tmp_path: Path) -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ConfigError, match="dask scheduler"),
    ):
        run_batch([slides_folder], tmp_path, load_config(), cluster=RunningScheduler("tcp://127.0.0.1:9"))


@pytest.mark.fault
@pytest.mark.slow
def test_a_slide_that_kills_every_worker_is_a_row_and_stops_nothing(
    alone: Path, slides_folder: Path, tmp_path: Path
) -> None:
    with killer("again/small.tif", tmp_path / "out", times=99) as killed:
        result = run_batch([slides_folder], tmp_path / "out", load_config(), cluster=LocalWorkers(2))
    assert len(killed) == 3
    bad, broken, good = result.rows
    assert (bad.status, broken.status, good.status) == ("failed", "failed", "done")
    assert "each of 3 workers died" in str(bad.error)
    # What it left is no obstacle.
    run_batch([slides_folder], tmp_path / "out", load_config())
    assert files(tmp_path / "out") == files(alone)


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_takes_its_workers_along_and_is_resumed(
    how: signal.Signals, alone: Path, slides_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "infer.py", str(slides_folder), "--out", str(out), "--cluster", "local:2"]
    run = subprocess.Popen(
        command,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 300
    while len(list(out.glob("*/.part*"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    workers = psutil.Process(run.pid).children(recursive=True)
    assert len(workers) >= 2
    if how is signal.SIGINT:
        # As a terminal does it.
        os.killpg(run.pid, how)
        assert run.wait(60) == 130
    else:
        run.kill()
        run.wait()
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    done = subprocess.run([*command[:-1], "local:1"], cwd=ROOT, check=False)
    assert done.returncode == 1
    assert files(out) == files(alone)
    assert len(pd.read_csv(out / "slides.csv")) == 3


@pytest.mark.fault
@pytest.mark.slow
def test_a_lost_scheduler_ends_the_run_and_what_is_done_is_kept(
    alone: Path, slides_folder: Path, tmp_path: Path
) -> None:
    slides = tmp_path / "slides"
    shutil.copytree(slides_folder, slides)
    address = tmp_path / "address.json"
    dask_ = [sys.executable, "-m", "distributed.cli.{}", "--scheduler-file", str(address), "--no-dashboard"]
    scheduler = subprocess.Popen(
        [part.format("dask_scheduler") for part in dask_] + ["--host", "127.0.0.1", "--port", "0"]
    )
    while not address.exists():
        time.sleep(0.1)
    worker = subprocess.Popen(
        [part.format("dask_worker") for part in dask_]
        + ["--nthreads", "1", "--memory-limit", "0", "--death-timeout", "10"]
    )
    workers = RunningScheduler(json.loads(address.read_text())["address"])
    out = tmp_path / "out"

    def stop_it_in_the_middle() -> None:
        while not list(out.glob("small-*/.part*")):
            time.sleep(0.05)
        scheduler.kill()

    try:
        threading.Thread(target=stop_it_in_the_middle, daemon=True).start()
        with pytest.raises(ClusterError, match="scheduler was lost"):
            run_batch([slides], out, load_config(), cluster=workers)
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    assert list(out.glob(".running*")) == []
    assert run_batch([slides], out, load_config()).n_failed == 1


@pytest.mark.slow
def test_slurm_workers_give_the_same(
    alone: Path, slides_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for Slurm runs its jobs here, in the background."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    jobs = tmp_path / "jobs.txt"
    # As the real one, it takes the script in before it returns.
    sbatch = (
        f'script=$(cat "$1"); echo "$script" >> {jobs}; '
        'setsid bash -c "$script" >/dev/null 2>&1 & echo "Submitted batch job $!"'
    )
    for name, text in (("sbatch", sbatch), ("scancel", 'kill -- "-$1"')):
        script = bin_ / name
        script.write_text(f"#!/usr/bin/env bash\n{text}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    workers = SlurmWorkers(
        kind="slurm", jobs=5, cores=1, memory="4GB", walltime="00:10:00", queue="short", extra=["--nice"]
    )
    run_batch([slides_folder], tmp_path / "out", load_config(), cluster=workers)
    assert files(tmp_path / "out") == files(alone)
    told = jobs.read_text()
    # No more jobs than slides.
    assert told.count("#SBATCH -p short") == 3
    assert "#SBATCH --nice" in told
    assert "--memory-limit 0" in told


def test_local_workers_share_the_gpus() -> None:
    assert [device_of("auto", i, 2) for i in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert device_of("cuda:1", 0, 2) == "cuda:1"
    assert device_of("auto", "tcp://a:1", 0) == "auto"


def test_cluster_is_local_an_address_or_a_file(tmp_path: Path) -> None:
    assert read_cluster("local") == LocalWorkers()
    assert read_cluster("local:3") == LocalWorkers(3)
    assert read_cluster("tcp://node1:8786") == RunningScheduler("tcp://node1:8786")
    path = tmp_path / "slurm.yaml"
    path.write_text('{kind: slurm, jobs: 4, cores: 4, memory: 16GB, walltime: "08:00:00", gpus: 1}')
    assert read_cluster(str(path)) == SlurmWorkers(
        kind="slurm", jobs=4, cores=4, memory="16GB", walltime="08:00:00", gpus=1
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("local:0", "no number of workers"),
        ("local:two", "no number of workers"),
        ("tcp://node1", "not understood"),
        ("slurm", "YAML file for Slurm"),
        ("nowhere.yaml", "cannot be read"),
    ],
)
def test_what_cluster_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_cluster(text)


def test_a_slurm_file_lists_every_mistake(tmp_path: Path) -> None:
    path = tmp_path / "slurm.yaml"
    path.write_text("{kind: slurm, jobs: 0, cores: 4, memory: 16, walltime: 12:00:00, quue: gpu}")
    with pytest.raises(ConfigError) as error:
        read_cluster(str(path))
    for word in ("jobs", "memory", "walltime", "in quotes", "quue"):
        assert word in str(error.value)
    path.write_text('{kind: slurm, jobs: 1, cores: 4, memory: 16GB, walltime: "1:00:00", workers_per_job: 5}')
    with pytest.raises(ConfigError, match="workers_per_job"):
        read_cluster(str(path))


def test_slurm_needs_slurm(slides_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = SlurmWorkers(kind="slurm", jobs=1, cores=1, memory="4GB", walltime="1:00:00")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no sbatch here"):
        run_batch([slides_folder], tmp_path / "out", load_config(), cluster=workers)
    monkeypatch.setitem(sys.modules, "dask_jobqueue.slurm", None)
    with pytest.raises(ConfigError, match=r"pip install 'histo\[slurm\]'"):
        run_batch([slides_folder], tmp_path / "out", load_config(), cluster=workers)
