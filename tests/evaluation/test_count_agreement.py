from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from histo.evaluation.agreement import (
    DENSITY_NAMES,
    LYSTO_NAMES,
    bland_altman,
    concordance,
    confusion_rows,
    density_class,
    lysto_bin,
    moment_rows,
    quadratic_kappa,
)

counts = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=1, max_size=40)


def kappa_of(true: np.ndarray, found: np.ndarray) -> float:
    k = len(LYSTO_NAMES)
    return float(quadratic_kappa(confusion_rows(true, found).sum(axis=0).reshape(k, k)))


def test_lysto_bins() -> None:
    edges = np.array([0, 1, 5, 6, 10, 11, 20, 21, 50, 51, 200, 201, 9999])
    names = [LYSTO_NAMES[place] for place in lysto_bin(edges)]
    assert names == [
        "0", "1-5", "1-5", "6-10", "6-10", "11-20", "11-20",
        "21-50", "21-50", "51-200", "51-200", ">200", ">200",
    ]  # fmt: skip


def test_density_classes() -> None:
    place = density_class(np.array([0.0, 3.0, 10.0, 11.0, 31.0]), np.full(5, 0.01))
    assert [DENSITY_NAMES[i] for i in place] == list(DENSITY_NAMES)


@given(counts)
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, found = np.array(pairs, float).T
    ours = kappa_of(true, found)
    bins = lysto_bin(true), lysto_bin(found)
    if len(np.unique(np.concatenate(bins))) == 1:
        assert math.isnan(ours)
    else:
        theirs = cohen_kappa_score(*bins, labels=range(len(LYSTO_NAMES)), weights="quadratic")
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_kappa_of_a_stack_is_that_of_each() -> None:
    rng = np.random.default_rng(0)
    tables = rng.integers(0, 9, (4, 7, 7)).astype(float)
    assert quadratic_kappa(tables) == pytest.approx([float(quadratic_kappa(table)) for table in tables])


def test_concordance_by_hand() -> None:
    # Means 2 and 3; variances (over n) 2/3 and 8/3; covariance 4/3.
    true, found = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 5.0])
    expected = 2 * (4 / 3) / (2 / 3 + 8 / 3 + 1)
    assert float(concordance(moment_rows(true, found).sum(axis=0))) == pytest.approx(expected)


@given(counts)
def test_concordance_is_at_most_one_and_only_for_equals(pairs: list[tuple[int, int]]) -> None:
    true, found = np.array(pairs, float).T
    value = float(concordance(moment_rows(true, found).sum(axis=0)))
    back = float(concordance(moment_rows(found, true).sum(axis=0)))
    assert value == pytest.approx(back, nan_ok=True)
    if not math.isnan(value):
        assert -1 - 1e-9 <= value <= 1 + 1e-9
        assert (value > 1 - 1e-9) == bool((true == found).all())


def test_limits_of_agreement_by_hand() -> None:
    # Differences 1, 3, 5: mean 3, standard deviation 2.
    limits = bland_altman(np.array([1.0, 2.0, 3.0]), np.array([2.0, 5.0, 8.0]))
    assert limits == pytest.approx((3.0, 3 - 3.92, 3 + 3.92))
    assert math.isnan(bland_altman(np.empty(0), np.empty(0)).mean)
    assert math.isnan(bland_altman(np.array([1.0]), np.array([3.0])).low)
