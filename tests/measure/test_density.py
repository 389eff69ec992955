"""Densities and fractions, against published intervals and against the definition of the interval."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import poisson

from histo.measure.density import poisson_density, wilson_fraction, zone_density


class TestPoissonDensity:
    # 95 % limits of a Poisson count. n = 0: R epitools pois.exact, 3.689; n = 10: 4.80 to 18.39 in the usual
    # tables after Garwood 1936; the others follow from the same chi-square quantiles.
    @pytest.mark.parametrize(
        ("n", "low", "high"),
        [
            (0, 0.0, 3.6889),
            (1, 0.0253, 5.5716),
            (5, 1.6235, 11.6683),
            (10, 4.7954, 18.3904),
            (100, 81.3640, 121.6272),
        ],
    )
    def test_garwood_limits(self, n, low, high):
        density = poisson_density(n, 1.0, 0.95)
        assert (density.value, density.low, density.high) == pytest.approx((n, low, high), abs=5e-4)
        assert density.unit == "/mm2"

    def test_area(self):
        density = poisson_density(10, 2.5, 0.95)
        assert (density.value, density.low, density.high) == pytest.approx((4.0, 1.91816, 7.35616), abs=1e-4)

    @given(n=st.integers(0, 5000), level=st.floats(0.5, 0.999))
    def test_each_tail_holds_what_the_level_leaves(self, n, level):
        density = poisson_density(n, 1.0, level)
        tail = (1 - level) / 2
        assert poisson.cdf(n, density.high) == pytest.approx(tail, rel=1e-6)
        if n > 0:
            assert poisson.sf(n - 1, density.low) == pytest.approx(tail, rel=1e-6)
        assert density.low <= density.value <= density.high

    def test_no_area(self):
        density = poisson_density(0, 0.0, 0.95)
        assert density.value is None
        assert density.not_assessable == "no assessed area"


class TestZoneDensity:
    def test_large_enough(self):
        assert zone_density(7, 0.5, min_area_mm2=0.1, level=0.95) == poisson_density(7, 0.5, 0.95)

    @pytest.mark.parametrize("area", [0.0, 0.099])
    def test_too_small(self, area):
        density = zone_density(7, area, min_area_mm2=0.1, level=0.95)
        assert density.value is None
        assert "0.1 mm2 needed" in density.not_assessable

    def test_no_minimum(self):
        assert zone_density(0, 0.0, min_area_mm2=0.0, level=0.95).value is None


class TestWilsonFraction:
    # Newcombe 1998, Stat Med 17:857, table I, score method without continuity correction.
    @pytest.mark.parametrize(
        ("n", "total", "low", "high"),
        [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ],
    )
    def test_newcombe_limits(self, n, total, low, high):
        fraction = wilson_fraction(n, total, 0.95)
        assert (fraction.low, fraction.high) == pytest.approx((low, high), abs=5e-5)
        assert fraction.value == n / total

    @given(total=st.integers(1, 10_000), share=st.floats(0, 1), level=st.floats(0.5, 0.999))
    def test_interval_holds_the_value_and_mirrors(self, total, share, level):
        n = round(share * total)
        fraction, rest = wilson_fraction(n, total, level), wilson_fraction(total - n, total, level)
        assert 0 <= fraction.low <= fraction.value <= fraction.high <= 1
        assert fraction.low == pytest.approx(1 - rest.high, abs=1e-12)

    def test_no_nuclei(self):
        assert wilson_fraction(0, 0, 0.95).not_assessable == "no nuclei"
