from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from made_up import make_summary

from histo.errors import ResultsError
from histo.results.slides_table import COLUMNS, SlideRow, read_slides_table, write_slides_table


def _csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "slides.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_per_slide_failed_ones_too(tmp_path: Path) -> None:
    rows = [
        SlideRow.from_summary(make_summary("a"), site="metastasis", patient="p1"),
        SlideRow.failed("b", Path("/slides/b.svs"), "b.svs: not a slide. Check the file", site="primary"),
    ]
    write_slides_table(tmp_path, rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["slides.csv", "slides.parquet"]
    table = read_slides_table(tmp_path)
    assert list(table.columns) == list(COLUMNS)
    assert list(table["status"]) == ["done", "failed"]
    done, failed = table.iloc[0], table.iloc[1]
    assert done["patient"] == "p1"
    assert done["mpp_um"] == pytest.approx(0.26)
    assert done["n_cd8"] == 2951
    assert done["cd8_density_per_mm2_low"] == 210.8
    assert done["cd8_density_core_per_mm2"] == pytest.approx(812 / 6.2)
    assert done["area_outer_margin_mm2"] == 3.3
    assert done["n_cd8_far"] == 96
    assert done["phenotype"] == "excluded"
    assert done["flags"] == "unread_tiles"
    assert failed["error"] == "b.svs: not a slide. Check the file"
    assert failed["site"] == "primary"
    known = {"slide_id", "path", "status", "error", "site"}
    assert set(table.columns[failed.notna()]) == known

    first, second = _csv(tmp_path)
    assert list(first) == list(COLUMNS)
    assert first["n_cd8"] == "2951"
    assert {name for name, value in second.items() if value} == known


def test_what_cannot_be_assessed_is_empty_with_its_reason_never_0(tmp_path: Path) -> None:
    write_slides_table(tmp_path, [SlideRow.from_summary(make_summary(assessable=False))])
    table = pq.read_table(tmp_path / "slides.parquet")
    (row,) = table.to_pylist()
    for name in ("cd8_density_core_per_mm2", "n_cd8_core", "area_core_mm2", "log2_core_outer", "phenotype"):
        assert row[name] is None
        assert _csv(tmp_path)[0][name] == ""
    assert "no tumour annotation" in row["not_assessable"]
    assert "phenotype" in row["not_assessable"]
    assert row["not_assessable"].count("no tumour annotation") == 1


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_csv_is_a_formula(tmp_path: Path, start: str) -> None:
    name = f'{start}HYPERLINK("x","y")'
    summary = make_summary(name)
    write_slides_table(tmp_path, [SlideRow.from_summary(summary)])
    (row,) = _csv(tmp_path)
    assert row["slide_id"] == f"'{name}"
    # A negative number is a number.
    assert float(row["log2_core_outer"]) == -1.83
    assert read_slides_table(tmp_path)["slide_id"][0] == name


def test_names_of_any_script_survive(tmp_path: Path) -> None:
    name = 'Präparat „7", 日本\nx'
    write_slides_table(tmp_path, [SlideRow.failed(name, "p", "e")])
    assert _csv(tmp_path)[0]["slide_id"] == name
    assert (tmp_path / "slides.csv").read_bytes().decode("utf-8")
    assert read_slides_table(tmp_path)["slide_id"][0] == name


def test_no_slides_give_a_table_with_its_columns(tmp_path: Path) -> None:
    write_slides_table(tmp_path, [])
    assert list(pd.read_csv(tmp_path / "slides.csv").columns) == list(COLUMNS)
    assert len(read_slides_table(tmp_path)) == 0


def test_types_hold_where_every_slide_failed(tmp_path: Path) -> None:
    write_slides_table(tmp_path, [SlideRow.failed("a", "p", "e")])
    schema = pq.read_schema(tmp_path / "slides.parquet")
    assert {field.name: field.type for field in schema} == COLUMNS
    assert np.isnan(read_slides_table(tmp_path)["tissue_area_mm2"][0])


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="cannot be read"):
        read_slides_table(tmp_path)
    with pytest.raises(ResultsError, match="cannot be written"):
        write_slides_table(tmp_path / "none", [])
