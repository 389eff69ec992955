"""Ranks of two groups: against Kather's table, R's wilcox.test, scipy, and the definitions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from histo.cohort.statistics.two_groups import compare_paired, compare_unpaired, pair_by_patient

Array = NDArray[np.float64]
Groups = dict[str, tuple[Array, Array]]

# Whole numbers: ties, zeros and groups without spread come up.
tied_values = st.integers(0, 12).flatmap(
    lambda n: arrays(np.float64, n, elements=st.integers(-3, 3).map(float))
)


class TestKather:
    """Densities per mm2 of 25 primaries and 17 metastases, recomputed from the published table."""

    @pytest.mark.parametrize(
        ("zone", "primary", "metastasis", "p_value", "delta"),
        [
            ("TU_CORE", (117.1, 53.9, 311.5), (29.6, 8.0, 123.8), 0.0090, -0.48),
            ("MARG_500_IN", (162.1, 63.6, 269.4), (83.7, 28.1, 257.4), 0.106, -0.30),
            ("MARG_500_OUT", (378.7, 178.3, 828.5), (455.6, 193.5, 896.3), 0.76, 0.06),
            ("DISTANT_OUT", (56.5, 30.1, 99.3), (179.4, 96.5, 251.6), 0.00041, None),
        ],
    )
    def test_kather_cd8_density_by_zone(
        self,
        kather_cd8: Groups,
        zone: str,
        primary: tuple[float, ...],
        metastasis: tuple[float, ...],
        p_value: float,
        delta: float | None,
    ) -> None:
        found = compare_unpaired(*kather_cd8[zone], unit="/mm2")
        assert (found.reference.n, found.other.n) == (25, 17)
        for sample, expected in ((found.reference, primary), (found.other, metastasis)):
            values = (sample.median, sample.lower_quartile, sample.upper_quartile)
            assert values == pytest.approx(expected, abs=0.06)
        assert found.p_value == pytest.approx(p_value, rel=0.02)
        if delta is not None:
            assert found.cliffs_delta.value == pytest.approx(delta, abs=0.005)

    def test_kather_cd8_log2_core_to_outer(self, kather_cd8: Groups) -> None:
        found = compare_unpaired(*kather_cd8["log2 core:outer"], unit="log2 ratio")
        assert found.p_value == pytest.approx(0.00027, abs=5e-6)
        assert found.cliffs_delta.value == pytest.approx(-0.67, abs=0.005)
        assert found.reference.median == pytest.approx(-1.82, abs=0.005)
        assert found.other.median == pytest.approx(-3.60, abs=0.005)
        low, high = found.cliffs_delta.low, found.cliffs_delta.high
        assert low is not None
        assert high is not None
        assert -0.9 < low < -0.67 < high < -0.3

    def test_kather_cd8_core_shift_as_in_r(
        self, kather_cd8: Groups, r_values: dict[str, dict[str, float]]
    ) -> None:
        x, y = (np.log2(values + 1) for values in kather_cd8["TU_CORE"])
        for method in ("exact", "asymptotic"):
            expected = r_values[f"kather core {method}"]
            found = compare_unpaired(x, y, unit="log2", method=method)  # type: ignore[arg-type]
            assert found.shift.value == pytest.approx(-2.18, abs=0.005)
            # R finds the roots of the approximation to 1e-4.
            assert found.shift.low == pytest.approx(expected["low"], abs=2e-4)
            assert found.shift.high == pytest.approx(expected["high"], abs=2e-4)
            assert found.p_value == pytest.approx(expected["p"], rel=1e-9)

    @pytest.mark.parametrize(
        ("marker", "zone", "p_value"),
        [
            ("CD3", "TU_CORE", 0.034),
            ("CD3", "MARG_500_IN", 0.021),
            ("Foxp3", "TU_CORE", 0.003),
            ("Foxp3", "MARG_500_OUT", 0.022),
            ("CD163", "MARG_500_OUT", 0.0055),
        ],
    )
    def test_kather_other_markers(self, kather: pd.DataFrame, marker: str, zone: str, p_value: float) -> None:
        rows = kather[(kather["marker"].str.lower() == marker.lower()) & (kather["zone"] == zone)]
        x, y = (rows.loc[rows["site"] == site, "density_per_mm2"] for site in ("primary", "metastasis"))
        assert compare_unpaired(x, y, unit="/mm2").p_value == pytest.approx(p_value, abs=6e-4)


class TestAgainstR:
    """R's wilcox.test; its approximate intervals are roots found to 1e-4."""

    @pytest.mark.parametrize(
        "case", ["small exact", "large exact", "small asymptotic", "large asymptotic", "tied asymptotic"]
    )
    def test_unpaired(self, case: str, rank_data: Groups, r_values: dict[str, dict[str, float]]) -> None:
        name, method = case.split()
        found = compare_unpaired(*rank_data[name], unit="", method=method)  # type: ignore[arg-type]
        expected = r_values[case]
        exact = method == "exact"
        assert found.statistic == expected["statistic"]
        assert found.p_value == pytest.approx(expected["p"], rel=1e-9)
        assert (found.shift.low, found.shift.high) == pytest.approx(
            (expected["low"], expected["high"]), abs=1e-9 if exact else 2e-4
        )
        if exact:
            assert found.shift.value == pytest.approx(expected["estimate"], abs=1e-9)

    @pytest.mark.parametrize(
        "case", ["pairs exact", "pairs asymptotic", "many pairs asymptotic", "tied pairs asymptotic"]
    )
    def test_paired(self, case: str, rank_data: Groups, r_values: dict[str, dict[str, float]]) -> None:
        name, method = case.rsplit(" ", 1)
        found = compare_paired(*rank_data[name], unit="", method=method)  # type: ignore[arg-type]
        expected = r_values[case]
        exact = method == "exact"
        assert found.statistic == expected["statistic"]
        assert found.p_value == pytest.approx(expected["p"], rel=1e-9)
        if found.n_zero:
            return  # R drops differences of 0 from the interval, too
        assert (found.shift.low, found.shift.high) == pytest.approx(
            (expected["low"], expected["high"]), abs=1e-9 if exact else 2e-4
        )

    def test_exact_is_taken_where_groups_are_small(self, rank_data: Groups) -> None:
        assert compare_unpaired(*rank_data["small"], unit="").p_method == "exact"
        assert "normal" in str(compare_unpaired(*rank_data["large"], unit="").p_method)
        assert compare_paired(*rank_data["pairs"], unit="").p_method == "exact"
        assert "normal" in str(compare_paired(*rank_data["many pairs"], unit="").p_method)


