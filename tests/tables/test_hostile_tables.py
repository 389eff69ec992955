"""Tables of any bytes: read, or refused with a reason."""

from __future__ import annotations

import gzip
from pathlib import Path
from random import Random

import pytest
from fuzz import seeds
from hostile import damage, seeds_are_read, survives_damage
from hypothesis import given
from hypothesis import strategies as st

from histo.errors import TableError
from histo.tables.open import open_table


@pytest.mark.parametrize("reader", ["table", "parquet"])
@damage
@given(random=st.randoms(use_true_random=False))
def test_damaged_files_are_read_or_refused(reader: str, random: Random) -> None:
    survives_damage(reader, random)


@pytest.mark.parametrize("reader", ["table", "parquet"])
def test_whole_ones_are_read(reader: str) -> None:
    assert seeds_are_read(reader)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
def test_more_rows_than_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("histo.tables.file._MAX_ROWS", 1)
    text = seeds.cell_tables()[0]
    data = {"a.csv": text, "a.csv.gz": gzip.compress(text), "a.parquet": seeds.parquet_table()}[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TableError, match="more than 1 rows"):
        open_table(tmp_path / name)


def test_a_count_that_no_integer_holds(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("slide,zone,n_positive,n_cells,area_mm2\na,core,1e30,1e31,2\n")
    with pytest.raises(TableError, match="1e\\+30"):
        open_table(tmp_path / "a.csv")
