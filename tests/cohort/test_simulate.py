"""Simulated cohorts have the truth they were drawn from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from histo.cohort.simulate import (
    ASSUMED_FRACTIONS,
    KATHER,
    METASTASIS,
    PRIMARY,
    CohortTruth,
    StateTruth,
    simulate_cohort,
    simulate_states,
)


def test_patients_sites_and_zones_asked_for() -> None:
    frame = simulate_cohort(KATHER, n_primary=3, n_metastasis=2, n_pairs=4, seed=0)
    assert len(frame) == (3 + 2 + 2 * 4) * 4
    sites = frame.groupby("patient")["site"].agg(lambda s: " and ".join(sorted(set(s))))
    assert sites.value_counts().to_dict() == {"metastasis and primary": 4, "primary": 3, "metastasis": 2}
    assert frame["lesion"].nunique() == 3 + 2 + 2 * 4
    np.testing.assert_allclose(frame["density_per_mm2"], frame["n_cd8"] / frame["area_mm2"])


def test_one_seed_one_cohort() -> None:
    one, two = (simulate_cohort(KATHER, n_primary=5, n_metastasis=5, n_pairs=5, seed=7) for _ in range(2))
    assert one.equals(two)


def test_kather_moments_and_correlations_come_back() -> None:
    truth = replace(KATHER, mean_ln_area=6.0, site_correlation=0.5)
    frame = simulate_cohort(truth, n_primary=0, n_metastasis=0, n_pairs=4000, seed=1)
    log = np.log(
        frame.assign(v=frame["density_per_mm2"] + 1).pivot(
            index="patient", columns=["site", "zone"], values="v"
        )
    )
    for site in (PRIMARY, METASTASIS):
        for zone, mean, sd in zip(truth.zones, truth.mean_ln[site], truth.sd_ln[site], strict=True):
            assert log[site, zone].mean() == pytest.approx(mean, abs=0.1)
            assert log[site, zone].std() == pytest.approx(sd, abs=0.1)
    correlation = log.corr()
    assert correlation.loc[(PRIMARY, "core"), (PRIMARY, "outer_margin")] == pytest.approx(0.61, abs=0.05)
    assert correlation.loc[(PRIMARY, "core"), (METASTASIS, "core")] == pytest.approx(0.5, abs=0.05)
    assert correlation.loc[(PRIMARY, "core"), (METASTASIS, "far")] == pytest.approx(0.305, abs=0.05)


def test_counts_are_negative_binomial_given_the_area() -> None:
    truth = CohortTruth(
        zones=("core",),
        mean_ln={PRIMARY: (4.0,), METASTASIS: (4.0,)},
        sd_ln={PRIMARY: (0.0,), METASTASIS: (0.0,)},
        dispersion_k=2.0,
        sd_ln_area=0.0,
    )
    counts = simulate_cohort(truth, n_primary=20_000, n_metastasis=0, n_pairs=0, seed=2)["n_cd8"]
    mean = np.exp(4.7)
    assert counts.mean() == pytest.approx(mean, rel=0.02)
    assert counts.var() == pytest.approx(mean + mean**2 / 2, rel=0.05)


def test_zones_go_missing_as_often_as_asked_for() -> None:
    truth = replace(KATHER, missing_share={"far": 0.4})
    frame = simulate_cohort(truth, n_primary=1000, n_metastasis=0, n_pairs=0, seed=3)
    share = frame["zone"].value_counts() / 1000
    assert share["far"] == pytest.approx(0.6, abs=0.05)
    assert share["core"] == 1


def test_ratio_of_ratios() -> None:
    assert KATHER.ln_ratio_of_ratios("core", "outer_margin") == pytest.approx(3.44 - 4.84 - (5.99 - 5.85))


def test_a_correlation_that_cannot_be_is_an_error() -> None:
    with pytest.raises(ValueError, match="correlation"):
        simulate_cohort(
            replace(KATHER, zone_correlation=-0.9), n_primary=1, n_metastasis=1, n_pairs=1, seed=0
        )


class TestStates:
    @staticmethod
    def cells(n: int, n_cd8: int = 400) -> pd.DataFrame:
        rows = {"patient": [f"P{i}" for i in range(n)] * 2, "site": [PRIMARY] * n + [METASTASIS] * n}
        frame = pd.DataFrame({**rows, "zone": "core", "n_cd8": n_cd8})
        return frame.assign(lesion=frame["patient"] + frame["site"])

    def test_fractions_and_their_spread_come_back(self) -> None:
        fractions = {site: {"core": value} for site, value in ASSUMED_FRACTIONS.items()}
        truth = StateTruth(fractions, patient_sd=0.0, dispersion_k=9.0)
        frame = simulate_states(self.cells(8000), truth, seed=1)
        share = frame["n_positive"] / 400
        for site, value in ASSUMED_FRACTIONS.items():
            found = share[frame["site"] == site]
            assert found.mean() == pytest.approx(value, abs=0.006)
            # Of the beta-binomial: p q (n + k) / (n (1 + k)).
            assert found.var() == pytest.approx(value * (1 - value) * 409 / 4000, rel=0.06)
        assert truth.odds_ratio("core") == pytest.approx(0.35 / 0.65 / (0.2 / 0.8))

    def test_patients_are_alike_at_both_sites(self) -> None:
        fractions = {site: {"core": 0.3} for site in (PRIMARY, METASTASIS)}
        frame = simulate_states(self.cells(3000), StateTruth(fractions, patient_sd=1.0), seed=2)
        wide = frame.pivot(index="patient", columns="site", values="n_positive")
        assert wide.corr().iloc[0, 1] > 0.6
        alone = simulate_states(self.cells(3000), StateTruth(fractions, patient_sd=0.0), seed=2)
        wide = alone.pivot(index="patient", columns="site", values="n_positive")
        assert abs(wide.corr().iloc[0, 1]) < 0.06

    def test_one_seed_one_draw(self) -> None:
        truth = StateTruth({site: {"core": 0.3} for site in (PRIMARY, METASTASIS)}, dispersion_k=None)
        one, two = (simulate_states(self.cells(20), truth, seed=4) for _ in range(2))
        assert one.equals(two)
