"""Phenotype and core:outer ratio; real densities from Kather 2018 (eLife 7:e36967)."""

from __future__ import annotations

from math import log2

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from histo.config import MeasureConfig
from histo.measure.density import poisson_density
from histo.measure.exclusion import (
    PHENOTYPE_RULE,
    infiltration_fraction,
    kather_phenotype,
    log2_density_ratio,
)
from histo.measure.summary import Estimate

CUTOFF = MeasureConfig().phenotype_cutoff_per_mm2
NONE = Estimate.missing("/mm2", "too small")


def density(value):
    return poisson_density(round(value * 10), 10.0, 0.95)


def log2_ratio(core, outer, offset):
    return log2_density_ratio(core, outer, offset, names=("tumour core", "outer margin"))


class TestPhenotype:
    @pytest.mark.parametrize(
        ("core", "outer", "phenotype"),
        [
            (295.0, 0.0, "inflamed"),
            (1000.0, 1000.0, "inflamed"),
            (294.9, 294.9, "desert"),
            (294.9, 295.0, "excluded"),
            (0.0, 456.0, "excluded"),
            (0.0, 0.0, "desert"),
        ],
    )
    def test_rule(self, core, outer, phenotype):
        assert kather_phenotype(density(core), density(outer), CUTOFF) == (phenotype, None)

    def test_the_core_alone_can_be_inflamed(self):
        assert kather_phenotype(density(500), NONE, CUTOFF) == ("inflamed", None)

    @pytest.mark.parametrize(
        ("core", "outer", "reason"),
        [(NONE, density(500), "tumour core: too small"), (density(5), NONE, "outer margin: too small")],
    )
    def test_no_answer_without_a_density(self, core, outer, reason):
        assert kather_phenotype(core, outer, CUTOFF) == (None, reason)

    def test_rule_names_its_source(self):
        assert "eLife 7:e36967" in PHENOTYPE_RULE


class TestRatio:
    def test_value(self):
        ratio = log2_ratio(density(29.6), density(455.6), 1.0)
        assert ratio.value == pytest.approx(log2(30.6 / 456.6))

    def test_interval_against_the_formula(self):
        core, outer = poisson_density(40, 2.0, 0.95), poisson_density(90, 1.0, 0.95)
        ratio = log2_ratio(core, outer, 1.0)
        low = ratio.value - np.hypot(log2(21 / (core.low + 1)), log2((outer.high + 1) / 91))
        high = ratio.value + np.hypot(log2((core.high + 1) / 21), log2(91 / (outer.low + 1)))
        assert (ratio.low, ratio.high) == pytest.approx((low, high))

    @pytest.mark.parametrize(("core", "outer"), [(5, 400), (40, 40), (0.5, 20)])
    def test_interval_covers_the_truth(self, core, outer):
        # Poisson counts of known densities; the joint interval must not cover less than its level.
        rng = np.random.default_rng(0)
        truth = log2((core + 1) / (outer + 1))
        area = 2.0
        covered = 0
        for n_core, n_outer in zip(
            rng.poisson(core * area, 400), rng.poisson(outer * area, 400), strict=True
        ):
            ratio = log2_ratio(
                poisson_density(int(n_core), area, 0.95), poisson_density(int(n_outer), area, 0.95), 1.0
            )
            covered += ratio.low <= truth <= ratio.high
        assert covered / 400 > 0.94

    @given(core=st.integers(0, 10_000), outer=st.integers(0, 10_000), area=st.floats(0.1, 100))
    def test_finite_ordered_and_mirrored(self, core, outer, area):
        a, b = poisson_density(core, area, 0.95), poisson_density(outer, 1.0, 0.95)
        ratio, inverse = log2_ratio(a, b, 1.0), log2_ratio(b, a, 1.0)
        assert np.isfinite([ratio.low, ratio.value, ratio.high]).all()
        assert ratio.low < ratio.value < ratio.high
        assert (ratio.low, ratio.high) == pytest.approx((-inverse.high, -inverse.low))

    @pytest.mark.parametrize(
        ("core", "outer", "reason"),
        [(NONE, density(5), "tumour core: too small"), (density(5), NONE, "outer margin: too small")],
    )
    def test_no_ratio_without_a_density(self, core, outer, reason):
        assert log2_ratio(core, outer, 1.0).not_assessable == reason


