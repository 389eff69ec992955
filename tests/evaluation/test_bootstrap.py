from __future__ import annotations

import numpy as np
import pytest

from histo.evaluation.bootstrap import cluster_interval
from histo.evaluation.measures import of_two


def mean_rows(values: np.ndarray) -> np.ndarray:
    return np.column_stack([values, np.ones(len(values))])


def test_the_same_seed_gives_the_same_interval() -> None:
    rows = mean_rows(np.arange(30.0))
    groups = [str(i) for i in range(30)]
    first = cluster_interval(rows, groups, of_two, seed=3)
    assert first == cluster_interval(rows, groups, of_two, seed=3)
    assert first != cluster_interval(rows, groups, of_two, seed=4)


def test_for_a_mean_it_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(10, 2, 400)
    interval = cluster_interval(mean_rows(values), [str(i) for i in range(400)], of_two, resamples=4000)
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.03)


def test_groups_are_resampled_whole() -> None:
    # Ten images of each of five patients, all alike within a patient: no more is known than of five images.
    levels = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    few = cluster_interval(mean_rows(levels), list("abcde"), of_two)
    patients = [name for name in "abcde" for _ in range(10)]
    many = cluster_interval(mean_rows(np.repeat(levels, 10)), patients, of_two)
    assert many == few
    alone = cluster_interval(mean_rows(np.repeat(levels, 10)), [str(i) for i in range(50)], of_two)
    assert alone.high - alone.low < 0.5 * (many.high - many.low)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, groups = mean_rows(np.arange(10.0)), [str(i) for i in range(10)]
    whole = cluster_interval(rows, groups, of_two)
    monkeypatch.setattr("histo.evaluation.bootstrap._BLOCK", 70)
    assert cluster_interval(rows, groups, of_two) == whole


def test_one_group_has_no_interval_but_a_reason() -> None:
    one = cluster_interval(mean_rows(np.arange(5.0)), ["a"] * 5, of_two)
    assert (one.low, one.high) == (None, None)
    assert "one group" in (one.reason or "")
    none = cluster_interval(np.empty((0, 2)), [], of_two)
    assert none.reason == "no image"


def test_a_measure_that_most_resamples_do_not_define_has_no_interval() -> None:
    rows = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    interval = cluster_interval(rows, list("abc"), of_two)
    assert interval.low is None
    assert "too few groups" in (interval.reason or "")
