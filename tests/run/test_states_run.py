from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_states import panel, results_folder
from typer.testing import CliRunner

from histo.cli import app
from histo.errors import ConfigError, ResultsError
from histo.measure.state.fractions import state_fraction
from histo.measure.state.summary import BatchGates, StatesSummary
from histo.measure.state.words import LIMITS
from histo.run.states import run_states

COLUMNS = (
    "slide_id,state,zone,n_cd8,n_positive,fraction,fraction_low,fraction_high,area_mm2,density_per_mm2,"
    "density_low_per_mm2,density_high_per_mm2,not_assessable"
)
THREE = {"PD-1": 0.4, "TIM-3": 0.3, "TCF1": 0.3}


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[pd.DataFrame]]:
    folder = tmp_path_factory.mktemp("batch")
    truth = results_folder(folder, [THREE, {**THREE, "PD-1": 0.0}])
    run_states(folder)
    return folder, truth


def test_everything_is_written(batch: tuple[Path, list[pd.DataFrame]]) -> None:
    folder, _ = batch
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "gates.json",
        "states.csv",
        "states.html",
        "slide-0/states.json",
        "slide-1/states.parquet",
    } <= names
    assert not [name for name in names if ".part" in name]
    gates = BatchGates.model_validate_json((folder / "gates.json").read_bytes())
    assert [gate.method for gate in gates.gates] == ["mixture"] * 3
    assert gates.slides == ["slide-0", "slide-1"]


def test_the_table_has_a_row_for_each_slide_zone_and_state(batch: tuple[Path, list[pd.DataFrame]]) -> None:
    folder, truth = batch
    text = (folder / "states.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0] == COLUMNS
    rows = pd.read_csv(folder / "states.csv")
    states = ["PD-1+", "TIM-3+", "TCF1+", "PD-1 bright", "PD-1+TIM-3+", "PD-1+TCF1+", "PD-1+TIM-3+TCF1-"]
    assert len(rows) == 2 * 5 * len(states)
    assert rows["state"].unique().tolist() == states
    for number, cells in enumerate(truth):
        for zone in ("all", "core", "far"):
            row = rows.set_index(["slide_id", "zone", "state"]).loc[(f"slide-{number}", zone, "PD-1+")]
            inside = cells if zone == "all" else cells[cells["zone"] == zone]
            assert row["n_cd8"] == len(inside)
            assert row["fraction"] == pytest.approx(inside["PD-1_true"].mean(), abs=0.03)
            assert row["fraction_low"] <= inside["PD-1_true"].mean() <= row["fraction_high"]
            assert row["density_per_mm2"] == pytest.approx(row["n_positive"] / row["area_mm2"])
    bright = rows[rows["state"] == "PD-1 bright"]
    assert bright["n_positive"].isna().all()
    assert bright["not_assessable"].str.contains("bright gate").all()


def test_cells_carry_their_calls(batch: tuple[Path, list[pd.DataFrame]]) -> None:
    folder, truth = batch
    cells = pd.read_parquet(folder / "slide-0" / "states.parquet")
    assert cells["cell_id"].tolist() == truth[0]["cell_id"].tolist()
    assert cells.columns.tolist() == [
        "cell_id",
        "PD-1+",
        "TIM-3+",
        "TCF1+",
        "PD-1+TIM-3+",
        "PD-1+TCF1+",
        "PD-1+TIM-3+TCF1-",
    ]
    assert (cells.dtypes.iloc[1:] == "boolean").all()
    both = cells["PD-1+"] & cells["TIM-3+"]
    assert (cells["PD-1+TIM-3+"] == both).all()
    assert (cells["PD-1+TIM-3+TCF1-"] == (both & ~cells["TCF1+"])).all()
    assert np.mean(cells["PD-1+"] == truth[0]["PD-1_true"]) > 0.98


def test_the_summary_of_a_slide(batch: tuple[Path, list[pd.DataFrame]]) -> None:
    folder, truth = batch
    slide = StatesSummary.model_validate_json((folder / "slide-0" / "states.json").read_bytes())
    assert slide.n_cd8 == len(truth[0])
    whole = slide.measures[0]
    true = truth[0]
    load = true["PD-1_true"].astype(int) + true["TIM-3_true"]
    assert whole.load_markers == ["PD-1", "TIM-3"]
    assert whole.co_inhibitory_load.value == pytest.approx(load.mean(), abs=0.05)
    terminal = true["PD-1_true"] & true["TIM-3_true"] & ~true["TCF1_true"]
    ratio = (true["PD-1_true"] & true["TCF1_true"]).sum() / terminal.sum()
    assert whole.progenitor_terminal_ratio.value == pytest.approx(ratio, rel=0.25)
    assert "bright" in str(whole.h_score["PD-1"].not_assessable)
    assert "negative cells" in str(whole.arcsinh_z["PD-1"].not_assessable)
    assert slide.profile is not None
    steps = [step for step in slide.profile if step.state == "PD-1+"]
    assert [(step.low_um, step.high_um) for step in steps] == [(-100, -50), (-50, 0), (0, 50), (50, 100)]
    assert sum(step.n_cd8 for step in steps) == slide.n_cd8


def test_the_page_says_what_may_be_said(batch: tuple[Path, list[pd.DataFrame]]) -> None:
    folder, _ = batch
    page = (folder / "states.html").read_text(encoding="utf-8")
    assert "exhausted" not in page.casefold()
    assert LIMITS in page
    assert page.count("<svg") >= 3
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "")
    assert "<script" not in page


