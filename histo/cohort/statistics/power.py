"""How many patients a comparison of sites needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log, pi, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

# Two-sided significance level of all that follows.
_ALPHA = 0.05
_LARGEST_N = 5000
# Values simulated at a time.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class SiteModel:
    """Core and outer margin of one site: ln(density + 1) in both, and the correlation between them."""

    core_mean_ln: float
    core_sd_ln: float
    outer_mean_ln: float
    outer_sd_ln: float
    core_outer_correlation: float

    @property
    def ratio_mean(self) -> float:
        """Mean of log2((core + 1) / (outer + 1))."""
        return (self.core_mean_ln - self.outer_mean_ln) / log(2)

    @property
    def ratio_sd(self) -> float:
        """Standard deviation of log2((core + 1) / (outer + 1))."""
        shared = 2 * self.core_outer_correlation * self.core_sd_ln * self.outer_sd_ln
        return sqrt(self.core_sd_ln**2 + self.outer_sd_ln**2 - shared) / log(2)


# CD8 of 25 colorectal primaries and 17 metastases: computed from the table of Kather et al. 2018, eLife
# 7:e36967.
KATHER_PRIMARY = SiteModel(4.84, 1.20, 5.85, 1.04, 0.60)
KATHER_METASTASIS = SiteModel(3.44, 1.78, 5.99, 0.95, 0.73)
# CD8 signature of primary and liver metastasis in 131 pairs, r2 = 0.030: Lin et al. 2021, Ann Transl Med,
# PMC7944305.
PAIR_CORRELATION = sqrt(0.03)


@dataclass(frozen=True)
class Power:
    """Simulated power at one size. `error` is the standard error of the simulation."""

    n_primary: int
    n_metastasis: int
    power: float
    error: float


@dataclass(frozen=True)
class SampleSize:
    """Fewest patients whose simulated power reaches the target.

    `power` is what was simulated at that size; `low` and `high` are the sizes between which the search cannot
    tell, within two standard errors of the simulation. All are None where even 5000 do not reach it.
    """

    target: float
    paired: bool
    n_primary: int | None
    n_metastasis: int | None
    power: Power | None
    low: int | None
    high: int | None


def unpaired_power(
    n_primary: int,
    n_metastasis: int,
    *,
    primary: SiteModel = KATHER_PRIMARY,
    metastasis: SiteModel = KATHER_METASTASIS,
    simulations: int = 4000,
    seed: int = 0,
) -> Power:
    """Return the power of Mann-Whitney at 5 % for log2 core:outer of unpaired patients, simulated.

    The ratio is normal, as both densities are taken as lognormal (of density + 1). Counting is not simulated:
    in mm2 of tissue it adds little to the spread between patients.
    """
    rng = np.random.default_rng(seed)

    def p_values(times: int) -> Array:
        x = rng.normal(primary.ratio_mean, primary.ratio_sd, (times, n_primary))
        y = rng.normal(metastasis.ratio_mean, metastasis.ratio_sd, (times, n_metastasis))
        return np.asarray(stats.mannwhitneyu(x, y, axis=1).pvalue, np.float64)

    return _power(n_primary, n_metastasis, p_values, simulations, n_primary + n_metastasis)


def paired_power(
    n_pairs: int,
    *,
    primary: SiteModel = KATHER_PRIMARY,
    metastasis: SiteModel = KATHER_METASTASIS,
    correlation: float = PAIR_CORRELATION,
    simulations: int = 4000,
    seed: int = 0,
) -> Power:
    """Return the power of the signed-rank test at 5 % for log2 core:outer of pairs, simulated.

    Parameters
    ----------
    correlation : of the ratio between the two sites of a patient.
    """
    rng = np.random.default_rng(seed)
    mean = metastasis.ratio_mean - primary.ratio_mean
    sd = _difference_sd(primary, metastasis, correlation)

    def p_values(times: int) -> Array:
        difference = rng.normal(mean, sd, (times, n_pairs))
        return np.asarray(stats.wilcoxon(difference, axis=1).pvalue, np.float64)

    return _power(n_pairs, n_pairs, p_values, simulations, n_pairs)


def unpaired_sample_size(
    target: float = 0.8,
    *,
    metastases_per_primary: float = 1.0,
    primary: SiteModel = KATHER_PRIMARY,
    metastasis: SiteModel = KATHER_METASTASIS,
    simulations: int = 4000,
    seed: int = 0,
) -> SampleSize:
    """Return the fewest primaries, with so many metastases to each, that reach the power `target`."""

    def power(n: int) -> Power:
        others = max(2, round(n * metastases_per_primary))
        return unpaired_power(
            n, others, primary=primary, metastasis=metastasis, simulations=simulations, seed=seed
        )

    return _fewest(power, target, paired=False)


def paired_sample_size(
    target: float = 0.8,
    *,
    primary: SiteModel = KATHER_PRIMARY,
    metastasis: SiteModel = KATHER_METASTASIS,
    correlation: float = PAIR_CORRELATION,
    simulations: int = 4000,
    seed: int = 0,
) -> SampleSize:
    """Return the fewest pairs that reach the power `target`."""

    def power(n: int) -> Power:
        return paired_power(
            n,
            primary=primary,
            metastasis=metastasis,
            correlation=correlation,
            simulations=simulations,
            seed=seed,
        )

    return _fewest(power, target, paired=True)


def quick_unpaired_n(
    target: float = 0.8,
    *,
    metastases_per_primary: float = 1.0,
    primary: SiteModel = KATHER_PRIMARY,
    metastasis: SiteModel = KATHER_METASTASIS,
) -> int:
    """Return the number of primaries by formula.

    That of the two-sample z test over 3 / pi, the asymptotic relative efficiency of Mann-Whitney for normal
    values (Lehmann 1975, Nonparametrics).
    """
    variance = primary.ratio_sd**2 + metastasis.ratio_sd**2 / metastases_per_primary
    return _quick(target, variance, metastasis.ratio_mean - primary.ratio_mean)


def quick_paired_n(
    target: float = 0.8,
    *,
    primary: SiteModel = KATHER_PRIMARY,
    metastasis: SiteModel = KATHER_METASTASIS,
    correlation: float = PAIR_CORRELATION,
) -> int:
    """Return the number of pairs by formula: as `quick_unpaired_n`, for the signed-rank test."""
    sd = _difference_sd(primary, metastasis, correlation)
    return _quick(target, sd**2, metastasis.ratio_mean - primary.ratio_mean)


def _quick(target: float, variance: float, shift: float) -> int:
    if shift == 0:
        raise ValueError("without a difference no number of patients shows one")
    z = float(stats.norm.isf(_ALPHA / 2) + stats.norm.ppf(target))
    return ceil(pi / 3 * variance * (z / shift) ** 2)


def _difference_sd(primary: SiteModel, metastasis: SiteModel, correlation: float) -> float:
    a, b = primary.ratio_sd, metastasis.ratio_sd
    return sqrt(a**2 + b**2 - 2 * correlation * a * b)


def _power(
    n_primary: int, n_metastasis: int, p_values: Callable[[int], Array], simulations: int, width: int
) -> Power:
    block = max(1, _BLOCK // width)
    significant = sum(
        int((p_values(min(block, simulations - start)) <= _ALPHA).sum())
        for start in range(0, simulations, block)
    )
    power = significant / simulations
    return Power(n_primary, n_metastasis, power, sqrt(power * (1 - power) / simulations))


def _fewest(power: Callable[[int], Power], target: float, *, paired: bool) -> SampleSize:
    """Bisect for the target, and for what lies two standard errors of the simulation to either side of it."""
    if not _ALPHA < target < 1:
        raise ValueError(f"a power lies between {_ALPHA:g} and 1")
    seen: dict[int, Power] = {}

    def at(n: int) -> Power:
        if n not in seen:
            seen[n] = power(n)
        return seen[n]

    def first(reaches: Callable[[Power], bool]) -> int | None:
        high = 4
        while not reaches(at(high)):
            if high >= _LARGEST_N:
                return None
            high = min(2 * high, _LARGEST_N)
        # Below 4 primaries no outcome is significant.
        low = max(3, high // 2)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(at(middle)) else (middle, high)
        return high

    n = first(lambda found: found.power >= target)
    if n is None:
        return SampleSize(target, paired, None, None, None, None, None)
    return SampleSize(
        target=target,
        paired=paired,
        n_primary=at(n).n_primary,
        n_metastasis=at(n).n_metastasis,
        power=at(n),
        low=first(lambda found: found.power + 2 * found.error >= target),
        high=first(lambda found: found.power - 2 * found.error >= target),
    )
