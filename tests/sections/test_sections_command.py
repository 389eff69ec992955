"""`histo sections` from results to files: a rendered pair against its truth."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image
from rich.console import Console
from scipy.stats import spearmanr
from serial_pictures import PairOnDisk

from histo.cli import main
from histo.errors import ConfigError
from histo.sections.command import run_sections
from histo.sections.config import SectionsConfig
from histo.sections.pairs import Pair
from histo.sections.summary import RegistrationSummary

QUIET = Console(quiet=True)
PAIR = Pair("cd8", "pd1.tif", "PD-1")


@pytest.fixture(scope="module")
def out(rendered_pair: PairOnDisk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes for the rendered pair, with gates."""
    folder = tmp_path_factory.mktemp("sections")
    pairs = folder / "pairs.csv"
    pairs.write_text("slide,serial,marker\ncd8,pd1,PD-1\n", encoding="utf-8")
    arguments = ["sections", str(rendered_pair.results), "--pairs", str(pairs), "--out", str(folder / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["histo", *arguments, "--set", "bright_gates.PD-1=0.35"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    return folder / "out"


def test_the_registration_is_off_by_less_than_25_um_and_says_so(out: Path, rendered_pair: PairOnDisk) -> None:
    folder = out / "cd8__pd1"
    summary = RegistrationSummary.model_validate_json((folder / "registration.json").read_bytes())
    assert summary.verdict == "accepted"
    assert summary.rotation_deg == pytest.approx(25, abs=5)
    truth = pd.read_parquet(rendered_pair.pair.slide.cells)[["x_um", "y_um"]].to_numpy()[::15]
    true, _ = rendered_pair.pair.mounting.to_serial(truth)
    transform = sitk.ReadTransform(str(folder / "slide_to_serial.h5"))
    off = np.hypot(*(np.array([transform.TransformPoint(point) for point in truth.tolist()]) - true).T)
    assert np.median(off) <= 25
    assert summary.error_um is not None
    assert abs(summary.error_um - np.median(off)) < 12
    with Image.open(folder / "overlay.png") as picture:
        assert picture.width > 1000


def test_the_correlation_over_tiles_is_that_of_the_true_cells(out: Path, rendered_pair: PairOnDisk) -> None:
    tiles = pd.read_parquet(out / "cd8__pd1" / "tiles.parquet")
    used = tiles[tiles["used"]].reset_index(drop=True)
    cd8 = pd.read_parquet(rendered_pair.pair.slide.cells).query("is_cd8")
    marker = pd.read_parquet(rendered_pair.pair.serial_cells).query("is_marker and not in_fault")
    true = []
    for x, y in ((cd8["x_um"], cd8["y_um"]), (marker["tissue_x_um"], marker["tissue_y_um"])):
        counts = (
            pd.Series(1, index=pd.MultiIndex.from_arrays([x // 100, y // 100])).groupby(level=[0, 1]).sum()
        )
        wanted = pd.MultiIndex.from_frame(used[["column", "row"]])
        true.append(counts.reindex(wanted, fill_value=0).to_numpy() / used["area_mm2"].to_numpy())
    rows = pd.read_csv(out / "sections.csv").set_index("zone")
    assert rows.loc["all", "spearman"] == pytest.approx(spearmanr(*true).statistic, abs=0.1)
    assert rows.loc["all", "n_tiles"] == len(used) >= 40
    # Bright cells are some of those counted.
    assert 0 < rows.loc["all", "n_bright"] < rows.loc["all", "n_marker"]
    assert "serial sections do not hold the same cells" in rows.loc["all", "not_assessable"]
    assert rows["n_cd8"].drop("all").sum() <= rows.loc["all", "n_cd8"]


@pytest.mark.slow
def test_landmarks_that_disagree_refuse_the_pair(rendered_pair: PairOnDisk, tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform([300, 300], [1000, 700], (6, 2))
    serial, _ = rendered_pair.pair.mounting.to_serial(points)
    landmarks = tmp_path / "points.csv"
    frame = pd.DataFrame(np.column_stack([points, serial + np.array([60.0, 0.0])]))
    frame.columns = pd.Index(["x_um", "y_um", "serial_x_um", "serial_y_um"])
    frame.to_csv(landmarks, index=False)
    pair = Pair("cd8", "pd1", "PD-1", landmarks)
    (result,) = run_sections(rendered_pair.results, [pair], tmp_path / "out", SectionsConfig(), console=QUIET)
    assert result.status == "refused"
    assert result.registration is not None
    assert result.registration.error_source == "landmarks"
    assert result.registration.error_um == pytest.approx(60, abs=15)
    assert not (tmp_path / "out" / "cd8__pd1" / "tiles.parquet").exists()
    (row,) = pd.read_csv(tmp_path / "out" / "sections.csv").to_dict(orient="records")
    assert row["status"] == "refused"
    assert "um allowed" in row["reason"]
    assert np.isnan(row["n_tiles"])


def test_what_cannot_be_used_is_said_before_any_work(rendered_pair: PairOnDisk, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no results of x, y"):
        run_sections(
            rendered_pair.results, [Pair("x", "y", "PD-1")], tmp_path, SectionsConfig(), console=QUIET
        )
    with pytest.raises(ConfigError, match=r"run\.json"):
        run_sections(tmp_path, [PAIR], tmp_path, SectionsConfig(), console=QUIET)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConfigError, match="Name another --out"):
        run_sections(rendered_pair.results, [PAIR], blocked, SectionsConfig(), console=QUIET)


def test_a_slide_that_is_gone_fails_its_pair_alone(rendered_pair: PairOnDisk, tmp_path: Path) -> None:
    results = tmp_path / "results"
    for name in ("cd8", "pd1"):
        (results / name).mkdir(parents=True)
        summary = json.loads((rendered_pair.results / name / "summary.json").read_text())
        summary["path"] = str(tmp_path / f"{name}.tif")
        (results / name / "summary.json").write_text(json.dumps(summary))
    (results / "run.json").write_bytes((rendered_pair.results / "run.json").read_bytes())
    (result,) = run_sections(results, [PAIR], tmp_path / "out", SectionsConfig(), console=QUIET)
    assert result.status == "failed"
    assert result.reason is not None
    assert "is not there any more" in result.reason
