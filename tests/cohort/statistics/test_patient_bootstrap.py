"""Resampling patients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from histo.cohort.statistics.bootstrap import (
    bootstrap_groups,
    bootstrap_patients,
    mean_difference,
    median_difference,
)

Array = NDArray[np.float64]


class TestKather:
    def test_kather_difference_of_median_log2_core_to_outer(
        self, kather_cd8: dict[str, tuple[Array, Array]]
    ) -> None:
        values = kather_cd8["log2 core:outer"]
        # The numbers of reference are plain percentiles of the medians.
        plain = bootstrap_groups(*values, unit="", resampled=median_difference, resamples=9999).estimate
        assert plain.value == pytest.approx(-1.78, abs=0.005)
        assert (plain.low, plain.high) == pytest.approx((-3.99, -0.83), abs=0.15)
        ours = bootstrap_groups(*values, unit="", resamples=9999).estimate
        assert ours.value == plain.value
        assert (ours.low, ours.high) == pytest.approx((-3.65, -0.86), abs=0.1)


class TestGroups:
    def test_mean_of_normal_values_has_the_interval_of_theory(self) -> None:
        rng = np.random.default_rng(0)
        x, y = rng.normal(0, 1, 60), rng.normal(1, 1, 60)
        found = bootstrap_groups(x, y, unit="", statistic=mean_difference, method="BCa").estimate
        error = np.sqrt(x.var(ddof=1) / 60 + y.var(ddof=1) / 60)
        assert found.value == pytest.approx(y.mean() - x.mean())
        assert found.low == pytest.approx(y.mean() - x.mean() - 1.96 * error, abs=0.05)
        assert found.high == pytest.approx(y.mean() - x.mean() + 1.96 * error, abs=0.05)

    def test_pairs_stay_together(self) -> None:
        x = np.random.default_rng(1).normal(size=20)
        found = bootstrap_groups(
            x, x + 1, unit="", statistic=mean_difference, paired=True, method="percentile"
        )
        assert (found.estimate.low, found.estimate.high) == pytest.approx((1.0, 1.0))

    @settings(max_examples=10)
    @given(st.integers(0, 100))
    def test_one_seed_one_interval(self, seed: int) -> None:
        x, y = np.random.default_rng(seed).normal(size=(2, 12))
        one, two = (bootstrap_groups(x, y, unit="", resamples=199, seed=seed) for _ in range(2))
        assert one == two

    def test_few_patients_give_the_value_and_the_reason(self) -> None:
        found = bootstrap_groups(np.arange(5.0), np.arange(20.0), unit="/mm2")
        assert found.estimate.value == 7.5
        assert found.estimate.low is None
        assert found.reason == "5 patients are too few to resample, 6 needed"
        empty = bootstrap_groups([], np.arange(20.0), unit="/mm2")
        assert empty.estimate.not_assessable == "no patient in one of the groups"

    def test_values_without_spread_have_no_bca_interval(self) -> None:
        found = bootstrap_groups(np.zeros(10), np.ones(10), unit="", method="BCa")
        assert found.estimate.low is None
        assert "no BCa interval" in str(found.reason)

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match="missing"):
            bootstrap_groups([1.0, np.nan], [1.0, 2.0], unit="")
        with pytest.raises(ValueError, match="no pairs"):
            bootstrap_groups([1.0, 2.0], [1.0], unit="", paired=True)


class TestPatients:
    def test_slides_of_a_patient_do_not_count_as_patients(self) -> None:
        rng = np.random.default_rng(2)
        patients = np.repeat([f"P{i}" for i in range(15)], 4)
        values = np.repeat(rng.normal(size=15), 4) + rng.normal(0, 0.01, 60)

        def mean(rows: NDArray[np.intp]) -> float:
            return float(values[rows].mean())

        clustered = bootstrap_patients(patients.tolist(), mean, unit="", resamples=499).estimate
        single = bootstrap_patients([str(i) for i in range(60)], mean, unit="", resamples=499).estimate
        assert clustered.value == single.value == pytest.approx(values.mean())
        assert clustered.high is not None
        assert clustered.low is not None
        assert single.high is not None
        assert single.low is not None
        # Four copies of each patient narrow a naive interval by half.
        assert clustered.high - clustered.low > 1.6 * (single.high - single.low)

    def test_strata_keep_their_number_of_patients(self) -> None:
        patients = [f"P{i}" for i in range(12)]
        strata = ["pair"] * 4 + ["primary only"] * 8
        seen = []

        def count_pairs(rows: NDArray[np.intp]) -> float:
            seen.append(int((rows < 4).sum()))
            return float(rows.mean())

        bootstrap_patients(patients, count_pairs, unit="", strata=strata, resamples=50, method="percentile")
        assert set(seen) == {4}

    def test_a_statistic_that_is_often_undefined_has_no_interval(self) -> None:
        def undefined(rows: NDArray[np.intp]) -> float:
            return float("nan") if 0 not in rows else float(rows.mean())

        found = bootstrap_patients(
            [f"P{i}" for i in range(10)], undefined, unit="", resamples=99, method="percentile"
        )
        assert found.reason == "not defined in too many resamples"
        assert found.estimate.value == 4.5

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match="more than one stratum"):
            bootstrap_patients(["a", "a"], lambda rows: 1.0, unit="", strata=["x", "y"])
        assert bootstrap_patients([], lambda rows: 1.0, unit="").estimate.value is None
