"""Disks that take no more results."""

from __future__ import annotations

import shutil
from io import StringIO
from pathlib import Path

import pytest
from disks import small_disk
from rich.console import Console

from histo.cells.build import Detector
from histo.config import load_config
from histo.errors import ConfigError, DiskError
from histo.run.batch import run_batch
from histo.run.cluster_config import LocalWorkers
from histo.run.outcome import Place, SlideTask, analyse_task
from histo.run.pipeline import SlideJob
from histo.synthetic.slide import SlideSpec, render_slide

pytestmark = pytest.mark.fault

SLIDES = ("tiny0", "tiny1", "tiny2")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    for seed, name in enumerate(SLIDES):
        render_slide(SlideSpec(slide_id=name, seed=seed, size_um=(440.0, 420.0), margin_um=60.0), folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    assert run_batch([slides], out, load_config(), console=Console(file=StringIO())).n_failed == 0
    return out


def files(out: Path) -> dict[str, bytes]:
    """All that a run wrote, but for when and where."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        # The tiles that are done of an unfinished slide are no result.
        if path.is_file() and path.name not in ("run.json", "run.log") and path.suffix != ".arrow"
    }


def size_of(folder: Path) -> int:
    """Bytes that a folder takes: whole blocks, and what a name takes on a disk in memory."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def run(slides: Path, out: Path, cluster: LocalWorkers | None = None) -> int:
    return run_batch([slides], out, load_config(), cluster=cluster, console=Console(file=StringIO())).n_kept


@pytest.mark.parametrize(
    "cluster", [None, pytest.param(LocalWorkers(2), marks=pytest.mark.slow)], ids=["alone", "workers"]
)
def test_a_full_disk_stops_the_run_which_goes_on_once_there_is_space(
    slides: Path, undisturbed: Path, tmp_path: Path, cluster: LocalWorkers | None
) -> None:
    # Two of three slides and half of the third.
    first, second, third = (size_of(undisturbed / name) for name in SLIDES)
    with small_disk(tmp_path / "disk", first + second + third // 2) as disk:
        out = disk.path / "results"
        with pytest.raises(DiskError) as error:
            run(slides, out, cluster)
        told = str(error.value)
        assert f"the disk at {disk.path} is full (" in told
        assert "Free space there, and run the same command again: what is finished is kept" in told
        # What has a name is whole; what is finished, complete.
        whole = files(undisturbed)
        left = files(out)
        assert {name: whole[name] for name in left if "/" in name} == {
            name: data for name, data in left.items() if "/" in name
        }
        assert not [path for path in out.rglob(".*") if path.name.startswith((".part", ".running"))]
        finished = [name for name in SLIDES if f"{name}/summary.json" in left]
        assert len(finished) >= 1
        for name in finished:
            assert {file for file in left if file.startswith(f"{name}/")} == {
                file for file in whole if file.startswith(f"{name}/")
            }
        disk.remount("size=64m")
        assert run(slides, out, cluster) == len(finished)
        assert files(out) == whole


@pytest.mark.parametrize(
    "share",
    [0.0, 0.5, 0.97, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.1, 0.3, 0.7, 0.9))],
)
def test_wherever_it_fills_up_the_result_of_before_is_kept(
    slides: Path, undisturbed: Path, tmp_path: Path, detector: Detector, share: float
) -> None:
    before = undisturbed / "tiny0"
    size = size_of(before)
    with small_disk(tmp_path / "disk", size + int(share * size)) as disk:
        folder = disk.path / "tiny0"
        shutil.copytree(before, folder)
        # Other settings: it is done again.
        config = load_config(None, ["cells.min_area_um2=11"])
        task = SlideTask(SlideJob(path=slides / "tiny0.tif", slide_id="tiny0", folder=folder))
        with pytest.raises(DiskError, match="is full"):
            analyse_task(task, config, detector, Place("here", 1, "cpu", "network"), lambda done, of: None)
        assert files(folder) == files(before)


def test_a_disk_that_is_full_at_the_start_is_told_before_any_work(slides: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8192) as disk:
        (disk.path / "other").write_bytes(b"a" * 8192)
        with pytest.raises(DiskError, match=rf"the disk at {disk.path} is full \(0\.0 of 0\.0 MB free\)"):
            run(slides, disk.path / "results")


def test_a_disk_that_becomes_read_only_stops_the_run(
    slides: Path, tmp_path: Path, detector: Detector
) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        folder = disk.path / "tiny0"
        task = SlideTask(SlideJob(path=slides / "tiny0.tif", slide_id="tiny0", folder=folder))
        disk.remount("ro")
        with pytest.raises(DiskError, match=rf"the disk at {disk.path} can only be read .* Make it writable"):
            analyse_task(
                task, load_config(), detector, Place("here", 1, "cpu", "network"), lambda done, of: None
            )


def test_a_read_only_output_is_told_before_any_work(slides: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        disk.remount("ro")
        for out in (disk.path, disk.path / "results"):
            with pytest.raises(ConfigError, match=r"cannot write there \(Read-only file system\).*--out"):
                run(slides, out)
        disk.remount("rw")
        assert list(disk.path.iterdir()) == []


def test_what_is_no_folder_is_told_before_any_work(slides: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "results", Path("/proc/nowhere")):
        with pytest.raises(ConfigError, match="cannot write there"):
            run(slides, out)
    results = tmp_path / "results"
    results.mkdir()
    for name in SLIDES[:2]:
        (results / name).write_text("mine")
    with pytest.raises(ConfigError, match=r"belong: tiny0, tiny1\. Move them away, or name another --out"):
        run(slides, results)
    assert {path.name: path.read_text() for path in results.iterdir()} == dict.fromkeys(SLIDES[:2], "mine")
