"""Tables of zones: QuPath's measurements of annotations (as of Kather 2018), and CSV with a row per zone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Final, get_args

from histo.errors import PixelSizeError, TableError
from histo.measure.summary import Zone
from histo.tables.file import TableFile, listed, read_columns, stem
from histo.tables.mapping import TableMapping
from histo.tables.zones import Site, ZoneCount, ZoneSlide

# Kather 2018 (eLife 7:e36967): CL_<cancer type>_ID_<patient>_AG_<marker>_code_<...>_RESULT.txt
_KATHER_NAME: Final = re.compile(r"CL_(?P<group>.+?)_ID_(?P<patient>.+?)_AG_(?P<stain>[^_]+)_")
_SHOWN: Final = 20
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
            raise TableError(f"no column of areas (columns: {listed(table.names)})", path=table.path)
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
        raise TableError(_some(mistakes), path=table.path, fix="Correct these rows")
    used = {*numbers.values(), *texts.values()}
    ignored = tuple(name for name in table.names if name and name not in used)
    return ZoneFile(table.path, tuple(records), ignored_columns=ignored)


def join_zones(files: Sequence[ZoneFile], mapping: TableMapping) -> tuple[list[ZoneSlide], tuple[str, ...]]:
    """Make slides of the records of one or more files, and notes of what a reader must know.

    Several regions of one zone of a slide are added up. Zones that the mapping does not know are listed.

    Raises
    ------
    TableError : a slide is in two files, a number cannot be, or rows contradict each other; all are listed.
    """
    mistakes: list[str] = []
    remarks: dict[str, list[str]] = {}
    zones = {name.casefold(): zone for name, zone in mapping.zones.items()}
    slides: dict[str, tuple[Path, Identity, dict[Zone, list[ZoneRecord]]]] = {}
    unknown: dict[str, set[str]] = {}
    for file in files:
        if file.identity is not None:
            _enter(slides, file.path, file.identity, mistakes)
        for record in file.records:
            by_zone = _enter(slides, file.path, record.identity, mistakes)
            zone = zones.get(record.zone.casefold())
            if zone is None:
                unknown.setdefault(record.zone, set()).add(record.identity.slide_id)
            else:
                by_zone.setdefault(zone, []).append(record)
    result = [
        ZoneSlide(
            slide_id=identity.slide_id,
            zones={zone: _count(records, mapping, mistakes, remarks) for zone, records in by_zone.items()},
            patient=identity.patient,
            lesion=identity.lesion,
            site=_site(identity, mapping, mistakes),
            stain=identity.stain,
            group=identity.group,
        )
        for _, identity, by_zone in slides.values()
    ]
    if mistakes:
        raise TableError(
            _some(mistakes), path=files[0].path if len(files) == 1 else None, fix="Correct the tables"
        )
    notes = [f"{what}: {_some(where)}" for what, where in remarks.items()]
    if unknown:
        zones_and_slides = ", ".join(f"{name!r} ({len(ids)} slides)" for name, ids in unknown.items())
        notes.append(f"zones that the mapping does not know, left out: {zones_and_slides}")
    return result, (*notes, *_notes_on_slides(files, result))


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


def _enter(
    slides: dict[str, tuple[Path, Identity, dict[Zone, list[ZoneRecord]]]],
    path: Path,
    identity: Identity,
    mistakes: list[str],
) -> dict[Zone, list[ZoneRecord]]:
    """Return the zones of a slide, new or known; note where it is known as another's or from another file."""
    first_path, first, by_zone = slides.setdefault(identity.slide_id, (path, identity, {}))
    mistake = None
    if first_path != path:
        mistake = f"slide {identity.slide_id!r} is in {first_path.name} and in {path.name}"
    elif first != identity:
        different = [
            field.name
            for field in fields(Identity)
            if getattr(first, field.name) != getattr(identity, field.name)
        ]
        mistake = f"rows of slide {identity.slide_id!r} differ in {', '.join(different)}"
    if mistake is not None and mistake not in mistakes:
        mistakes.append(mistake)
    return by_zone


