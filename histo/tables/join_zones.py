"""Records of zones, of one or more files, as slides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import get_args

from histo.errors import TableError
from histo.measure.summary import Zone
from histo.tables.file import listed, some
from histo.tables.mapping import TableMapping
from histo.tables.zone_files import Identity, ZoneFile, ZoneRecord
from histo.tables.zones import Site, ZoneCount, ZoneSlide

# Whole numbers up to here are exact.
_MAX_COUNT = 2**53


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
            some(mistakes), path=files[0].path if len(files) == 1 else None, fix="Correct the tables"
        )
    notes = [f"{what}: {some(where, 3)}" for what, where in remarks.items()]
    if unknown:
        zones_and_slides = ", ".join(f"{name!r} ({len(ids)} slides)" for name, ids in unknown.items())
        notes.append(f"zones that the mapping does not know, left out: {zones_and_slides}")
    return result, (*notes, *_notes_on_slides(files, result))


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
        if value is not None and not (0 <= value <= _MAX_COUNT and value == int(value)):
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
