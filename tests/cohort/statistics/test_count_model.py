"""The count model: against R's glmmTMB, on Kather's table, invariances, and when not to trust it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histo.cohort.simulate import METASTASIS, PRIMARY, CohortTruth, simulate_cohort
from histo.cohort.statistics.count_model import fit_count_model
from histo.cohort.statistics.site_by_zone import SiteByZoneModel

HERE = Path(__file__).parent / "reference"

TRUTH = CohortTruth(
    zones=("outer_margin", "core"),
    mean_ln={PRIMARY: (5.8, 4.8), METASTASIS: (5.9, 3.6)},
    sd_ln=dict.fromkeys((PRIMARY, METASTASIS), (0.9, 0.9)),
    dispersion_k=3.0,
)


def cohort(n_primary: int = 12, n_metastasis: int = 10, n_pairs: int = 0, seed: int = 0) -> pd.DataFrame:
    return simulate_cohort(TRUTH, n_primary=n_primary, n_metastasis=n_metastasis, n_pairs=n_pairs, seed=seed)


def model_of(
    frame: pd.DataFrame, *, lesions: bool = False, reference_zone: str = "outer_margin"
) -> SiteByZoneModel:
    return fit_count_model(
        frame["n_cd8"],
        frame["area_mm2"],
        frame["site"].tolist(),
        frame["zone"].tolist(),
        frame["patient"].tolist(),
        frame["lesion"].tolist() if lesions else None,
        reference_zone=reference_zone,
    )


def assert_as_glmmtmb(model: SiteByZoneModel, expected: dict[str, float]) -> None:
    """Coefficients to a thousandth of their standard error; the likelihood no lower than R's."""
    fit = model.fit
    assert model.trusted
    assert fit is not None
    for i, (beta, error) in enumerate(zip(fit.beta, np.sqrt(np.diag(fit.covariance)), strict=True), start=1):
        assert error == pytest.approx(expected[f"error {i}"], rel=1e-3)
        assert beta == pytest.approx(expected[f"beta {i}"], abs=1e-3 * error)
    assert fit.dispersion_k == pytest.approx(expected["k"], rel=1e-3)
    assert fit.patient_sd == pytest.approx(expected["sd patient"], rel=2e-3)
    assert fit.lesion_sd == pytest.approx(expected.get("sd lesion", 0.0), rel=2e-3)
    assert fit.log_likelihood == pytest.approx(expected["log likelihood"], abs=1e-5)


class TestAgainstR:
    @pytest.mark.parametrize("data", ["pairs", "mixed"])
    @pytest.mark.parametrize("random", ["patient", "nested"])
    def test_simulated_counts(self, data: str, random: str, r_values: dict[str, dict[str, float]]) -> None:
        frame = pd.read_csv(HERE / f"counts_{data}.csv")
        # R's order of the coefficients is that of the zones in its script.
        frame["zone"] = pd.Categorical(frame["zone"], ["outer_margin", "core", "inner_margin"])
        frame = frame.sort_values(["zone", "patient"]).astype({"zone": str})
        assert_as_glmmtmb(model_of(frame, lesions=random == "nested"), r_values[f"counts {data} {random}"])

    @pytest.mark.parametrize("n_zones", [3, 4])
    def test_kather_cd8_counts(
        self, kather: pd.DataFrame, n_zones: int, r_values: dict[str, dict[str, float]]
    ) -> None:
        assert_as_glmmtmb(kather_model(kather, n_zones), r_values[f"kather {n_zones} zones"])

    @pytest.mark.parametrize("data", ["pairs", "mixed"])
    def test_likelihood_ratio(self, data: str, r_values: dict[str, dict[str, float]]) -> None:
        model = model_of(pd.read_csv(HERE / f"counts_{data}.csv"), lesions=True)
        expected = r_values[f"counts {data} nested"]
        ratio = 2 * (expected["log likelihood"] - expected["log likelihood without interaction"])
        test = model.likelihood_ratio
        assert test is not None
        assert test.df == 2
        n = model.n_rows - model.n_lesions
        assert test.f == pytest.approx(test.df_error * np.expm1(ratio / n) / 2, rel=1e-4)


def kather_model(kather: pd.DataFrame, n_zones: int) -> SiteByZoneModel:
    zones = ["MARG_500_OUT", "TU_CORE", "MARG_500_IN", "DISTANT_OUT"][:n_zones]
    rows = kather[(kather["marker"] == "CD8") & kather["zone"].isin(zones)]
    rows = rows.sort_values("zone", key=lambda names: names.map(zones.index))
    return fit_count_model(
        rows["n_positive"],
        rows["area_mm2"],
        rows["site"].tolist(),
        rows["zone"].tolist(),
        rows["patient"].tolist(),
        reference_zone="MARG_500_OUT",
    )


def test_kather_cd8_is_kept_out_of_the_core_of_metastases(kather: pd.DataFrame) -> None:
    model = kather_model(kather, 3)
    core = model.interactions[0]
    assert core.zone == "TU_CORE"
    # glmmTMB: -1.465, standard error 0.309.
    assert core.ratio.value == pytest.approx(np.exp(-1.4651), rel=1e-3)
    assert core.ratio.low is not None
    assert core.ratio.high is not None
    assert core.ratio.low < core.ratio.value < core.ratio.high < 0.6
    assert model.wald is not None
    assert model.likelihood_ratio is not None
    assert (model.wald.df, model.wald.df_error) == (2, 80)
    assert (model.likelihood_ratio.df, model.likelihood_ratio.df_error) == (2, 80)
    assert model.wald.p_value < 1e-3
    assert model.likelihood_ratio.p_value < 1e-3
    outer = model.site_ratios[0]
    assert outer.zone == "MARG_500_OUT"
    assert outer.p_value is not None
    assert outer.p_value > 0.5


