"""Cells that someone drew or detected in QuPath, or any GeoJSON with QuPath's properties.

Other than regions, cells may be annotations, detections or cell objects, and points as well as outlines. The
text is not trusted: its size, its nesting and every coordinate are checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely.errors import ShapelyError
from shapely.geometry import MultiPolygon

from histo.regions.shapes import as_multipolygon, polygon, repair, vertices

MAX_BYTES = 1 << 28
_MAX_CELLS = 1_000_000
# Objects that are no cells, and QuPath 0.2's way to write them.
_NOT_CELLS = {"tile", "root", "tmaCore", "PathTileObject", "PathRootObject", "TMACoreObject"}


@dataclass(frozen=True)
class Drawn:
    """Outlines and points, each with the name of its class (None where it has none).

    outlines : valid, not empty, in pixels of the image. points : (n, 2) x, y in pixels of the image.
    """

    outlines: tuple[MultiPolygon, ...]
    outline_names: tuple[str | None, ...]
    points: NDArray[np.float64]
    point_names: tuple[str | None, ...]


def read_cells(text: bytes) -> Drawn:
    """Read a FeatureCollection, a list of features or a single feature.

    Raises ValueError where the text is not GeoJSON, or holds other things than polygons and points.
    """
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply to be GeoJSON") from None
    outlines: list[tuple[MultiPolygon, str | None]] = []
    points: list[NDArray[np.float64]] = []
    point_names: list[str | None] = []
    for index, feature in enumerate(_features(data)):
        if index >= _MAX_CELLS:
            raise ValueError(f"more than {_MAX_CELLS} objects")
        properties = feature.get("properties") or {}
        kind = properties.get("objectType", properties.get("object_type", feature.get("id")))
        if isinstance(kind, str) and kind in _NOT_CELLS:
            continue
        name = _class_name(properties)
        try:
            outline, dots = _shape(feature["geometry"])
        except (ValueError, TypeError, KeyError, OverflowError, ShapelyError) as error:
            raise ValueError(f"feature {index} has a geometry that cannot be read: {error!r}") from None
        if outline is not None:
            outlines.append((outline, name))
        points.append(dots)
        point_names += [name] * len(dots)
    return Drawn(
        tuple(outline for outline, _ in outlines),
        tuple(name for _, name in outlines),
        np.concatenate([np.empty((0, 2)), *points]),
        tuple(point_names),
    )


def _features(data: Any) -> Iterator[dict[str, Any]]:
    """Yield all features, the children of a saved hierarchy too."""
    if isinstance(data, dict):
        data = data.get("features") if data.get("type") == "FeatureCollection" else [data]
    if not isinstance(data, list):
        raise ValueError("neither a FeatureCollection nor a list of features")
    waiting = data[::-1]
    while waiting:
        feature = waiting.pop()
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise ValueError("holds something else than features")
        properties = feature.get("properties") or {}
        if not isinstance(properties, dict):
            raise ValueError("holds a feature whose properties are not a mapping")
        children = properties.get("childObjects") or properties.get("children") or []
        if isinstance(children, list):
            waiting.extend(reversed(children))
        yield feature


def _class_name(properties: dict[str, Any]) -> str | None:
    classification = properties.get("classification")
    if isinstance(classification, dict):
        names = classification.get("names")
        if isinstance(names, list) and names and not classification.get("name"):
            # QuPath's own way to write a derived class.
            return ": ".join(str(name) for name in names)
        classification = classification.get("name")
    return classification if isinstance(classification, str) else None


def _shape(geometry: dict[str, Any]) -> tuple[MultiPolygon | None, NDArray[np.float64]]:
    """Return the outline of a geometry, if it has one, and its points (n, 2)."""
    kind, none = geometry["type"], np.empty((0, 2))
    if kind in ("Point", "MultiPoint"):
        coordinates = geometry["coordinates"]
        return None, vertices([coordinates] if kind == "Point" else coordinates) if coordinates else none
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"a {kind} is neither an outline nor a point")
    rings = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
    pieces = [piece for outline, *holes in rings if (piece := polygon(outline, holes)) is not None]
    area = repair(as_multipolygon(pieces[0]) if len(pieces) == 1 else MultiPolygon(pieces))
    if area.is_empty:
        raise ValueError("an outline without an area")
    return area, none
