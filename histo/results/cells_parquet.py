"""The cell table on disk: GeoParquet 1.1, streamed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from histo.cells.table import CELL_COLUMNS, cell_columns, markers_of
from histo.errors import ResultsError
from histo.results.atomic import StreamedOutput, unwritable

GEOMETRY: Final = "geometry"
ROW_GROUP: Final = 20_000

_FRAME = (
    "Positions and outlines are um from the top-left corner of the level-0 image, x to the right, y down; "
    "columns ending in _px are level-0 pixels. A null signed_distance_um means that no tumour border is "
    "known; negative is inside the tumour."
)
_UNITS = {"_um": "um", "_um2": "um^2", "_px": "level-0 pixel"}
_TEXT_COLUMNS = [name for name, dtype in CELL_COLUMNS.items() if dtype.kind == "O"]


class CellParquetWriter(StreamedOutput):
    """Write cells as they come; a context manager.

    The file appears under its name when the block ends without an error, not before. Memory is bounded by one
    row group of 20,000 cells. The bytes do not depend on how the cells were batched.

    Parameters
    ----------
    markers : those that the cells are measured for.

    Raises ResultsError where the file cannot be written.
    """

    def __init__(self, path: Path, markers: Sequence[str] = ()) -> None:
        super().__init__(path)
        self._columns = cell_columns(markers)
        self._schema = _schema(self._columns)
        self._pending: list[pa.Table] = []
        self._n_pending = 0
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self.n_cells = 0
        try:
            self._writer = pq.ParquetWriter(
                self._part, self._schema, compression="zstd", use_dictionary=_TEXT_COLUMNS
            )
        except OSError as error:
            raise unwritable(path, error) from error

    def write(self, table: pd.DataFrame, outlines: NDArray[np.object_]) -> None:
        """Add cells.

        Parameters
        ----------
        table : exactly the columns of `cell_columns(markers)`.
        outlines : (n,) shapely polygons in um, in the order of the rows.

        Raises
        ------
        ValueError : other columns, a missing or empty outline, or not one outline per row.
        """
        check_cells(table, outlines, self._columns)
        if len(table) == 0:
            return
        columns = [
            pa.array(table[name].to_numpy(), type=self._schema.field(name).type, from_pandas=True)
            for name in self._columns
        ]
        columns.append(pa.array(shapely.to_wkb(outlines, byte_order=1), type=pa.binary()))
        bounds = shapely.bounds(outlines)
        self._bounds[:2] = np.minimum(self._bounds[:2], bounds[:, :2].min(axis=0))
        self._bounds[2:] = np.maximum(self._bounds[2:], bounds[:, 2:].max(axis=0))
        self._pending.append(pa.Table.from_arrays(columns, schema=self._schema))
        self._n_pending += len(table)
        self.n_cells += len(table)
        if self._n_pending >= ROW_GROUP:
            self._flush(whole_groups_only=True)

    def _finish(self) -> None:
        self._flush(whole_groups_only=False)
        self._writer.add_key_value_metadata({"geo": json.dumps(self._geo())})
        self._writer.close()

    def _release(self) -> None:
        self._pending.clear()
        self._writer.close()

    def _flush(self, *, whole_groups_only: bool) -> None:
        rows = pa.concat_tables(self._pending) if self._pending else self._schema.empty_table()
        n = len(rows) - len(rows) % ROW_GROUP if whole_groups_only else len(rows)
        if n:
            try:
                self._writer.write_table(rows.slice(0, n), row_group_size=ROW_GROUP)
            except OSError as error:
                raise unwritable(self._path, error) from error
        # A copy: a slice would keep the whole buffer alive.
        rest = rows.slice(n)
        self._pending = [rest.take(pa.array(range(len(rest)), pa.int64()))] if len(rest) else []
        self._n_pending = len(rest)

    def _geo(self) -> dict[str, Any]:
        """Metadata of the GeoParquet 1.1 specification; `crs` null is its word for "not on Earth"."""
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": ["Polygon"] if self.n_cells else [],
            "crs": None,
            "edges": "planar",
        }
        if self.n_cells:
            column["bbox"] = self._bounds.tolist()
        return {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}


def read_cells(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a cell table back, as `cell_frame` would build it.

    Parameters
    ----------
    path : a `cells.parquet`.
    columns : which; None for all, those of markers as well. "geometry" gives the outlines, as shapely
        polygons in um.

    Raises
    ------
    ResultsError : the file is missing, damaged or not a cell table.
    """
    batches = list(iter_cells(path, columns))
    return pd.concat(batches, ignore_index=True) if len(batches) > 1 else batches[0]


