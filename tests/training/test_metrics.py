from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histo.training.metrics import Matching, match_centroids, pooled

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


def test_pooling_adds_counts() -> None:
    assert pooled([Matching(1, 2, 3), Matching(4, 5, 6)]) == Matching(5, 7, 9)
    assert pooled([]) == Matching(0, 0, 0)
