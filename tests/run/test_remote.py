"""Slides in stores: what is found there, and as what it is told."""

from __future__ import annotations

import http.server
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem

from histo.config import load_config
from histo.errors import ConfigError, SlideError
from histo.run.batch import run_batch
from histo.run.remote import RemoteSlide, find_remote, reason_of, told
from histo.slide import find_slides


def ome_zarr(path: Path) -> None:
    """Write an OME-Zarr 0.4 image of several chunks."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    data = np.arange(3 * 64 * 64, dtype=np.uint8).reshape(3, 64, 64)
    group.create_array(
        "0", data=data, chunks=(3, 32, 32), chunk_key_encoding={"name": "v2", "separator": "/"}
    )
    axes = [{"name": name} for name in "cyx"]
    multiscales = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}]
    (path / ".zattrs").write_text(json.dumps({"multiscales": multiscales}))


def dicom(path: Path, series: str) -> None:
    """Write the beginning of a DICOM file."""
    value = series.encode()
    head = (
        (0x20).to_bytes(2, "little") + (0xE).to_bytes(2, "little") + b"UI" + len(value).to_bytes(2, "little")
    )
    path.write_bytes(bytes(128) + b"DICM" + head + value)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of slides in all formats that take more than a file, and of what is none."""
    top = tmp_path_factory.mktemp("tree")
    for name in ("one.svs", "two.ome.tif", "notes.txt", ".hidden.svs", "one.geojson", "two.xml"):
        (top / name).write_bytes(name.encode())
    (top / "mirax" / "three" / "deep").mkdir(parents=True)
    for name in ("three.mrxs", "three/Slidedat.ini", "three/deep/Data0001.dat", "three.geojson"):
        (top / "mirax" / name).write_bytes(name.encode())
    (top / "vms").mkdir()
    (top / "vms" / "four.vms").write_text(
        "[Virtual Microscope Specimen]\nImageFile=Four-a.jpg\nMapFile=four-map.jpg\n"
    )
    for name in ("Four-a.jpg", "four-map.jpg", "picture.jpg"):
        (top / "vms" / name).write_bytes(name.encode())
    (top / "dicom").mkdir()
    for name, series in (("a.dcm", "1.2.3"), ("b.dcm", "1.2.4"), ("c.dcm", "1.2.3"), ("d.dcm", "1.2.3")):
        dicom(top / "dicom" / name, series)
    ome_zarr(top / "five.ome.zarr")
    zarr.open_group(top / "no_image.zarr", mode="w", zarr_format=2)
    (top / "results" / "one").mkdir(parents=True)
    (top / "results" / "run.json").write_text("{}")
    (top / "results" / "one" / "overlay.png").write_bytes(b"png")
    return top


@pytest.fixture
def memory(tree: Path) -> Iterator[str]:
    store = fsspec.filesystem("memory")
    store.put(f"{tree}/", "/bucket/", recursive=True)
    yield "memory://bucket"
    store.rm("/", recursive=True)


def by_name(slides: list[RemoteSlide]) -> dict[str, RemoteSlide]:
    return {slide.name: slide for slide in slides}


def names(slide: RemoteSlide) -> list[str]:
    return [file.name for file in slide.files]


def test_the_same_slides_as_in_a_folder_in_the_same_order(tree: Path, memory: str) -> None:
    found = find_remote([memory])
    local = find_slides([tree])
    assert [slide.address for slide in found] == [f"{memory}/{path.relative_to(tree)}" for path in local]
    assert {slide.error for slide in found} == {None}
    assert all(slide.version for slide in found)


def test_a_slide_has_all_its_files_and_the_annotations_beside_it(tree: Path, memory: str) -> None:
    found = by_name(find_remote([memory]))
    assert names(found["one.svs"]) == ["one.svs"]
    assert names(found["three.mrxs"]) == ["three.mrxs", "three/Slidedat.ini", "three/deep/Data0001.dat"]
    assert names(found["four.vms"]) == ["Four-a.jpg", "four-map.jpg", "four.vms"]
    assert names(found["a.dcm"]) == ["a.dcm", "c.dcm", "d.dcm"]
    assert names(found["b.dcm"]) == ["b.dcm"]
    chunks = sorted(
        str(path.relative_to(tree)) for path in (tree / "five.ome.zarr").rglob("*") if path.is_file()
    )
    assert names(found["five.ome.zarr"]) == chunks
    assert len(chunks) > 6
    beside = {name: [file.name for file in slide.annotations] for name, slide in found.items()}
    assert {name: files for name, files in beside.items() if files} == {
        "one.svs": ["one.geojson"],
        "two.ome.tif": ["two.xml"],
        "three.mrxs": ["three.geojson"],
    }


@pytest.mark.parametrize(
    "name", ["one.svs", "mirax/three.mrxs", "vms/four.vms", "dicom/a.dcm", "five.ome.zarr", "five.ome.zarr/"]
)
def test_a_slide_named_alone_is_as_one_found(memory: str, name: str) -> None:
    address = f"{memory}/{name}"
    (alone,) = find_remote([address])
    assert alone.address == address.rstrip("/")
    (found,) = [slide for slide in find_remote([memory]) if slide.address == alone.address]
    assert (alone.files, alone.annotations, alone.version) == (found.files, found.annotations, found.version)


def test_patterns_are_of_the_store(memory: str) -> None:
    assert [slide.name for slide in find_remote([f"{memory}/*.svs"])] == ["one.svs"]
    assert [slide.name for slide in find_remote([f"{memory}/vm*", f"{memory}/vms/four.*"])] == [
        "four.vms",
        "picture.jpg",
    ]


