"""Cells as a person corrected them: deleted, added, redrawn, called otherwise.

What was measured of a cell stays only as long as it is that cell: a class given by a person has no
probability, and a new outline no stain amounts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.errors import ShapelyError
from shapely.geometry import Point, Polygon

from histo.cells.table import CELL_CLASSES, DETECTION_COLUMNS, marker_columns, markers_of
from histo.errors import AnnotationError
from histo.regions.annotations import NO_CLASS, unpacked
from histo.regions.geojson import class_name, features_of, object_type
from histo.regions.shapes import polygon, repair, vertices
from histo.results.cells_parquet import GEOMETRY
from histo.results.geojson import object_ids

# Of the text, unpacked: some 900 bytes a cell.
_MAX_BYTES: Final = 1 << 30
# A cell that is marked by a point gets this outline, to be seen and counted by; its area is not known.
_MARK_RADIUS_UM: Final = 3.0
# No cell has a larger outline: it is a region that someone drew.
_MAX_CELL_UM2: Final = 5000.0
# GeoJSON rounds to 0.01 px; a program that stores 32-bit numbers adds as much.
_SAME_PX: Final = 0.03
# Objects that are no cells.
_NOT_CELLS: Final = ("tile", "root", "tmaCore")
_MEASURED: Final = tuple(name for name in DETECTION_COLUMNS if name.endswith("_mean"))


@dataclass(frozen=True)
class AddedCell:
    """A cell that was missed: its class, and its outline in um, or the point that marks it."""

    cell_class: str
    shape: Polygon | Point


@dataclass(frozen=True)
class CellCorrections:
    """What a person changed, by cell id.

    deleted : ids. classes : id to the class it was given. redrawn : id to its new outline in um.
    """

    deleted: frozenset[int] = frozenset()
    classes: Mapping[int, str] = field(default_factory=dict)
    redrawn: Mapping[int, Polygon] = field(default_factory=dict)
    added: Sequence[AddedCell] = ()

    def __bool__(self) -> bool:
        return bool(self.deleted or self.classes or self.redrawn or self.added)

    def __str__(self) -> str:
        """Say how many of what: "3 deleted, 2 added"."""
        counts = {
            "deleted": len(self.deleted),
            "added": len(self.added),
            "given another class": len(self.classes),
            "redrawn": len(self.redrawn),
        }
        return ", ".join(f"{n} {what}" for what, n in counts.items() if n) or "none changed"


def correct_cells(cells: pd.DataFrame, corrections: CellCorrections) -> pd.DataFrame:
    """Return the cell table with corrections applied: cells that stay in their order, added ones after them.

    Added cells are numbered on from the highest id of `cells`. The columns of their place (region, zone,
    distance) are to be filled by `histo.run.remeasure`.

    Parameters
    ----------
    cells : columns of the cell table and "geometry", as `read_cells` returns them.

    Raises
    ------
    ValueError : a correction names a cell that is not there, or a class that is not of `CELL_CLASSES`.
    """
    ids = cells["cell_id"].to_numpy()
    named = {*corrections.deleted, *corrections.classes, *corrections.redrawn}
    if missing := sorted(named - set(ids.tolist())):
        raise ValueError(f"no cells {missing[:10]}")
    classes = {*corrections.classes.values(), *(cell.cell_class for cell in corrections.added)}
    if unknown := sorted(classes - set(CELL_CLASSES)):
        raise ValueError(f"no such classes: {unknown}")
    kept = cells[~np.isin(ids, list(corrections.deleted))].reset_index(drop=True)
    place = pd.Series(kept.index, index=kept["cell_id"])
    unmeasured = [*_MEASURED, *marker_columns(markers_of(cells.columns))]
    called = [cell for cell in corrections.classes if cell not in corrections.deleted]
    if called:
        rows = place[called].to_numpy()
        kept.loc[rows, "cell_class"] = [corrections.classes[cell] for cell in called]
        kept.loc[rows, "probability"] = np.nan
    redrawn = [cell for cell in corrections.redrawn if cell not in corrections.deleted]
    if redrawn:
        rows = place[redrawn].to_numpy()
        shapes = [corrections.redrawn[cell] for cell in redrawn]
        for name, values in _outlined(shapes).items():
            kept.loc[rows, name] = values
        kept.loc[rows, unmeasured] = np.nan
    if not corrections.added:
        return kept
    first = int(ids.max(initial=0)) + 1
    new = pd.DataFrame(
        {
            "cell_id": np.arange(first, first + len(corrections.added), dtype=np.int32),
            "cell_class": [cell.cell_class for cell in corrections.added],
            **_outlined([cell.shape for cell in corrections.added]),
        }
    )
    empty = dict.fromkeys(("probability", "signed_distance_um", "x_px", "y_px", *unmeasured), np.nan)
    new = new.assign(**empty, in_tissue=False, region="", zone="")
    return pd.concat([kept, new[list(kept.columns)].astype(kept.dtypes)], ignore_index=True)


def read_cell_corrections(
    path: Path, cells: pd.DataFrame, *, slide_id: str, mpp: tuple[float, float], size_px: tuple[int, int]
) -> CellCorrections:
    """Compare cells that came back from QuPath with those that went out.

    Every object of a class of ours is a cell, whatever its type: what is drawn in QuPath is an annotation.
    Objects are recognised by their id, or by the measurement "Cell id" where a program did not keep ids; a
    cell that is not in the file was deleted, an object that is not recognised was added. Annotations of other
    classes are regions and not looked at.

    Parameters
    ----------
    path : GeoJSON, also gzipped, that holds all the slide's cells.
    cells : columns cell_id, cell_class and geometry (um) of the cells that went out.
    slide_id, mpp : those that they went out with. size_px : level-0 (width, height).

    Raises
    ------
    AnnotationError : the file cannot be read, holds no cell, or holds objects that cannot be cells of this
        slide; all of them are told at once.
    """
    fix = "Export all objects of this slide again as GeoJSON"
    text = unpacked(path, _MAX_BYTES, too_much="Correct the slide in parts, or in `histo review`")
    try:
        found = _objects(json.loads(text))
    except RecursionError:
        raise AnnotationError("nested too deeply to be GeoJSON", path=path, fix=fix) from None
    except ValueError as error:
        raise AnnotationError(f"not GeoJSON of cells ({error})", path=path, fix=fix) from None
    problems = _problems(found, mpp, size_px)
    if problems:
        raise AnnotationError(
            "; ".join(problems), path=path, fix="Correct these objects and export them again"
        )
    if not found:
        raise AnnotationError(
            f"no cell in it: no object is a {' or a '.join(map(repr, CELL_CLASSES))}", path=path, fix=fix
        )
    ids = cells["cell_id"].to_numpy()
    row_of = dict(zip(object_ids(slide_id, ids), range(len(ids)), strict=True))
    row_of_id = dict(zip(ids.tolist(), range(len(ids)), strict=True))
    seen: dict[int, _Object] = {}
    added: list[AddedCell] = []
    scale = np.asarray(mpp)
    for each in found:
        row = row_of.get(each.key, -1)
        if row < 0 and each.cell_id is not None:
            row = row_of_id.get(each.cell_id, -1)
        if row < 0 or row in seen or isinstance(each.shape, Point):
            added.append(AddedCell(each.cell_class, shapely.transform(each.shape, lambda xy: xy * scale)))
        else:
            seen[row] = each
    rows = np.fromiter(seen, np.int64, len(seen))
    back = list(seen.values())
    was = cells["cell_class"].to_numpy(object)[rows]
    shapes = np.array([each.shape for each in back], object)
    moved = ~_same(shapely.transform(cells[GEOMETRY].to_numpy(object)[rows], lambda xy: xy / scale), shapes)
    return CellCorrections(
        deleted=frozenset(ids[np.setdiff1d(np.arange(len(ids)), rows)].tolist()),
        classes={
            int(ids[row]): each.cell_class
            for row, each, before in zip(rows, back, was, strict=True)
            if each.cell_class != before
        },
        redrawn={
            int(ids[rows[k]]): shapely.transform(shapes[k], lambda xy: xy * scale)
            for k in np.flatnonzero(moved)
        },
        added=added,
    )


@dataclass(frozen=True)
class _Object:
    """A cell of the file. key : its id. shape : in level-0 pixels. cell_class : "" where it is not ours."""

    key: str
    cell_id: int | None
    cell_class: str
    told_class: str
    shape: Polygon | Point


def _objects(data: Any) -> list[_Object]:
    ours = {name.casefold(): name for name in CELL_CLASSES}
    found = []
    for index, feature in enumerate(features_of(data)):
        kind = object_type(feature)
        properties = feature.get("properties") or {}
        told = class_name(properties) or NO_CLASS
        cell_class = ours.get(told.strip().casefold(), "")
        if kind in _NOT_CELLS or (not cell_class and kind == "annotation"):
            continue
        try:
            shapes = _shapes(feature["geometry"])
        except (ValueError, TypeError, KeyError, OverflowError, ShapelyError) as error:
            raise ValueError(f"feature {index} has a geometry that cannot be read: {error!r}") from None
        key, cell_id = str(feature.get("id")), _cell_id(properties)
        found += [_Object(key, cell_id, cell_class, told, shape) for shape in shapes]
    return found


def _cell_id(properties: dict[str, Any]) -> int | None:
    measurements = properties.get("measurements")
    if isinstance(measurements, list):
        # QuPath before 0.4.
        measurements = {
            item.get("name"): item.get("value") for item in measurements if isinstance(item, dict)
        }
    value = measurements.get("Cell id") if isinstance(measurements, dict) else None
    return int(value) if isinstance(value, int | float) and float(value).is_integer() else None


def _shapes(geometry: dict[str, Any]) -> list[Polygon | Point]:
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind in ("Point", "MultiPoint"):
        points = [coordinates] if kind == "Point" else coordinates
        return [Point(xy) for xy in vertices(points)] if points else []
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"a {kind} is neither an outline nor a point")
    # A cell is one piece without holes: the largest.
    rings = [coordinates] if kind == "Polygon" else coordinates
    pieces = [piece for ring in rings if (piece := polygon(ring[0])) is not None]
    whole = [part for piece in pieces for part in ([piece] if piece.is_valid else repair(piece).geoms)]
    if not whole:
        raise ValueError("an outline without an area")
    return [Polygon(max(whole, key=lambda part: part.area).exterior)]


def _problems(found: Sequence[_Object], mpp: tuple[float, float], size_px: tuple[int, int]) -> list[str]:
    strange = Counter(each.told_class for each in found if not each.cell_class)
    problems = [
        f"{n} cells of the class {name!r}, which is none of {', '.join(map(repr, CELL_CLASSES))}"
        for name, n in sorted(strange.items())
    ]
    shapes = np.array([each.shape for each in found], object)
    xy = shapely.get_coordinates(shapely.centroid(shapes)).reshape(-1, 2)
    outside = ((xy < 0) | (xy >= np.asarray(size_px))).any(axis=1)
    if outside.any():
        x, y = xy[outside][0]
        problems.append(
            f"{outside.sum()} cells outside the slide of {size_px[0]} x {size_px[1]} px "
            f"(one at {x:.0f}, {y:.0f})"
        )
    large = shapely.area(shapes) * mpp[0] * mpp[1] > _MAX_CELL_UM2
    if large.any():
        x, y = xy[large][0]
        problems.append(
            f"{large.sum()} cells larger than {_MAX_CELL_UM2:.0f} um2 (one at {x:.0f}, {y:.0f} px)"
        )
    return problems


def _same(before: NDArray[np.object_], after: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Tell which outlines in pixels are the same but for rounding, from whatever vertex they start."""
    same = np.asarray(shapely.equals_exact(before, after, _SAME_PX), bool)
    rest = np.flatnonzero(~same)
    gap = shapely.area(shapely.symmetric_difference(before[rest], after[rest]))
    same[rest] = gap <= _SAME_PX * shapely.length(before[rest])
    return same


def _outlined(shapes: Sequence[Polygon | Point]) -> dict[str, NDArray[Any]]:
    """Return the columns that an outline in um gives: where a cell is, and how large."""
    given = np.array(shapes, object)
    marked = shapely.get_type_id(given) == shapely.GeometryType.POINT
    xy = shapely.get_coordinates(shapely.centroid(given))
    outlines = given.copy()
    outlines[marked] = shapely.buffer(given[marked], _MARK_RADIUS_UM, quad_segs=4)
    return {
        "x_um": xy[:, 0],
        "y_um": xy[:, 1],
        "area_um2": np.where(marked, np.nan, shapely.area(given)).astype(np.float32),
        GEOMETRY: outlines,
    }
