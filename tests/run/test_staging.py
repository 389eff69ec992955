"""Remote slides of a run: copied ahead, the same results, not copied twice, and what can go wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
from distributed import LocalCluster
from fsspec.implementations.memory import MemoryFileSystem

from histo.cohort.manifest import read_manifest
from histo.config import RunConfig, load_config
from histo.errors import ConfigError, SlideError
from histo.run import staging
from histo.run.batch import run_batch
from histo.run.cluster_config import RunningScheduler
from histo.run.remote import find_remote
from histo.run.staging import AHEAD, Ahead, copied, staging_folder
from histo.synthetic.slide import SlideSpec, render_slide

Get = Callable[..., None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good slides with annotations, and one that is none."""
    top = tmp_path_factory.mktemp("staged")
    spec = SlideSpec(slide_id="tiny", seed=5, size_um=(420.0, 420.0), phenotype="inflamed", margin_um=60.0)
    rendered = render_slide(spec, tmp_path_factory.mktemp("tiny"))
    for name in ("first", "second"):
        shutil.copy(rendered.slide, top / f"{name}.tif")
        shutil.copy(rendered.annotations, top / f"{name}.geojson")
    (top / "broken.svs").write_bytes(b"no slide at all")
    return top


@pytest.fixture(scope="module")
def local(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results from the local folder."""
    out = tmp_path_factory.mktemp("local")
    run_batch([folder], out, load_config())
    return out


@pytest.fixture
def store() -> Iterator[MemoryFileSystem]:
    found = fsspec.filesystem("memory")
    yield found
    found.rm("/", recursive=True)


@pytest.fixture
def bucket(folder: Path, store: MemoryFileSystem) -> str:
    store.put(f"{folder}/", "/bucket/", recursive=True)
    return "memory://bucket"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, in which nothing stays."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    monkeypatch.setattr(staging, "_WAIT_S", 0.01)
    yield path
    assert list(path.glob("histo-*")) == []


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are fetched, as they are."""
    names: list[str] = []
    real = MemoryFileSystem.get_file

    def get_file(self: MemoryFileSystem, key: str, path: str, **options: Any) -> None:
        names.append(Path(key).name)
        real(self, key, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    return names


def results(out: Path, place: str) -> dict[str, bytes]:
    """All that a run wrote, but for when and where; `place`: of the slides, in whatever file it is named."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name not in ("run.json", "run.log", "slides.parquet"):
            data = path.read_bytes().replace(place.encode(), b"PLACE")
            summary = path.with_name("summary.json")
            if summary.exists():
                # Of a local slide it is of the content, of a remote one of what the store says.
                fingerprint = json.loads(summary.read_text())["fingerprint"]
                data = data.replace(fingerprint.encode(), b"FINGERPRINT")
            found[str(path.relative_to(out))] = data
    return found


def same_tables(one: Path, other: Path) -> bool:
    left, right = (
        pd.read_parquet(path / "slides.parquet").drop(columns=["path", "error"]) for path in (one, other)
    )
    return left.equals(right)


def test_results_are_those_of_a_local_folder_and_nothing_is_copied_twice(
    local: Path, folder: Path, bucket: str, fetched: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_batch([bucket], out, load_config())
    assert results(out, bucket) == results(local, str(folder))
    assert same_tables(out, local)
    assert json.loads((out / "first" / "summary.json").read_text())["path"] == f"{bucket}/first.tif"
    assert (
        json.loads((out / "first" / "summary.json").read_text())["annotations"] == f"{bucket}/first.geojson"
    )
    assert (
        f"{bucket}/broken.svs: " in pd.read_csv(out / "slides.csv").set_index("slide_id")["error"]["broken"]
    )
    assert fetched == ["broken.svs", "first.tif", "first.geojson", "second.tif", "second.geojson"]
    fetched.clear()
    assert run_batch([bucket], out, load_config()).n_kept == 2
    assert fetched == ["broken.svs"]


def test_a_slide_is_done_again_where_its_annotations_have_changed(
    bucket: str, store: MemoryFileSystem, fetched: list[str], folder: Path, tmp_path: Path
) -> None:
    store.rm(f"{bucket}/second.geojson")
    run_batch([f"{bucket}/second.*"], tmp_path, load_config())
    fetched.clear()
    store.pipe("/bucket/second.geojson", (folder / "second.geojson").read_bytes())
    assert run_batch([f"{bucket}/second.tif"], tmp_path, load_config()).n_kept == 0
    assert fetched == ["second.tif", "second.geojson"]


def test_a_store_that_says_nothing_of_versions_is_read_and_what_is_finished_is_kept(
    bucket: str, fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_info, real_ls = MemoryFileSystem.info, MemoryFileSystem.ls

    def without(info: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in info.items() if key != "created"}

    monkeypatch.setattr(MemoryFileSystem, "info", lambda self, path, **o: without(real_info(self, path, **o)))
    monkeypatch.setattr(
        MemoryFileSystem, "ls", lambda self, path, **o: [without(i) for i in real_ls(self, path, **o)]
    )
    slide = f"{bucket}/first.tif"
    run_batch([slide], tmp_path, load_config())
    assert run_batch([slide], tmp_path, load_config()).n_kept == 1
    assert fetched == ["first.tif", "first.geojson"] * 2


def test_a_manifest_names_the_slides_and_a_folder_their_annotations(
    bucket: str, folder: Path, fetched: list[str], tmp_path: Path
) -> None:
    manifest = tmp_path / "cohort.csv"
    manifest.write_text(
        f"slide,path,patient,mpp_um\nfirst,{bucket}/first.tif,P1,0.45\nlost,{bucket}/lost.svs,P2,\n"
    )
    named = read_manifest(manifest)
    result = run_batch(named.slides, tmp_path / "out", load_config(), manifest=named, annotations=folder)
    done, lost = result.rows
    assert (done.patient, done.values["mpp_um"], lost.patient) == ("P1", 0.45, "P2")
    assert f"{bucket}/lost.svs: no such file" in str(lost.error)
    assert fetched == ["first.tif"]
    assert json.loads((tmp_path / "out" / "first" / "summary.json").read_text())["annotations"] == str(
        folder / "first.geojson"
    )
    manifest.write_text(f"slide,path\nfirst,{bucket}/other.tif?sig=SECRET\n")
    with pytest.raises(
        ConfigError, match=r"line 2: the path is that of 'other.tif', not of 'first'"
    ) as error:
        read_manifest(manifest)
    assert "SECRET" not in str(error.value)


def test_a_worker_copies_its_slides_itself(
    local: Path, folder: Path, bucket: str, fetched: list[str], tmp_path: Path
) -> None:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None
    ) as cluster:
        workers = RunningScheduler(cluster.scheduler_address)
        run_batch([bucket], tmp_path / "out", load_config(), cluster=workers)
        assert results(tmp_path / "out", bucket) == results(local, str(folder))
        fetched.clear()
        assert run_batch([bucket], tmp_path / "out", load_config(), cluster=workers).n_kept == 2
    assert fetched == ["broken.svs"]
    assert "copied  memory://bucket/first.tif" in (tmp_path / "out" / "run.log").read_text()


# Copies -----------------------------------------------------------------------------------------------------


def many(store: MemoryFileSystem, n: int) -> dict[int, Any]:
    for i in range(n):
        store.pipe(f"/many/{i}.svs", bytes(1000))
    return dict(enumerate(find_remote(["memory://many"])))


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_copies_are_made_ahead_in_order_and_removed_when_done(
    store: MemoryFileSystem, fetched: list[str], temporary: Path
) -> None:
    slides = many(store, 6)
    with Ahead(slides, lambda number: number != 3, RunConfig()) as ahead:
        for number in slides:
            with ahead.copy(number) as path:
                # It goes on while this one is in work, and no further.
                expected = [i for i in range(number + 1 + AHEAD + (number in (1, 2, 3))) if i != 3 and i < 6]
                wait_until(lambda expected=expected: len(fetched) >= len(expected))  # type: ignore[misc]
                time.sleep(0.05)
                assert fetched == [f"{i}.svs" for i in expected]
                assert (path is None) == (number == 3)
                assert path is None or (path.name, path.stat().st_size) == (f"{number}.svs", 1000)
                there = sorted(temporary.glob("histo-stage-*/*"))
                assert len(there) <= AHEAD + 1
                assert not [each for each in there if each.name.endswith(".part")]
            assert path is None or not path.exists()


def test_no_more_is_copied_at_once_than_is_allowed(
    store: MemoryFileSystem, fetched: list[str], temporary: Path
) -> None:
    slides = many(store, 3)
    with Ahead(slides, lambda _: True, RunConfig(stage_gb=1.5e-6)) as ahead:
        for number in slides:
            with ahead.copy(number) as path:
                assert path is not None
                time.sleep(0.05)
                assert len(fetched) == number + 1
    with (
        Ahead(slides, lambda _: True, RunConfig(stage_gb=0.9e-6)) as ahead,
        pytest.raises(SlideError, match=r"memory://many/0\.svs: no room.*run\.stage_gb allows"),
        ahead.copy(0),
    ):
        pass


@pytest.mark.fault
def test_a_disk_without_room_fails_a_slide_before_it_is_copied(
    store: MemoryFileSystem, fetched: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=(1 << 29) + 999))
    slide = many(store, 1)[0]
    with (
        pytest.raises(SlideError, match=r"0\.svs: no room for a copy.*to spare.*--stage"),
        copied(slide, RunConfig(stage_dir=str(tmp_path / "stage")), lambda: None),
    ):
        pass
    assert fetched == []
    assert list((tmp_path / "stage").iterdir()) == []


def failing(error: Exception, times: int) -> Get:
    left = [times]
    real = MemoryFileSystem.get_file

    def get_file(self: MemoryFileSystem, key: str, path: str, **options: Any) -> None:
        real(self, key, path, **options)
        if left[0]:
            left[0] -= 1
            # What was written so far is cut.
            os.truncate(path, 10)
            raise error

    return get_file


@pytest.mark.fault
def test_a_copy_that_is_cut_is_tried_again(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slide = many(store, 1)[0]
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", failing(ConnectionResetError("cut"), times=2))
        with copied(slide, RunConfig(), lambda: None) as path:
            assert path.stat().st_size == 1000
    assert caplog.text.count("memory://many/0.svs: trying again (cut)") == 2
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", failing(ConnectionResetError("cut"), times=3))
        with pytest.raises(SlideError, match="cannot be copied"), copied(slide, RunConfig(), lambda: None):
            pass


@pytest.mark.fault
def test_a_copy_of_another_size_is_none(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = many(store, 1)[0]
    monkeypatch.setattr(
        MemoryFileSystem, "get_file", lambda self, key, path, **_: Path(path).write_bytes(b"1")
    )
    with (
        pytest.raises(SlideError, match=r"0\.svs: 1 bytes came, the store says 1000"),
        copied(slide, RunConfig(), lambda: None),
    ):
        pass


@pytest.mark.fault
def test_a_slide_that_is_gone_or_has_changed_since_is_not_taken(store: MemoryFileSystem) -> None:
    gone, changed = many(store, 2).values()
    store.rm("/many/0.svs")
    store.pipe("/many/1.svs", bytes(1000))
    with (
        pytest.raises(SlideError, match=r"memory://many/0\.svs: it cannot be copied"),
        copied(gone, RunConfig(), lambda: None),
    ):
        pass
    with (
        pytest.raises(SlideError, match=r"1\.svs was changed in the store"),
        copied(changed, RunConfig(), lambda: None),
    ):
        pass


@pytest.mark.fault
def test_a_disk_that_fills_up_waits_for_room_while_others_lie_there(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides = many(store, 2)
    full = OSError(errno.ENOSPC, "No space left on device")
    with Ahead(slides, lambda _: True, RunConfig()) as ahead:
        with ahead.copy(0) as path:
            assert path is not None
        with ahead.copy(1) as path:
            assert path is not None
    monkeypatch.setattr(MemoryFileSystem, "get_file", failing(full, times=99))
    with (
        Ahead(slides, lambda _: True, RunConfig()) as ahead,
        pytest.raises(SlideError, match=r"0\.svs: no room.*is full"),
        ahead.copy(0),
    ):
        pass


@pytest.mark.fault
def test_a_stop_in_the_middle_of_a_copy_leaves_nothing(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    begun = threading.Event()

    def get_file(self: MemoryFileSystem, key: str, path: str, callback: Any, **_: Any) -> None:
        with Path(path).open("wb") as file:
            while True:
                file.write(b"half")
                begun.set()
                callback.relative_update(4)
                time.sleep(0.01)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    slides = many(store, 1)

    def stopped() -> None:
        with Ahead(slides, lambda _: True, RunConfig()):
            assert begun.wait(20)
            assert len(list(temporary.glob("histo-stage-*/.*.part"))) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(temporary.iterdir()) == []


@pytest.mark.fault
def test_what_a_killed_run_left_is_removed_and_what_a_living_one_holds_is_not(temporary: Path) -> None:
    with staging_folder(RunConfig()) as mine:
        other = mine.with_name(f"{mine.name[:-8]}01234567")
        program = (
            "import time; from pathlib import Path; from filelock import FileLock\n"
            f"with FileLock({str(other.with_suffix('.lock'))!r}):\n"
            f"    Path({str(other)!r}).mkdir(); time.sleep(60)"
        )
        process = subprocess.Popen([sys.executable, "-c", program])
        wait_until(other.exists)
        (other / "slide.svs").write_bytes(b"a slide")
        with staging_folder(RunConfig()) as third:
            assert other.exists()
            assert third.stat().st_mode & 0o077 == 0
        process.kill()
        process.wait()
        with staging_folder(RunConfig()) as last:
            assert {path for path in temporary.iterdir() if path.is_dir()} == {mine, last}


def test_a_folder_for_copies_that_cannot_be_is_an_error(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    config = load_config(None, [f"run.stage_dir={tmp_path / 'file'}"])
    with pytest.raises(ConfigError, match=r"copies of remote slides cannot be written there.*--stage"):
        run_batch([bucket], tmp_path / "out", config)
