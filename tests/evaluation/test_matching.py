from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from histo.evaluation.matching import Matching, match_centroids, matched_pairs, pooled

points = st.integers(0, 8).flatmap(
    lambda n: arrays(np.float64, (n, 2), elements=st.floats(0, 20, allow_nan=False))
)


def test_a_pair_within_reach_matches_once() -> None:
    true = np.array([[0.0, 0.0], [10.0, 0.0]])
    found = np.array([[3.9, 0.0], [1.0, 0.0], [10.0, 4.1]])
    assert match_centroids(found, true, 4.0) == Matching(1, 2, 1)


def test_as_many_pairs_as_possible() -> None:
    # The nearest pair (found 0, true 0) would leave found 1 alone.
    true = np.array([[0.0, 0.0], [-3.0, 0.0]])
    found = np.array([[-0.5, 0.0], [3.0, 0.0]])
    assert match_centroids(found, true, 4.0) == Matching(2, 0, 0)


@given(points, points)
def test_counts_add_up_and_are_symmetric(found: np.ndarray, true: np.ndarray) -> None:
    matching = match_centroids(found, true, 4.0)
    assert matching.true_positives + matching.false_positives == len(found)
    assert matching.true_positives + matching.false_negatives == len(true)
    back = match_centroids(true, found, 4.0)
    assert back.true_positives == matching.true_positives
    assert back.f1 == matching.f1 or (math.isnan(back.f1) and math.isnan(matching.f1))


@given(points)
def test_points_match_themselves(xy: np.ndarray) -> None:
    assert match_centroids(xy, xy, 1e-3) == Matching(len(xy), 0, 0)


def test_ratios() -> None:
    matching = Matching(6, 2, 4)
    assert matching.precision == 0.75
    assert matching.recall == 0.6
    assert matching.f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert matching.count_bias == pytest.approx(-0.2)


def test_what_is_not_defined_is_nan() -> None:
    empty = Matching(0, 0, 0)
    assert all(math.isnan(v) for v in (empty.f1, empty.precision, empty.recall, empty.count_bias))
    assert math.isnan(Matching(0, 0, 3).precision)
    assert Matching(0, 0, 3).f1 == 0


def dense_matching(found: np.ndarray, true: np.ndarray, within_um: float) -> tuple[int, float]:
    """Pairs and their sum of distances, by the Hungarian method on the full table."""
    distance = np.linalg.norm(found[:, None] - true[None], axis=2)
    too_far = within_um * (min(distance.shape) + 1)
    rows, columns = linear_sum_assignment(np.where(distance <= within_um, distance, too_far))
    good = distance[rows, columns] <= within_um
    return int(good.sum()), float(distance[rows, columns][good].sum())


@given(points, points, st.floats(0.5, 10))
def test_matching_is_that_of_the_dense_hungarian_method(
    found: np.ndarray, true: np.ndarray, within_um: float
) -> None:
    pairs = matched_pairs(found, true, within_um)
    distance = np.linalg.norm(found[pairs[:, 0]] - true[pairs[:, 1]], axis=1)
    assert (distance <= within_um).all()
    assert len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1])) == len(pairs)
    n, total = dense_matching(found, true, within_um)
    assert len(pairs) == n
    assert distance.sum() == pytest.approx(total, abs=1e-9)


def test_crowds_are_matched_as_by_the_dense_method_and_fast() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 120, (600, 2))
    found = np.vstack([true[:500] + rng.normal(0, 2, (500, 2)), rng.uniform(0, 120, (80, 2))])
    pairs = matched_pairs(found, true, 8.0)
    n, total = dense_matching(found, true, 8.0)
    assert len(pairs) == n
    assert np.linalg.norm(found[pairs[:, 0]] - true[pairs[:, 1]], axis=1).sum() == pytest.approx(total)
    # The dense table of these would hold 4 x 10^8 distances.
    many = rng.uniform(0, 1400, (20_000, 2))
    assert match_centroids(many + 0.5, many, 4.0).true_positives > 19_500


def test_pairs_name_places() -> None:
    true = np.array([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]])
    found = np.array([[21.0, 0.0], [50.0, 0.0], [1.0, 0.0]])
    assert matched_pairs(found, true, 4.0).tolist() == [[0, 2], [2, 0]]


def test_pooling_adds_counts() -> None:
    assert pooled([Matching(1, 2, 3), Matching(4, 5, 6)]) == Matching(5, 7, 9)
    assert pooled([]) == Matching(0, 0, 0)