class TestInvariance:
    @settings(max_examples=10)
    @given(st.integers(0, 1000), st.permutations(range(44)))
    def test_order_of_rows_does_not_matter(self, seed: int, order: list[int]) -> None:
        frame = cohort(seed=seed)
        one, two = model_of(frame), model_of(frame.iloc[order])
        assert one.interactions[0].ratio.value == pytest.approx(two.interactions[0].ratio.value, rel=1e-5)
        assert one.wald is not None
        assert two.wald is not None
        assert one.wald.p_value == pytest.approx(two.wald.p_value, rel=1e-4)

    def test_the_other_reference_zone_turns_the_interaction_round(self) -> None:
        one, two = model_of(cohort()), model_of(cohort(), reference_zone="core")
        a, b = one.interactions[0], two.interactions[0]
        assert a.ratio.value is not None
        assert a.ratio.low is not None
        assert b.ratio.value == pytest.approx(1 / a.ratio.value, rel=1e-5)
        assert b.ratio.high == pytest.approx(1 / a.ratio.low, rel=1e-4)
        assert a.p_value == pytest.approx(b.p_value, rel=1e-3)
        assert one.site_ratios[1].ratio.value == pytest.approx(two.site_ratios[0].ratio.value, rel=1e-5)

    def test_unit_of_area_does_not_matter(self) -> None:
        frame = cohort()
        one, two = model_of(frame), model_of(frame.assign(area_mm2=frame["area_mm2"] * 1000))
        assert one.interactions[0].ratio.value == pytest.approx(two.interactions[0].ratio.value, rel=1e-5)

    def test_one_interaction_is_judged_alike_by_its_interval_and_the_robust_test(self) -> None:
        model = model_of(cohort())
        assert model.robust_wald is not None
        assert model.interactions[0].p_value == pytest.approx(model.robust_wald.p_value, rel=1e-9)

    def test_the_truth_is_found_in_a_large_cohort(self) -> None:
        truth = replace(TRUTH, site_correlation=0.5)
        frame = simulate_cohort(truth, n_primary=300, n_metastasis=300, n_pairs=300, seed=1)
        model = model_of(frame, lesions=True)
        assert model.fit is not None
        assert np.log(model.interactions[0].ratio.value) == pytest.approx(-1.3, abs=0.15)
        assert model.fit.dispersion_k == pytest.approx(3.0, rel=0.1)
        assert model.fit.patient_sd**2 + model.fit.lesion_sd**2 == pytest.approx(0.81, rel=0.15)
        assert model.fit.patient_sd**2 == pytest.approx(0.405, rel=0.35)


class TestTrust:
    def test_a_zone_without_a_cell_is_separation(self) -> None:
        frame = cohort()
        frame.loc[(frame["site"] == METASTASIS) & (frame["zone"] == "core"), "n_cd8"] = 0
        model = model_of(frame)
        assert not model.trusted
        assert model.reasons == (
            "not one cell in core of metastasis: its rate has no lower limit (separation)",
        )
        assert model.interactions[0].ratio.value is None
        assert model.interactions[0].ratio.not_assessable == model.reasons[0]
        assert (model.wald, model.likelihood_ratio, model.robust_wald, model.fit) == (None,) * 4

    def test_a_zone_that_one_site_lacks(self) -> None:
        frame = cohort()
        frame = frame[(frame["site"] == PRIMARY) | (frame["zone"] == "core")]
        assert model_of(frame).reasons == ("outer_margin of metastasis is nowhere assessable",)

    def test_few_patients(self) -> None:
        assert model_of(cohort(n_metastasis=4)).reasons == ("4 patients with metastasis, 5 needed",)

    def test_one_zone_has_no_interaction(self) -> None:
        frame = cohort()
        assert "only one zone" in model_of(frame[frame["zone"] == "outer_margin"]).reasons[0]

    def test_patients_without_variance_are_remarked(self) -> None:
        rng = np.random.default_rng(3)
        frame = cohort()
        frame["n_cd8"] = rng.poisson(50 * frame["area_mm2"])
        model = model_of(frame)
        assert model.trusted
        assert any("dispersion is at its limit" in remark for remark in model.remarks)

    def test_every_mistake_of_the_call_at_once(self) -> None:
        frame = cohort()
        frame["n_cd8"] = frame["n_cd8"] + 0.5
        frame.loc[0, "area_mm2"] = 0.0
        frame.loc[1, "site"] = "lymph node"
        with pytest.raises(ValueError) as error:
            model_of(frame, lesions=True, reference_zone="margin")
        for part in ("whole numbers", "above 0", "lymph node", "reference zone 'margin'", "both sites"):
            assert part in str(error.value)

    def test_two_rows_of_one_lesion_and_zone_are_an_error(self) -> None:
        frame = cohort()
        with pytest.raises(ValueError, match="pool them first"):
            model_of(pd.concat([frame, frame.iloc[:1]]))

    def test_lists_of_different_lengths_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="one length"):
            fit_count_model([1, 2], [1.0], ["primary"], ["core"], ["a"])


def test_lesion_effect_needs_patients_with_two() -> None:
    one, two = model_of(cohort()), model_of(cohort(), lesions=True)
    assert one.interactions == two.interactions
