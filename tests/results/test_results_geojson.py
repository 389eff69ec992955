from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from made_up import make_cells
from shapely.geometry import LineString, MultiLineString, MultiPolygon, Point, Polygon, box, shape

from histo.cells.table import CD8, CELL_COLUMNS
from histo.errors import ResultsError
from histo.results.geojson import CellGeoJsonWriter, write_annotations_geojson

MPP = (0.25, 0.5)


def _write(path: Path, n: int, batch: int = 10**9, slide_id: str = "s") -> Path:
    table, outlines = make_cells(n)
    with CellGeoJsonWriter(path, MPP, slide_id) as writer:
        for start in range(0, n, batch):
            writer.write(table.iloc[start : start + batch], outlines[start : start + batch])
    return path


def _features(path: Path) -> list[dict[str, Any]]:
    data = json.loads(gzip.decompress(path.read_bytes()))
    assert data["type"] == "FeatureCollection"
    features: list[dict[str, Any]] = data["features"]
    return features


def test_each_cell_is_a_detection_as_qupath_writes_them(tmp_path: Path) -> None:
    table, outlines = make_cells(60)
    features = _features(_write(tmp_path / "cells.geojson.gz", 60))
    assert len(features) == 60
    for row, outline, feature in zip(table.itertuples(), outlines, features, strict=True):
        assert feature["type"] == "Feature"
        assert uuid.UUID(feature["id"]).version == 5
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["classification"]["name"] == row.cell_class
        assert len(properties["classification"]["color"]) == 3
        measured = properties["measurements"]
        assert measured["Cell id"] == row.cell_id
        assert measured["Area um^2"] == pytest.approx(row.area_um2, abs=0.005)
        assert measured["Probability"] == pytest.approx(row.probability, abs=0.0005)
        assert measured["Ring: CD8 mean"] == pytest.approx(row.cd8_ring_mean, abs=0.00005)
        assert measured["In assessed tissue"] == int(row.in_tissue)
        name = "Signed distance to tumour border um"
        if np.isnan(row.signed_distance_um):
            assert name not in measured
        else:
            assert measured[name] == pytest.approx(row.signed_distance_um, abs=0.0051)
        known = {k: v for k, v in (("Region", row.region), ("Zone", row.zone)) if v}
        assert properties.get("metadata", {}) == known
        ring = np.array(feature["geometry"]["coordinates"][0])
        np.testing.assert_array_equal(ring[0], ring[-1])
        expected = shapely.get_coordinates(outline) / MPP
        np.testing.assert_allclose(ring, expected, atol=0.0051)
        np.testing.assert_array_equal(ring, np.round(ring, 2))


def test_ids_are_those_of_the_standard_library(tmp_path: Path) -> None:
    features = _features(_write(tmp_path / "a.geojson.gz", 20))
    other = _features(_write(tmp_path / "b.geojson.gz", 20, slide_id="t"))
    ids = {f["id"] for f in features} | {f["id"] for f in other}
    assert len(ids) == 40
    namespace = uuid.UUID("6f1cf4a8-3f0e-5d3c-9f5e-1f2f3a0c8d11")
    assert features[4]["id"] == str(uuid.uuid5(uuid.uuid5(namespace, "s"), "5"))


def test_bytes_are_the_same_each_time_whatever_the_batches(tmp_path: Path) -> None:
    a = _write(tmp_path / "a.geojson.gz", 100)
    b = _write(tmp_path / "other_name.geojson.gz", 100, batch=9)
    assert gzip.decompress(a.read_bytes()) == gzip.decompress(b.read_bytes())
    (tmp_path / "again").mkdir()
    assert a.read_bytes() == _write(tmp_path / "again" / "c.geojson.gz", 100).read_bytes()


@pytest.mark.parametrize("n", [0, 1, 300])
def test_geopandas_parses_one_feature_per_cell(tmp_path: Path, n: int) -> None:
    path = _write(tmp_path / "cells.geojson.gz", n)
    assert len(_features(path)) == n
    text = tmp_path / "cells.geojson"
    text.write_bytes(gzip.decompress(path.read_bytes()))
    frame = geopandas.read_file(text)
    assert len(frame) == n
    if n:
        assert frame.is_valid.all()
        assert len(geopandas.read_file(f"/vsigzip/{path}")) == n


@given(
    st.lists(
        st.tuples(st.floats(-1e5, 4e5), st.floats(-1e5, 4e5), st.floats(0.05, 30)), min_size=1, max_size=20
    )
)
def test_any_coordinate_is_exact_to_a_hundredth_of_a_pixel(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[float, float, float]]
) -> None:
    table, _ = make_cells(len(places))
    outlines = np.array([box(x, y, x + size, y + size) for x, y, size in places], object)
    path = tmp_path_factory.mktemp("geojson") / "cells.geojson.gz"
    with CellGeoJsonWriter(path, (1.0, 1.0), "s") as writer:
        writer.write(table, outlines)
    for feature, outline in zip(_features(path), outlines, strict=True):
        ring = feature["geometry"]["coordinates"][0]
        np.testing.assert_allclose(ring, shapely.get_coordinates(outline), rtol=0, atol=0.005 + 1e-9)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_any_measurement_is_valid_json(
    tmp_path_factory: pytest.TempPathFactory, distances: list[float]
) -> None:
    table, outlines = make_cells(len(distances))
    table["signed_distance_um"] = np.array(distances, np.float32)
    path = tmp_path_factory.mktemp("geojson") / "cells.geojson.gz"
    with CellGeoJsonWriter(path, (1.0, 1.0), "s") as writer:
        writer.write(table, outlines)
    read = [f["properties"]["measurements"]["Signed distance to tumour border um"] for f in _features(path)]
    np.testing.assert_allclose(read, table["signed_distance_um"].astype(float), rtol=0, atol=0.005 + 1e-6)


