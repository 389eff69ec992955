"""Distance profiles over patients, and margins of other widths."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from histo.cohort.margins import fits, with_margins
from histo.cohort.profiles import site_profiles
from histo.measure.summary import DistanceBin, Estimate


def bins(densities, area_mm2=0.1, low_um=-100.0, width_um=50.0):
    return [
        DistanceBin(
            low_um=low_um + k * width_um,
            high_um=low_um + (k + 1) * width_um,
            n_cd8=round(density * area_mm2),
            area_mm2=area_mm2,
            cd8_density=Estimate(value=density, unit="/mm2"),
        )
        for k, density in enumerate(densities)
    ]


def slides(n, site="primary"):
    return pd.DataFrame(
        {"slide_id": [f"s{i}" for i in range(n)], "patient": [f"p{i}" for i in range(n)], "site": site}
    )


class TestProfiles:
    def test_mean_over_patients_with_a_band(self):
        profiles = {f"s{i}": bins([100 * (i + 1)] * 4) for i in range(4)}
        primary, metastasis = site_profiles(slides(4), profiles, level=0.95, bootstrap_samples=500, seed=1)
        assert (primary.site, metastasis.site) == ("primary", "metastasis")
        assert metastasis.bins == ()
        assert [b.low_um for b in primary.bins] == [-100, -50, 0, 50]
        first = primary.bins[0]
        assert (first.n_patients, first.density.value) == (4, 250)
        assert 100 <= first.density.low < 250 < first.density.high <= 400
        # Whole patients are drawn: where all bins of a patient are alike, so are the bands.
        assert len({(b.density.low, b.density.high) for b in primary.bins}) == 1

    def test_slides_of_a_patient_are_pooled_by_area(self):
        table = slides(4).assign(patient=["p0", "p0", "p1", "p2"])
        profiles = {
            "s0": bins([0] * 2, 0.3),
            "s1": bins([400] * 2),
            "s2": bins([100] * 2),
            "s3": bins([100] * 2),
        }
        (found, _) = site_profiles(table, profiles, level=0.95, bootstrap_samples=200, seed=1)
        assert found.bins[0].density.value == pytest.approx((100 + 100 + 100) / 3)

    def test_few_patients_and_slivers_have_no_number(self):
        profiles = {"s0": bins([100] * 2), "s1": bins([100] * 2), "s2": bins([100] * 2, 0.001)}
        (found, _) = site_profiles(slides(3), profiles, level=0.95, bootstrap_samples=200, seed=1)
        assert [b.n_patients for b in found.bins] == [2, 2]
        assert "only 2 patients" in found.bins[0].density.not_assessable

    def test_the_same_seed_gives_the_same_band(self):
        rng = np.random.default_rng(0)
        profiles = {f"s{i}": bins(rng.integers(0, 500, 6).tolist()) for i in range(9)}
        one, two = (
            site_profiles(slides(9), profiles, level=0.9, bootstrap_samples=300, seed=5) for _ in range(2)
        )
        assert one == two


class TestMargins:
    @pytest.fixture
    def table(self):
        # Bins from -500 to 500; 10 cells each on 0.1 mm2; 40 cells on 0.5 mm2 deeper than 500 um.
        return pd.DataFrame(
            {
                "slide_id": ["a", "no profile"],
                "n_positive_core": [40.0, 1.0],
                "area_core_mm2": [0.5, 1.0],
                "density_core_per_mm2": [80.0, 1.0],
                "n_positive_outer_margin": [100.0, 1.0],
                "area_outer_margin_mm2": [1.0, 1.0],
                "density_outer_margin_per_mm2": [100.0, 1.0],
            }
        )

    @pytest.fixture
    def profiles(self):
        return {"a": bins([100] * 20, 0.1, low_um=-500.0)}

    @pytest.mark.parametrize(
        ("margin", "core", "outer"),
        [(500, (40, 0.5), (100, 1.0)), (250, (90, 1.0), (50, 0.5)), (300, (80, 0.9), (60, 0.6))],
    )
    def test_what_lies_between_moves(self, table, profiles, margin, core, outer):
        found = with_margins(table, profiles, margin, configured_um=500, min_area_mm2=0.1)
        assert found["slide_id"].tolist() == ["a"]
        row = found.iloc[0]
        assert (row["n_positive_core"], row["area_core_mm2"]) == pytest.approx(core)
        assert (row["n_positive_outer_margin"], row["area_outer_margin_mm2"]) == pytest.approx(outer)
        assert row["density_core_per_mm2"] == pytest.approx(core[0] / core[1])

    def test_wider_margins_shrink_the_core(self, table):
        profiles = {"a": bins([100] * 14, 0.1, low_um=-350.0)}
        found = with_margins(table, profiles, 350, configured_um=250, min_area_mm2=0.1)
        assert found.iloc[0]["n_positive_core"] == 40 - 20

    def test_too_little_area_gives_no_density(self, table, profiles):
        found = with_margins(table, profiles, 500, configured_um=500, min_area_mm2=0.7)
        assert np.isnan(found.iloc[0]["density_core_per_mm2"])

    def test_a_width_between_bins_does_not_fit(self, profiles):
        assert fits(profiles, 250)
        assert not fits(profiles, 360)
