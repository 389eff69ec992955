"""Markers of a panel on their way through the pipeline."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from slides import ArraySlide

from histo.cells.build import build_detector
from histo.cells.table import CD8, CELL_COLUMNS, cell_columns
from histo.config import Config
from histo.errors import ChannelError
from histo.measure.summary import SlideSummary
from histo.results.cells_parquet import read_cells
from histo.run.pipeline import SlideJob, analyse_slide, read_summary
from histo.synthetic.field import Field, FieldStyle, render_field

CHANNELS = ("DAPI", "CD8", "AF", "Opal 620", "Opal 690")
STAIN = {"kind": "fluorescence", "nuclear": "DAPI", "cd8": "CD8", "autofluorescence": "AF"}
MARKERS = [
    {"name": "PD-1", "channel": "Opal 620", "role": "checkpoint"},
    {"name": "TOX", "channel": "Opal 690", "role": "state", "compartment": "nucleus"},
]
PLAIN = {"stain": STAIN, "measure": {"spatial": False}, "results": {"label_maps": False}}


@pytest.fixture(scope="module")
def field() -> Field:
    style = FieldStyle(context="stroma", cd8_per_mm2=500)
    return render_field(0, size_px=512, mpp=0.5, kind="fluorescence", style=style)


def _slide(field: Field) -> ArraySlide:
    """PD-1 in every second CD8+ cell, TOX in every nucleus of the others, some of PD-1 spilling into TOX."""
    rng = np.random.default_rng(0)
    has_pd1 = np.concatenate([[False], field.is_cd8 & (np.arange(len(field.is_cd8)) % 2 == 0)])
    has_tox = np.concatenate([[False], ~field.is_cd8])
    pd1, tox = 1000 * has_pd1[field.labels], 600 * has_tox[field.labels]
    planes = np.stack([pd1 + 50, tox + 0.25 * pd1 + 80], axis=-1) + rng.normal(0, 2, (*pd1.shape, 2))
    pixels = np.concatenate([field.pixels, planes.round().astype(np.uint16)], axis=-1)
    return ArraySlide(pixels, 0.5, channels=CHANNELS)


def _analyse(
    slide: ArraySlide, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> SlideSummary:
    folder.mkdir(parents=True)
    path = folder / "field.tif"
    path.write_bytes(b"stands for the file")
    monkeypatch.setattr("histo.run.pipeline.open_slide", lambda *_, **__: slide)
    config = Config.model_validate({**PLAIN, **settings})
    job = SlideJob(path=path, slide_id="field", folder=folder / "field")
    return analyse_slide(job, config, build_detector(config.cells))[0]


def _panel(**more: Any) -> dict[str, Any]:
    return {"markers": MARKERS, "spillover": {"PD-1": {"TOX": 0.25}}, **more}


@pytest.fixture(scope="module")
def done(field: Field, tmp_path_factory: pytest.TempPathFactory) -> tuple[SlideSummary, Path, int]:
    folder = tmp_path_factory.mktemp("markers") / "run"
    slide = _slide(field)
    with pytest.MonkeyPatch.context() as monkeypatch:
        summary = _analyse(slide, folder, monkeypatch, panel=_panel())
    return summary, folder / "field", slide.n_pixels_read


def test_cells_have_the_amounts_that_were_put_there(done: tuple[SlideSummary, Path, int]) -> None:
    cells = read_cells(done[1] / "cells.parquet")
    assert list(cells.columns) == list(cell_columns(("PD-1", "TOX")))
    cd8 = cells["cell_class"] == CD8
    assert cd8.sum() > 20
    others = cells[~cd8]
    # Compensated: none of the PD-1 that shows in its channel counts as TOX.
    assert others["TOX_nucleus_median"].median() == pytest.approx(600, abs=10)
    assert others["PD-1_ring_median"].median() == pytest.approx(0, abs=10)
    assert cells.loc[cd8, "TOX_nucleus_median"].median() == pytest.approx(0, abs=10)
    share = (cells.loc[cd8, "PD-1_nucleus_median"] > 500).mean()
    assert 0.3 < share < 0.7
    assert (cells["PD-1_cell_upper"] >= cells["PD-1_cell_median"]).all()
    assert cells["PD-1_ring_mean"].min() < 0


def test_the_summary_says_what_was_taken_out(done: tuple[SlideSummary, Path, int]) -> None:
    summary, folder, _ = done
    assert summary.panel is not None
    pd1, tox = summary.panel.markers
    assert (pd1.name, pd1.channel, pd1.spillover) == ("PD-1", "Opal 620", {})
    assert pd1.background == pytest.approx(50, abs=2)
    assert tox.background == pytest.approx(80, abs=2)
    assert tox.spillover == {"PD-1": 0.25}
    assert summary.panel.cd8_agreement.cut.value is not None
    assert read_summary(folder) == summary
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "0.25 of PD-1 (spill-over)" in report
    assert "the cut that separates the classes best" in report


def test_qupath_measurements_are_those_of_the_table(done: tuple[SlideSummary, Path, int]) -> None:
    cells = read_cells(done[1] / "cells.parquet")
    features = json.loads(gzip.decompress((done[1] / "cells.geojson.gz").read_bytes()))["features"]
    for column, name in (("PD-1_ring_mean", "PD-1: Ring: Mean"), ("TOX_cell_upper", "TOX: Cell: Upper")):
        told = [feature["properties"]["measurements"][name] for feature in features]
        np.testing.assert_allclose(told, cells[column], atol=1e-3)


def test_without_a_panel_nothing_changes(
    done: tuple[SlideSummary, Path, int], field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = _slide(field)
    summary = _analyse(slide, tmp_path / "run", monkeypatch)
    folder = tmp_path / "run" / "field"
    assert summary.panel is None
    assert "panel" not in json.loads((folder / "summary.json").read_text())
    assert "Markers" not in (folder / "report.html").read_text(encoding="utf-8")
    plain = read_cells(folder / "cells.parquet")
    measured = read_cells(done[1] / "cells.parquet")
    pd.testing.assert_frame_equal(plain, measured[list(CELL_COLUMNS)], check_exact=True)
    # The panel costs one more sample of the tissue, here all of the field, and no second read of a tile.
    assert done[2] - slide.n_pixels_read <= 512**2


@pytest.mark.parametrize("run", [{"tile_um": 96}, {"tile_um": 128, "tile_offset_um": [40, 72], "threads": 3}])
def test_amounts_do_not_depend_on_how_the_slide_is_cut(
    done: tuple[SlideSummary, Path, int],
    field: Field,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: dict[str, Any],
) -> None:
    _analyse(_slide(field), tmp_path / "run", monkeypatch, panel=_panel(), run=run)
    whole, cut = (
        read_cells(folder / "cells.parquet").sort_values(["y_um", "x_um"], ignore_index=True)
        for folder in (done[1], tmp_path / "run" / "field")
    )
    columns = ["x_um", "y_um", *[name for name in whole if name not in CELL_COLUMNS]]
    pd.testing.assert_frame_equal(whole[columns], cut[columns], check_exact=True)


def test_names_that_do_not_fit_are_told_before_anything_is_read(
    field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = _slide(field)
    markers = [{"name": "PD-1", "channel": "Opal 570"}, {"name": "TOX", "channel": "Opal 480"}]
    with pytest.raises(ChannelError, match=r"'Opal 570'.*'Opal 480'.*'Opal 690'"):
        _analyse(slide, tmp_path / "run", monkeypatch, panel={"markers": markers})
    assert slide.n_pixels_read == 0


def test_a_third_chromogen_is_measured_in_brightfield(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = render_field(3, size_px=448, mpp=0.5, style=FieldStyle(context="lymphoid"))
    residual = tuple(float(x) for x in picture.stain_vectors[2])
    summary = _analyse(
        ArraySlide(picture.pixels, 0.5),
        tmp_path / "run",
        monkeypatch,
        stain={"kind": "brightfield", "vectors": {"residual": residual}, "residual_name": "PD-1 red"},
        panel={"markers": [{"name": "PD-1", "channel": "PD-1 red"}, {"name": "DAB", "channel": "CD8"}]},
    )
    assert summary.panel is not None
    assert summary.panel.unit == "optical density"
    assert summary.panel.markers[0].background is None
    cells = read_cells(tmp_path / "run" / "field" / "cells.parquet")
    assert len(cells) > 20
    for compartment in ("nucleus", "ring"):
        for marker, stain in (("PD-1", "residual"), ("DAB", "cd8")):
            np.testing.assert_allclose(
                cells[f"{marker}_{compartment}_mean"], cells[f"{stain}_{compartment}_mean"], atol=1e-5
            )
