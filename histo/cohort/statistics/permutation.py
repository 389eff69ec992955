"""Site labels permuted over patients, or swapped within them."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from histo.cohort.statistics.bootstrap import GroupStatistic, median_difference


@dataclass(frozen=True)
class PermutationTest:
    """A two-sided test; `p_value` is None where `reason` says why there is none.

    `arrangements` are all there are where `exact`, else those drawn.
    """

    statistic: float | None
    p_value: float | None
    exact: bool
    arrangements: int
    seed: int | None
    reason: str | None


def permutation_test(
    reference: ArrayLike,
    other: ArrayLike,
    *,
    paired: bool,
    statistic: GroupStatistic = median_difference,
    level: float = 0.95,
    arrangements: int = 9999,
    seed: int = 0,
) -> PermutationTest:
    """Test a statistic of two groups against all ways the site labels could have fallen.

    Paired: the labels of each patient's two values are swapped or not. Unpaired: the labels are permuted over
    patients. All arrangements are gone through where they are no more than `arrangements`; otherwise that
    many are drawn, and the p value is (b + 1) / (m + 1) with b of m as extreme (Phipson and Smyth 2010, Stat
    Appl Genet Mol Biol 9:39). Two-sided: twice the smaller tail. Null hypothesis: values do not depend on the
    label at all, so a difference in spread can show, too. By scipy.

    Parameters
    ----------
    reference, other : finite values, one a patient and site; in one order of patients if paired. Several
        slides of a patient are pooled first, since they cannot change labels one by one.
    statistic : of arrays along an axis, larger where the other group is.
    seed : same seed, same p value.

    Raises
    ------
    ValueError : a value is missing or infinite, or pairs differ in number.
    """
    x, y = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("some values are missing or infinite")
    if paired and len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} values are no pairs")
    if min(len(x), len(y)) == 0:
        return PermutationTest(None, None, False, 0, None, "no patient in one of the groups")
    observed = float(statistic(x, y, axis=-1))
    every = 2 ** len(x) if paired else comb(len(x) + len(y), len(x))
    if 2 / every > 1 - level:
        reason = f"only {every} arrangements: none would be significant at the level {1 - level:.3g}"
        return PermutationTest(observed, None, True, every, None, reason)
    kind: Literal["samples", "independent"] = "samples" if paired else "independent"
    result = stats.permutation_test(
        (x, y),
        statistic,
        permutation_type=kind,
        vectorized=True,
        n_resamples=arrangements,
        rng=np.random.default_rng(seed),
    )
    exact = every <= arrangements
    return PermutationTest(
        statistic=observed,
        p_value=float(result.pvalue),
        exact=exact,
        arrangements=min(every, arrangements),
        seed=None if exact else seed,
        reason=None,
    )