def _site(identity: Identity, mapping: TableMapping, mistakes: list[str]) -> Site | None:
    if identity.site is None:
        sites = {name.casefold(): site for name, site in mapping.sites.items()}
        return None if identity.group is None else sites.get(identity.group.casefold())
    site = next((site for site in get_args(Site) if site == identity.site.casefold()), None)
    if site is None:
        mistakes.append(
            f"site {identity.site!r} of slide {identity.slide_id!r} is neither {' nor '.join(get_args(Site))}"
        )
        return None
    known: Site = site
    return known


def _count(
    records: Sequence[ZoneRecord], mapping: TableMapping, mistakes: list[str], remarks: dict[str, list[str]]
) -> ZoneCount:
    """Add up the regions of one zone of one slide."""
    if len(records) > 1:
        slide = records[0].identity.slide_id
        if len({_numbers(record) for record in records}) < len(records):
            mistakes.append(
                f"zone {records[0].zone!r} of slide {slide!r} is given twice, with the same numbers"
            )
        remarks.setdefault("several regions of one zone, added up", []).append(
            f"{slide}, {records[0].zone} ({len(records)})"
        )
    counts = [_one(record, mapping, mistakes, remarks) for record in records]
    positive, cells, areas = (
        [getattr(count, name) for count in counts] for name in ("n_positive", "n_cells", "area_mm2")
    )
    return ZoneCount(
        n_positive=None if None in positive else sum(positive),
        n_cells=None if None in cells else sum(cells),
        area_mm2=None if None in areas else sum(areas),
    )


def _numbers(record: ZoneRecord) -> tuple[float | None, ...]:
    return record.n_positive, record.n_negative, record.n_cells, record.area_mm2


def _one(
    record: ZoneRecord, mapping: TableMapping, mistakes: list[str], remarks: dict[str, list[str]]
) -> ZoneCount:
    n_positive = record.n_positive
    if n_positive is None and 0.0 in (record.stated_density_per_mm2, record.stated_percentage):
        # Slides of Kather 2018 without any positive cell have no count; the authors' script takes 0, too.
        n_positive = 0.0
        remarks.setdefault(
            "no count of positive cells, but a density stated as 0; taken as 0 cells", []
        ).append(record.where)
    n_cells = record.n_cells
    if n_cells is None and n_positive is not None and record.n_negative is not None:
        n_cells = n_positive + record.n_negative
    for name, value in (("positive cells", n_positive), ("cells", n_cells)):
        if value is not None and (value < 0 or value != int(value)):
            mistakes.append(f"{record.where}: {value:g} {name} is no count")
    if n_positive is not None and n_cells is not None and n_positive > n_cells:
        mistakes.append(f"{record.where}: {n_positive:g} positive cells of {n_cells:g} cells")
    area = record.area_mm2
    if area is not None and area < 0:
        mistakes.append(f"{record.where}: an area below 0")
    stated = record.stated_density_per_mm2
    if stated is not None and n_positive is not None and area:
        density = n_positive / area
        # Stated densities are printed with four digits, or two decimals.
        if abs(density - stated) > max(mapping.density_tolerance * max(density, stated), 0.01):
            remarks.setdefault("stated density per mm2 that is not count by area, which is used", []).append(
                f"{record.where} ({stated:g}, not {density:.6g})"
            )
    return ZoneCount(
        n_positive=None if n_positive is None else int(n_positive),
        n_cells=None if n_cells is None else int(n_cells),
        area_mm2=area,
    )


def _notes_on_slides(files: Sequence[ZoneFile], slides: Sequence[ZoneSlide]) -> list[str]:
    notes = []
    ignored = dict.fromkeys(name for file in files for name in file.ignored_columns)
    if ignored:
        notes.append(f"columns that were not read: {listed(list(ignored))}")
    empty = [slide.slide_id for slide in slides if not slide.zones]
    if empty:
        notes.append(f"{len(empty)} slides have none of our zones: {listed(empty)}")
    without_site = Counter(slide.group for slide in slides if slide.site is None)
    if without_site:
        groups = ", ".join(
            f"{'no group' if group is None else group} ({n})"
            for group, n in sorted(without_site.items(), key=str)
        )
        notes.append(f"slides whose site (primary or metastasis) is not told, by group: {groups}")
    return notes


def _some(mistakes: Sequence[str]) -> str:
    shown = "; ".join(mistakes[:_SHOWN])
    return shown if len(mistakes) <= _SHOWN else f"{shown}; and {len(mistakes) - _SHOWN} more"
