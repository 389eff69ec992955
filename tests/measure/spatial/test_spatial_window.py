"""Windows: area, what they hold, distance to their edge, overlap with themselves."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon, box

from histo.errors import PointsError
from histo.measure.spatial.points import as_points, as_radii, pairs_within
from histo.measure.spatial.window import MaskWindow, PolygonWindow, check_inside


def as_polygon(window):
    row, column = np.nonzero(window.mask)
    corners = np.stack([column, row, column + 1, row + 1]) * window.mpp
    return PolygonWindow.of(shapely.union_all(shapely.box(*corners)))


class TestPolygonWindow:
    def test_rectangle(self):
        window = PolygonWindow.rectangle(10, 50, 0, 20)
        assert window.area_um2 == 300
        points = np.array([[5.0, 21.0], [1.0, 35.0], [0.0, 20.0]])
        assert window.contains(points).all()
        np.testing.assert_allclose(window.border_distance_um(points), [1, 1, 0])
        overlap = window.overlap(60)(np.array([0.0, -4.0, 11.0]), np.array([0.0, 10.0, 0.0]))
        np.testing.assert_allclose(overlap, [300, 6 * 20, 0])

    def test_holes_are_outside(self, holed):
        assert holed.area_um2 == pytest.approx(holed.polygon.area)
        points = np.array([[75.0, 80.0], [20.0, 80.0], [150.0, 200.0], [-1.0, 5.0]])
        assert holed.contains(points).tolist() == [False, True, False, False]
        # The nearest edge is the hole's.
        np.testing.assert_allclose(holed.border_distance_um(np.array([[30.0, 80.0]])), [10])

    def test_overlap_of_a_polygon_is_that_of_shapely(self, holed, strew):
        shifts = np.random.default_rng(0).uniform(-80, 80, (20, 2))
        expected = [holed.polygon.intersection(translate(holed.polygon, *shift)).area for shift in shifts]
        np.testing.assert_allclose(holed.overlap(120)(*shifts.T), expected, rtol=1e-12)

    def test_border_distance_is_that_of_shapely(self, holed, strew):
        points = strew(holed, 200, np.random.default_rng(1))
        expected = shapely.distance(holed.polygon.boundary, shapely.points(points))
        np.testing.assert_allclose(holed.border_distance_um(points), expected, rtol=1e-12)

    def test_bow_tie_is_refused(self):
        with pytest.raises(PointsError, match="no valid polygon"):
            PolygonWindow.of(Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]))

    @pytest.mark.parametrize("polygon", [MultiPolygon(), Polygon()])
    def test_empty_is_refused(self, polygon):
        with pytest.raises(PointsError, match="empty"):
            PolygonWindow.of(polygon)


class TestMaskWindow:
    def test_area_and_contents_are_those_of_its_pixels(self, tissue, strew):
        polygon = as_polygon(tissue)
        assert tissue.area_um2 == pytest.approx(polygon.area_um2)
        points = np.random.default_rng(0).uniform(-50, 700, (500, 2))
        assert (tissue.contains(points) == polygon.contains(points)).all()

    def test_border_distance_is_that_of_its_outline_to_within_a_pixel(self, tissue, strew):
        points = strew(tissue, 2000, np.random.default_rng(1))
        off = tissue.border_distance_um(points) - as_polygon(tissue).border_distance_um(points)
        assert off.min() > -1e-9
        assert off.max() < tissue.mpp
        assert np.median(off) < 1e-9

    def test_edge_of_the_raster_is_an_edge(self):
        window = MaskWindow(np.ones((10, 20), bool), 2.0)
        points = np.array([[20.0, 10.0], [39.0, 10.0], [1.0, 3.0]])
        np.testing.assert_allclose(window.border_distance_um(points), [10, 1, 1])

    def test_overlap_is_exact_between_pixels_too(self, tissue):
        shifts = np.random.default_rng(2).uniform(-70, 70, (30, 2))
        shifts[:4] = [(0, 0), (8, -16), (-24, 0), (0, 70)]
        found = tissue.overlap(100)(*shifts.T)
        np.testing.assert_allclose(found, as_polygon(tissue).overlap(100)(*shifts.T), rtol=1e-9)

    def test_overlap_beyond_the_raster_is_nothing(self):
        overlap = MaskWindow(np.ones((3, 4), bool), 1.0).overlap(10)
        found = overlap(np.array([3.0, 4.5, -9.9, 0.0]), np.array([2.0, 0.0, 0.0, -3.5]))
        np.testing.assert_allclose(found, [1, 0, 0, 0])

    @pytest.mark.parametrize(
        ("mask", "mpp", "what"),
        [
            (np.zeros((3, 3), bool), 8.0, "empty"),
            (np.ones((3, 3)), 8.0, "type float64"),
            (np.ones(3, bool), 8.0, "shape"),
            (np.ones((3, 3), bool), 0.0, "pixel size"),
            (np.ones((3, 3), bool), np.nan, "pixel size"),
        ],
    )
    def test_refused(self, mask, mpp, what):
        with pytest.raises(PointsError, match=what):
            MaskWindow(mask, mpp)


def test_points_outside_are_counted():
    window = PolygonWindow.of(box(0, 0, 1, 1))
    with pytest.raises(PointsError, match="2 of 3 cells lie outside"):
        check_inside(np.array([[0.5, 0.5], [2, 0], [0, 2]]), window, "cells")


@pytest.mark.parametrize(
    ("points", "what"),
    [([1.0, 2.0], "shape"), ([[1.0, 2.0, 3.0]], "shape"), ([[1.0, np.nan], [np.inf, 0.0], [0, 0]], "2 of 3")],
)
def test_points_that_are_none(points, what):
    with pytest.raises(PointsError, match=what):
        as_points(points)


def test_no_points_are_points():
    assert as_points([]).shape == (0, 2)


@pytest.mark.parametrize("radii", [[], [2.0, 1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, np.nan], [[1.0, 2.0]]])
def test_radii_that_are_none(radii):
    with pytest.raises(PointsError, match="increasing"):
        as_radii(radii)


def test_pairs_are_those_of_all_distances(strew, tissue):
    rng = np.random.default_rng(3)
    x, t = strew(tissue, 3000, rng), strew(tissue, 700, rng)
    found = [np.stack([i, j, d]) for i, j, d in pairs_within(x, t, 60)]
    assert len(found) > 1
    i, j, distance = np.concatenate(found, axis=1)
    every = np.hypot(*(x[:, None] - t[None]).transpose(2, 0, 1))
    assert len(i) == (every <= 60).sum() == len(set(zip(i, j, strict=True)))
    np.testing.assert_allclose(distance, every[i.astype(int), j.astype(int)], rtol=1e-12)
