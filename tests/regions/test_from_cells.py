"""The region that tumour cells span, without anybody's drawing."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from histo.measure.spatial.structure import share_in_structures, structure_of_cells
from histo.regions.from_cells import region_of_cells, spiat_alpha_um

RNG = np.random.default_rng(3)


def ring(n: int, radius: float, inner: float) -> np.ndarray:
    angle, r = RNG.uniform(0, 2 * np.pi, n), np.sqrt(RNG.uniform(inner**2, radius**2, n))
    return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 300), st.floats(0.04, 0.5))
def test_it_is_the_alpha_hull_with_straight_sides(seed, n, alpha):
    points = np.random.default_rng(seed).uniform(0, 1, (n, 2))
    found = region_of_cells(points, alpha_um=alpha, fewest_corners=0)
    # The alpha hull is the closing by a disc: out by alpha and back in.
    hull = shapely.MultiPoint(points).buffer(alpha, quad_segs=64).buffer(-alpha, quad_segs=64)
    assert hull.difference(found.polygons_um).area < 1e-3 * alpha
    assert found.polygons_um.difference(shapely.convex_hull(shapely.MultiPoint(points))).area < 1e-12
    corners = shapely.get_coordinates(found.polygons_um)
    on = (
        np.abs(points[:, None] - corners).max(axis=2).min(axis=1) < 1e-9
        if len(corners)
        else np.zeros(n, bool)
    )
    np.testing.assert_array_equal(found.is_border, on)
    if found.is_border.any():
        border = shapely.points(points[found.is_border])
        assert shapely.distance(hull.boundary, border).max() < 0.02 * alpha


def test_a_great_alpha_gives_the_convex_hull():
    points = RNG.uniform(0, 100, (200, 2))
    found = region_of_cells(points, alpha_um=1e6, fewest_corners=2)
    assert found.polygons_um.equals(shapely.convex_hull(shapely.MultiPoint(points)))


def test_islands_holes_and_strays():
    island, stray = ring(500, 100, 0) + np.array([1000, 0]), [[500.0, 500.0], [505.0, 500.0]]
    found = region_of_cells(np.concatenate([ring(4000, 400, 200), island, stray]), alpha_um=40)
    large, small = sorted(found.polygons_um.geoms, key=lambda part: -part.area)
    assert (len(large.interiors), len(small.interiors)) == (1, 0)
    assert large.area == pytest.approx(np.pi * (400**2 - 200**2), rel=0.05)
    assert small.area == pytest.approx(np.pi * 100**2, rel=0.1)
    assert not found.is_border[-2:].any()


def test_cells_on_a_grid_and_cells_that_lie_twice():
    x, y = np.meshgrid(np.arange(30.0), np.arange(20.0))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    found = region_of_cells(np.concatenate([points, points]), alpha_um=1.0)
    assert found.polygons_um.area == pytest.approx(29 * 19)
    edge = (points == 0).any(axis=1) | (points == (29, 19)).any(axis=1)
    np.testing.assert_array_equal(found.is_border, np.concatenate([edge, edge]))


@pytest.mark.parametrize(
    "points", [np.empty((0, 2)), [[0.0, 0.0], [1.0, 1.0]], np.outer(np.arange(9.0), [1, 2])]
)
def test_points_that_span_nothing(points):
    found = region_of_cells(points)
    assert found.polygons_um.is_empty
    assert not found.is_border.any()
    tumour = np.ones(len(points), bool)
    with pytest.raises(ValueError, match="span no region"):
        structure_of_cells(np.asarray(points), tumour, found)


def test_bad_input():
    with pytest.raises(ValueError, match="missing or infinite"):
        region_of_cells([[0, np.nan]])
    with pytest.raises(ValueError, match="above 0"):
        region_of_cells([[0, 1]], alpha_um=0)


def test_spiat_alpha():
    assert [spiat_alpha_um(n) for n in (50, 819, 6000)] == [60, 63.24375, 90]


def test_few_cells_have_no_share():
    structure = np.array(["stromal"] * 3 + ["infiltrated"] * 30)
    shares = share_in_structures(structure, np.arange(33) < 13, fewest_cells=20)
    assert shares["stromal"] is None
    assert shares["infiltrated"] == pytest.approx(1 / 3)
