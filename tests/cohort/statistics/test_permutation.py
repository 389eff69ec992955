"""Permuted site labels, against all arrangements counted by hand."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from histo.cohort.statistics.bootstrap import mean_difference
from histo.cohort.statistics.permutation import permutation_test

Array = NDArray[np.float64]


def two_sided(sums: Array, observed: float) -> float:
    return float(min(1, 2 * min((sums >= observed - 1e-9).mean(), (sums <= observed + 1e-9).mean())))


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_few_pairs_are_gone_through_one_by_one(seed: int) -> None:
    x, y = np.random.default_rng(seed).normal(size=(2, 7))
    found = permutation_test(x, y, paired=True, statistic=mean_difference)
    every = np.array([np.mean(np.array(signs) * (y - x)) for signs in product((-1, 1), repeat=7)])
    assert (found.exact, found.arrangements, found.seed) == (True, 128, None)
    assert found.p_value == pytest.approx(two_sided(every, (y - x).mean()))


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_few_patients_are_gone_through_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=4), rng.normal(size=5)
    found = permutation_test(x, y, paired=False)
    both = np.concatenate([x, y])
    every = []
    for chosen in combinations(range(9), 4):
        mask = np.isin(np.arange(9), chosen)
        every.append(np.median(both[~mask]) - np.median(both[mask]))
    assert (found.exact, found.arrangements) == (True, 126)
    assert found.p_value == pytest.approx(two_sided(np.array(every), np.median(y) - np.median(x)))


@pytest.mark.parametrize("paired", [True, False])
def test_many_are_drawn_with_a_seed_and_never_give_0(paired: bool) -> None:
    x = np.arange(30.0)
    one, two = (permutation_test(x, x + 100, paired=paired, arrangements=999, seed=3) for _ in range(2))
    assert one == two
    assert (one.exact, one.arrangements, one.seed) == (False, 999, 3)
    # Twice the smaller tail, of which the observed arrangement is one.
    assert one.p_value == pytest.approx(2 / 1000)


def test_swapping_within_patients_sees_what_permuting_does_not() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(0, 10, 20)
    y = x + rng.normal(1, 0.5, 20)
    within = permutation_test(x, y, paired=True, statistic=mean_difference).p_value
    across = permutation_test(x, y, paired=False, statistic=mean_difference).p_value
    assert within is not None
    assert across is not None
    assert within < 0.001 < 0.5 < across


def test_too_few_give_the_reason() -> None:
    five = permutation_test(np.zeros(5), np.arange(1.0, 6.0), paired=True)
    assert (five.p_value, five.statistic) == (None, 3.0)
    assert "only 32 arrangements" in str(five.reason)
    assert permutation_test([], [1.0], paired=False).reason == "no patient in one of the groups"


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="missing"):
        permutation_test([1.0, np.nan], [1.0, 2.0], paired=True)
    with pytest.raises(ValueError, match="no pairs"):
        permutation_test([1.0, 2.0], [1.0], paired=True)
