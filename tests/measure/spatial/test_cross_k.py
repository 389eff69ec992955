"""Cross-K: unbiased where the window has holes, blind to where the frame lies, and its error paths."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
from shapely.affinity import rotate, translate

from histo.errors import PointsError
from histo.measure.spatial.cross_k import CrossK, auc_difference, cross_k, crossing
from histo.measure.spatial.intensity import kernel_intensity
from histo.measure.spatial.window import MaskWindow, PolygonWindow

R = np.array([5.0, 15.0, 30.0])
CORRECTIONS = ("border", "translation", "isotropic")


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_no_interaction_gives_pi_r_squared_in_a_window_with_holes(holed, strew, correction):
    rng = np.random.default_rng(0)
    ratios = np.array(
        [
            cross_k(strew(holed, 80, rng), strew(holed, 80, rng), holed, R, correction=correction).k_um2
            / (pi * R**2)
            for _ in range(40)
        ]
    )
    error = ratios.std(axis=0) / np.sqrt(len(ratios))
    assert (np.abs(ratios.mean(axis=0) - 1) < 3.5 * error).all()
    assert (error < 0.07).all()


def test_without_correction_it_would_be_biased(holed, strew):
    rng = np.random.default_rng(0)
    box = PolygonWindow.rectangle(*holed.polygon.bounds)
    ratio = np.mean(
        [
            cross_k(strew(holed, 80, rng), strew(holed, 80, rng), box, R, correction="translation").k_um2
            / (pi * R**2)
            for _ in range(40)
        ],
        axis=0,
    )
    # In the bounding box the holes look like clustering.
    assert (ratio[:2] > 1.05).all()


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_translation_and_rotation_change_nothing(holed, strew, correction):
    rng = np.random.default_rng(1)
    x, t = strew(holed, 40, rng), strew(holed, 60, rng)
    turned = PolygonWindow.of(translate(rotate(holed.polygon, 33, origin=(0, 0)), 5000, -700))
    angle = np.deg2rad(33)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    moved = [points @ turn + (5000, -700) for points in (x, t)]
    expected = cross_k(x, t, holed, R, correction=correction).k_um2
    np.testing.assert_allclose(cross_k(*moved, turned, R, correction=correction).k_um2, expected, rtol=1e-9)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_constant_intensities_are_the_homogeneous_case(holed, strew, correction):
    rng = np.random.default_rng(2)
    x, t = strew(holed, 50, rng), strew(holed, 70, rng)
    inhomogeneous = cross_k(
        x,
        t,
        holed,
        R,
        correction=correction,
        intensity_x_per_um2=np.full(50, 50 / holed.area_um2),
        intensity_t_per_um2=np.full(70, 70 / holed.area_um2),
    )
    np.testing.assert_allclose(
        inhomogeneous.k_um2, cross_k(x, t, holed, R, correction=correction).k_um2, rtol=1e-12
    )


def test_intensity_takes_out_what_only_density_does(strew):
    # X and T share a slope and nothing else: homogeneous K sees attraction, inhomogeneous K does not.
    window = MaskWindow(np.ones((200, 200), bool), 8.0)
    rng = np.random.default_rng(3)

    def slope(points):
        return 0.2 + 0.8 * points[:, 0] / 1600

    x, t = (
        points[rng.random(len(points)) < slope(points)]
        for points in (strew(window, 4000, rng), strew(window, 4000, rng))
    )
    r = [50.0, 100.0]
    plain = cross_k(x, t, window, r)
    known = [len(points) / window.area_um2 * slope(points) / 0.6 for points in (x, t)]
    estimated = [kernel_intensity(points, window, sigma_um=150) for points in (x, t)]
    assert (plain.k_um2 / plain.theoretical_um2 > 1.1).all()
    for intensity_x, intensity_t in (known, estimated):
        flat = cross_k(x, t, window, r, intensity_x_per_um2=intensity_x, intensity_t_per_um2=intensity_t)
        np.testing.assert_allclose(flat.k_um2 / flat.theoretical_um2, 1, atol=0.06)


def test_border_by_its_definition(holed, strew):
    rng = np.random.default_rng(4)
    x, t = strew(holed, 60, rng), strew(holed, 50, rng)
    b = holed.border_distance_um(x)
    distance = np.hypot(*(x[:, None] - t[None]).transpose(2, 0, 1))
    expected = [(distance[b >= r] <= r).sum() / (b >= r).sum() * holed.area_um2 / len(t) for r in R]
    np.testing.assert_allclose(cross_k(x, t, holed, R, correction="border").k_um2, expected, rtol=1e-12)


def test_border_is_not_known_where_no_point_is_so_far_from_the_edge(holed, strew):
    rng = np.random.default_rng(5)
    k = cross_k(strew(holed, 20, rng), strew(holed, 20, rng), holed, [1.0, 200.0], correction="border")
    assert np.isfinite(k.k_um2).tolist() == [True, False]


def test_l_is_the_distance_where_nothing_interacts():
    r = np.array([10.0, 20.0])
    np.testing.assert_allclose(CrossK(r, pi * r**2).l_um, r)


class TestErrors:
    X = ((10.0, 10.0), (20.0, 20.0))
    WINDOW = PolygonWindow.rectangle(0, 0, 30, 30)

    @pytest.mark.parametrize(
        ("x", "t", "what"),
        [
            ([], X, "no points of X"),
            (X, [], "no points of T"),
            (X, [(40.0, 0.0)], "1 of 1 points of T lie outside"),
        ],
    )
    def test_points(self, x, t, what):
        with pytest.raises(PointsError, match=what):
            cross_k(x, t, self.WINDOW, R)

    def test_one_intensity(self):
        with pytest.raises(PointsError, match="one kind"):
            cross_k(self.X, self.X, self.WINDOW, R, intensity_x_per_um2=[1.0, 1.0])

    @pytest.mark.parametrize("intensity", [[1.0], [1.0, 0.0], [1.0, np.nan]])
    def test_intensity(self, intensity):
        with pytest.raises(PointsError, match="intensity of T"):
            cross_k(
                self.X, self.X, self.WINDOW, R, intensity_x_per_um2=[1.0, 1.0], intensity_t_per_um2=intensity
            )

    def test_isotropic_needs_a_polygon(self):
        with pytest.raises(PointsError, match="polygon"):
            cross_k(self.X, self.X, MaskWindow(np.ones((30, 30), bool), 1.0), R, correction="isotropic")

    @pytest.mark.parametrize("sigma_um", [0.0, -1.0, np.nan, 2.0])
    def test_kernel(self, sigma_um):
        with pytest.raises(PointsError, match="standard deviation"):
            kernel_intensity(self.X, MaskWindow(np.ones((30, 30), bool), 1.0), sigma_um=sigma_um)


class TestCurves:
    R = np.linspace(0, 100, 101)

    def curve(self, factor):
        return CrossK(self.R, pi * self.R**2 * factor)

    def test_crossing_counts_from_far(self):
        k = self.curve(np.where(self.R < 30.5, 0.5, 1.5))
        assert crossing(k) == pytest.approx(1 - 30 / 101)

    @pytest.mark.parametrize("factor", [0.5, 1.5])
    def test_no_crossing(self, factor):
        assert crossing(self.curve(factor)) is None

    def test_more_than_one_crossing_is_none(self):
        assert crossing(self.curve(np.where((self.R < 30) | (self.R > 60), 0.5, 1.5))) is None

    def test_crossing_at_once_is_noise(self):
        assert crossing(self.curve(np.where(self.R < 2.5, 0.5, 1.5))) is None

    def test_area_between_curves(self):
        # pi r**2 holds a third of its box.
        theory = self.curve(1.0).k_um2
        assert auc_difference(self.R, np.zeros(101), theory) == pytest.approx(-1 / 3, abs=1e-4)
        assert auc_difference(self.R, theory, theory) == 0
        assert np.isnan(auc_difference(self.R, np.full(101, np.nan), theory))