class TestUnpaired:
    @settings(max_examples=30)
    @given(tied_values, tied_values)
    def test_the_other_way_round_is_the_mirror_image(self, x: Array, y: Array) -> None:
        one, two = compare_unpaired(x, y, unit=""), compare_unpaired(y, x, unit="")
        assert one.p_value == pytest.approx(two.p_value)
        assert (one.reason is None) == (two.reason is None)
        for a, b in ((one.shift, two.shift), (one.cliffs_delta, two.cliffs_delta)):
            if a.value is None or b.value is None:
                assert a.value is None
                assert b.value is None
            else:
                assert a.value == pytest.approx(-b.value)
            if a.low is not None:
                assert b.high is not None
                assert a.low == pytest.approx(-b.high)

    @settings(max_examples=30)
    @given(tied_values, tied_values)
    def test_intervals_hold_their_estimate_and_come_with_a_test(self, x: Array, y: Array) -> None:
        found = compare_unpaired(x, y, unit="")
        assert (found.p_value is None) == (found.reason is not None)
        for estimate in (found.shift, found.cliffs_delta):
            if found.p_value is None:
                assert estimate.low is None
            elif estimate.low is not None:
                assert estimate.value is not None
                assert estimate.high is not None
                assert estimate.low <= estimate.value <= estimate.high

    @given(st.integers(4, 7), st.integers(4, 7), st.integers(0, 1000))
    def test_exact_interval_is_what_the_exact_test_does_not_reject(self, n: int, m: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=n), rng.normal(size=m)
        shift = compare_unpaired(x, y, unit="").shift
        assert shift.low is not None
        assert shift.high is not None
        for limit, out in ((shift.low, -1e-9), (shift.high, 1e-9)):
            inside = stats.mannwhitneyu(y - (limit - out), x, method="exact").pvalue
            outside = stats.mannwhitneyu(y - (limit + out), x, method="exact").pvalue
            assert outside <= 0.05 < inside

    def test_ties_in_small_groups_are_enumerated(self) -> None:
        x, y = np.array([0.0, 0, 0, 1, 2]), np.array([1.0, 2, 2, 3, 5])
        found = compare_unpaired(x, y, unit="")
        every = stats.permutation_test(
            (y, x), lambda a, b: stats.mannwhitneyu(a, b).statistic, permutation_type="independent"
        )
        assert found.p_method == "exact given ties"
        assert found.p_value == pytest.approx(every.pvalue)

    def test_cliffs_delta_with_its_interval(self) -> None:
        # Published example data: none is open; the formula worked out by hand for two groups of two and
        # three.
        x, y = np.array([1.0, 3.0, 4.0, 9.0]), np.array([2.0, 5.0, 6.0, 7.0, 8.0])
        sign = np.sign(y[:, None] - x)
        d = sign.mean()
        rows, columns = sign.mean(axis=1), sign.mean(axis=0)
        s2 = 16 * ((rows - d) ** 2).sum() + 25 * ((columns - d) ** 2).sum() - ((sign - d) ** 2).sum()
        s2 /= 4 * 5 * 3 * 4
        t = stats.t.ppf(0.975, 7)
        # The limits are the roots of (delta - d)^2 = t^2 s2 (1 - delta^2)^2 / (1 - d^2)^2 to first order.
        low = (d - d**3 - t * s2**0.5 * ((1 - d**2) ** 2 + t**2 * s2) ** 0.5) / (1 - d**2 + t**2 * s2)
        found = compare_unpaired(x, y, unit="").cliffs_delta
        assert found.value == pytest.approx(d)
        assert found.low == pytest.approx(low)

    def test_complete_separation_has_a_limit_short_of_none(self) -> None:
        delta = compare_unpaired(np.arange(10.0), np.arange(20.0, 32.0), unit="").cliffs_delta
        z2 = 1.959964**2
        assert (delta.value, delta.high) == (1.0, 1.0)
        assert delta.low == pytest.approx((10 - z2) / (10 + z2), abs=1e-6)

    @pytest.mark.parametrize(
        ("n", "m", "enough"), [(1, 30, False), (3, 3, False), (3, 4, False), (4, 4, True), (2, 8, True)]
    )
    def test_too_few_give_no_test_but_the_reason(self, n: int, m: int, enough: bool) -> None:
        found = compare_unpaired(np.arange(n) * 1.01, np.arange(m) + 0.5, unit="/mm2")
        assert (found.p_value is not None) is enough
        assert (found.shift.low is not None) is enough
        assert found.shift.value is not None
        if not enough:
            assert found.reason is not None
            assert f"{n} and {m} patients are too few" in found.reason

    def test_an_empty_group_or_one_value_is_said(self) -> None:
        empty = compare_unpaired([], [1.0, 2.0], unit="/mm2")
        assert empty.p_value is None
        assert empty.shift.not_assessable == "no patient in the reference group"
        same = compare_unpaired(np.zeros(10), np.zeros(12), unit="/mm2")
        assert (same.p_value, same.shift.value, same.shift.low) == (None, 0.0, None)
        assert same.reason == "all values are the same"

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_missing_value_is_an_error(self, bad: float) -> None:
        with pytest.raises(ValueError, match="1 of the other values are missing"):
            compare_unpaired([1.0, 2.0], [1.0, bad], unit="")
        with pytest.raises(ValueError, match="1 of the reference values are missing"):
            compare_paired([1.0, bad], [1.0, 2.0], unit="")

    def test_no_exact_test_of_ties_on_demand(self) -> None:
        with pytest.raises(ValueError, match="tied"):
            compare_unpaired([1.0, 2, 3, 4], [4.0, 5, 6, 7], unit="", method="exact")


