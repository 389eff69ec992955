"""Cohorts with known truth: densities and states by site and zone, patients alike or not, limited areas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

Array = NDArray[np.float64]

PRIMARY, METASTASIS = "primary", "metastasis"
_SITES = (PRIMARY, METASTASIS)


@dataclass(frozen=True)
class CohortTruth:
    """What a simulated cohort is drawn from.

    The log density of patient p, site s and zone z is mean_ln[s][z] + sd_ln[s][z] * g, with g normal of
    variance 1: correlated `zone_correlation` between zones of a site, `site_correlation` between the sites of
    a patient in the same zone, and their product otherwise. With a zone correlation of 1 and one standard
    deviation this is a random intercept for patients (variance share `site_correlation`) and for lesions
    within them (the rest).

    Parameters
    ----------
    zones : names, in the order of the values below.
    mean_ln, sd_ln : per site, a value per zone: mean and standard deviation of ln(density + offset_per_mm2).
    dispersion_k : of the negative binomial count given density and area (variance mu + mu^2 / k); None for
        Poisson.
    mean_ln_area, sd_ln_area : of the zones' areas in mm2.
    missing_share : probability that a zone is not assessable in a lesion; it then has no row.
    """

    zones: tuple[str, ...]
    mean_ln: Mapping[str, tuple[float, ...]]
    sd_ln: Mapping[str, tuple[float, ...]]
    offset_per_mm2: float = 0.0
    zone_correlation: float = 1.0
    site_correlation: float = 0.0
    dispersion_k: float | None = None
    mean_ln_area: float = 0.7
    sd_ln_area: float = 0.6
    missing_share: Mapping[str, float] = field(default_factory=dict)

    def ln_ratio_of_ratios(self, zone: str, reference: str) -> float:
        """Return ln of (metastasis / primary in `zone`) over (the same in `reference`).

        It is that of the medians of density + offset; with a random intercept and no offset also that of the
        means: the interaction of a count model.
        """
        z, r = self.zones.index(zone), self.zones.index(reference)
        met, pri = self.mean_ln[METASTASIS], self.mean_ln[PRIMARY]
        return (met[z] - pri[z]) - (met[r] - pri[r])


# CD8 of colorectal primaries and metastases: means and standard deviations of ln(density + 1) by zone, and
# their mean correlation (weighted by patients), computed from the table of Kather et al. 2018 (eLife
# 7:e36967; 25 primaries and 17 metastases of different patients). The correlation between the sites of one
# patient is that of r2 = 0.03, found for CD8 signatures of 131 pairs (Lin et al. 2021, Ann Transl Med,
# PMC7944305).
KATHER = CohortTruth(
    zones=("core", "inner_margin", "outer_margin", "far"),
    mean_ln={PRIMARY: (4.84, 5.14, 5.85, 3.93), METASTASIS: (3.44, 4.36, 5.99, 5.18)},
    sd_ln={PRIMARY: (1.20, 1.19, 1.04, 1.03), METASTASIS: (1.78, 1.51, 0.95, 0.85)},
    offset_per_mm2=1.0,
    zone_correlation=0.61,
    site_correlation=0.173,
)


def simulate_cohort(
    truth: CohortTruth, *, n_primary: int, n_metastasis: int, n_pairs: int, seed: int | np.random.Generator
) -> pd.DataFrame:
    """Draw a cohort.

    Parameters
    ----------
    n_primary, n_metastasis : patients of whom only that site is seen.
    n_pairs : patients of whom both are.
    seed : of the random numbers, or a generator.

    Returns
    -------
    A row per patient, site and assessable zone: patient, lesion, site, zone, n_cd8, area_mm2,
    density_per_mm2.
    """
    rng = np.random.default_rng(seed)
    n, n_zones = n_primary + n_metastasis + n_pairs, len(truth.zones)
    between = _root(np.full((n_zones, n_zones), truth.zone_correlation))
    sites = _root(np.full((2, 2), truth.site_correlation))
    # (patient, site, zone) normal with the Kronecker product of the two correlations.
    g = np.einsum("st,zy,pty->psz", sites, between, rng.standard_normal((n, 2, n_zones)))
    mean = np.array([truth.mean_ln[site] for site in _SITES])
    sd = np.array([truth.sd_ln[site] for site in _SITES])
    density = np.maximum(np.exp(mean + sd * g) - truth.offset_per_mm2, 0)
    area = np.exp(truth.mean_ln_area + truth.sd_ln_area * rng.standard_normal(g.shape))
    expected = density * area
    if truth.dispersion_k is not None:
        expected = expected * rng.gamma(truth.dispersion_k, 1 / truth.dispersion_k, size=g.shape)
    counts = rng.poisson(expected)
    seen = np.ones(g.shape, dtype=bool)
    seen[:n_primary, 1] = False
    seen[n_primary : n_primary + n_metastasis, 0] = False
    chance = np.array([truth.missing_share.get(zone, 0.0) for zone in truth.zones])
    seen &= rng.random(g.shape) >= chance
    patient, site, zone = np.nonzero(seen)
    names = np.array([f"P{index + 1:04d}" for index in range(n)])
    frame = pd.DataFrame({"patient": names[patient], "site": np.array(_SITES)[site]})
    frame["lesion"] = frame["patient"] + " " + frame["site"]
    frame["zone"] = np.array(truth.zones)[zone]
    frame["n_cd8"], frame["area_mm2"] = counts[seen], area[seen]
    frame["density_per_mm2"] = frame["n_cd8"] / frame["area_mm2"]
    return frame


def _root(correlation: Array) -> Array:
    """Return the symmetric square root of a correlation matrix whose diagonal is filled in here."""
    np.fill_diagonal(correlation, 1.0)
    values, vectors = np.linalg.eigh(correlation)
    if values.min() < -1e-9:
        raise ValueError("no such correlation between so many zones or sites")
    return np.asarray(vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T, np.float64)


@dataclass(frozen=True)
class StateTruth:
    """What the cells with a state are drawn from.

    The chance of a cell of patient p, lesion l and zone z is beta distributed over lesions and zones, with
    logit of its mean logit(fraction[s][z]) + patient_sd * g_p + lesion_sd * g_l, and a + b = dispersion_k.

    Parameters
    ----------
    fraction : per site, that of each zone, where a patient is as the middle one.
    patient_sd, lesion_sd : standard deviations on the logit scale.
    dispersion_k : of the beta distribution; None for none, cells then are independent given their lesion.
    """

    fraction: Mapping[str, Mapping[str, float]]
    patient_sd: float = 0.5
    lesion_sd: float = 0.0
    dispersion_k: float | None = 20.0

    def odds_ratio(self, zone: str) -> float:
        """Return that of metastasis to primary, within a patient."""
        met, pri = (logit(self.fraction[site][zone]) for site in (METASTASIS, PRIMARY))
        return float(np.exp(met - pri))


# Assumed, for want of a published value of CD8+PD-1+TIM-3+ fractions in both sites: not from literature.
ASSUMED_FRACTIONS: Final[Mapping[str, float]] = {PRIMARY: 0.20, METASTASIS: 0.35}


def simulate_states(
    frame: pd.DataFrame, truth: StateTruth, *, seed: int | np.random.Generator
) -> pd.DataFrame:
    """Return a cohort of `simulate_cohort` with a further column n_positive, drawn among its CD8+ cells."""
    rng = np.random.default_rng(seed)
    effect = np.zeros(len(frame))
    for column, sd in (("patient", truth.patient_sd), ("lesion", truth.lesion_sd)):
        codes, names = pd.factorize(frame[column])
        effect += sd * rng.standard_normal(len(names))[codes]
    middle = [truth.fraction[s][z] for s, z in zip(frame["site"], frame["zone"], strict=True)]
    chance = expit(logit(np.array(middle)) + effect)
    if truth.dispersion_k is not None:
        chance = rng.beta(truth.dispersion_k * chance, truth.dispersion_k * (1 - chance))
    return frame.assign(n_positive=rng.binomial(frame["n_cd8"], chance))
