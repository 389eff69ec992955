from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from made_up import make_cells
from shapely.geometry import MultiPolygon, Polygon, box

from histo.cells.table import CELL_COLUMNS, cell_columns, empty_cells
from histo.errors import ResultsError
from histo.results.cells_parquet import ROW_GROUP, CellParquetWriter, iter_cells, read_cells


def _write(path: Path, table: pd.DataFrame, outlines: np.ndarray, batch: int = 10**9) -> Path:
    with CellParquetWriter(path) as writer:
        for start in range(0, len(table), batch):
            writer.write(table.iloc[start : start + batch], outlines[start : start + batch])
    return path


def test_round_trip_keeps_every_value_and_dtype(tmp_path: Path) -> None:
    table, outlines = make_cells(200)
    path = _write(tmp_path / "cells.parquet", table, outlines, batch=7)
    back = read_cells(path)
    pd.testing.assert_frame_equal(back, table, check_exact=True)
    assert list(back.columns) == list(CELL_COLUMNS)
    shapes = read_cells(path, ["cell_id", "geometry"])["geometry"]
    assert all(a.equals_exact(b, 0) for a, b in zip(shapes, outlines, strict=True))


def test_geopandas_opens_it_without_a_place_on_earth(tmp_path: Path) -> None:
    table, outlines = make_cells(50)
    frame = geopandas.read_parquet(_write(tmp_path / "cells.parquet", table, outlines))
    assert len(frame) == 50
    assert frame.crs is None
    np.testing.assert_allclose(frame.area, table["area_um2"], rtol=1e-6)
    np.testing.assert_array_equal(frame["signed_distance_um"].isna(), table["signed_distance_um"].isna())


def test_metadata_is_geoparquet_1_1_and_says_the_units(tmp_path: Path) -> None:
    table, outlines = make_cells(5)
    metadata = pq.read_metadata(_write(tmp_path / "cells.parquet", table, outlines)).metadata
    geo = json.loads(metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    column = geo["columns"][geo["primary_column"]]
    assert column["encoding"] == "WKB"
    assert column["crs"] is None
    assert column["geometry_types"] == ["Polygon"]
    bounds = np.array([o.bounds for o in outlines])
    np.testing.assert_allclose(column["bbox"], [*bounds[:, :2].min(0), *bounds[:, 2:].max(0)])
    units = json.loads(metadata[b"histo"])["units"]
    assert units["x_um"] == "um"
    assert units["area_um2"] == "um^2"
    assert units["x_px"] == "level-0 pixel"


def test_an_empty_slide_gives_a_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "cells.parquet"
    with CellParquetWriter(path):
        pass
    pd.testing.assert_frame_equal(read_cells(path), empty_cells())
    assert len(geopandas.read_parquet(path)) == 0
    assert len(read_cells(path, ["geometry"])) == 0


def test_bytes_do_not_depend_on_batches(tmp_path: Path) -> None:
    table, outlines = make_cells(300)
    a = _write(tmp_path / "a.parquet", table, outlines)
    b = _write(tmp_path / "b.parquet", table, outlines, batch=17)
    assert a.read_bytes() == b.read_bytes()


def test_row_groups_are_bounded(tmp_path: Path) -> None:
    table, outlines = make_cells(ROW_GROUP // 4)
    with CellParquetWriter(tmp_path / "cells.parquet") as writer:
        for _ in range(9):
            writer.write(table, outlines)
        assert writer._n_pending < ROW_GROUP
    file = pq.ParquetFile(tmp_path / "cells.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [
        ROW_GROUP,
        ROW_GROUP,
        ROW_GROUP // 4,
    ]
    sizes = [len(part) for part in iter_cells(tmp_path / "cells.parquet", ["x_um"], batch_size=40_000)]
    assert sum(sizes) == 9 * len(table)
    assert max(sizes) <= 40_000


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    table, outlines = make_cells(10)
    writer = CellParquetWriter(tmp_path / "cells.parquet")
    writer.write(table, outlines)
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="columns"), writer:
        writer.write(table[["x_um"]], outlines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(lambda t, o: (t.drop(columns="zone"), o), id="column missing"),
        pytest.param(lambda t, o: (t.assign(more=1), o), id="column too many"),
        pytest.param(lambda t, o: (t, o[:-1]), id="outline missing"),
        pytest.param(lambda t, o: (t, np.array([None, *o[1:]], object)), id="no outline"),
        pytest.param(lambda t, o: (t, np.array([Polygon(), *o[1:]], object)), id="empty outline"),
        pytest.param(
            lambda t, o: (t, np.array([MultiPolygon([box(0, 0, 1, 1)]), *o[1:]], object)), id="not a polygon"
        ),
    ],
)
def test_cells_that_do_not_fit_are_refused(tmp_path: Path, bad: object) -> None:
    table, outlines = bad(*make_cells(3))  # type: ignore[operator]
    with pytest.raises(ValueError), CellParquetWriter(tmp_path / "cells.parquet") as writer:
        writer.write(table, outlines)


def test_columns_of_markers_come_last_and_back(tmp_path: Path) -> None:
    table, outlines = make_cells(30, markers=("PD-1", "TCF1"))
    table.loc[3, "PD-1_nucleus_mean"] = np.float32("nan")
    path = tmp_path / "cells.parquet"
    with CellParquetWriter(path, ("PD-1", "TCF1")) as writer:
        writer.write(table, outlines)
    pd.testing.assert_frame_equal(read_cells(path), table, check_exact=True)
    names = pq.read_schema(path).names
    assert names == [*CELL_COLUMNS, *names[len(CELL_COLUMNS) : -1], "geometry"]
    some = read_cells(path, ["cell_id", "TCF1_nucleus_mean", "geometry"])
    assert some["TCF1_nucleus_mean"].dtype == np.float32
    with pytest.raises(ResultsError, match="LAG-3_ring_mean"):
        read_cells(path, ["LAG-3_ring_mean"])
    with pytest.raises(ValueError, match="columns"), CellParquetWriter(tmp_path / "other.parquet") as writer:
        writer.write(table, outlines)


def test_an_empty_table_of_markers_keeps_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "cells.parquet"
    with CellParquetWriter(path, ("PD-1",)):
        pass
    assert list(read_cells(path).columns) == list(cell_columns(("PD-1",)))


def test_files_that_are_no_cell_table_are_told(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="cannot be read"):
        read_cells(tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ResultsError, match="cannot be read"):
        read_cells(tmp_path / "broken.parquet")
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ResultsError, match="not a cell table"):
        read_cells(tmp_path / "other.parquet")
    with pytest.raises(ResultsError, match="cannot be written"):
        CellParquetWriter(tmp_path / "none" / "cells.parquet")
    with pytest.raises(ValueError, match="not columns"):
        read_cells(tmp_path / "other.parquet", ["nonsense"])
