"""Slides that are cut, and slides that change while they are read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import tifffile
import zarr

from histo.cells.build import Detector
from histo.config import load_config
from histo.errors import NoAnswerError, SlideError
from histo.run.fingerprint import slide_content, unchanged
from histo.run.outcome import Place, SlideOutcome, SlideTask, analyse_task
from histo.run.pipeline import SlideJob
from histo.synthetic.slide import RenderedSlide, SlideSpec, render_slide

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RenderedSlide:
    spec = SlideSpec(slide_id="tiny", seed=3, size_um=(440.0, 420.0), margin_um=60.0)
    return render_slide(spec, tmp_path_factory.mktemp("tiny"))


def analyse(
    path: Path, folder: Path, detector: Detector, meanwhile: Callable[[Path], None] = lambda path: None
) -> SlideOutcome:
    """Analyse a slide; `meanwhile` happens to it once its tiles are being read."""

    def progress(done: int, of: int) -> None:
        if done == 0:
            meanwhile(path)

    task = SlideTask(SlideJob(path=path, slide_id="tiny", folder=folder))
    return analyse_task(task, load_config(), detector, Place("here", 1, "cpu", "network"), progress)


def _replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    other.replace(path)


def _overwritten(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\0" * 100)


MEANWHILE: dict[str, Callable[[Path], None]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "written to": _overwritten,
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "replaced": _replaced,
    "removed": Path.unlink,
}


@pytest.mark.parametrize(
    "how",
    [
        "cut",
        "replaced",
        *(pytest.param(how, marks=pytest.mark.slow) for how in ("written to", "grown", "removed")),
    ],
)
def test_a_slide_that_changes_while_it_is_read_is_no_result(
    how: str, tiny: RenderedSlide, detector: Detector, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.tif"
    shutil.copy(tiny.slide, path)
    found = analyse(path, tmp_path / "out", detector, MEANWHILE[how])
    assert found.row.status == "failed"
    assert "tiny.tif: it was changed while it was read. Wait until it is copied" in str(found.row.error)
    # Nothing of a mixture is left that could be taken for a result, or be gone on from.
    assert [file for file in (tmp_path / "out").rglob("*") if file.is_file()] == []


def test_a_slide_that_is_cut_in_the_middle_is_measured_as_far_as_it_goes(
    tiny: RenderedSlide, detector: Detector, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.tif"
    path.write_bytes(tiny.slide.read_bytes()[: tiny.slide.stat().st_size // 2])
    found = analyse(path, tmp_path / "out", detector).row
    assert found.status == "done"
    assert "unread_tiles" in str(found.values["flags"])
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        size = path.stat().st_size
        ends = [start + n for start, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        tile, across = page.tilelength, -(-page.imagewidth // page.tilewidth)
    last_whole_row = min(i for i, end in enumerate(ends) if end > size) // across
    cells = pd.read_parquet(tmp_path / "out" / "cells.parquet")
    assert len(cells) > 0
    # Below the row of stored tiles that the file ends in there is nothing.
    assert cells["y_px"].max() < (last_whole_row + 1) * tile


def test_a_slide_of_which_only_the_beginning_is_there_is_an_error(
    tiny: RenderedSlide, detector: Detector, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.tif"
    path.write_bytes(tiny.slide.read_bytes()[:2000])
    found = analyse(path, tmp_path / "out", detector).row
    assert found.status == "failed"
    assert "copy it again" in str(found.error)


def test_stores_of_many_files_are_watched_too(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(store=str(path), shape=(90, 90), chunks=(10, 10), dtype="u1")
    array[...] = 1
    before = slide_content(path)
    with unchanged(path, before):
        pass
    with pytest.raises(SlideError, match="changed while it was read"), unchanged(path, before):
        array[:10, :10] = 2


def test_what_is_said_of_a_slide_that_did_not_change_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"a")
    before = slide_content(path)
    with pytest.raises(SlideError, match="is damaged"), unchanged(path, before):
        raise SlideError("it is damaged", path=path)
    path.write_bytes(b"b")
    with pytest.raises(SlideError, match="was changed"), unchanged(path, before):
        raise SlideError("it is damaged", path=path)
    # Asking again would only hang again.
    with pytest.raises(NoAnswerError, match="no answer"), unchanged(path, before):
        raise NoAnswerError("no answer", path=path)


def test_a_slide_that_may_not_be_read_is_an_error_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"a")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(SlideError, match=r"cannot be read \(Permission denied\)\. Check the disk"):
        slide_content(path)
