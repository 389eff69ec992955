"""The one way in: a table of another program, or a folder of them, as zones or cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from histo.errors import HistoError, PixelSizeError, TableError
from histo.slide.pixel_size import MAX_MPP, MIN_MPP, believable
from histo.tables.cell_files import read_cell_file
from histo.tables.cells import CellTable
from histo.tables.file import TableFile, is_table, listed, open_file, some
from histo.tables.join_cells import join_cells
from histo.tables.join_zones import join_zones
from histo.tables.layouts import Format, recognise
from histo.tables.mapping import TableMapping
from histo.tables.zone_files import read_qupath_zones, read_zone_csv
from histo.tables.zones import ZoneTable, zone_frame

_SHOWN = 10


def open_table(
    path: Path | str,
    *,
    format: Format | None = None,
    mpp: float | None = None,
    mapping: TableMapping | None = None,
) -> ZoneTable | CellTable:
    """Read a table of another program, or all tables of a folder (not of folders in it).

    Parameters
    ----------
    path : a CSV, TSV, text or Parquet file (text also gzipped), or a folder of files of one format.
    format : "qupath_zones", "zones" (tables of zones), "qupath", "halo", "inform", "columns" (cells). None:
        what the header says. In a folder, files whose header says otherwise are then left out, and noted.
    mpp : pixel size in um, for positions in pixels.
    mapping : what columns, classes, zones and groups mean; None for the usual names.

    Raises
    ------
    PixelSizeError : positions are in pixels and there is no pixel size.
    TableError : a file cannot be read or understood; of a folder, all mistakes are listed.
    """
    path = Path(path)
    mapping = TableMapping() if mapping is None else mapping
    if format is not None and format not in get_args(Format):
        raise TableError(f"no format {format!r}", fix=f"Choose one of {', '.join(get_args(Format))}")
    if mpp is not None and not believable(mpp):
        raise PixelSizeError(
            f"{mpp:g} um is not the pixel size of a slide ({MIN_MPP:g} to {MAX_MPP:g} um)",
            path=path,
            fix="Give um per pixel",
        )
    notes: list[str] = []
    if path.is_dir():
        tables, fmt = _of_folder(path, format, mapping, notes)
    elif path.exists():
        tables = [open_file(path)]
        fmt = format or recognise(tables[0], mapping.columns)
    else:
        raise TableError("there is no such file or folder", path=path, fix="Check the path")
    if fmt in ("qupath_zones", "zones"):
        return _zones(tables, fmt, mapping, mpp, notes)
    return _cells(tables, fmt, mapping, mpp, notes)


def _of_folder(
    folder: Path, fmt: Format | None, mapping: TableMapping, notes: list[str]
) -> tuple[list[TableFile], Format]:
    """Return the tables of a folder, all of one format."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and is_table(path))
    if not paths:
        raise TableError(
            "the folder holds no table (csv, tsv, txt, parquet)", path=folder, fix="Check the path"
        )
    by_format: dict[Format, list[TableFile]] = {}
    mistakes: list[HistoError] = []
    other: list[str] = []
    for path in paths:
        try:
            table = open_file(path)
        except TableError as error:
            mistakes.append(error)
            continue
        try:
            found = recognise(table, mapping.columns)
        except TableError as error:
            if fmt is None:
                mistakes.append(error)
            else:
                other.append(path.name)
            continue
        if fmt is None or found == fmt:
            by_format.setdefault(found, []).append(table)
        else:
            other.append(path.name)
    _raise(mistakes, folder)
    if len(by_format) > 1:
        held = "; ".join(
            f"{found}: {listed([table.path.name for table in tables], 3)}"
            for found, tables in by_format.items()
        )
        raise TableError(
            f"the folder holds several formats ({held})", path=folder, fix="Say with format which to read"
        )
    if not by_format:
        raise TableError(
            f"no file of the folder is of format {fmt} ({listed(other, _SHOWN)})",
            path=folder,
            fix="Leave out the format, or name another",
        )
    if other:
        notes.append(f"files of another format, left out: {listed(other, _SHOWN)}")
    [(only, tables)] = by_format.items()
    return tables, only


def _zones(
    tables: Sequence[TableFile], fmt: Format, mapping: TableMapping, mpp: float | None, notes: Sequence[str]
) -> ZoneTable:
    files = []
    mistakes: list[HistoError] = []
    for table in tables:
        try:
            files.append(
                read_qupath_zones(table, mapping, mpp)
                if fmt == "qupath_zones"
                else read_zone_csv(table, mapping)
            )
        except HistoError as error:
            mistakes.append(error)
    _raise(mistakes, tables[0].path.parent)
    slides, more = join_zones(files, mapping)
    if not any(slide.zones for slide in slides):
        found = list(dict.fromkeys(record.zone for file in files for record in file.records))
        raise TableError(
            f"no zone of the mapping is in the table (zones: {listed(found) or 'none'})",
            path=tables[0].path if len(tables) == 1 else tables[0].path.parent,
            fix="Say in mapping.zones which are core, inner_margin, outer_margin and far",
        )
    return ZoneTable(zone_frame(slides), fmt, tuple(file.path for file in files), (*notes, *more))


def _cells(
    tables: Sequence[TableFile], fmt: Format, mapping: TableMapping, mpp: float | None, notes: Sequence[str]
) -> CellTable:
    files = []
    mistakes: list[HistoError] = []
    for table in tables:
        try:
            files.append(read_cell_file(table, fmt, mapping, mpp))
        except HistoError as error:
            mistakes.append(error)
    _raise(mistakes, tables[0].path.parent)
    return join_cells(files, fmt, mapping, notes)


def _raise(mistakes: Sequence[HistoError], folder: Path) -> None:
    """Raise the only mistake as it is, several as one that lists them."""
    if len(mistakes) == 1:
        raise mistakes[0]
    if mistakes:
        text = some([str(error) for error in mistakes], _SHOWN)
        raise TableError(
            f"{len(mistakes)} tables cannot be read: {text}", path=folder, fix="Mend or remove them"
        )
