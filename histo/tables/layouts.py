"""Which column of a table of cells is what, for the programs whose tables are known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from histo.errors import TableError
from histo.tables.cells import Unit
from histo.tables.file import TableFile, key, listed
from histo.tables.mapping import ColumnNames

Format = Literal["qupath_zones", "zones", "qupath", "halo", "inform", "columns"]

# HALO: "CD8 (Opal 520) Positive Classification", in R "CD8..Opal.520..Positive.Classification".
_HALO_POSITIVE: Final = re.compile(
    r"(?P<marker>.+?)(?: \([^)]*\)|\.\..+?\.)?[ .]Positive(?:[ .]Classification)?", re.IGNORECASE
)
_HALO_PHENOTYPE: Final = re.compile(r"phenotype_name:([^;]+)")
_HALO_MEASURE: Final = re.compile("intensity|area|perimeter|distance|positive", re.IGNORECASE)
# phenoptrReports: "Phenotype CD8" with "CD8+" and "CD8-".
_PHENOTYPE_OF_MARKER: Final = re.compile(r"Phenotype[ ._-](?P<marker>.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """Headers by what they hold; None for what the table does not have.

    x, y : one column each, or two (the sides of a box) whose mean is the centre.
    unit : what the headers say of positions.
    markers : name of a marker to the column that says whether a cell is positive for it.
    positive_above : column to the value above which a cell is positive.
    intensities : name of a marker to the column of its intensity.
    object_type : QuPath's, which tells cells from annotations.
    """

    x: tuple[str, ...]
    y: tuple[str, ...]
    unit: Unit | None = None
    image: str | None = None
    part: str | None = None
    patient: str | None = None
    cell_class: str | None = None
    region: str | None = None
    markers: Mapping[str, str] = field(default_factory=dict)
    positive_above: Mapping[str, float] = field(default_factory=dict)
    intensities: Mapping[str, str] = field(default_factory=dict)
    object_type: str | None = None
    cell_area_um2: str | None = None


def recognise(table: TableFile, columns: ColumnNames) -> Format:
    """Return the format that the header of a table has.

    Raises TableError where it fits none, or several.
    """
    keys = {key(name) for name in table.names}
    if columns.x is not None:
        return "columns"
    counts = bool(keys & {"num positive", "num negative"}) and bool(keys & {"area μm2", "area px2"})
    signs: dict[Format, bool] = {
        "qupath_zones": counts and bool(keys & {"name", "class", "classification"}),
        "zones": {"zone", "n positive", "area mm2"} <= keys,
        "qupath": bool(keys & {"centroid x μm", "centroid x px"}) and not counts,
        "halo": {"xmin", "xmax", "ymin", "ymax"} <= keys,
        "inform": {"cell x position", "cell y position"} <= keys,
    }
    found = [name for name, sign in signs.items() if sign]
    if len(found) == 1:
        return found[0]
    if found:
        raise TableError(
            f"the header fits several formats: {', '.join(found)}",
            path=table.path,
            fix="Say which with format",
        )
    raise TableError(
        f"the header is of no known format (columns: {listed(table.names)}). "
        "Known are QuPath (Centroid X µm), HALO (XMin, XMax, YMin, YMax), inForm (Cell X Position), tables "
        "of zones (zone, n_positive, area_mm2) and QuPath's annotations (Name, Num Positive, Area µm^2)",
        path=table.path,
        fix="For another table of cells, name its columns x and y (and image, patient, cell_class, markers) "
        "in mapping.columns",
    )


def layout_of(table: TableFile, fmt: Format, columns: ColumnNames) -> Layout:
    """Return which column is what.

    Parameters
    ----------
    fmt : one of the formats of cells.
    columns : what the user says; overrules what is known of the format.

    Raises
    ------
    TableError : columns that are needed, or named by the user, are missing; all are listed.
    """
    if fmt == "qupath":
        layout = _qupath(table)
    elif fmt == "halo":
        layout = _halo(table)
    elif fmt == "inform":
        layout = _inform(table)
    else:
        layout = Layout((), ())
    if columns.x is not None and columns.y is not None:
        unit = _unit_of(columns.x, columns.y)
        layout = replace(layout, x=(columns.x,), y=(columns.y,), unit=unit, cell_area_um2=None)
    if not layout.x:
        raise TableError(
            f"it is not said which columns are positions (columns: {listed(table.names)})",
            path=table.path,
            fix="Give mapping.columns.x and mapping.columns.y",
        )
    stated = {
        name: value
        for name in ("image", "part", "patient", "cell_class", "region")
        if (value := getattr(columns, name)) is not None
    }
    layout = replace(
        layout,
        **stated,
        markers={**layout.markers, **columns.markers},
        positive_above=columns.positive_above,
        intensities=columns.intensities,
    )
    wanted = dict.fromkeys(
        (
            *layout.x,
            *layout.y,
            *stated.values(),
            *columns.markers.values(),
            *columns.positive_above,
            *columns.intensities.values(),
        )
    )
    missing = [name for name in wanted if name not in table.names]
    if missing:
        raise TableError(
            f"the table has no column {listed(missing)} (columns: {listed(table.names)})",
            path=table.path,
            fix="Correct the names in mapping.columns",
        )
    return layout


def _qupath(table: TableFile) -> Layout:
    units: tuple[tuple[Unit, str], ...] = (("um", "μm"), ("px", "px"))
    for unit, sign in units:
        x, y = table.find(f"centroid x {sign}"), table.find(f"centroid y {sign}")
        if x is not None and y is not None:
            return Layout(
                (x,),
                (y,),
                unit=unit,
                image=table.find("image"),
                part=table.find("tma core"),
                cell_class=table.find("classification", "class"),
                region=table.find("parent"),
                object_type=table.find("object type", "name"),
            )
    raise _lacking(table, "Centroid X µm, Centroid Y µm (or px)")


def _halo(table: TableFile) -> Layout:
    x = table.find("xmin"), table.find("xmax")
    y = table.find("ymin"), table.find("ymax")
    if x[0] is None or x[1] is None or y[0] is None or y[1] is None:
        raise _lacking(table, "XMin, XMax, YMin, YMax")
    return Layout(
        (x[0], x[1]),
        (y[0], y[1]),
        unit="px",
        # The last two are what spatialTIME's example files have.
        image=table.find("image location", "image file name", "image tag", "deidentified sample"),
        part=table.find("analysis region"),
        region=table.find("classifier label"),
        markers=_halo_markers(table),
        # "Cell Area (µm²)", in R "Cell.Area..m.."
        cell_area_um2=table.find("cell area μm2", "cell area m"),
    )


def _halo_markers(table: TableFile) -> dict[str, str]:
    """Return dyes and phenotypes. Phenotypes are named in the column Analysis Inputs, or have a "+"."""
    markers: dict[str, str] = {}
    for name in table.names:
        match = _HALO_POSITIVE.fullmatch(name)
        if match is not None:
            marker = match["marker"].strip()
            markers[name if marker in markers else marker] = name
    inputs = table.find("analysis inputs")
    phenotypes = _HALO_PHENOTYPE.findall(table.first.get(inputs, "")) if inputs is not None else []
    for phenotype in phenotypes:
        # R writes a dot for every sign, so that "CD3+ CD8+" and "CD3- CD8+" look the same there.
        mangled = re.sub(r"[^A-Za-z0-9._]", ".", phenotype)
        headers = [name for name in table.names if name in (phenotype, mangled)]
        same = [other for other in phenotypes if re.sub(r"[^A-Za-z0-9._]", ".", other) == mangled]
        if len(headers) == 1 and (headers[0] == phenotype or len(same) == 1):
            markers[phenotype] = headers[0]
    for name in table.names:
        if "+" in name and name not in markers.values() and not _HALO_MEASURE.search(name):
            markers[name] = name
    return markers


def _inform(table: TableFile) -> Layout:
    x, y = table.find("cell x position"), table.find("cell y position")
    if x is None or y is None:
        raise _lacking(table, "Cell X Position, Cell Y Position")
    keys = " ".join(key(name) for name in table.names)
    # Positions are in the unit that the header names for distances and areas.
    um, px = "micron" in keys, "pixel" in keys
    markers = {}
    for name in table.names:
        match = _PHENOTYPE_OF_MARKER.fullmatch(name)
        if match is not None:
            markers[match["marker"].strip()] = name
    return Layout(
        (x,),
        (y,),
        unit=None if um == px else "um" if um else "px",
        image=table.find("sample name"),
        cell_class=table.find("phenotype"),
        region=table.find("tissue category"),
        markers=markers,
    )


def _unit_of(x: str, y: str) -> Unit | None:
    """Return the unit at the end of both headers, if there is one."""
    ends = {key(name).rpartition(" ")[2] for name in (x, y)}
    if ends <= {"um", "μm", "micron", "microns"}:
        return "um"
    return "px" if ends <= {"px", "pixel", "pixels"} else None


def _lacking(table: TableFile, needed: str) -> TableError:
    return TableError(
        f"the table lacks {needed} (columns: {listed(table.names)})",
        path=table.path,
        fix="Export it with these columns, or name them in mapping.columns",
    )
