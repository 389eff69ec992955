"""States of the CD8+ cells in tables of other programs: no image, the same gates and words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from made_up_states import intensities

from histo.config import Config
from histo.errors import ConfigError, TableError
from histo.measure.state.slide import call_positive
from histo.run.states import StatesResult, states_of_tables
from histo.tables.cells import CellTable
from histo.tables.mapping import TableMapping
from histo.tables.open import open_table

PANEL = {"markers": [{"name": "PD-1", "channel": "PD1", "role": "checkpoint"}]}


def fractions(result: StatesResult, state: str) -> dict[str, tuple[int | None, int | None]]:
    return {
        slide.slide_id: (row.n_positive, row.n_cd8)
        for slide in result.slides
        for row in slide.states
        if (row.state, row.zone) == (state, "all")
    }


def halo(folder: Path, n: int = 60) -> tuple[Path, pd.DataFrame]:
    """Write two images as HALO does, every second cell CD8+."""
    rng = np.random.default_rng(1)
    values, positive = intensities(n, 0.4, 3, contrast=3.0)
    table = pd.DataFrame(
        {
            "Image Location": np.where(np.arange(n) < n // 2, "/a/one.tif", "/a/two.tif"),
            "XMin": rng.integers(0, 2000, n),
            "YMin": rng.integers(0, 2000, n),
            "CD8 (Opal 520) Positive Classification": np.arange(n) % 2,
            "PD1 (Opal 650) Positive Classification": positive.astype(int),
            "PD1 (Opal 650) Nucleus Intensity": values / 10,
            "PD1 (Opal 650) Cytoplasm Intensity": values,
            "PD1 (Opal 650) Cell Intensity": values / 2,
        }
    )
    table["XMax"], table["YMax"] = table["XMin"] + 20, table["YMin"] + 20
    path = folder / "halo.csv"
    table.to_csv(path, index=False)
    return path, table


def test_intensities_travel_where_they_are_asked_for(tmp_path: Path) -> None:
    path, table = halo(tmp_path)
    header = "PD1 (Opal 650) Cell Intensity"
    mapping = TableMapping.model_validate({"columns": {"intensities": {"PD-1": header}}})
    read = open_table(path, mpp=0.5, mapping=mapping)
    assert isinstance(read, CellTable)
    assert read.intensities == {"PD-1_intensity": header}
    assert read.frame["PD-1_intensity"].to_numpy() == pytest.approx(table[header].to_numpy())
    plain = open_table(path, mpp=0.5)
    assert isinstance(plain, CellTable)
    assert "PD-1_intensity" not in plain.frame
    wrong = TableMapping.model_validate({"columns": {"intensities": {"PD-1": "PD1"}}})
    with pytest.raises(TableError, match="no column 'PD1'"):
        open_table(path, mpp=0.5, mapping=wrong)


@pytest.mark.parametrize(("compartment", "scale"), [("nucleus", 0.1), ("ring", 1.0), ("cell", 0.5)])
def test_halo_markers_are_found_by_channel_and_compartment(
    tmp_path: Path, compartment: str, scale: float
) -> None:
    path, table = halo(tmp_path)
    marker = {**PANEL["markers"][0], "compartment": compartment}
    config = Config.model_validate(
        {"panel": {"markers": [marker]}, "states": {"gates": {"PD-1": 40 * scale}, "min_cd8_cells": 10}}
    )
    result = states_of_tables(path, config, tmp_path / "out", mpp=0.5)
    cd8 = table["CD8 (Opal 520) Positive Classification"] == 1
    above = table["PD1 (Opal 650) Cytoplasm Intensity"] > 40
    by_image = (cd8 & above).groupby(table["Image Location"]).sum()
    assert fractions(result, "PD-1+") == {
        "one.tif": (by_image["/a/one.tif"], 15),
        "two.tif": (by_image["/a/two.tif"], 15),
    }
    assert (tmp_path / "out" / "one.tif" / "states.parquet").is_file()
    assert result.slides[0].states[0].density.not_assessable == "a table of cells does not say its area"


def test_calls_of_the_table_are_believed_where_nothing_else_is_configured(tmp_path: Path) -> None:
    path, table = halo(tmp_path)
    result = states_of_tables(path, Config(), tmp_path / "out", mpp=0.5)
    gate = result.gates.gates[0]
    assert (gate.marker, gate.method, gate.threshold) == ("PD-1", "table", None)
    cd8 = table[table["CD8 (Opal 520) Positive Classification"] == 1]
    positive = cd8["PD1 (Opal 650) Positive Classification"].sum()
    assert sum(n for n, _ in fractions(result, "PD-1+").values()) == positive
    assert gate.fraction == pytest.approx(positive / 30)


def test_a_generic_table_is_gated_as_one_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    n = 900
    share = np.repeat([0.5, 0.0, 0.3], n // 3)
    values = np.concatenate([intensities(n // 3, f, 7 + i)[0] for i, f in enumerate((0.5, 0.0, 0.3))])
    pd.DataFrame(
        {
            "x": rng.uniform(0, 2000, n),
            "y": rng.uniform(0, 2000, n),
            "image": np.repeat(["a", "b", "c"], n // 3),
            "phenotype": "CD8+",
            "PD1": values,
        }
    ).to_parquet(tmp_path / "cells.parquet")
    columns = {"x": "x", "y": "y", "image": "image", "cell_class": "phenotype"}
    mapping = TableMapping.model_validate({"unit": "um", "columns": columns})
    result = states_of_tables(
        tmp_path / "cells.parquet", Config.model_validate({"panel": PANEL}), tmp_path / "out", mapping=mapping
    )
    assert result.gates.gates[0].method == "mixture"
    for (_, (positive, total)), expected in zip(
        fractions(result, "PD-1+").items(), share[::300], strict=True
    ):
        assert positive / total == pytest.approx(expected, abs=0.06)


def test_mistakes_are_told(tmp_path: Path) -> None:
    path, _ = halo(tmp_path)
    marker = {"name": "TOX", "channel": "TOX"}
    config = Config.model_validate({"panel": {"markers": [marker]}})
    with pytest.raises(ConfigError, match="neither an intensity nor calls of TOX"):
        states_of_tables(path, config, tmp_path / "out", mpp=0.5)
    zones = tmp_path / "zones.csv"
    zones.write_text("slide,zone,n_positive,area_mm2\na,core,3,1.0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no cells"):
        states_of_tables(zones, Config.model_validate({"panel": PANEL}), tmp_path / "out")
    controls = Config.model_validate({"states": {"control_slides": ["isotype"]}})
    with pytest.raises(ConfigError, match="names isotype, not in the table"):
        states_of_tables(path, controls, tmp_path / "out", mpp=0.5)


# Real tables


def halo_thresholds(inputs: str) -> dict[str, dict[str, float]]:
    """Return the thresholds that HALO lists in Analysis Inputs, by dye and compartment."""
    dyes = re.findall(r"Dye \d+:(\w+) \([^;]*;(.*?)(?=Dye \d+:|phenotype_name:)", inputs)
    return {
        dye: {
            part: float(value)
            for part, value in re.findall(r"dye_(nuclei|cyto)_positive_threshold:([\d.]+)", settings)
        }
        for dye, settings in dyes
    }


def test_spatialtime_counts_equal_the_tables_own_calls(data_dir: Path, tmp_path: Path) -> None:
    """HALO lists its thresholds in the table; a cell is positive where a compartment lies above its own."""
    path = data_dir / "tables" / "spatialtime_halo_tma1.csv.gz"
    table = pd.read_csv(path)
    thresholds = halo_thresholds(table["Analysis.Inputs"][0])
    assert thresholds["PD1"] == {"nuclei": 14.0, "cyto": 4.0}
    headers = {
        "CD3": "Opal.570",
        "CD8": "Opal.520",
        "PD1": "Opal.650",
        "FOXP3": "Opal.620",
        "PDL1": "Opal.540",
    }
    called = {}
    for dye, opal in headers.items():
        parts = {"nuclei": "Nucleus", "cyto": "Cytoplasm"}
        above = [
            call_positive(table[f"{dye}..{opal}..{parts[part]}.Intensity"].to_numpy(), at).to_numpy(bool)
            for part, at in thresholds[dye].items()
        ]
        called[dye] = above[0] | above[1]
        assert (called[dye] == (table[f"{dye}..{opal}..Positive"] == 1)).all(), dye
    assert {dye: int(cells.sum()) for dye, cells in called.items()} == {
        "CD3": 17,
        "CD8": 7,
        "PD1": 0,
        "FOXP3": 3,
        "PDL1": 1,
    }
    config = Config.model_validate(
        yaml.safe_load(
            """
            panel:
              markers:
                - {name: CD3, channel: CD3, role: lineage, compartment: ring}
                - {name: PD-1, channel: PD1, role: checkpoint, compartment: ring}
                - {name: FOXP3, channel: FOXP3, role: state, compartment: nucleus}
                - {name: PD-L1, channel: PDL1, role: other, compartment: ring}
            states:
              gates: {CD3: 5, PD-1: 4, FOXP3: 6, PD-L1: 3}
              rules: {CD3+: CD3, CD3+FOXP3+: CD3 & FOXP3, CD3+PD-L1+: CD3 & PD-L1}
              min_cd8_cells: 5
            """
        )
    )
    result = states_of_tables(path, config, tmp_path, mpp=0.5)
    rows = {row.state: row for row in result.slides[0].states if row.zone == "all"}
    own = {
        "CD3+": "CD3..CD8.",
        "CD3+FOXP3+": "CD3..CD8..FOXP3.",
        "PD-1+": "CD8..PD1.",
        "CD3+PD-L1+": "CD3..CD8..PD.L1.",
    }
    assert {state: rows[state].n_positive for state in own} == {
        state: int(table[header].sum()) for state, header in own.items()
    }
    assert {state: rows[state].n_positive for state in own} == {
        "CD3+": 3,
        "CD3+FOXP3+": 0,
        "PD-1+": 0,
        "CD3+PD-L1+": 0,
    }
    fraction = rows["CD3+"].fraction
    # Wilson's interval of 3 in 7.
    assert (fraction.value, fraction.low, fraction.high) == pytest.approx((3 / 7, 0.1582, 0.7495), abs=1e-4)
    plain = states_of_tables(path, config.model_copy(update={"states": Config().states}), tmp_path, mpp=0.5)
    row = next(row for row in plain.slides[0].states if row.state == "PD-1+" and row.zone == "all")
    assert (row.n_positive, row.n_cd8) == (0, 7)
    assert row.fraction.not_assessable == "only 7 CD8+ cells, 20 needed"


def test_scimap_cells_by_stated_gates(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "tables" / "scimap_example_cells.csv"
    columns = {"x": "X_position", "y": "Y_position", "positive_above": {"CD8A": 1500}}
    mapping = TableMapping.model_validate({"columns": columns})
    markers = [*PANEL["markers"], {"name": "Ki67", "channel": "KI67", "role": "state"}]
    config = Config.model_validate(
        {"panel": {"markers": markers}, "states": {"gates": {"PD-1": 2500, "Ki67": 3000}}}
    )
    result = states_of_tables(path, config, tmp_path, mpp=0.65, mapping=mapping)
    table = pd.read_csv(path)
    cd8 = table[table["CD8A"] > 1500]
    pd1, ki67 = cd8["PD1"] > 2500, cd8["KI67"] > 3000
    for state, expected in (("PD-1+", pd1), ("Ki67+", ki67), ("PD-1+Ki67+", pd1 & ki67)):
        assert fractions(result, state) == {"scimap_example_cells": (expected.sum(), len(cd8))}
    row = result.slides[0].states[0]
    assert row.fraction.low < row.fraction.value < row.fraction.high


def test_scimap_is_not_split_where_there_is_no_valley(data_dir: Path, tmp_path: Path) -> None:
    """Otsu would call 43 % of these cells PD-1+: their intensities have one broad peak."""
    path = data_dir / "tables" / "scimap_example_cells.csv"
    columns = {"x": "X_position", "y": "Y_position", "positive_above": {"CD8A": 1500}}
    markers = [*PANEL["markers"], {"name": "Ki67", "channel": "KI67", "role": "state"}]
    result = states_of_tables(
        path,
        Config.model_validate({"panel": {"markers": markers}}),
        tmp_path,
        mpp=0.65,
        mapping=TableMapping.model_validate({"columns": columns}),
    )
    pd1, ki67 = result.gates.gates
    assert pd1.method == "other nuclei"
    assert [flag.code for flag in pd1.flags] == ["gate_from_other_nuclei"]
    # Tumour cells divide, so that other nuclei are no reference.
    assert "two populations that overlap or a single skewed one" in str(ki67.not_assessable)


def test_inform_markers_are_found_by_compartment(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "mif" / "FIHC4__0929309_HP_IM3_2_cell_seg_data.txt"
    marker = {"name": "PD-1", "channel": "Cy5", "role": "checkpoint"}
    for compartment, header in (("cell", "Entire Cell"), ("ring", "Membrane"), ("nucleus", "Nucleus")):
        config = Config.model_validate(
            {
                "panel": {"markers": [{**marker, "compartment": compartment}]},
                "states": {"gates": {"PD-1": 3.5}, "min_cd8_cells": 5},
            }
        )
        result = states_of_tables(path, config, tmp_path, mpp=0.5)
        table = pd.read_csv(path, sep="\t", na_values="#N/A")
        cells = table[table["Phenotype"] == "Cytotoxic T"]
        above = cells[f"{header} Cy5 Mean (Normalized Counts, Total Weighting)"] > 3.5
        assert list(fractions(result, "PD-1+").values()) == [(above.sum(), 6)]
