"""GeoJSON of cells is hostile input: whatever it holds, it is read or refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo.datasets.geojson import read_cells

_WORDS = st.sampled_from(
    [
        "type",
        "Feature",
        "FeatureCollection",
        "features",
        "geometry",
        "properties",
        "coordinates",
        "Polygon",
        "MultiPolygon",
        "Point",
        "MultiPoint",
        "objectType",
        "classification",
        "name",
        "names",
        "childObjects",
        "id",
        "annotation",
        "tile",
    ]
)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | _WORDS
JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_WORDS, inner, max_size=5),
    max_leaves=30,
)
_NUMBERS = st.floats(width=32) | st.integers(-(10**400), 10**400) | st.sampled_from([0, 1, 2, 5, 1e308])
_RINGS = st.recursive(_NUMBERS, lambda inner: st.lists(inner, max_size=5), max_leaves=40)


@given(JSON)
def test_any_json_is_read_or_refused(data: Any) -> None:
    with contextlib.suppress(ValueError):
        read_cells(json.dumps(data).encode())


@given(st.sampled_from(["Polygon", "MultiPolygon", "Point", "MultiPoint"]), _RINGS, JSON)
def test_any_geometry_is_read_or_refused(kind: str, coordinates: Any, properties: Any) -> None:
    geometry = {"type": kind, "coordinates": coordinates}
    text = json.dumps({"type": "Feature", "geometry": geometry, "properties": properties})
    with contextlib.suppress(ValueError):
        drawn = read_cells(text.encode())
        assert all(outline.is_valid and outline.area > 0 for outline in drawn.outlines)
        assert np.isfinite(drawn.points).all()
        assert len(drawn.outlines) == len(drawn.outline_names)
        assert len(drawn.points) == len(drawn.point_names)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_cells(text)


@pytest.mark.parametrize(
    ("classification", "name"),
    [
        ({"name": "CD8", "colorRGB": -3140401}, "CD8"),
        ({"names": ["Immune cells", "Positive"], "color": [250, 62, 62]}, "Immune cells: Positive"),
        ("CD8", "CD8"),
        (None, None),
        ({}, None),
    ],
)
def test_class_names_of_all_layouts(classification: Any, name: str | None) -> None:
    point = {"type": "Point", "coordinates": [3, 4, 0]}
    feature = {"type": "Feature", "geometry": point, "properties": {"classification": classification}}
    drawn = read_cells(json.dumps(feature).encode())
    assert drawn.point_names == (name,)
    assert drawn.points.tolist() == [[3, 4]]


def test_a_crossed_outline_keeps_both_halves() -> None:
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]]}
    drawn = read_cells(json.dumps([{"type": "Feature", "geometry": bow_tie}]).encode())
    assert drawn.outlines[0].area == pytest.approx(8)
