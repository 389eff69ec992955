"""Power by simulation, against the formula, the level of the test and Kather's table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from histo.cohort.statistics.power import (
    KATHER_METASTASIS,
    KATHER_PRIMARY,
    SiteModel,
    paired_power,
    paired_sample_size,
    quick_paired_n,
    quick_unpaired_n,
    unpaired_power,
    unpaired_sample_size,
)

# About half of Kather's difference, so that tens of patients are needed.
SMALL = replace(KATHER_PRIMARY, core_mean_ln=KATHER_PRIMARY.core_mean_ln - 0.8)


@pytest.mark.parametrize(("site", "model"), [("primary", KATHER_PRIMARY), ("metastasis", KATHER_METASTASIS)])
def test_kather_sites(kather: pd.DataFrame, site: str, model: SiteModel) -> None:
    rows = kather[(kather["marker"] == "CD8") & (kather["site"] == site)]
    log = np.log(rows.pivot(index="patient", columns="zone", values="density_per_mm2") + 1)
    core, outer = log["TU_CORE"], log["MARG_500_OUT"]
    assert model == SiteModel(
        pytest.approx(core.mean(), abs=0.005),
        pytest.approx(core.std(), abs=0.006),
        pytest.approx(outer.mean(), abs=0.005),
        pytest.approx(outer.std(), abs=0.005),
        pytest.approx(core.corr(outer), abs=0.005),
    )
    ratio = (core - outer) / np.log(2)
    assert model.ratio_mean == pytest.approx(ratio.mean(), abs=0.02)
    assert model.ratio_sd == pytest.approx(ratio.std(), abs=0.02)


def test_kather_17_against_25_show_the_difference() -> None:
    found = unpaired_power(25, 17, simulations=2000)
    assert found.power == pytest.approx(0.978, abs=0.015)
    assert found.error == pytest.approx((found.power * (1 - found.power) / 2000) ** 0.5)


def test_without_a_difference_power_is_the_level() -> None:
    for found in (
        unpaired_power(30, 30, metastasis=KATHER_PRIMARY),
        paired_power(30, metastasis=KATHER_PRIMARY),
    ):
        assert found.power == pytest.approx(0.05, abs=3 * 0.0035)
    with pytest.raises(ValueError, match="without a difference"):
        quick_unpaired_n(metastasis=KATHER_PRIMARY)


@pytest.mark.parametrize("target", [0.8, 0.9])
def test_simulated_size_is_near_the_formula(target: float) -> None:
    unpaired = unpaired_sample_size(target, metastasis=SMALL, simulations=1000)
    paired = paired_sample_size(target, metastasis=SMALL, simulations=1000)
    for size, formula in (
        (unpaired, quick_unpaired_n(target, metastasis=SMALL)),
        (paired, quick_paired_n(target, metastasis=SMALL)),
    ):
        assert size.n_primary == pytest.approx(formula, rel=0.15)
        assert size.power is not None
        assert size.power.power >= target
        assert size.low is not None
        assert size.high is not None
        assert size.low <= size.n_primary <= size.high


def test_pairs_help_little_where_sites_hardly_agree() -> None:
    assert quick_paired_n(metastasis=SMALL) > 0.75 * quick_unpaired_n(metastasis=SMALL)
    assert quick_paired_n(metastasis=SMALL, correlation=0.8) < 0.35 * quick_unpaired_n(metastasis=SMALL)


def test_fewer_metastases_take_more_primaries() -> None:
    even = unpaired_sample_size(metastasis=SMALL, simulations=500)
    uneven = unpaired_sample_size(metastasis=SMALL, metastases_per_primary=0.5, simulations=500)
    assert even.n_primary is not None
    assert uneven.n_primary is not None
    assert uneven.n_metastasis == round(uneven.n_primary / 2)
    assert uneven.n_primary > even.n_primary


def test_a_target_that_cannot_be_reached_is_said() -> None:
    tiny = replace(KATHER_PRIMARY, core_mean_ln=KATHER_PRIMARY.core_mean_ln + 1e-3)
    found = paired_sample_size(metastasis=tiny, simulations=20)
    assert (found.n_primary, found.power) == (None, None)
    with pytest.raises(ValueError, match="between"):
        paired_sample_size(1.0)
