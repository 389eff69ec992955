"""Two sites compared by ranks: shift, effect size and test, for unpaired and for paired patients.

Every value is one patient's. Differences are always "other less reference", so that with primaries as the
reference a negative shift means lower in metastases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import atanh, ceil, comb, floor, sqrt, tanh
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from histo.measure.summary import Estimate

Array = NDArray[np.float64]
Method = Literal["auto", "exact", "asymptotic"]

CLIFFS_DELTA = "Cliff's delta"
RANK_BISERIAL = "matched rank-biserial correlation"

# Exact up to here: scipy's rule for Mann-Whitney (the smaller group), the usual one for the signed ranks.
_EXACT_SMALLER_GROUP = 8
_EXACT_PAIRS = 50
# With ties the exact distribution is enumerated, up to so many arrangements.
_MOST_ARRANGEMENTS = 20_000
# Normal samples for the interval of the rank-biserial correlation: so many means of two values in all.
_SAMPLED_MEANS = 4_000_000
_FEWEST_SAMPLES, _MOST_SAMPLES, _SAMPLES_AT_ONCE = 5000, 20_000, 500
# Correlations of 0 to 1 that are tried.
_HALF_STEPS = 200


@dataclass(frozen=True)
class Sample:
    """Median and quartiles (linear interpolation) of one group; None where it is empty."""

    n: int
    median: float | None
    lower_quartile: float | None
    upper_quartile: float | None


@dataclass(frozen=True)
class UnpairedComparison:
    """Two groups of patients.

    `statistic` is Mann-Whitney's U of the other group. `p_value` is two-sided; None, with `reason` saying
    why, where no outcome of so few patients could be significant at 1 - level; then there is no interval
    either.
    """

    reference: Sample
    other: Sample
    statistic: float
    p_value: float | None
    p_method: str | None
    reason: str | None
    shift: Estimate
    cliffs_delta: Estimate


@dataclass(frozen=True)
class PairedComparison:
    """Pairs of one patient each.

    `reference`, `other` and `difference` describe the pairs' two sides and their differences. `statistic` is
    the sum of the ranks of positive differences. `n_zero` differences are 0: they stay out of the test and of
    the rank-biserial correlation, and count in the shift.
    """

    reference: Sample
    other: Sample
    difference: Sample
    n_zero: int
    statistic: float
    p_value: float | None
    p_method: str | None
    reason: str | None
    shift: Estimate
    rank_biserial: Estimate


def compare_unpaired(
    reference: ArrayLike,
    other: ArrayLike,
    *,
    unit: str,
    level: float = 0.95,
    method: Method = "auto",
) -> UnpairedComparison:
    """Compare two groups of patients.

    The test is that of Mann and Whitney (1947, Ann Math Stat 18:50). Exact: by the permutation distribution,
    without ties where the smaller group has at most 8 patients, with ties where it can be enumerated.
    Otherwise by the normal approximation, corrected for ties and for continuity. This is the rule of scipy
    and, for the approximation, R's.

    The shift is that of Hodges and Lehmann (1963, Ann Math Stat 34:598), the median of all differences
    between the groups, with the interval of the order statistics of these differences that the test does not
    reject (Hollander, Wolfe and Chicken 2014, Nonparametric Statistical Methods, section 4.3; R's
    `wilcox.test`). It takes the two distributions as of one shape.

    Cliff's delta is P(other > reference) - P(other < reference), with the asymmetric interval of Feng and
    Cliff (2004, J Mod Appl Stat Methods 3:322), which takes them as of any shape.

    Parameters
    ----------
    reference, other : (n,) and (m,) finite values, one a patient.
    unit : of the values, for the shift.
    level : of the intervals.
    method : "exact" (without ties only) or "asymptotic" instead of the rule above.

    Raises
    ------
    ValueError : a value is missing or infinite: what is not assessable is left out, and counted, by the
        caller.
    """
    x, y = _values(reference, "reference"), _values(other, "other")
    n, m = len(x), len(y)
    if n == 0 or m == 0:
        empty = "no patient in the reference group" if n == 0 else "no patient in the other group"
        shift, delta = Estimate.missing(unit, empty), Estimate.missing(CLIFFS_DELTA, empty)
        return UnpairedComparison(_sample(x), _sample(y), 0.0, None, None, empty, shift, delta)
    sign = np.sign(y[:, None] - x)
    statistic = float((sign + 1).sum() / 2)
    tail = (1 - level) / 2
    alike = len(np.unique(np.concatenate([x, y]))) < n + m
    if method == "exact" and alike:
        raise ValueError("no exact test of values that are tied; use 'auto'")
    small = comb(n + m, n) <= _MOST_ARRANGEMENTS if alike else min(n, m) <= _EXACT_SMALLER_GROUP
    exact = method == "exact" or (method == "auto" and small)
    reason = _too_few(1 / comb(n + m, n), level, f"{n} and {m} patients")
    if reason is None and np.ptp(np.concatenate([x, y])) == 0:
        reason = "all values are the same"
    p_value: float | None = None
    p_method: str | None = None
    place = 0
    if reason is None:
        p_value, p_method = _mann_whitney(x, y, exact, alike)
        if exact:
            place = _exact_place(_rank_sum_tail(min(n, m), max(n, m)), tail)
        else:
            place = _normal_place(n * m, _rank_sum_sd(x, y), tail)
    differences = np.sort(np.subtract.outer(y, x), axis=None)
    return UnpairedComparison(
        reference=_sample(x),
        other=_sample(y),
        statistic=statistic,
        p_value=p_value,
        p_method=p_method,
        reason=reason,
        shift=_shift(differences, place, unit),
        cliffs_delta=_cliffs_delta(sign, level, interval=reason is None),
    )


def compare_paired(
    reference: ArrayLike,
    other: ArrayLike,
    *,
    unit: str,
    level: float = 0.95,
    method: Method = "auto",
) -> PairedComparison:
    """Compare two values of each patient.

    The test is the signed-rank test of Wilcoxon (1945, Biometrics Bull 1:80). Differences of 0 are dropped,
    as Wilcoxon did; tied ones share their mean rank. Up to 50 differences the distribution is exact, ties or
    not (the shift algorithm of Streitberg and Rohmel 1986, Stat Softw Newsl 12:10); beyond, normal with
    corrections for ties and continuity.

    The shift is the pseudo-median of Hodges and Lehmann (1963), the median of the means of any two
    differences, each with itself too, with the interval of the order statistics of these means that the test
    does not reject (Hollander, Wolfe and Chicken 2014, section 3.3). Differences of 0 stay in. It takes the
    differences as symmetric.

    The matched rank-biserial correlation is (R+ - R-) / (R+ + R-), of the sums of the ranks of positive and
    negative differences (Kerby 2014, Compr Psychol 3:11.IT.3.1). Up to 50 pairs with a difference its
    interval holds the correlations of normal differences, of any shift, with which the sum of ranks goes
    (Blaker 2000, Can J Stat 28:783); without ties it leaves 0 out where the test rejects. Beyond 50 it is
    normal on Fisher's z scale, with the jackknife's standard error and Student's t, or Wilson's limit where
    all differences have one sign. Where differences are very skewed or have heavy tails it can hold the truth
    in 90 %.

    Parameters
    ----------
    reference, other : (n,) finite values, the same patient at the same place (see `pair_by_patient`).
    unit, level : as in `compare_unpaired`.
    method : "exact" or "asymptotic" instead of the rule above.

    Raises
    ------
    ValueError : the two differ in length, or a value is missing or infinite.
    """
    x, y = _values(reference, "reference"), _values(other, "other")
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} values are no pairs")
    difference = y - x
    signed = difference[difference != 0]
    n, tail = len(signed), (1 - level) / 2
    ranks = stats.rankdata(np.abs(signed))
    statistic = float(ranks[signed > 0].sum())
    exact = method == "exact" or (method == "auto" and len(x) <= _EXACT_PAIRS)
    what = f"{len(x)} pairs" if n == len(x) else f"{len(x)} pairs, {len(x) - n} of them without a difference,"
    reason = "no pair" if len(x) == 0 else _too_few(0.5**n, level, what)
    p_value: float | None = None
    p_method: str | None = None
    place = 0
    if reason is None:
        p_value, p_method = _signed_rank(ranks, statistic, exact)
        if exact:
            place = _exact_place(np.cumsum(_signed_rank_chances(np.arange(1.0, len(x) + 1))[::2]), tail)
        else:
            # Whatever the shift, differences that are tied with each other stay so; no other ties matter.
            sd = sqrt((stats.rankdata(difference) ** 2).sum()) / 2
            place = _normal_place(len(x) * (len(x) + 1) // 2, sd, tail)
    if len(x) == 0:
        shift = Estimate.missing(unit, "no pair")
    else:
        means = np.sort(np.add.outer(difference, difference)[np.triu_indices(len(x))] / 2)
        shift = _shift(means, place, unit)
    return PairedComparison(
        reference=_sample(x),
        other=_sample(y),
        difference=_sample(difference),
        n_zero=len(x) - n,
        statistic=statistic,
        p_value=p_value,
        p_method=p_method,
        reason=reason,
        shift=shift,
        rank_biserial=_rank_biserial(signed, level, interval=reason is None),
    )


@dataclass(frozen=True)
class Pairs:
    """Values of the patients seen at both sites, in one order, and why others are not among them."""

    patients: tuple[str, ...]
    reference: Array
    other: Array
    left_out: Mapping[str, str]


def pair_by_patient(
    patients: Sequence[str],
    sites: Sequence[str],
    values: ArrayLike,
    *,
    reference: str = "primary",
    other: str = "metastasis",
) -> Pairs:
    """Return the pairs among values of patients, and who is left out.

    Parameters
    ----------
    patients, sites : (n,) whose value each is, and of which site; other sites than the two are left aside.
    values : (n,) one for each patient and site; NaN where it is not assessable.

    Raises
    ------
    ValueError : a patient has two values of a site (see `histo.cohort.patients`), or lengths differ.
    """
    found: dict[str, dict[str, float]] = {}
    for patient, site, value in zip(patients, sites, np.asarray(values, np.float64), strict=True):
        if site not in (reference, other):
            continue
        if site in found.setdefault(patient, {}):
            raise ValueError(f"patient {patient!r} has more than one value of {site}: pool them first")
        found[patient][site] = float(value)
    left_out: dict[str, str] = {}
    for patient, by_site in found.items():
        why = [
            f"no {site}" if site not in by_site else f"{site} not assessable"
            for site in (reference, other)
            if np.isnan(by_site.get(site, np.nan))
        ]
        if why:
            left_out[patient] = ", ".join(why)
    paired = tuple(sorted(set(found) - set(left_out)))
    return Pairs(
        patients=paired,
        reference=np.array([found[patient][reference] for patient in paired]),
        other=np.array([found[patient][other] for patient in paired]),
        left_out=left_out,
    )


def _values(values: ArrayLike, name: str) -> Array:
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"the {name} values must be a list, one a patient")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of the {name} values are missing or infinite")
    return array


def _sample(values: Array) -> Sample:
    if len(values) == 0:
        return Sample(0, None, None, None)
    lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75])
    return Sample(len(values), float(median), float(lower), float(upper))


def _too_few(rarest: float, level: float, what: str) -> str | None:
    """Say so where the most extreme outcome, of one-sided probability `rarest`, is not significant."""
    if 2 * rarest <= 1 - level:
        return None
    return f"{what} are too few: no outcome would be significant at the level {1 - level:.3g}"


def _mann_whitney(x: Array, y: Array, exact: bool, alike: bool) -> tuple[float, str]:
    if exact and alike:
        every = stats.PermutationMethod(n_resamples=_MOST_ARRANGEMENTS)
        return float(stats.mannwhitneyu(y, x, method=every).pvalue), "exact given ties"
    method: Literal["exact", "asymptotic"] = "exact" if exact else "asymptotic"
    p_value = float(stats.mannwhitneyu(y, x, method=method).pvalue)
    return p_value, "exact" if exact else "normal approximation, corrected for ties and continuity"


def _rank_sum_sd(x: Array, y: Array) -> float:
    """Return the standard deviation of U where only ties within the groups remain, as at almost any shift."""
    n, m = len(x), len(y)
    total = n + m
    tied = sum(float((t**3 - t).sum()) for t in (np.unique(v, return_counts=True)[1] for v in (x, y)))
    return sqrt(n * m / 12 * (total + 1 - tied / (total * (total - 1))))


@lru_cache(maxsize=64)
def _rank_sum_tail(n: int, m: int) -> Array:
    """Return P(U <= j), j = 0 to nm, without ties: n of the numbers 0 to n + m - 1, by their sum."""
    ways = np.zeros((n + 1, n * m + 1))
    ways[0, 0] = 1.0
    # A number v taken as the i-th smallest has v - (i - 1) of the other group below it.
    for value in range(n + m):
        for i in range(min(n, value + 1), max(0, value - m), -1):
            below = value - (i - 1)
            ways[i, below:] += ways[i - 1, : n * m + 1 - below]
    return np.asarray(np.cumsum(ways[n]) / ways[n].sum(), np.float64)


def _signed_rank_chances(ranks: Array) -> Array:
    """Return the probabilities of twice the sum of positive ranks, each positive with probability 1/2."""
    doubled = np.rint(2 * ranks).astype(int)
    chances = np.zeros(int(doubled.sum()) + 1)
    chances[0] = 1.0
    for step in doubled:
        moved = np.zeros_like(chances)
        moved[step:] = chances[: len(chances) - step]
        chances = (chances + moved) / 2
    return chances


def _signed_rank(ranks: Array, statistic: float, exact: bool) -> tuple[float, str]:
    if exact:
        chances = _signed_rank_chances(ranks)
        at = round(2 * statistic)
        tied = len(np.unique(ranks)) < len(ranks)
        p_value = min(1.0, 2 * float(min(chances[: at + 1].sum(), chances[at:].sum())))
        return p_value, "exact given ties" if tied else "exact"
    away = max(abs(statistic - ranks.sum() / 2) - 0.5, 0)
    p_value = 2 * float(stats.norm.sf(away / (sqrt((ranks**2).sum()) / 2)))
    return p_value, "normal approximation, corrected for ties and continuity"


def _exact_place(cumulative: Array, tail: float) -> int:
    """Return the place, from 1, of the order statistic that is the lower limit; 0 where there is none."""
    return int(np.searchsorted(cumulative, tail * (1 - 1e-12)))


def _normal_place(n: int, sd: float, tail: float) -> int:
    return max(0, ceil(n / 2 - 0.5 - float(stats.norm.isf(tail)) * sd))


def _shift(ordered: Array, place: int, unit: str) -> Estimate:
    value = float(np.median(ordered))
    if place < 1:
        return Estimate(value=value, unit=unit)
    return Estimate(value=value, low=float(ordered[place - 1]), high=float(ordered[-place]), unit=unit)


def _cliffs_delta(sign: Array, level: float, *, interval: bool) -> Estimate:
    """Return the mean of the (m, n) signs with the interval of Feng and Cliff 2004."""
    m, n = sign.shape
    d = float(sign.mean())
    if not interval or min(n, m) < 2:
        return Estimate(value=d, unit=CLIFFS_DELTA)
    if abs(d) == 1:
        return _one_sided(d, min(n, m), level, CLIFFS_DELTA)
    rows, columns = sign.mean(axis=1) - d, sign.mean(axis=0) - d
    around = ((sign - d) ** 2).sum()
    variance = (n**2 * rows @ rows + m**2 * columns @ columns - around) / (n * m * (n - 1) * (m - 1))
    variance = max(variance, (1 - d**2) / (n * m - 1))
    t = float(stats.t.isf((1 - level) / 2, n + m - 2))
    middle = d - d**3
    half = t * sqrt(variance) * sqrt((1 - d**2) ** 2 + t**2 * variance)
    below = 1 - d**2 + t**2 * variance
    return Estimate(
        value=d,
        low=max(-1.0, (middle - half) / below),
        high=min(1.0, (middle + half) / below),
        unit=CLIFFS_DELTA,
    )


def _rank_biserial(signed: Array, level: float, *, interval: bool) -> Estimate:
    n = len(signed)
    if n == 0:
        return Estimate.missing(RANK_BISERIAL, "no pair with a difference")
    # The sum of positive ranks is the number of pairs (i <= j) with a positive mean; ties count half.
    sign = np.sign(np.add.outer(signed, signed))
    total = float(sign[np.triu_indices(n)].sum())
    r = total / (n * (n + 1) / 2)
    if not interval:
        return Estimate(value=r, unit=RANK_BISERIAL)
    if n <= _EXACT_PAIRS:
        # Ties count half: the outer whole number on either side.
        lowest = _lowest_rank_biserials(n, level)
        low = float(lowest[floor((n * (n + 1) / 2 + total) / 2)])
        high = -float(lowest[floor((n * (n + 1) / 2 - total) / 2)])
        return Estimate(value=r, low=min(low, r), high=max(high, r), unit=RANK_BISERIAL)
    if abs(r) == 1:
        return _one_sided(r, n, level, RANK_BISERIAL)
    without = (total - sign.sum(axis=1)) / (n * (n - 1) / 2)
    error = sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    half = float(stats.t.isf((1 - level) / 2, n - 1)) * error / (1 - r**2)
    return Estimate(value=r, low=tanh(atanh(r) - half), high=tanh(atanh(r) + half), unit=RANK_BISERIAL)


@lru_cache(maxsize=64)
def _lowest_rank_biserials(n: int, level: float) -> Array:
    """Return the least correlation of normal differences that goes with each sum of positive ranks.

    A correlation goes with a sum unless the sum is among the least acceptable (Blaker 2000, Can J Stat
    28:783) that together have a chance nearest to 1 - level. Equal tails would hold the truth in 97.5 % near
    the ends, where one side has no sums left, and a chance of no more than 1 - level still in 97.3 % of 20
    pairs, for few sums have large chances. Only at 0 is it no more: there the exact test must agree.

    A sum of at least w at shift m says that the w-th largest mean of two differences is above -m. So all
    chances at all shifts come from these means in samples at shift 0, drawn here with a fixed seed; at shift
    0 they are exact. The correlation at a shift of m standard deviations is 2 Phi(sqrt(2) m) - 1.

    Returns
    -------
    (n (n + 1) / 2 + 1,) by the sum, in steps of 0.005.
    """
    first, second = np.triu_indices(n)
    samples = min(_MOST_SAMPLES, max(_FEWEST_SAMPLES, _SAMPLED_MEANS // len(first)))
    rng = np.random.default_rng(0)
    means = np.empty((samples, len(first)), np.float32)
    for start in range(0, samples, _SAMPLES_AT_ONCE):
        drawn = rng.standard_normal((min(_SAMPLES_AT_ONCE, samples - start), n))
        means[start : start + len(drawn)] = np.sort((drawn[:, first] + drawn[:, second]) / 2, axis=1)
    means.sort(axis=0)
    half = np.arange(_HALF_STEPS) / _HALF_STEPS
    shifts = stats.norm.ppf((1 + half) / 2) / sqrt(2)
    # Row: the chance of a sum of at least w at each shift; the w-th largest mean is column -w.
    at_least = np.ones((len(first) + 1, len(half)))
    for w in range(1, len(first) + 1):
        at_least[w] = 1 - np.searchsorted(means[:, -w], -shifts, side="right") / samples
    at_least[:, 0] = np.cumsum(_signed_rank_chances(np.arange(1.0, n + 1))[::2][::-1])[::-1]
    lowest = np.full(len(first) + 1, 1.0)
    # At the mirrored shift a sum has the chances of what it lacks to all.
    for sign in (1, -1):
        for k, correlation in enumerate(half):
            accepted = _accepted(at_least[:, k], 1 - level, exact=k == 0)[::sign]
            lowest[accepted] = np.minimum(lowest[accepted], sign * correlation)
    return lowest


def _accepted(at_least: Array, alpha: float, *, exact: bool) -> NDArray[np.bool_]:
    """Return which values remain without the least acceptable, of a chance near alpha (exact: at most it)."""
    acceptability = _acceptability(at_least)
    if exact:
        return acceptability > alpha
    order = np.argsort(acceptability, kind="stable")
    chances = at_least - np.append(at_least[1:], 0.0)
    left_out = np.append(0.0, np.cumsum(chances[order]))
    accepted = np.ones(len(at_least), np.bool_)
    accepted[order[: np.abs(left_out - alpha).argmin()]] = False
    return accepted


def _acceptability(at_least: Array) -> Array:
    """Return Blaker's acceptability of each of the values of which the chance of at least that is given."""
    at_most = 1 - np.append(at_least[1:], 0.0)
    upper = at_least <= at_most
    own = np.where(upper, at_least, at_most)
    slack = 1e-9
    # Of the other side, the largest chance that is no larger; none is 0.
    low = np.append(0.0, at_most)[np.searchsorted(at_most, own + slack, side="right")]
    high = np.append(0.0, at_least[::-1])[np.searchsorted(at_least[::-1], own + slack, side="right")]
    accepted: Array = np.minimum(1.0, own + np.where(upper, low, high))
    return accepted


def _one_sided(value: float, n: int, level: float, unit: str) -> Estimate:
    """Where all n are on one side: Wilson's limit for a share of n of n, on the scale of -1 to 1."""
    z = float(stats.norm.isf((1 - level) / 2))
    limit = (n - z**2) / (n + z**2)
    return Estimate(value=value, low=min(value, value * limit), high=max(value, value * limit), unit=unit)
