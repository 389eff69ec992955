"""Polygons onto a grid, against shapely's own test of the pixel centres."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, Polygon, box

from histo.regions.raster import paint, rasterise

SHAPE = (40, 50)


def by_shapely(geometry, shape, mpp):
    rows, columns = shape
    x, y = np.meshgrid((np.arange(columns) + 0.5) * mpp, (np.arange(rows) + 0.5) * mpp)
    return shapely.contains_xy(geometry, x.ravel(), y.ravel()).reshape(shape)


@given(
    points=st.lists(
        st.tuples(st.floats(-120, 520, width=32), st.floats(-120, 440, width=32)), min_size=3, max_size=12
    )
)
@settings(max_examples=150)
def test_same_pixels_as_shapely(points):
    geometry = shapely.make_valid(Polygon(points))
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon"]
    geometry = shapely.union_all(parts) if parts else Polygon()
    expected = by_shapely(geometry, SHAPE, 8.0)
    found = rasterise(geometry, SHAPE, 8.0)
    # A centre on an edge may go either way.
    x, y = np.meshgrid((np.arange(SHAPE[1]) + 0.5) * 8.0, (np.arange(SHAPE[0]) + 0.5) * 8.0)
    on_edge = shapely.distance(geometry.boundary, shapely.points(x, y)) < 1e-3
    assert (found == expected)[~on_edge].all()


def test_holes_and_islands_are_kept():
    ring = Polygon(Point(160, 160).buffer(120).exterior, [Point(160, 160).buffer(80).exterior])
    both = MultiPolygon([ring, Point(160, 160).buffer(30)])
    found = rasterise(both, SHAPE, 8.0)
    assert (found == by_shapely(both, SHAPE, 8.0)).all()
    assert found[20, 20]
    assert not found[20, 13]


@pytest.mark.parametrize("edge", [100.0, 100.1, 104.0, 108.0])
def test_polygons_that_share_an_edge_share_the_pixels(edge):
    left, right = box(0, 0, edge, 320), box(edge, 0, 400, 320)
    both = rasterise(left, SHAPE, 8.0).astype(int) + rasterise(right, SHAPE, 8.0)
    assert (both == 1).all()


def test_whole_grid_and_outside():
    assert rasterise(box(-1e4, -1e4, 1e4, 1e4), SHAPE, 8.0).all()
    assert not rasterise(box(500, 500, 900, 900), SHAPE, 8.0).any()
    assert not rasterise(Polygon(), SHAPE, 8.0).any()


def test_paint_sets_a_value_and_leaves_the_rest():
    raster = np.full(SHAPE, 7, np.uint8)
    paint(raster, box(80, 80, 160, 120), 8.0, 3)
    assert (raster == 3).sum() == 10 * 5
    assert (raster == 7).sum() == raster.size - 50


def test_area_of_a_circle_at_two_grids():
    circle = Point(1000, 1000).buffer(700, quad_segs=64)
    for mpp, size in ((8.0, 250), (4.0, 500)):
        area = rasterise(circle, (size, size), mpp).sum() * mpp**2
        assert area == pytest.approx(circle.area, rel=0.005)