def test_versions_change_with_the_content_and_with_the_annotations(memory: str) -> None:
    store = fsspec.filesystem("memory")
    before = {name: slide.version for name, slide in by_name(find_remote([memory])).items()}
    store.pipe("/bucket/one.geojson", b"drawn again")
    store.pipe("/bucket/mirax/three/deep/Data0001.dat", b"scanned again")
    after = {name: slide.version for name, slide in by_name(find_remote([memory])).items()}
    assert {name for name in before if before[name] != after[name]} == {"one.svs", "three.mrxs"}


@pytest.mark.fault
def test_keys_that_lead_out_of_the_folder_are_passed_over(memory: str) -> None:
    store = fsspec.filesystem("memory")
    for key in (
        "/bucket/odd/../../../etc/x.svs",
        "/bucket/odd//x.svs",
        "/bucket/odd/a\0.svs",
        "/bucket/odd/y.svs",
    ):
        store.store[key] = store.store["/bucket/one.svs"]
    assert [slide.name for slide in find_remote([f"{memory}/odd"])] == ["y.svs"]
    (before,) = find_remote([f"{memory}/five.ome.zarr"])
    store.store["/bucket/five.ome.zarr/0/../../../../etc/x"] = store.store["/bucket/one.svs"]
    (after,) = find_remote([f"{memory}/five.ome.zarr"])
    assert after.files == before.files


def test_a_list_of_an_earlier_run_is_not_used_again(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(MemoryFileSystem, "invalidate_cache", lambda self, path=None: asked.append(self))
    find_remote([f"{memory}/one.svs", f"{memory}/two.ome.tif"])
    assert len(asked) == 1


def test_a_missing_slide_is_listed_with_its_error_and_a_missing_folder_is_none(memory: str) -> None:
    found = find_remote([f"{memory}/nothing.svs", f"{memory}/one.svs"])
    assert [slide.error is None for slide in found] == [False, True]
    assert "no such file" in str(found[0].error)
    with pytest.raises(SlideError, match=r"memory://bucket/nothing: it cannot be listed \(no such file"):
        find_remote([f"{memory}/nothing"])


def test_a_store_without_a_driver_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ConfigError, match=r"gs://bucket/a\.svs.*not installed.*pip install gcsfs"):
        find_remote(["gs://bucket/a.svs"])
    with pytest.raises(ConfigError, match="no such kind of store"):
        find_remote(["s4://bucket/a.svs"])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/a b/x.svs", "s3://bucket/a b/x.svs"),
        ("sftp://ann:pass@host:22/x.svs", "sftp://host:22/x.svs"),
        ("https://ann:p@ss@host/x.svs?sig=SECRET&e=1", "https://host/x.svs"),
        (
            "abfs://container@account.dfs.core.windows.net/x",
            "abfs://container@account.dfs.core.windows.net/x",
        ),
        ("zip://x.svs::https://u:p@h/a.zip?t=SECRET", "zip://x.svs::https://h/a.zip"),
        ("simplecache::s3://bucket/x.svs", "simplecache::s3://bucket/x.svs"),
    ],
)
def test_addresses_are_told_without_what_gives_access(url: str, expected: str) -> None:
    assert told(url) == expected


def test_reasons_are_told_without_what_gives_access() -> None:
    url = "https://ann:hunter2@host/x.svs?sig=a%2Bb"
    error = OSError(
        f"403 for url={url}, also as sig=a+b, ann:hunter2, and https://b:c@host/y?sig=other in it"
    )
    error.__cause__ = ValueError("hunter2")
    text = reason_of(error, url)
    for secret in ("hunter2", "a%2Bb", "a+b", "other", "b:c"):
        assert secret not in text
    assert "https://host/y in it" in text
    assert "hunter2" not in repr(RemoteSlide("x.svs", "https://host/x.svs", "https://host", url))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tree: Path, tmp_path: Path) -> Iterator[str]:
    """A web server on this machine, with an index and without checksums."""
    shutil.copytree(tree, tmp_path / "web" / "a set")
    handler = partial(Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_over_http_folders_with_an_index_and_single_slides_with_a_token(tree: Path, web: str) -> None:
    found = find_remote([f"{web}/a%20set/"])
    local = [path for path in find_slides([tree]) if path.suffix != ".zarr"]
    assert [slide.name for slide in found if not slide.name.endswith(".zarr")] == [
        path.name for path in local
    ]
    assert names(by_name(found)["three.mrxs"])[1:] == ["three/Slidedat.ini", "three/deep/Data0001.dat"]
    (alone,) = find_remote([f"{web}/a%20set/one.svs?sig=SECRET"])
    assert alone.address == f"{web}/a%20set/one.svs"
    assert [file.name for file in alone.annotations] == ["one.geojson"]
    assert alone.files[0].size == len("one.svs")
    assert alone.version is not None
    with pytest.raises(SlideError, match="Write / at the end"):
        find_remote([f"{web}/a%20set"])
    (none,) = find_remote([f"{web}/none.svs?sig=SECRET"])
    assert "no such file" in str(none.error)
    assert "SECRET" not in str(none.error)


@pytest.mark.fault
def test_what_gives_access_is_nowhere_in_results_log_or_console(
    web: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with_user = web.replace("http://", "http://ann:hunter2@")
    addresses = [f"{with_user}/a%20set/{name}?sig=TOKEN" for name in ("one.svs", "none.svs", "dicom/b.dcm")]
    result = run_batch(addresses, tmp_path / "out", load_config())
    assert result.n_failed == 3
    assert f"{web}/a%20set/one.svs: its content is of no known slide format" in str(result.rows[0].error)
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    captured = capsys.readouterr()
    for text in (written.decode("latin-1"), caplog.text, captured.out, captured.err, repr(result)):
        assert "hunter2" not in text
        assert "TOKEN" not in text