class TestInfiltrationFraction:
    def test_value_and_limits(self):
        # 30 of 100 cells; areas 1 and 2: densities 30 and 35.
        found = infiltration_fraction(30, 1.0, 70, 2.0, 0.95)
        assert found.value == pytest.approx(30 / 65)
        # Clopper-Pearson limits of 30 in 100, as in published tables: 0.2124 to 0.3998.
        low, high = 0.2124, 0.3998
        assert found.low == pytest.approx(low / (low + (1 - low) / 2), abs=2e-4)
        assert found.high == pytest.approx(high / (high + (1 - high) / 2), abs=2e-4)

    @pytest.mark.parametrize(("core", "outer", "value"), [(0, 9, 0.0), (9, 0, 1.0)])
    def test_all_on_one_side(self, core, outer, value):
        found = infiltration_fraction(core, 1.0, outer, 1.0, 0.95)
        assert found.value == value
        assert (found.low, found.high)[int(value)] == value

    def test_no_cell_at_all(self):
        assert infiltration_fraction(0, 1.0, 0, 1.0, 0.95).not_assessable.startswith("no CD8+ cell")

    @given(n=st.integers(0, 5000), m=st.integers(1, 5000), a=st.floats(0.1, 50), b=st.floats(0.1, 50))
    def test_ordered_and_complementary(self, n, m, a, b):
        one, other = infiltration_fraction(n, a, m, b, 0.95), infiltration_fraction(m, b, n, a, 0.95)
        assert one.low <= one.value <= one.high
        assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-9)


# Kather 2018 ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kather(data_dir) -> pd.DataFrame:
    path = data_dir / "tables" / "kather2018_topography.csv"
    if not path.is_file():
        pytest.skip(f"{path} not found")
    table = pd.read_csv(path)
    return table[table["marker"] == "CD8"]


@pytest.fixture(scope="module")
def estimates(kather) -> pd.DataFrame:
    """A row per colorectal patient: cancer, density estimate of each zone."""
    colorectal = kather[kather["cancer"].isin(["COAD_PRI", "COAD_MET"])].copy()
    colorectal["estimate"] = [
        poisson_density(int(n), area, 0.95)
        for n, area in zip(colorectal["n_positive"], colorectal["area_mm2"], strict=True)
    ]
    return colorectal.pivot(index=["cancer", "patient"], columns="zone", values="estimate")


def test_kather_densities(kather):
    found = [
        poisson_density(int(n), area, 0.95).value
        for n, area in zip(kather["n_positive"], kather["area_mm2"], strict=True)
    ]
    # The table gives two decimals.
    np.testing.assert_allclose(found, kather["density_per_mm2"], atol=0.06)


def test_kather_cutoff(kather):
    pooled = kather[kather["zone"].isin(["TU_CORE", "MARG_500_OUT"])]
    assert len(pooled) == 2 * 169
    # 294.885 in the authors' own stored cut-offs.
    assert pooled["density_per_mm2"].median() == pytest.approx(294.88, abs=0.01)
    assert pytest.approx(pooled["density_per_mm2"].median(), abs=0.05) == CUTOFF


@pytest.mark.parametrize(
    ("cancer", "n", "medians"),
    [
        ("COAD_PRI", 25, (117.1, 162.1, 378.7, 56.5)),
        ("COAD_MET", 17, (29.6, 83.7, 455.6, 179.4)),
    ],
)
def test_kather_medians(estimates, cancer, n, medians):
    group = estimates.loc[cancer]
    assert len(group) == n
    zones = ["TU_CORE", "MARG_500_IN", "MARG_500_OUT", "DISTANT_OUT"]
    found = [group[zone].map(lambda estimate: estimate.value).median() for zone in zones]
    assert found == pytest.approx(medians, abs=0.06)


@pytest.mark.parametrize(
    ("cancer", "counts"),
    [
        ("COAD_PRI", {"inflamed": 7, "excluded": 8, "desert": 10}),
        ("COAD_MET", {"inflamed": 3, "excluded": 9, "desert": 5}),
    ],
)
def test_kather_phenotypes(estimates, cancer, counts):
    group = estimates.loc[cancer]
    found = [
        kather_phenotype(core, outer, CUTOFF)[0]
        for core, outer in zip(group["TU_CORE"], group["MARG_500_OUT"], strict=True)
    ]
    assert pd.Series(found).value_counts().to_dict() == counts


def test_kather_core_outer_ratio(estimates):
    ratio = {
        cancer: [
            log2_ratio(core, outer, 1.0).value
            for core, outer in zip(group["TU_CORE"], group["MARG_500_OUT"], strict=True)
        ]
        for cancer, group in estimates.groupby(level="cancer")
    }
    assert np.median(ratio["COAD_PRI"]) == pytest.approx(-1.82, abs=0.005)
    assert np.median(ratio["COAD_MET"]) == pytest.approx(-3.60, abs=0.005)
    test = mannwhitneyu(ratio["COAD_MET"], ratio["COAD_PRI"])
    assert test.pvalue == pytest.approx(0.00027, abs=2e-5)
