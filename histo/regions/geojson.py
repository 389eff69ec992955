"""Annotations from QuPath GeoJSON, all layouts since 0.2, and plain GeoJSON with QuPath's properties.

Coordinates are level-0 pixels. QuPath shows the bounds of a slide that declares them, so they already are in
the slide's frame.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from shapely.geometry import GeometryCollection, MultiLineString, MultiPolygon
from shapely.geometry.base import BaseGeometry

from histo.regions.shapes import Drawing, Shape, polygon, vertices

# QuPath 0.2 wrote the type of an object where its identifier belongs.
_LEGACY_TYPES = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tmaCore",
    "PathRootObject": "root",
}
_NO_AREA = {"LineString": "line", "MultiLineString": "line", "Point": "point", "MultiPoint": "point"}


def read_geojson(text: bytes) -> Drawing:
    """Read a FeatureCollection, a list of features or a single feature.

    An object without a type is an annotation, as in QuPath. Raises ValueError where the text is not GeoJSON.
    """
    try:
        return _read(json.loads(text))
    except RecursionError:
        raise ValueError("nested too deeply to be GeoJSON") from None


def _read(data: Any) -> Drawing:
    shapes: list[Shape] = []
    lines: list[Shape] = []
    ignored: Counter[str] = Counter()
    for index, feature in enumerate(features_of(data)):
        kind = object_type(feature)
        if kind != "annotation":
            ignored[kind] += 1
            continue
        geometry = feature.get("geometry")
        if not isinstance(geometry, dict):
            ignored["annotation without a geometry"] += 1
            continue
        try:
            found, line = _polygons(geometry, ignored), _line(geometry)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ValueError(f"feature {index} has a geometry that cannot be read: {error}") from None
        name = class_name(feature.get("properties") or {})
        names = () if name is None else (name,)
        if found is not None:
            shapes.append(Shape(names, found))
        if line is not None:
            lines.append(Shape(names, line))
    return Drawing(tuple(shapes), dict(ignored), tuple(lines))


def features_of(data: Any) -> Iterator[dict[str, Any]]:
    """Yield all features, the children of a saved hierarchy too; raises ValueError for anything else."""
    if isinstance(data, dict) and data.get("type") == "FeatureCollection":
        features = data.get("features")
    elif isinstance(data, dict) and data.get("type") == "Feature":
        features = [data]
    else:
        features = data
    if not isinstance(features, list):
        raise ValueError("neither a FeatureCollection nor a list of features")
    for feature in features:
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise ValueError("holds something else than features")
        properties = feature.get("properties") or {}
        if not isinstance(properties, dict):
            raise ValueError("holds a feature whose properties are not a mapping")
        yield feature
        children = properties.get("childObjects") or properties.get("children")
        if isinstance(children, list):
            yield from features_of(children)


def object_type(feature: dict[str, Any]) -> str:
    """Return what QuPath calls the object: annotation, detection, cell, tile, tmaCore or root."""
    properties = feature.get("properties") or {}
    for key in ("objectType", "object_type"):
        if isinstance(properties.get(key), str):
            return str(properties[key])
    return _LEGACY_TYPES.get(str(feature.get("id")), "annotation")


def class_name(properties: dict[str, Any]) -> str | None:
    """Return the class of an object, a derived one as "A: B"; None where it has none."""
    classification = properties.get("classification")
    if isinstance(classification, str):
        return classification
    if not isinstance(classification, dict):
        return None
    if isinstance(classification.get("name"), str):
        return str(classification["name"])
    names = classification.get("names")
    if isinstance(names, list) and names:
        # QuPath's own way to write a derived class.
        return ": ".join(str(name) for name in names)
    return None


def _polygons(geometry: dict[str, Any], ignored: Counter[str]) -> BaseGeometry | None:
    kind = geometry["type"]
    if kind in _NO_AREA:
        ignored[_NO_AREA[kind]] += 1
        return None
    if kind == "GeometryCollection":
        parts = [_polygons(part, ignored) for part in geometry["geometries"]]
        found = [part for part in parts if part is not None]
        return GeometryCollection(found) if found else None
    if kind == "Polygon":
        rings = [geometry["coordinates"]]
    elif kind == "MultiPolygon":
        rings = geometry["coordinates"]
    else:
        raise ValueError(f"unknown geometry type {kind!r}")
    pieces = [polygon(outline, holes) for outline, *holes in rings]
    closed = [piece for piece in pieces if piece is not None]
    if not closed:
        ignored["outline with fewer than 3 vertices"] += 1
        return None
    return closed[0] if len(closed) == 1 else MultiPolygon(closed)


def _line(geometry: dict[str, Any]) -> BaseGeometry | None:
    if geometry["type"] not in ("LineString", "MultiLineString"):
        return None
    single = geometry["type"] == "LineString"
    parts = [geometry["coordinates"]] if single else geometry["coordinates"]
    lines = [vertices(part) for part in parts if len(part) > 1]
    return MultiLineString(lines) if lines else None
