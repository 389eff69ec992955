"""The sandwich over patients, where its answer is known: Gaussian values, for which Laplace is exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from histo.cohort.statistics.fraction_model import fit_fraction_model
from histo.cohort.statistics.mixed_model import Array, Fit, Layout, Terms, fit


@dataclass(frozen=True)
class Gaussian:
    """Values of mean eta and variance 1 / k."""

    values: Array
    log_k: tuple[float, float] = (-12.0, 12.0)

    def start(self) -> Array:
        return self.values

    def log_density(self, eta: Array, k: float) -> float:
        return float((np.log(k / (2 * np.pi)) / 2 - k * (self.values - eta) ** 2 / 2).sum())

    def slope_and_weight(self, eta: Array, k: float) -> tuple[Array, Array]:
        return k * (self.values - eta), np.full_like(eta, k)

    def terms(self, eta: Array, k: float) -> Terms:
        slope, weight = self.slope_and_weight(eta, k)
        by_log_k = 1 / 2 - k * (self.values - eta) ** 2 / 2
        return Terms(slope, weight, np.zeros_like(eta), by_log_k, slope, weight)


def fit_gaussian(values: Array, design: Array, patient: Array, *, effect: bool) -> Fit:
    index = patient.astype(np.intp)
    n = int(index.max()) + 1
    return fit(
        Layout(
            family=Gaussian(values),
            offset=np.zeros(len(values)),
            design=design,
            patient=index,
            lesion=index,
            patient_of_lesion=np.arange(n),
            has_patient_effect=effect,
            has_lesion_effect=False,
        )
    )


def test_of_two_groups_it_is_that_of_welch() -> None:
    n, m = 12, 7
    values = np.random.default_rng(1).normal(0, np.repeat([1.0, 3.0], [n, m]))
    other = np.repeat([0.0, 1.0], [n, m])
    found = fit_gaussian(values, np.column_stack([np.ones(n + m), other]), np.arange(n + m), effect=False)
    assert found.sandwich is not None
    # Imbens and Kolesar (2016, Rev Econ Stat 98:701), section II: HC2 and its degrees of freedom.
    expected = values[:n].var(ddof=1) / n + values[n:].var(ddof=1) / m
    assert found.sandwich.covariance[1, 1] == pytest.approx(expected, rel=1e-6)
    df = (1 / n + 1 / m) ** 2 / (1 / (n**2 * (n - 1)) + 1 / (m**2 * (m - 1)))
    assert found.sandwich.degrees_of_freedom(np.array([[0.0, 1.0]])) == pytest.approx(df, rel=1e-6)


def test_of_pairs_it_is_that_of_the_differences() -> None:
    n, rng = 9, np.random.default_rng(2)
    values = rng.normal(0, 1, (n, 1)) + rng.normal(0, 0.5, (n, 2))
    design = np.column_stack([np.ones(2 * n), np.tile([0.0, 1.0], n)])
    found = fit_gaussian(values.ravel(), design, np.repeat(np.arange(n), 2), effect=True)
    assert found.sandwich is not None
    expected = np.diff(values, axis=1).var(ddof=1) / n
    assert found.sandwich.covariance[1, 1] == pytest.approx(expected, rel=1e-5)
    assert found.sandwich.degrees_of_freedom(np.array([[0.0, 1.0]])) == pytest.approx(n - 1, rel=1e-5)


def test_of_several_contrasts_within_patients_it_is_hotellings() -> None:
    n, rng = 11, np.random.default_rng(3)
    values = rng.normal(0, 1, (n, 1)) + rng.normal(0, 0.5, (n, 3))
    design = np.tile(np.column_stack([np.ones(3), [0, 1, 0], [0, 0, 1]]), (n, 1))
    found = fit_gaussian(values.ravel(), design, np.repeat(np.arange(n), 3), effect=True)
    assert found.sandwich is not None
    differences = values[:, 1:] - values[:, :1]
    np.testing.assert_allclose(
        found.sandwich.covariance[1:, 1:], np.cov(differences, rowvar=False) / n, rtol=1e-5
    )
    assert found.sandwich.degrees_of_freedom(np.eye(3)[1:]) == pytest.approx(n - 1, rel=1e-5)


@pytest.mark.parametrize(("most", "low", "high"), [(100, 8, 9.001), (20_000, 1, 4)])
def test_few_patients_with_nearly_all_cells_leave_few_degrees_of_freedom(
    most: int, low: float, high: float
) -> None:
    n_cells = np.full(20, 100)
    n_cells[:4] = most
    positive = np.round(n_cells * np.tile([0.28, 0.32], 10) + np.resize([-3, 2, 1], 20)).astype(int)
    patients = [f"P{index // 2}" for index in range(20)]
    sites = ["primary", "metastasis"] * 10
    model = fit_fraction_model(positive, n_cells, sites, ["all"] * 20, patients, reference_zone="all")
    assert model.robust_wald is not None
    assert low <= model.robust_wald.df_error <= high
    assert model.site_ratios[0].p_value == pytest.approx(model.robust_wald.p_value, rel=1e-9)


def test_two_patients_with_nearly_all_cells_give_no_test_of_all_zones_at_once() -> None:
    zones = ("outer_margin", "inner_margin", "core", "far")
    n_cells = np.repeat([1000] * 2 + [20] * 8, 4)
    share = np.where(np.arange(40) % 8 < 4, 0.4, 0.3)
    positive = np.round(n_cells * share + np.resize([0.4, -0.4, 0.1], 40)).astype(int)
    sites = np.repeat(["metastasis", "primary"] * 5, 4)
    patients = np.repeat([f"P{index}" for index in range(10)], 4)
    model = fit_fraction_model(positive, n_cells, sites.tolist(), zones * 10, patients.tolist())
    assert model.trusted
    assert model.robust_wald is None
    assert model.remarks[-1].startswith("too few patients hold nearly all cells")
    assert all(ratio.p_value is not None for ratio in model.interactions)
