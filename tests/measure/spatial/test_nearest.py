"""Nearest neighbours, counts within a radius, Clark and Evans."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from histo.errors import PointsError
from histo.measure.spatial.nearest import (
    ann_index,
    count_pairs,
    count_within,
    distance_summary,
    nearest_neighbour,
    nearest_other,
    percentage_within,
)

SQUARE = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0], [0.0, 10.0]])


def test_nearest_neighbour():
    distance, index = nearest_neighbour([[1, 1], [9, 4]], SQUARE)
    np.testing.assert_allclose(distance, [np.sqrt(2), np.sqrt(17)])
    assert index.tolist() == [0, 1]
    assert nearest_neighbour([], SQUARE)[0].shape == (0,)


def test_nearest_other_sees_a_point_at_the_same_place():
    np.testing.assert_allclose(nearest_other([[0, 0], [0, 0], [3, 4]]), [0, 0, 5])


def test_within_includes_the_radius():
    assert count_within([[0, 0], [5, 5]], SQUARE, 10).tolist() == [3, 4]
    assert count_within([[0, 0]], [], 10).tolist() == [0]
    assert count_pairs(SQUARE, [[0, 0], [5, 5]], 10) == 7


def test_percentage_leaves_out_the_reference_itself_and_who_has_no_neighbours():
    points = np.concatenate([SQUARE, [[500.0, 500.0]]])
    reference = np.array([True, False, False, False, True])
    target = np.array([True, True, False, False, False])
    # Round the first: one target, one other; the last is alone.
    assert percentage_within(points, reference, target, 10) == pytest.approx(50)
    assert np.isnan(percentage_within(points, ~target & reference, target, 10))


class TestAnnIndex:
    def test_of_a_lattice(self):
        # A square lattice lies at 2 of what chance would give, but for nothing at its edge.
        lattice = np.stack(np.meshgrid(np.arange(30.0), np.arange(30.0)), axis=-1).reshape(-1, 2)
        found = ann_index(lattice, 900.0)
        assert found.index == pytest.approx(2)
        assert found.z > 0
        assert found.p_one_sided == pytest.approx(norm.sf(found.z))

    def test_z_is_standard_normal_by_chance(self):
        rng = np.random.default_rng(0)
        # On a torus, made by copies, there is no edge.
        z = []
        for _ in range(200):
            points = rng.uniform(0, 1, (200, 2))
            copies = np.concatenate([np.add(points, (i, j)) for i in (0, -1, 1) for j in (0, -1, 1)])
            mean = nearest_other(copies)[:200].mean()
            plain = ann_index(points, 1.0)
            z.append((mean - plain.expected_um) / ((plain.observed_um - plain.expected_um) / plain.z))
        assert np.mean(z) == pytest.approx(0, abs=0.25)
        assert np.std(z) == pytest.approx(1, abs=0.15)

    def test_scale_changes_nothing(self):
        points = np.random.default_rng(1).uniform(0, 50, (40, 2))
        assert ann_index(points * 7, 2500 * 49).z == pytest.approx(ann_index(points, 2500).z)


def test_summary():
    found = distance_summary([[0, 0]], [[0, 1], [0, 3], [4, 0]])
    assert (found.mean_um, found.min_um, found.max_um, found.median_um) == (8 / 3, 1, 4, 3)
    assert found.sd_um == pytest.approx(np.std([1, 3, 4], ddof=1))


@pytest.mark.parametrize(
    ("work", "what"),
    [
        (lambda: nearest_neighbour(SQUARE, []), "no points of T"),
        (lambda: nearest_other([[0, 0]]), "1 points have no neighbours"),
        (lambda: ann_index(SQUARE, 0.0), "area"),
        (lambda: distance_summary([[0, 0]], [[1, 1]]), "1 pairs"),
        (lambda: nearest_neighbour([[0, np.nan]], SQUARE), "1 of 1 points of X"),
    ],
)
def test_errors(work, what):
    with pytest.raises(PointsError, match=what):
        work()