def iter_cells(
    path: Path, columns: Sequence[str] | None = None, *, batch_size: int = ROW_GROUP
) -> Iterator[pd.DataFrame]:
    """Read a cell table in pieces of at most `batch_size` rows; one empty piece for an empty table.

    Parameters and errors as in `read_cells`.
    """
    asked = columns or ()
    schema = cell_columns(markers_of(asked))
    unknown = [name for name in asked if name != GEOMETRY and name not in schema]
    if unknown:
        raise ValueError(f"not columns of the cell table: {unknown}")
    try:
        with pq.ParquetFile(path) as file:
            schema = cell_columns(markers_of(file.schema_arrow.names))
            wanted = list(schema) if columns is None else list(columns)
            missing = [name for name in wanted if name not in file.schema_arrow.names]
            if missing:
                raise ResultsError(
                    f"not a cell table: it has no {', '.join(missing)}", path=path, fix="Run the slide again"
                )
            empty = True
            for batch in file.iter_batches(batch_size, columns=wanted):
                empty = False
                yield _to_frame(batch, wanted, schema)
            if empty:
                yield _to_frame(file.schema_arrow.empty_table(), wanted, schema)
    except (OSError, pa.ArrowException) as error:
        raise ResultsError(
            f"the cell table cannot be read ({error})", path=path, fix="Run the slide again"
        ) from None


def check_cells(table: pd.DataFrame, outlines: NDArray[np.object_], columns: Iterable[str]) -> None:
    """Raise ValueError unless the table has these columns and one polygon per row."""
    if list(table.columns) != list(columns):
        raise ValueError("the table must have exactly the columns of its schema, in their order")
    if len(outlines) != len(table):
        raise ValueError(f"{len(outlines)} outlines for {len(table)} cells")
    # -1 is the type of None.
    good = (shapely.get_type_id(outlines) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(outlines)
    if not np.all(good):
        raise ValueError("every outline must be a polygon that is not empty")


def _to_frame(rows: Any, columns: list[str], schema: dict[str, np.dtype[Any]]) -> pd.DataFrame:
    data: dict[str, NDArray[Any]] = {}
    for name in columns:
        values = rows.column(name).to_numpy(zero_copy_only=False) if len(rows) else np.empty(0, object)
        if name == GEOMETRY:
            data[name] = shapely.from_wkb(values) if len(rows) else values
        else:
            data[name] = values.astype(schema[name])
    return pd.DataFrame(data)


def _schema(columns: dict[str, np.dtype[Any]]) -> pa.Schema:
    fields = []
    for name, dtype in columns.items():
        kind = pa.string() if dtype.kind == "O" else pa.from_numpy_dtype(dtype)
        unit = next((text for suffix, text in _UNITS.items() if name.endswith(suffix)), None)
        fields.append(pa.field(name, kind, metadata=None if unit is None else {"unit": unit}))
    fields.append(pa.field(GEOMETRY, pa.binary(), metadata={"unit": "um"}))
    units = {field.name: field.metadata[b"unit"].decode() for field in fields if field.metadata}
    return pa.schema(fields, metadata={"histo": json.dumps({"frame": _FRAME, "units": units})})
