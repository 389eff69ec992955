from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from histo.cohort.manifest import read_manifest
from histo.config import load_config
from histo.errors import ConfigError
from histo.run import outcome
from histo.run.batch import run_batch, slide_ids


def test_one_bad_slide_stops_nothing_and_is_listed(slides_folder: Path, tmp_path: Path) -> None:
    result = run_batch([slides_folder], tmp_path / "out", load_config())
    assert [row.status for row in result.rows].count("done") == 2
    assert result.n_failed == 1
    table = pd.read_csv(tmp_path / "out" / "slides.csv").set_index("slide_id")
    assert table.loc["broken", "status"] == "failed"
    assert "broken.svs" in str(table.loc["broken", "error"])
    assert pd.isna(table.loc["broken", "n_cd8"])
    assert json.loads((tmp_path / "out" / "run.json").read_text())["n_failed"] == 1
    assert "failed  broken" in (tmp_path / "out" / "run.log").read_text()


def test_stopped_and_started_again_gives_the_same(
    slides_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config()
    run_batch([slides_folder], tmp_path / "whole", config)
    real, calls = outcome.analyse_slide, []

    def stopped_at_the_last(job: object, *args: object) -> object:
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(job, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(outcome, "analyse_slide", stopped_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        run_batch([slides_folder], tmp_path / "stopped", config)
    assert not json.loads((tmp_path / "stopped" / "run.json").read_text())["complete"]
    monkeypatch.undo()
    result = run_batch([slides_folder], tmp_path / "stopped", config)
    assert result.n_kept == 1
    whole, resumed = ((tmp_path / name / "slides.csv").read_bytes() for name in ("whole", "stopped"))
    assert whole == resumed


def test_an_unexpected_error_is_a_row_too(
    slides_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(outcome, "analyse_slide", fails)
    result = run_batch([slides_folder], tmp_path, load_config())
    assert result.n_failed == 3
    assert "unexpected RuntimeError: a fault of ours" in str(result.rows[0].error)


def test_pixel_size_of_the_manifest_is_used(slides_folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("slide,patient,site,mpp_um\nsmall,P1,metastasis,0.45\n")
    slide = slides_folder / "small.tif"
    result = run_batch([slide], tmp_path / "out", load_config(), manifest=read_manifest(manifest))
    row = result.rows[0]
    assert (row.patient, row.site, row.values["mpp_um"]) == ("P1", "metastasis", 0.45)


def test_slide_ids_are_unique_safe_and_say_the_name() -> None:
    ids = slide_ids(
        [Path("a/x.svs"), Path("b/x.svs"), Path("c/..hidden/../y;rm -rf.ome.tif"), Path("d/z.1.tif")]
    )
    assert len(set(ids)) == 4
    assert ids[0].startswith("x-")
    assert ids[2:] == ["y_rm -rf", "z.1"]
    assert not any("/" in name for name in ids)


def test_nothing_to_do_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no slides found"):
        run_batch([tmp_path], tmp_path / "out", load_config())
