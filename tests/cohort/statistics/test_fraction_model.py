"""The fraction model: against R's glmmTMB, its derivatives, invariances, and when not to trust it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from histo.cohort.simulate import (
    ASSUMED_FRACTIONS,
    METASTASIS,
    PRIMARY,
    CohortTruth,
    StateTruth,
    simulate_cohort,
    simulate_states,
)
from histo.cohort.statistics.beta_binomial import BetaBinomial
from histo.cohort.statistics.fraction_model import fit_fraction_model
from histo.cohort.statistics.site_by_zone import SiteByZoneModel

HERE = Path(__file__).parent / "reference"
ZONES = ("outer_margin", "core", "inner_margin")

CELLS = CohortTruth(
    zones=("core", "outer_margin"),
    mean_ln={PRIMARY: (4.5, 5.5), METASTASIS: (3.5, 5.5)},
    sd_ln=dict.fromkeys((PRIMARY, METASTASIS), (1.0, 1.0)),
)
TRUTH = StateTruth({site: dict.fromkeys(CELLS.zones, share) for site, share in ASSUMED_FRACTIONS.items()})


def cohort(
    n_primary: int = 12, n_metastasis: int = 10, n_pairs: int = 0, seed: int = 0, truth: StateTruth = TRUTH
) -> pd.DataFrame:
    sizes = {"n_primary": n_primary, "n_metastasis": n_metastasis, "n_pairs": n_pairs}
    frame = simulate_cohort(CELLS, **sizes, seed=seed)
    return simulate_states(frame[frame["n_cd8"] > 0], truth, seed=seed + 1)


def pooled(frame: pd.DataFrame) -> pd.DataFrame:
    by = frame.groupby(["patient", "lesion", "site"], as_index=False)[["n_cd8", "n_positive"]].sum()
    return by.assign(zone="all")


def model_of(
    frame: pd.DataFrame, *, lesions: bool = False, reference_zone: str | None = None
) -> SiteByZoneModel:
    zone = reference_zone or ("all" if set(frame["zone"]) == {"all"} else "outer_margin")
    return fit_fraction_model(
        frame["n_positive"],
        frame["n_cd8"],
        frame["site"].tolist(),
        frame["zone"].tolist(),
        frame["patient"].tolist(),
        frame["lesion"].tolist() if lesions else None,
        reference_zone=zone,
    )


@pytest.fixture(scope="module")
def glmmtmb() -> dict[str, dict[str, float]]:
    """Case -> quantity -> what R says (reference/make_fractions.R)."""
    frame = pd.read_csv(HERE / "fractions_r.csv", comment="#")
    return {
        str(case): dict(zip(part["quantity"], part["value"], strict=True))
        for case, part in frame.groupby("case")
    }


def assert_as_glmmtmb(model: SiteByZoneModel, expected: dict[str, float]) -> None:
    """Coefficients to a thousandth of their standard error; the likelihood no lower than R's."""
    fit = model.fit
    assert model.trusted
    assert fit is not None
    for i, (beta, error) in enumerate(zip(fit.beta, np.sqrt(np.diag(fit.covariance)), strict=True), start=1):
        assert error == pytest.approx(expected[f"error {i}"], rel=1e-3)
        assert beta == pytest.approx(expected[f"beta {i}"], abs=1e-3 * error)
    assert fit.dispersion_k == pytest.approx(expected["k"], rel=2e-3)
    assert fit.patient_sd == pytest.approx(expected.get("sd patient", 0.0), rel=2e-3)
    assert fit.lesion_sd == pytest.approx(expected.get("sd lesion", 0.0), rel=2e-3)
    assert fit.log_likelihood == pytest.approx(expected["log likelihood"], abs=1e-5)


class TestAgainstR:
    @pytest.mark.parametrize("data", ["pairs", "mixed"])
    @pytest.mark.parametrize("random", ["patient", "nested"])
    def test_zones(self, data: str, random: str, glmmtmb: dict[str, dict[str, float]]) -> None:
        frame = pd.read_csv(HERE / f"fractions_{data}.csv")
        # R's order of the coefficients is that of the zones in its script.
        frame = frame.sort_values("zone", key=lambda names: names.map(ZONES.index))
        expected = glmmtmb[f"{data} {random}"]
        model = model_of(frame, lesions=random == "nested")
        assert_as_glmmtmb(model, expected)
        ratio = 2 * (expected["log likelihood"] - expected["log likelihood of the null"])
        inner = model.n_lesions if random == "nested" else model.n_patients
        test = model.likelihood_ratio
        assert test is not None
        assert test.df == 2
        assert test.f == pytest.approx(
            test.df_error * np.expm1(ratio / (model.n_rows - inner)) / 2, rel=1e-3, abs=1e-6
        )

    @pytest.mark.parametrize("data", ["pairs", "mixed"])
    def test_all_zones_together(self, data: str, glmmtmb: dict[str, dict[str, float]]) -> None:
        frame = pooled(pd.read_csv(HERE / f"fractions_{data}.csv"))
        assert_as_glmmtmb(model_of(frame), glmmtmb[f"{data} all zones"])

    def test_one_row_a_patient_is_beta_binomial_regression(
        self, glmmtmb: dict[str, dict[str, float]]
    ) -> None:
        frame = pooled(pd.read_csv(HERE / "fractions_mixed.csv"))
        frame = frame.sort_values("site", ascending=False).drop_duplicates("patient")
        model = model_of(frame)
        assert_as_glmmtmb(model, glmmtmb["one row a patient"])
        assert model.fit is not None
        assert model.fit.patient_sd == 0


