"""Fractions, densities and scores of CD8+ cells by their states, with intervals."""

from __future__ import annotations

from math import hypot, inf, isfinite, sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

from histo.measure.density import wilson_fraction
from histo.measure.summary import Estimate

OF_CD8: Final = "fraction of CD8+ cells"
RATIO: Final = "ratio"
LOAD: Final = "markers per cell"
H_SCORE: Final = "H-score"
Z: Final = "z"
# Fewer say little about how blocks differ.
_MIN_BLOCKS: Final = 10


def state_fraction(
    n_positive: int,
    n_cd8: int,
    *,
    negative_share: float = 0.0,
    n_negative: float = inf,
    min_cells: int,
    level: float,
) -> Estimate:
    """Return the fraction of CD8+ cells in a state with its Wilson interval; NA below `min_cells`.

    negative_share : of cells that are not in the state, so many are expected to be counted as if they were.
        The lower limit is that of (p - share) / (1 - share), not below 0 (Rogan 1978, Am J Epidemiol 107:71).
    n_negative : so many negative cells tell the share; inf where it is taken as it is. The limit of p - share
        combines the Wilson limits of both (Newcombe 1998, Stat Med 17:873, method 10).
    """
    if n_cd8 < min_cells:
        return Estimate.missing(OF_CD8, too_few(n_cd8, min_cells))
    fraction = wilson_fraction(n_positive, n_cd8, level, unit=OF_CD8)
    return _allowing_for(fraction, negative_share, n_negative, level)


def _allowing_for(fraction: Estimate, negative_share: float, n_negative: float, level: float) -> Estimate:
    assert fraction.value is not None
    assert fraction.low is not None
    unsure = 0.0
    if isfinite(n_negative):
        at_most = wilson_fraction(negative_share * n_negative, n_negative, level).high
        assert at_most is not None
        unsure = at_most - negative_share
    low = fraction.value - negative_share - hypot(fraction.value - fraction.low, unsure)
    return fraction.model_copy(update={"low": min(max(0.0, low / (1 - negative_share)), fraction.low)})


def too_few(n_cd8: int, min_cells: int) -> str:
    """Say that there are too few CD8+ cells."""
    return f"only {n_cd8} CD8+ cells, {min_cells} needed"


def clustered_fraction(
    n_positive: NDArray[np.int64],
    n_cd8: NDArray[np.int64],
    *,
    negative_share: float = 0.0,
    n_negative: float = inf,
    min_cells: int,
    level: float,
) -> Estimate:
    """Return a fraction with the interval of cells that are alike within blocks of tissue (beta-binomial).

    The variance of the fraction is p (1 - p) / N x (1 + rho (sum n_i^2 / N - 1)); rho, the correlation within
    a block, is the analysis-of-variance estimate (Ridout 1999, Biometrics 55:137), at least 0. The interval
    is Wilson's for the number of independent cells that has this variance.

    Parameters
    ----------
    n_positive, n_cd8 : (k,) of each block; those without CD8+ cells do not count.
    negative_share, n_negative : as in `state_fraction`.
    """
    x, n = (np.asarray(counts, np.float64)[np.asarray(n_cd8) > 0] for counts in (n_positive, n_cd8))
    total = float(n.sum())
    if total < min_cells:
        return Estimate.missing(OF_CD8, too_few(int(total), min_cells))
    k = len(n)
    if k < _MIN_BLOCKS:
        return Estimate.missing(OF_CD8, f"CD8+ cells in only {k} blocks of tissue, {_MIN_BLOCKS} needed")
    p = float(x.sum()) / total
    effect = 1.0
    if 0 < p < 1 and total > k:
        between = float((n * (x / n - p) ** 2).sum()) / (k - 1)
        within = float((x * (1 - x / n)).sum()) / (total - k)
        size = (total - float((n**2).sum()) / total) / (k - 1)
        rho = min(max((between - within) / (between + (size - 1) * within), 0.0), 1.0)
        effect = 1 + rho * (float((n**2).sum()) / total - 1)
    fraction = wilson_fraction(p * total / effect, total / effect, level, unit=OF_CD8)
    return _allowing_for(fraction, negative_share, n_negative, level)


def count_ratio(
    n_upper: int, n_lower: int, n_cd8: int, *, min_cells: int, level: float, names: tuple[str, str]
) -> Estimate:
    """Return a ratio of two counts; of both together, the share of the first has a Wilson interval.

    NA with fewer than `min_cells` CD8+ cells, and where the second count is 0.
    """
    if n_cd8 < min_cells:
        return Estimate.missing(RATIO, too_few(n_cd8, min_cells))
    if n_lower == 0:
        return Estimate.missing(RATIO, f"no {names[1]} cell; {n_upper} {names[0]}")
    share = wilson_fraction(n_upper, n_upper + n_lower, level)
    assert share.low is not None
    assert share.high is not None
    return Estimate(
        value=n_upper / n_lower,
        low=share.low / (1 - share.low),
        high=share.high / (1 - share.high) if share.high < 1 else None,
        unit=RATIO,
    )


def mean_of_cells(
    scores: NDArray[np.float64], *, unit: str, highest: float, min_cells: int, level: float
) -> Estimate:
    """Return the mean of a score of cells, from 0 to `highest`, with its normal interval, kept within."""
    if len(scores) < min_cells:
        return Estimate.missing(unit, too_few(len(scores), min_cells))
    mean = float(scores.mean())
    half = float(norm.isf((1 - level) / 2)) * float(scores.std(ddof=1)) / sqrt(len(scores))
    return Estimate(value=mean, low=max(0.0, mean - half), high=min(highest, mean + half), unit=unit)


def h_score(
    values: NDArray[np.float64], thresholds: tuple[float, float, float], *, min_cells: int, level: float
) -> Estimate:
    """Return the H-score: 1 x % weak + 2 x % moderate + 3 x % strong, 0 to 300.

    McCarty 1985, Arch Pathol Lab Med 109:716. A cell is weak, moderate or strong above the first, second or
    third threshold.
    """
    steps = np.searchsorted(np.asarray(thresholds), values, side="left").astype(np.float64)
    return mean_of_cells(100 * steps, unit=H_SCORE, highest=300.0, min_cells=min_cells, level=level)


def median_z(
    values: NDArray[np.float64],
    *,
    cofactor: float,
    negatives_median: float,
    negatives_sd: float,
    min_cells: int,
    level: float,
) -> Estimate:
    """Return how far the median cell lies above negative cells: (arcsinh(x / c) - their median) / their sd.

    The interval is that of the median, from order statistics (binomial ranks).
    """
    if len(values) < min_cells:
        return Estimate.missing(Z, too_few(len(values), min_cells))
    n = len(values)
    places = (np.sort(np.arcsinh(values / cofactor)) - negatives_median) / negatives_sd
    rank = int(binom.ppf((1 - level) / 2, n, 0.5))
    return Estimate(
        value=float(np.median(places)),
        low=float(places[max(rank - 1, 0)]),
        high=float(places[min(n - rank, n - 1)]),
        unit=Z,
    )


def by_blocks(
    x_um: NDArray[np.float64], y_um: NDArray[np.float64], positive: NDArray[np.bool_], block_um: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return positive and all cells of each square of `block_um` that holds a cell."""
    squares: Any = np.floor(np.column_stack([x_um, y_um]) / block_um).astype(np.int64)
    _, which = np.unique(squares, axis=0, return_inverse=True)
    which = which.reshape(-1)
    n = np.bincount(which)
    return np.bincount(which, positive, len(n)).astype(np.int64), n.astype(np.int64)