def test_an_unknown_measurement_is_left_out_wherever_it_stands(tmp_path: Path) -> None:
    table, outlines = make_cells(3)
    table["probability"] = np.array([np.nan, 0.5, np.inf], np.float32)
    table["cd8_ring_mean"] = np.float32("nan")
    path = tmp_path / "cells.geojson.gz"
    with CellGeoJsonWriter(path, MPP, "s") as writer:
        writer.write(table, outlines)
    measured = [f["properties"]["measurements"] for f in _features(path)]
    assert ["Probability" in m for m in measured] == [False, True, False]
    assert not any("Ring: CD8 mean" in m for m in measured)


def test_markers_are_measurements_named_as_qupath_names_channels(tmp_path: Path) -> None:
    name = 'PD-1"\\'
    table, outlines = make_cells(9, markers=(name, "CD8"))
    table.loc[2, f"{name}_ring_mean"] = np.float32("nan")
    path = tmp_path / "cells.geojson.gz"
    with CellGeoJsonWriter(path, MPP, "s", (name, "CD8")) as writer:
        writer.write(table, outlines)
    measured = [feature["properties"]["measurements"] for feature in _features(path)]
    assert len(measured[0]) == len(set(measured[0]))
    for row, found in zip(table.to_dict("records"), measured, strict=True):
        for compartment in ("Nucleus", "Ring", "Cell"):
            for statistic in ("Mean", "Median", "Upper"):
                label = f"{name}: {compartment}: {statistic}"
                value = row[f"{name}_{compartment.lower()}_{statistic.lower()}"]
                assert (label in found) == np.isfinite(value)
                assert found.get(label, 0.0) == pytest.approx(np.nan_to_num(value), abs=1e-3)
        # The stain of the network is told apart from a marker of that name.
        assert found["Ring: CD8 mean"] == pytest.approx(row["cd8_ring_mean"], abs=1e-3)
        assert found["CD8: Ring: Mean"] == pytest.approx(row["CD8_ring_mean"], abs=1e-3)


def test_names_that_need_escaping_stay_json(tmp_path: Path) -> None:
    table, outlines = make_cells(2)
    table["region"] = np.array(['a "quoted" \\ name', "Rändér"], object)
    path = tmp_path / "cells.geojson.gz"
    with CellGeoJsonWriter(path, MPP, "s") as writer:
        writer.write(table, outlines)
    regions = [f["properties"]["metadata"]["Region"] for f in _features(path)]
    assert regions == list(table["region"])


def test_holes_are_refused_and_an_error_leaves_nothing(tmp_path: Path) -> None:
    table, _ = make_cells(1)
    ring = Polygon(box(0, 0, 9, 9).exterior, [box(2, 2, 4, 4).exterior])
    with pytest.raises(ValueError, match="holes"), CellGeoJsonWriter(tmp_path / "c", MPP, "s") as writer:
        writer.write(table, np.array([ring], object))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ResultsError, match="cannot be written"):
        CellGeoJsonWriter(tmp_path / "none" / "c", MPP, "s")


def test_annotations_are_in_level_0_pixels(tmp_path: Path) -> None:
    tumour = MultiPolygon([Polygon(box(10, 10, 60, 40).exterior, [box(20, 20, 30, 30).exterior])])
    border = MultiLineString([LineString([(10, 10), (60, 10)])])
    path = tmp_path / "regions.geojson"
    write_annotations_geojson(
        path, {"tumour": tumour, "tumour border": border, "host": None, "x": Point()}, MPP
    )
    features = json.loads(path.read_text())["features"]
    assert [f["properties"]["classification"]["name"] for f in features] == ["tumour", "tumour border"]
    assert {f["properties"]["objectType"] for f in features} == {"annotation"}
    assert shape(features[0]["geometry"]).equals(shapely.transform(tumour, lambda xy: xy / np.array(MPP)))
    assert shape(features[1]["geometry"]).bounds == (40, 20, 240, 20)
    assert len(geopandas.read_file(path)) == 2


def test_annotations_of_a_slide_without_any(tmp_path: Path) -> None:
    write_annotations_geojson(tmp_path / "regions.geojson", {"tumour": None}, MPP)
    assert json.loads((tmp_path / "regions.geojson").read_text())["features"] == []


def test_measurements_cover_the_schema() -> None:
    table, _ = make_cells(1)
    # Positions are the outline's; everything else of the table must be in the file.
    places = {"x_um", "y_um", "x_px", "y_px", "cell_class"}
    from histo.results.geojson import _MEASUREMENTS, _METADATA

    told = {m[0] for m in _MEASUREMENTS} | {m[0] for m in _METADATA}
    assert told | places == set(CELL_COLUMNS)
    assert CD8 in set(make_cells(50)[0]["cell_class"])
    assert list(table.columns) == list(CELL_COLUMNS)