class TestFamily:
    rng = np.random.default_rng(0)
    total = rng.integers(1, 400, 60).astype(np.float64)
    positive = rng.binomial(total.astype(int), rng.beta(1, 3, 60)).astype(np.float64)
    eta = rng.normal(-1, 2, 60)

    def density(self, eta: NDArray[np.float64], k: float) -> NDArray[np.float64]:
        return np.array(
            [
                BetaBinomial(self.positive[i : i + 1], self.total[i : i + 1]).log_density(eta[i : i + 1], k)
                for i in range(60)
            ]
        )

    def test_it_is_that_of_scipy(self) -> None:
        p = expit(self.eta)
        expected = stats.betabinom.logpmf(self.positive, self.total, 3.7 * p, 3.7 * (1 - p))
        np.testing.assert_allclose(self.density(self.eta, 3.7), expected, rtol=1e-9)

    def test_without_dispersion_it_is_binomial(self) -> None:
        family = BetaBinomial(self.positive, self.total)
        expected = stats.binom.logpmf(self.positive, self.total, expit(self.eta)).sum()
        assert family.log_density(self.eta, np.exp(family.log_k[1])) == pytest.approx(expected, rel=0.01)

    @pytest.mark.parametrize("k", [0.05, 3.7, 900.0])
    def test_derivatives(self, k: float) -> None:
        family, h = BetaBinomial(self.positive, self.total), 1e-5
        found = family.terms(self.eta, k)
        up, down = family.terms(self.eta + h, k), family.terms(self.eta - h, k)
        more, less = family.terms(self.eta, k * np.exp(h)), family.terms(self.eta, k * np.exp(-h))
        density = [self.density(self.eta + step, k) for step in (h, -h)]
        by_k = [self.density(self.eta, k * np.exp(step)) for step in (h, -h)]
        pairs = [
            (found.slope, (density[0] - density[1]) / (2 * h)),
            (found.weight, (down.slope - up.slope) / (2 * h)),
            (found.third, (down.weight - up.weight) / (2 * h)),
            (found.by_log_k, (by_k[0] - by_k[1]) / (2 * h)),
            (found.slope_by_log_k, (more.slope - less.slope) / (2 * h)),
            (found.weight_by_log_k, (more.weight - less.weight) / (2 * h)),
        ]
        for exact, difference in pairs:
            np.testing.assert_allclose(exact, difference, rtol=1e-4, atol=1e-5 * np.abs(exact).max())
        slope, weight = family.slope_and_weight(self.eta, k)
        np.testing.assert_allclose(slope, found.slope, rtol=1e-12)
        np.testing.assert_allclose(weight, found.weight, rtol=1e-12)


class TestInvariance:
    @settings(max_examples=2, deadline=None)
    @given(st.integers(0, 1000), st.randoms(use_true_random=False))
    def test_order_of_rows_does_not_matter(self, seed: int, random: object) -> None:
        frame = pooled(cohort(seed=seed))
        order = list(range(len(frame)))
        random.shuffle(order)  # type: ignore[attr-defined]
        one, two = model_of(frame), model_of(frame.iloc[order])
        assert one.site_ratios[0].ratio.value == pytest.approx(two.site_ratios[0].ratio.value, rel=1e-5)
        assert one.site_ratios[0].p_value == pytest.approx(two.site_ratios[0].p_value, rel=1e-4)

    def test_counting_the_negatives_turns_the_odds_round(self) -> None:
        frame = cohort()
        other = frame.assign(n_positive=frame["n_cd8"] - frame["n_positive"])
        one, two = model_of(frame), model_of(other)
        for a, b in zip(
            (*one.site_ratios, *one.interactions), (*two.site_ratios, *two.interactions), strict=True
        ):
            assert a.ratio.value is not None
            assert a.ratio.low is not None
            assert b.ratio.value == pytest.approx(1 / a.ratio.value, rel=1e-5)
            assert b.ratio.high == pytest.approx(1 / a.ratio.low, rel=1e-4)
            assert a.p_value == pytest.approx(b.p_value, rel=1e-3)

    def test_with_one_zone_the_interval_of_the_site_and_its_robust_test_agree(self) -> None:
        model = model_of(pooled(cohort()))
        assert model.robust_wald is not None
        assert model.interactions == ()
        assert model.site_ratios[0].p_value == pytest.approx(model.robust_wald.p_value, rel=1e-9)

    def test_the_truth_is_found_in_a_large_cohort(self) -> None:
        fractions = {
            PRIMARY: {"core": 0.2, "outer_margin": 0.2},
            METASTASIS: {"core": 0.5, "outer_margin": 0.35},
        }
        truth = replace(TRUTH, fraction=fractions, patient_sd=0.7, lesion_sd=0.4)
        model = model_of(cohort(200, 200, 200, truth=truth), lesions=True)
        assert model.fit is not None
        assert model.interactions[0].ratio.value == pytest.approx(
            truth.odds_ratio("core") / truth.odds_ratio("outer_margin"), rel=0.2
        )
        assert model.site_ratios[0].ratio.value == pytest.approx(truth.odds_ratio("outer_margin"), rel=0.15)
        assert model.fit.dispersion_k == pytest.approx(20, rel=0.2)
        assert model.fit.patient_sd == pytest.approx(0.7, abs=0.12)
        assert model.fit.lesion_sd == pytest.approx(0.4, abs=0.12)


