"""Reading tables of zones: QuPath's measurements of annotations (as of Kather 2018), and CSV."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Final

from histo.errors import PixelSizeError, TableError
from histo.tables.file import TableFile, listed, read_columns, some, stem
from histo.tables.mapping import TableMapping

# Kather 2018 (eLife 7:e36967): CL_<cancer type>_ID_<patient>_AG_<marker>_code_<...>_RESULT.txt
_KATHER_NAME: Final = re.compile(r"CL_(?P<group>.+?)_ID_(?P<patient>.+?)_AG_(?P<stain>[^_]+)_")
_UM2_PER_MM2: Final = 1e6


@dataclass(frozen=True)
class Identity:
    """Whose slide it is, as the source says."""

    slide_id: str
    patient: str | None = None
    lesion: str | None = None
    site: str | None = None
    stain: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class ZoneRecord:
    """One region of one slide, as read. Numbers that are not given are None."""

    identity: Identity
    where: str  # file and row
    zone: str
    n_positive: float | None
    n_negative: float | None
    n_cells: float | None
    area_mm2: float | None
    stated_density_per_mm2: float | None
    stated_percentage: float | None = None


@dataclass(frozen=True)
class ZoneFile:
    """What one file says. `identity` of a file that is one slide, even where it names no zone."""

    path: Path
    records: tuple[ZoneRecord, ...]
    identity: Identity | None = None
    ignored_columns: tuple[str, ...] = ()


def read_qupath_zones(table: TableFile, mapping: TableMapping, mpp: float | None) -> ZoneFile:
    """Read QuPath's measurements of annotations: a row per region.

    The slide is named by the column Image, or else by the file: patient, group and marker are taken from a
    file name of Kather's form.

    Raises
    ------
    PixelSizeError : areas are in pixels and there is no pixel size.
    TableError : columns are missing, or numbers are none.
    """
    area, um2_per_unit = table.find("area μm2"), 1.0
    if area is None:
        area = table.find("area px2")
        if area is None:
            raise TableError(
                f"no column of areas (columns: {listed(table.names)})",
                path=table.path,
                fix="Export the annotations with their areas",
            )
        if mpp is None:
            raise PixelSizeError(
                "areas are in pixels and the table has no pixel size",
                path=table.path,
                fix="Give the pixel size in um with mpp (on the command line: --mpp)",
            )
        um2_per_unit = mpp**2
    numbers = {
        "n_positive": table.find("num positive"),
        "n_negative": table.find("num negative"),
        "n_cells": table.find("num detections"),
        "area": area,
        "density": table.find("num positive per mm2"),
        "percentage": table.find("positive"),  # "Positive %"
    }
    # Kather's zones are names; others use the class.
    texts = {
        "name": table.find("name"),
        "class": table.find("classification", "class"),
        "image": table.find("image"),
    }
    rows = _rows(table, numbers, texts, mapping.decimal)
    own = _identity_of_file(table.path)
    known = {name.casefold() for name in mapping.zones}
    records = []
    for index, row in enumerate(rows):
        name, class_ = _text(row["name"]), _text(row["class"])
        zone = name if name and (name.casefold() in known or not class_) else class_
        if not zone:
            continue
        image = _text(row["image"])
        size = _number(row["area"])
        records.append(
            ZoneRecord(
                identity=own if image is None else Identity(image),
                where=f"{table.path.name}, row {index + 1}",
                zone=zone,
                n_positive=_number(row["n_positive"]),
                n_negative=_number(row["n_negative"]),
                n_cells=_number(row["n_cells"]),
                area_mm2=None if size is None else size * um2_per_unit / _UM2_PER_MM2,
                stated_density_per_mm2=_number(row["density"]),
                stated_percentage=_number(row["percentage"]),
            )
        )
    return ZoneFile(table.path, tuple(records), own if texts["image"] is None else None)


def read_zone_csv(table: TableFile, mapping: TableMapping) -> ZoneFile:
    """Read a CSV with a row per slide and zone.

    Columns: zone, n_positive, area_mm2; slide, or patient and stain (also "marker"); optional lesion, site,
    group (also "cancer"), n_negative or n_cells, density_per_mm2.

    Raises TableError where columns are missing, or numbers are none.
    """
    numbers = {
        "n_positive": table.find("n positive"),
        "n_negative": table.find("n negative"),
        "n_cells": table.find("n cells"),
        "area": table.find("area mm2"),
        "density": table.find("density per mm2"),
    }
    texts = {
        "zone": table.find("zone"),
        "slide": table.find("slide", "slide id"),
        "patient": table.find("patient"),
        "lesion": table.find("lesion"),
        "site": table.find("site"),
        "stain": table.find("stain", "marker"),
        "group": table.find("group", "cancer"),
    }
    needed = {"zone": texts["zone"], "n_positive": numbers["n_positive"], "area_mm2": numbers["area"]}
    missing = [name for name, header in needed.items() if header is None]
    if texts["slide"] is None and (texts["patient"] is None or texts["stain"] is None):
        missing.append("slide (or patient and stain)")
    if missing:
        raise TableError(
            f"a table of zones needs the columns {', '.join(missing)} (columns: {listed(table.names)})",
            path=table.path,
            fix="Name the columns zone, n_positive, area_mm2, and slide or patient and stain",
        )
    records = []
    mistakes = []
    for index, row in enumerate(_rows(table, numbers, texts, mapping.decimal)):
        where = f"{table.path.name}, row {index + 1}"
        patient, lesion, site, stain, group = (
            _text(row[name]) for name in ("patient", "lesion", "site", "stain", "group")
        )
        slide = _text(row["slide"])
        if slide is None and texts["slide"] is None and patient is not None and stain is not None:
            slide = "_".join(part for part in (group, patient, lesion, stain) if part is not None)
        zone = _text(row["zone"])
        if slide is None or zone is None:
            mistakes.append(f"row {index + 1}: no slide or no zone")
            continue
        records.append(
            ZoneRecord(
                identity=Identity(slide, patient, lesion, site, stain, group),
                where=where,
                zone=zone,
                n_positive=_number(row["n_positive"]),
                n_negative=_number(row["n_negative"]),
                n_cells=_number(row["n_cells"]),
                area_mm2=_number(row["area"]),
                stated_density_per_mm2=_number(row["density"]),
            )
        )
    if mistakes:
        raise TableError(some(mistakes), path=table.path, fix="Correct these rows")
    used = {*numbers.values(), *texts.values()}
    ignored = tuple(name for name in table.names if name and name not in used)
    return ZoneFile(table.path, tuple(records), ignored_columns=ignored)


def _rows(
    table: TableFile, numbers: Mapping[str, str | None], texts: Mapping[str, str | None], decimal: str
) -> list[dict[str, object]]:
    """Read columns by our names; those that are not there are None in every row."""
    present = {ours: theirs for ours, theirs in (*numbers.items(), *texts.items()) if theirs is not None}
    columns = read_columns(
        table,
        numbers=[name for name in numbers.values() if name is not None],
        texts=[name for name in texts.values() if name is not None],
        decimal=decimal,
    )
    nothing = dict.fromkeys((*numbers, *texts))
    rows: list[dict[str, object]] = columns.to_pylist()
    return [{**nothing, **{ours: row[theirs] for ours, theirs in present.items()}} for row in rows]


def _text(value: object) -> str | None:
    return (str(value).strip() or None) if value is not None else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, float) and isfinite(value) else None


def _identity_of_file(path: Path) -> Identity:
    match = _KATHER_NAME.match(path.name)
    if match is None:
        return Identity(stem(path))
    group, patient, stain = match["group"], match["patient"], match["stain"]
    return Identity(f"{group}_{patient}_{stain}", patient=patient, stain=stain, group=group)
