from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo.measure.state.fractions import (
    by_blocks,
    clustered_fraction,
    count_ratio,
    h_score,
    mean_of_cells,
    median_z,
    state_fraction,
)

RULES = {"min_cells": 20, "level": 0.95}


def test_fraction_and_its_wilson_interval() -> None:
    """Newcombe 1998 (Stat Med 17:857), table I: 81 of 263 is 0.2553 to 0.3662, 15 of 148 0.0624 to 0.1605."""
    found = state_fraction(81, 263, **RULES)
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    found = state_fraction(15, 148, **RULES)
    assert (found.low, found.high) == (pytest.approx(0.0624, abs=1e-4), pytest.approx(0.1605, abs=1e-4))


def test_negatives_above_the_gate_lower_the_lower_limit_only() -> None:
    plain = state_fraction(10, 1000, **RULES)
    allowed = state_fraction(10, 1000, negative_share=0.01, **RULES)
    assert (allowed.low, allowed.value, allowed.high) == (0.0, plain.value, plain.high)
    many = state_fraction(500, 1000, negative_share=0.01, **RULES)
    assert many.low == pytest.approx((state_fraction(500, 1000, **RULES).low - 0.01) / 0.99)


def test_the_share_of_negatives_is_itself_uncertain() -> None:
    """Newcombe 1998 (Stat Med 17:873), table II, method 10: 56 of 70 less 48 of 80 is 0.0524 to 0.3339."""
    found = state_fraction(56, 70, negative_share=0.6, n_negative=80, **RULES)
    assert found.low == pytest.approx(0.0524 / 0.4, abs=2e-4)
    plain = state_fraction(56, 70, **RULES)
    assert (found.value, found.high) == (plain.value, plain.high)
    n = np.full(40, 25)
    even = clustered_fraction(np.full(40, 5), n, negative_share=0.1, n_negative=200, **RULES)
    same = state_fraction(200, 1000, negative_share=0.1, n_negative=200, **RULES)
    assert even.low == pytest.approx(same.low)


def test_a_gate_from_few_controls_covers_that_there_is_none() -> None:
    rng = np.random.default_rng(3)
    known = uncertain = 0
    for _ in range(400):
        control, cells = rng.normal(size=400), rng.normal(size=600)
        above = int((cells > np.quantile(control, 0.99)).sum())
        known += state_fraction(above, 600, negative_share=0.01, **RULES).low == 0
        uncertain += state_fraction(above, 600, negative_share=0.01, n_negative=400, **RULES).low == 0
    assert known < 0.95 * 400
    assert uncertain > 0.96 * 400


def test_below_twenty_cells_there_is_no_fraction() -> None:
    assert state_fraction(3, 19, **RULES).not_assessable == "only 19 CD8+ cells, 20 needed"
    assert state_fraction(3, 20, **RULES).value == 0.15


def test_clusters_widen_the_interval_and_even_tissue_does_not() -> None:
    n = np.full(40, 25)
    even = clustered_fraction(np.full(40, 5), n, **RULES)
    clustered = clustered_fraction(np.where(np.arange(40) < 8, 25, 0), n, **RULES)
    plain = state_fraction(200, 1000, **RULES)
    assert even.value == clustered.value == 0.2
    assert (even.low, even.high) == (pytest.approx(plain.low), pytest.approx(plain.high))
    # All of a block alike: each block is one observation, 8 of 40.
    of_blocks = state_fraction(8, 40, **RULES)
    assert (clustered.low, clustered.high) == (pytest.approx(of_blocks.low), pytest.approx(of_blocks.high))


def test_clustered_interval_covers_beta_binomial_counts() -> None:
    rng = np.random.default_rng(0)
    covered = plain = 0
    for _ in range(300):
        n = rng.integers(1, 40, 60)
        x = rng.binomial(n, rng.beta(0.6, 2.4, 60))
        found = clustered_fraction(x, n, **RULES)
        covered += found.low <= 0.2 <= found.high
        wilson = state_fraction(int(x.sum()), int(n.sum()), **RULES)
        plain += wilson.low <= 0.2 <= wilson.high
    assert covered >= 0.9 * 300
    assert plain <= 0.75 * 300


def test_few_blocks_give_no_clustered_interval() -> None:
    found = clustered_fraction(np.full(9, 5), np.full(9, 25), **RULES)
    assert found.not_assessable == "CD8+ cells in only 9 blocks of tissue, 10 needed"
    assert clustered_fraction(np.zeros(40), np.full(40, 5), **RULES).low == 0.0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=12, max_size=40))
def test_clustered_intervals_hold_their_value(blocks: list[tuple[int, int]]) -> None:
    x = np.array([min(pair) for pair in blocks])
    n = np.array([max(pair) for pair in blocks])
    found = clustered_fraction(x, n, **RULES)
    if found.value is None:
        return
    assert found.value == pytest.approx(x.sum() / n.sum())
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_cells_are_put_to_blocks() -> None:
    x, y = np.array([10.0, 20.0, 510.0, 510.0]), np.array([10.0, 20.0, 10.0, 510.0])
    positive, n = by_blocks(x, y, np.array([True, False, True, False]), 500.0)
    assert sorted(zip(positive.tolist(), n.tolist(), strict=True)) == [(0, 1), (1, 1), (1, 2)]


def test_ratio_of_progenitor_to_terminal_cells() -> None:
    names = ("progenitor", "terminal")
    found = count_ratio(30, 10, 500, names=names, **RULES)
    share = state_fraction(30, 40, **RULES)
    assert (found.value, found.low) == (3.0, pytest.approx(share.low / (1 - share.low)))
    assert found.high == pytest.approx(share.high / (1 - share.high))
    assert count_ratio(30, 0, 500, names=names, **RULES).not_assessable == "no terminal cell; 30 progenitor"
    assert count_ratio(0, 5, 500, names=names, **RULES).value == 0.0
    assert count_ratio(3, 1, 19, names=names, **RULES).value is None


def test_h_score_by_hand() -> None:
    """40 % none, 30 % weak, 20 % moderate, 10 % strong: 1 x 30 + 2 x 20 + 3 x 10 = 100."""
    values = np.repeat([0.0, 1.5, 2.5, 3.5], [40, 30, 20, 10])
    found = h_score(values, (1.0, 2.0, 3.0), **RULES)
    assert found.value == 100.0
    assert h_score(np.full(50, 9.0), (1.0, 2.0, 3.0), **RULES).value == 300.0
    # Positive is above a threshold, not at it.
    assert h_score(np.full(50, 1.0), (1.0, 2.0, 3.0), **RULES).value == 0.0


def test_mean_of_cells_stays_within_what_is_possible() -> None:
    found = mean_of_cells(np.r_[np.zeros(30), 2.0], unit="markers per cell", highest=2.0, **RULES)
    assert found.value == pytest.approx(2 / 31)
    assert found.low == 0.0
    assert mean_of_cells(np.zeros(19), unit="x", highest=2.0, **RULES).value is None


def test_median_against_negatives() -> None:
    values = np.sinh(np.linspace(1.0, 3.0, 101)) * 5
    found = median_z(values, cofactor=5.0, negatives_median=0.5, negatives_sd=0.25, **RULES)
    assert found.value == pytest.approx(6.0)
    assert found.low < found.value < found.high
