"""Random labelling: honest p values, the same numbers for the same seed, cross-G as elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from histo.errors import PointsError
from histo.measure.spatial.cross_g import cross_g
from histo.measure.spatial.envelope import cross_g_by_label, envelope, random_labelling

R = np.array([5.0, 10.0, 15.0, 20.0])


@pytest.fixture
def cells(tissue, strew):
    rng = np.random.default_rng(0)
    points = strew(tissue, 600, rng)
    return points, points[:, 0] < 320


def labels(n, chance, rng):
    return rng.random(n) < chance


class TestCrossGByLabel:
    def test_is_the_border_estimate_for_any_labels(self, cells, tissue):
        points, in_tumour = cells
        curve_of = cross_g_by_label(points, in_tumour, tissue, R)
        rng = np.random.default_rng(1)
        for _ in range(5):
            is_x = labels(len(points), 0.2, rng)
            expected = cross_g(points[is_x], points[in_tumour & ~is_x], tissue, R).border
            assert curve_of(is_x)[-1] == pytest.approx(expected[-1])

    def test_smaller_distances_use_the_same_points(self, cells, tissue):
        points, in_tumour = cells
        is_x = labels(len(points), 0.2, np.random.default_rng(2))
        inner = tissue.border_distance_um(points) >= R[-1]
        distance = np.hypot(
            *(points[is_x & inner][:, None] - points[in_tumour & ~is_x][None]).transpose(2, 0, 1)
        ).min(axis=1)
        expected = [(distance <= r).mean() for r in R]
        np.testing.assert_allclose(cross_g_by_label(points, in_tumour, tissue, R)(is_x), expected)

    def test_without_candidates_nothing_is_near(self, cells, tissue):
        points, _ = cells
        curve_of = cross_g_by_label(points, np.zeros(len(points), bool), tissue, R)
        assert curve_of(np.ones(len(points), bool)).tolist() == [0, 0, 0, 0]

    def test_without_labels_it_is_not_known(self, cells, tissue):
        points, in_tumour = cells
        curve_of = cross_g_by_label(points, in_tumour, tissue, R)
        assert np.isnan(curve_of(np.zeros(len(points), bool))).all()


class TestRandomLabelling:
    def test_the_same_seed_gives_the_same_result(self, cells, tissue):
        points, in_tumour = cells
        curve_of = cross_g_by_label(points, in_tumour, tissue, R)
        is_x = labels(len(points), 0.2, np.random.default_rng(3))
        one, two, other = (
            random_labelling(curve_of, is_x, n_permutations=19, seed=seed) for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(one.mean, two.mean)
        assert (one.mean != other.mean).any()

    def test_exclusion_and_infiltration(self, cells, tissue):
        points, in_tumour = cells
        curve_of = cross_g_by_label(points, in_tumour, tissue, R)
        rng = np.random.default_rng(4)
        excluded = labels(len(points), 0.25, rng) & ~in_tumour
        infiltrated = labels(len(points), 0.25, rng) & in_tumour
        out, within = (
            random_labelling(curve_of, is_x, n_permutations=99) for is_x in (excluded, infiltrated)
        )
        assert out.effect[-1] < -3
        assert within.effect[-1] > 3
        for result in (out, within):
            assert result.p_global == 0.01
            assert result.p_pointwise[-1] == 0.02
        assert (out.observed < out.low)[-1]
        assert (within.observed > within.high)[-1]

    def test_p_is_uniform_where_labels_are_random(self, cells, tissue):
        points, in_tumour = cells
        curve_of = cross_g_by_label(points, in_tumour, tissue, R)
        rng = np.random.default_rng(5)
        p_global, p_last = [], []
        for run in range(300):
            is_x = np.zeros(len(points), bool)
            is_x[rng.choice(len(points), 120, replace=False)] = True
            result = random_labelling(curve_of, is_x, n_permutations=39, seed=run)
            p_global.append(result.p_global)
            p_last.append(result.p_pointwise[-1])
        # Steps of 1 / 40: spread each over its step.
        assert kstest(np.array(p_global) - rng.random(300) / 40, "uniform").pvalue > 0.01
        # Ties make it the more careful, never the less.
        assert np.mean(np.array(p_last) <= 0.1) <= 0.13
        assert np.mean(np.array(p_global) <= 0.05) <= 0.08


class TestEnvelope:
    PERMUTED = np.stack([np.linspace(0, 1, 99), np.full(99, 0.5)], axis=1)

    def test_by_hand(self):
        found = envelope(np.array([2.0, 0.5]), self.PERMUTED, level=0.9)
        np.testing.assert_allclose(found.low, [0.05, 0.5])
        np.testing.assert_allclose(found.high, [0.95, 0.5])
        np.testing.assert_allclose(found.p_pointwise, [0.02, 1])
        assert found.p_global == 0.01
        assert found.effect[0] == pytest.approx(1.5 / np.linspace(0, 1, 99).std(ddof=1))
        # Nothing varies there, so there is no effect to speak of.
        assert np.isnan(found.effect[1])
        assert found.n_permutations == 99

    def test_in_the_middle(self):
        found = envelope(np.array([0.5, 0.5]), self.PERMUTED)
        assert found.p_global >= 0.99
        assert found.p_pointwise.tolist() == [1, 1]

    @pytest.mark.parametrize(
        ("observed", "what"), [(np.array([0.5, np.nan]), "not known"), (np.array([0.5]), "shape")]
    )
    def test_errors(self, observed, what):
        with pytest.raises(PointsError, match=what):
            envelope(observed, self.PERMUTED)

    def test_too_few_permutations(self):
        with pytest.raises(PointsError, match="18 permutations"):
            random_labelling(lambda is_x: np.zeros(1), np.ones(3, bool), n_permutations=18)