def test_again_gives_the_same_bytes(batch: tuple[Path, list[pd.DataFrame]], tmp_path: Path) -> None:
    folder, _ = batch
    run_states(folder, tmp_path)
    for name in ("gates.json", "states.csv", "slide-0/states.json", "slide-1/states.parquet", "states.html"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_settings_on_the_command_line_change_the_gates(
    batch: tuple[Path, list[pd.DataFrame]], tmp_path: Path
) -> None:
    folder, _ = batch
    arguments = ["--set", "states.gates={PD-1: 30}", "--set", "states.bright_gates={PD-1: 90}"]
    done = CliRunner().invoke(app, ["states", str(folder), "--out", str(tmp_path), *arguments])
    assert done.exit_code == 0, done.output
    gates = BatchGates.model_validate_json((tmp_path / "gates.json").read_bytes())
    assert (gates.gates[0].method, gates.gates[0].threshold) == ("manual", 30)
    rows = pd.read_csv(tmp_path / "states.csv").set_index(["slide_id", "zone", "state"])
    bright = rows.loc[("slide-0", "all", "PD-1 bright")]
    assert 0 < bright["n_positive"] < rows.loc[("slide-0", "all", "PD-1+"), "n_positive"]
    slide = StatesSummary.model_validate_json((tmp_path / "slide-0" / "states.json").read_bytes())
    assert 0 < slide.measures[0].h_score["PD-1"].value < 300


def test_control_slides_set_the_gates_and_are_not_told(tmp_path: Path) -> None:
    results_folder(tmp_path, [{"PD-1": 0.4}, {"PD-1": 0.0}])
    result = run_states(tmp_path, overrides=["states.control_slides=[slide-1]"])
    assert result.gates.gates[0].method == "control slides"
    assert [slide.slide_id for slide in result.slides] == ["slide-0"]
    assert result.slides[0].measures[0].arcsinh_z["PD-1"].value > 0
    whole = result.slides[0].states[0]
    share = {"negative_share": 0.01, "n_negative": result.gates.gates[0].n_reference}
    expected = state_fraction(whole.n_positive, whole.n_cd8, **share, min_cells=20, level=0.95)
    assert (whole.fraction.low, whole.fraction.high) == (pytest.approx(expected.low), expected.high)
    assert not (tmp_path / "slide-1" / "states.json").exists()
    with pytest.raises(ConfigError, match=r"control_slides names isotype, not among the finished slides"):
        run_states(tmp_path, overrides=["states.control_slides=[isotype]"])


def test_negatives_of_one_region(tmp_path: Path) -> None:
    results_folder(tmp_path, [{"PD-1": 0.4}])
    result = run_states(tmp_path, overrides=["states.negatives={PD-1: other in tumour}"])
    gate = result.gates.gates[0]
    assert gate.method == "negative cells"
    assert 250 < gate.n_reference < 400
    assert gate.fraction == pytest.approx(0.4, abs=0.05)


def test_without_a_border_zones_are_not_assessed(tmp_path: Path) -> None:
    results_folder(tmp_path, [{"PD-1": 0.4}], assessable=False)
    result = run_states(tmp_path)
    assert result.slides[0].profile is None
    rows = list(csv.DictReader((tmp_path / "states.csv").read_text(encoding="utf-8").splitlines()))
    core = next(row for row in rows if row["zone"] == "core")
    assert (core["n_cd8"], core["fraction"], core["not_assessable"]) == ("", "", "no tumour annotation")
    whole = next(row for row in rows if row["zone"] == "all")
    assert float(whole["fraction"]) == pytest.approx(0.4, abs=0.06)


def test_few_cells_are_counted_but_give_no_fraction(tmp_path: Path) -> None:
    results_folder(tmp_path, [{"PD-1": 0.5}], n_cd8=18)
    run_states(tmp_path, overrides=["states.gates={PD-1: 30}"])
    row = pd.read_csv(tmp_path / "states.csv").iloc[0]
    assert row["n_positive"] > 0
    assert np.isnan(row["fraction"])
    assert "CD8+ cells, 20 needed" in row["not_assessable"]
    assert row["density_per_mm2"] > 0


def test_mistakes_are_told(tmp_path: Path) -> None:
    results_folder(tmp_path, [{"PD-1": 0.5}])
    with pytest.raises(ConfigError, match="the panel has no markers beside CD8"):
        run_states(tmp_path, overrides=["panel.markers=[]"])
    markers = json.dumps(panel(["PD-1", "TOX"]))
    with pytest.raises(ResultsError, match="not measured for TOX_ring_mean"):
        run_states(tmp_path, overrides=[f"panel.markers={markers}"])
    with pytest.raises(ConfigError, match="gates names TOX, not in the panel"):
        run_states(tmp_path, overrides=["states.gates={TOX: 1}"])
    with pytest.raises(ConfigError, match="min_gates names TOX, not in the panel"):
        run_states(tmp_path, overrides=["states.min_gates={TOX: 1}"])
    with pytest.raises(ConfigError, match="a state cannot be called 'exhausted'"):
        run_states(tmp_path, overrides=["states.rules={exhausted: PD-1}"])
    with pytest.raises(ConfigError, match="a results folder has its own format"):
        run_states(tmp_path, mpp=0.5)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        run_states(tmp_path)
    (tmp_path / "slide-0" / "summary.json").unlink()
    config = tmp_path / "panel.yaml"
    config.write_text(f"panel: {{markers: {json.dumps(panel(['PD-1']))}}}", encoding="utf-8")
    with pytest.raises(ResultsError, match="summary of a slide is missing"):
        run_states(tmp_path, config=config)
