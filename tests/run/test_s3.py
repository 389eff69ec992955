"""Slides on S3: a server of moto on this machine, read through s3fs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from histo.config import RunConfig, load_config
from histo.errors import SlideError
from histo.run import staging
from histo.run.batch import run_batch
from histo.run.remote import find_remote
from histo.run.staging import copied
from histo.synthetic.slide import SlideSpec, render_slide

moto_server = pytest.importorskip("moto.server", reason="moto, which plays S3, is not installed")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(staging, "_WAIT_S", 0.01)
    s3fs.S3FileSystem.clear_instance_cache()
    store = fsspec.filesystem("s3")
    store.mkdir("slides")
    yield store
    store.invalidate_cache()
    store.rm("slides", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_run_on_s3_is_that_of_a_folder_and_is_kept(s3: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    spec = SlideSpec(slide_id="one", seed=5, size_um=(420.0, 420.0), phenotype="inflamed", margin_um=60.0)
    rendered = render_slide(spec, tmp_path / "local")
    for path in (rendered.slide, rendered.annotations):
        s3.put_file(str(path), f"slides/a set/{path.name}")
    s3.pipe("slides/a set/mirax/two.mrxs", b"no slide")
    s3.pipe("slides/a set/mirax/two/Slidedat.ini", b"no slide either")
    run_batch([rendered.slide], tmp_path / "of_local", load_config())
    result = run_batch(["s3://slides/a set"], tmp_path / "out", load_config())
    assert [(row.slide_id, row.status) for row in result.rows] == [("two", "failed"), ("one", "done")]
    assert "s3://slides/a set/mirax/two.mrxs: " in str(result.rows[0].error)
    assert result.rows[1].path == f"s3://slides/a set/{rendered.slide.name}"
    for name in ("cells.parquet", "cells.geojson.gz", "regions.geojson", "overlay.png"):
        assert (tmp_path / "out/one" / name).read_bytes() == (tmp_path / "of_local/one" / name).read_bytes()
    # What is finished is known from the list.
    again = run_batch([f"s3://slides/a set/{rendered.slide.name}"], tmp_path / "out", load_config())
    assert again.n_kept == 1
    assert "copied  s3://slides/a set/one" in (tmp_path / "out" / "run.log").read_text()
    assert (tmp_path / "out" / "run.log").read_text().count("copied  s3://slides/a set/one") == 1


def test_checksums_are_the_versions_and_large_files_come_in_parts(s3: fsspec.AbstractFileSystem) -> None:
    content = bytes(range(256)) * 220_000
    s3.pipe("slides/large.svs", content)
    (slide,) = find_remote(["s3://slides/large.svs"])
    assert str(slide.files[0].version).startswith("etag ")
    with copied(slide, RunConfig(), lambda: None) as path:
        assert path.read_bytes() == content
    before = slide.version
    s3.pipe("slides/large.svs", content[::-1])
    (slide,) = find_remote(["s3://slides/large.svs"])
    assert slide.version != before


@pytest.mark.fault
def test_what_s3_does_not_have_is_told(s3: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    s3.pipe("slides/gone.svs", b"a slide")
    (gone,) = find_remote(["s3://slides/gone.svs"])
    s3.rm("slides/gone.svs")
    with (
        pytest.raises(SlideError, match=r"s3://slides/gone\.svs: it cannot be copied"),
        copied(gone, RunConfig(), lambda: None),
    ):
        pass
    (never,) = find_remote(["s3://nowhere/x.svs"])
    assert "bucket does not exist" in str(never.error)
    with pytest.raises(SlideError, match=r"s3://slides/none: it cannot be listed.*no such file or folder"):
        find_remote(["s3://slides/none"])


@pytest.mark.fault
def test_a_store_that_does_not_answer_is_told_and_stops_no_other(
    s3: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    addresses = ["s3://slides/x.svs", "s3://slides/y.svs"]
    result = run_batch([*addresses, tmp_path / "broken.svs"], tmp_path / "out", load_config())
    assert [row.slide_id for row in result.rows] == ["broken", "x", "y"]
    assert "s3://slides/x.svs: Could not connect to the endpoint" in str(result.rows[1].error)
    assert "Check the address, the network" in str(result.rows[1].error)
    with pytest.raises(SlideError, match=r"s3://slides/set: it cannot be listed \(Could not connect"):
        find_remote(["s3://slides/set"])