class TestPaired:
    @given(
        st.integers(0, 12).flatmap(
            lambda n: arrays(np.float64, (2, n), elements=st.integers(-3, 3).map(float))
        )
    )
    def test_the_other_way_round_is_the_mirror_image(self, values: Array) -> None:
        x, y = values
        one, two = compare_paired(x, y, unit=""), compare_paired(y, x, unit="")
        assert one.p_value == pytest.approx(two.p_value)
        for a, b in ((one.shift, two.shift), (one.rank_biserial, two.rank_biserial)):
            if a.value is not None:
                assert b.value is not None
                assert a.value == pytest.approx(-b.value)
            if a.low is not None:
                assert b.high is not None
                assert a.low == pytest.approx(-b.high)

    @given(st.lists(st.integers(-9, 9).map(float), min_size=6, max_size=11))
    def test_p_value_is_that_of_all_sign_patterns(self, differences: list[float]) -> None:
        d = np.array([value for value in differences if value])
        found = compare_paired(np.zeros(len(differences)), differences, unit="")
        if len(d) < 6:
            assert found.p_value is None
            assert "too few" in str(found.reason)
            return
        ranks = stats.rankdata(np.abs(d))
        signs = (np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1
        sums, seen = signs @ ranks, ranks[d > 0].sum()
        expected = 2 * min((sums <= seen + 1e-9).mean(), (sums >= seen - 1e-9).mean())
        assert found.p_value == pytest.approx(min(1, expected))
        plus, minus = ranks[d > 0].sum(), ranks[d < 0].sum()
        assert found.rank_biserial.value == pytest.approx((plus - minus) / (plus + minus))

    @given(st.integers(6, 20), st.integers(0, 1000))
    def test_interval_is_what_the_test_does_not_reject(self, n: int, seed: int) -> None:
        d = np.random.default_rng(seed).normal(size=n)
        shift = compare_paired(np.zeros(n), d, unit="").shift
        assert shift.low is not None
        assert shift.high is not None
        for limit, out in ((shift.low, -1e-9), (shift.high, 1e-9)):
            assert stats.wilcoxon(d - (limit + out), method="exact").pvalue <= 0.05
            assert stats.wilcoxon(d - (limit - out), method="exact").pvalue > 0.05

    def test_zeros_are_counted_and_kept_in_the_shift_alone(self) -> None:
        found = compare_paired(np.zeros(12), np.array([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, -1, -2.0]), unit="")
        without = compare_paired(np.zeros(8), np.array([1, 2, 3, 4, 5, 6, -1, -2.0]), unit="")
        assert found.n_zero == 4
        assert (found.p_value, found.rank_biserial) == (without.p_value, without.rank_biserial)
        assert found.shift.value is not None
        assert without.shift.value is not None
        assert 0 < found.shift.value < without.shift.value

    def test_all_one_way_has_a_limit_short_of_none(self) -> None:
        r = compare_paired(np.zeros(15), np.arange(1.0, 16.0), unit="").rank_biserial
        assert (r.value, r.high) == (1.0, 1.0)
        # At the limit, all positive and the other end together have a chance of about 5 %: between the
        # shifts at which 15 normal differences are all positive in 2.5 % and in 5 % of samples.
        shifts = stats.norm.ppf(np.array([0.025, 0.05]) ** (1 / 15))
        least, most = 2 * stats.norm.cdf(np.sqrt(2) * shifts) - 1
        assert r.low is not None
        assert least < r.low < most
        many = compare_paired(np.zeros(60), np.arange(1.0, 61.0), unit="").rank_biserial
        z2 = 1.959964**2
        assert many.low == pytest.approx((60 - z2) / (60 + z2), abs=1e-6)

    def test_rank_biserial_leaves_out_0_where_the_test_rejects(self) -> None:
        rng = np.random.default_rng(4)
        for n in (6, 10, 20, 30):
            for shift in np.linspace(0, 1.2, 13):
                found = compare_paired(np.zeros(n), rng.normal(shift, 1, n), unit="")
                r = found.rank_biserial
                assert r.low is not None
                assert r.high is not None
                assert found.p_value is not None
                assert (r.low > 0 or r.high < 0) == (found.p_value <= 0.05)

    @pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
    def test_rank_biserial_holds_the_truth_as_often_as_it_says(self, shift: float) -> None:
        rng = np.random.default_rng(7)
        truth = 2 * stats.norm.cdf(np.sqrt(2) * shift) - 1
        found = [compare_paired(np.zeros(12), rng.normal(shift, 1, 12), unit="") for _ in range(600)]
        held = [r.rank_biserial.low <= truth <= r.rank_biserial.high for r in found]
        assert 0.925 < np.mean(held) < 0.975

    def test_too_few_pairs_give_no_test_but_the_reason(self) -> None:
        five = compare_paired(np.zeros(5), np.arange(1.0, 6.0), unit="/mm2")
        assert (five.p_value, five.shift.value, five.shift.low, five.rank_biserial.low) == (
            None,
            3.0,
            None,
            None,
        )
        assert "5 pairs are too few" in str(five.reason)
        none = compare_paired([], [], unit="/mm2")
        assert none.shift.not_assessable == "no pair"
        alike = compare_paired(np.ones(9), np.ones(9), unit="/mm2")
        assert alike.p_value is None
        assert "9 of them without a difference" in str(alike.reason)
        assert alike.rank_biserial.not_assessable == "no pair with a difference"

    def test_unequal_lengths_are_no_pairs(self) -> None:
        with pytest.raises(ValueError, match="no pairs"):
            compare_paired([1.0, 2.0], [1.0], unit="")


class TestPairByPatient:
    def test_pairs_in_one_order_and_who_is_left_out(self) -> None:
        pairs = pair_by_patient(
            ["b", "a", "a", "b", "c", "d", "d", "e"],
            [
                "primary",
                "metastasis",
                "primary",
                "metastasis",
                "primary",
                "primary",
                "metastasis",
                "lymph node",
            ],
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, np.nan, 7.0],
        )
        assert pairs.patients == ("a", "b")
        np.testing.assert_array_equal(pairs.reference, [3, 1])
        np.testing.assert_array_equal(pairs.other, [2, 4])
        assert pairs.left_out == {"c": "no metastasis", "d": "metastasis not assessable"}

    def test_two_values_of_one_site_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="'a' has more than one value of primary"):
            pair_by_patient(["a", "a"], ["primary", "primary"], [1.0, 2.0])