class TestTrust:
    def test_no_positive_cell_anywhere(self) -> None:
        model = model_of(pooled(cohort()).assign(n_positive=0))
        assert not model.trusted
        assert model.reasons == (
            "not one positive cell in primary: its odds have no lower limit (separation)",
            "not one positive cell in metastasis: its odds have no lower limit (separation)",
        )
        assert model.site_ratios[0].ratio.value is None
        assert (model.wald, model.likelihood_ratio, model.robust_wald, model.fit) == (None,) * 4

    def test_every_cell_positive(self) -> None:
        frame = pooled(cohort())
        model = model_of(frame.assign(n_positive=frame["n_cd8"]))
        assert "all cells are positive in primary" in model.reasons[0]

    def test_a_zone_without_a_positive_cell_is_separation(self) -> None:
        frame = cohort()
        frame.loc[(frame["site"] == METASTASIS) & (frame["zone"] == "core"), "n_positive"] = 0
        assert model_of(frame).reasons == (
            "not one positive cell in core of metastasis: its odds have no lower limit (separation)",
        )

    @pytest.mark.parametrize("n", [0, 1, 4])
    def test_few_patients(self, n: int) -> None:
        reasons = model_of(pooled(cohort(n_metastasis=n))).reasons
        assert f"{n} patients with metastasis, 5 needed" in reasons

    def test_every_fraction_the_same(self) -> None:
        frame = pooled(cohort()).assign(n_cd8=100, n_positive=30)
        model = model_of(frame)
        assert model.site_ratios[0].ratio.value == pytest.approx(1, abs=1e-4)
        assert any("dispersion is at its limit" in remark for remark in model.remarks)

    def test_patients_who_are_all_or_nothing(self) -> None:
        frame = pooled(cohort())
        frame["n_positive"] = np.where(np.arange(len(frame)) % 2, frame["n_cd8"], 0)
        model = model_of(frame)
        assert model.trusted or model.reasons

    @settings(max_examples=4, deadline=None)
    @given(st.data())
    def test_any_small_table_has_a_number_or_a_reason(self, data: st.DataObject) -> None:
        rows = []
        for i in range(12):
            for zone in ("core", "outer_margin"):
                n = data.draw(st.integers(1, 30))
                y = data.draw(st.integers(0, n))
                site = (PRIMARY, METASTASIS)[i % 2]
                rows.append((f"P{i // data.draw(st.integers(1, 2))}", site, f"L{i}", zone, n, y))
        columns = ["patient", "site", "lesion", "zone", "n_cd8", "n_positive"]
        frame = pd.DataFrame(rows, columns=columns).drop_duplicates(["lesion", "zone"])
        model = model_of(frame, lesions=True)
        for row in (*model.site_ratios, *model.interactions):
            assert (row.ratio.value is None) == (not model.trusted)
            assert row.ratio.value is None or np.isfinite([row.ratio.value, row.p_value]).all()

    def test_every_mistake_of_the_call_at_once(self) -> None:
        frame = cohort()
        frame["n_positive"] = frame["n_positive"] + 0.5
        frame.loc[frame.index[1], "site"] = "lymph node"
        with pytest.raises(ValueError) as error:
            model_of(frame, lesions=True, reference_zone="margin")
        for part in ("whole numbers", "lymph node", "reference zone 'margin'", "both sites"):
            assert part in str(error.value)

    def test_impossible_counts_are_errors(self) -> None:
        frame = pooled(cohort())
        with pytest.raises(ValueError, match="more positive cells than cells"):
            model_of(frame.assign(n_positive=frame["n_cd8"] + 1))
        with pytest.raises(ValueError, match="no fraction: leave it out"):
            model_of(frame.assign(n_positive=0, n_cd8=0))
        with pytest.raises(ValueError, match="one length"):
            fit_fraction_model([1, 2], [1.0], ["primary"], ["core"], ["a"])
