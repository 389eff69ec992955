"""Intervals by resampling whole groups: images of one patient are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Products held at a time.
_BLOCK = 4_000_000
# Where more of the resamples than this have no value, percentiles of the others would mislead.
_MOST_UNDEFINED = 0.05


class Interval(NamedTuple):
    """A percentile interval; None and a reason where there is none."""

    low: float | None
    high: float | None
    reason: str | None = None


def cluster_interval(
    sums: Array,
    groups: Sequence[str],
    statistic: Callable[[Array], Array],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of a statistic of sums, resampling groups with replacement.

    The cluster bootstrap (Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8):
    as many groups as there are, each with all its images.

    Parameters
    ----------
    sums : (n, k) what each image adds.
    groups : (n,) patient, or what stands for it, of each image.
    statistic : maps (resamples, k) sums to (resamples,) values, NaN where not defined.
    level : share of resamples between the ends.
    seed : same seed, same interval.
    """
    names, place = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2:
        reason = "one group only: how groups differ cannot be told" if len(names) else "no image"
        return Interval(None, None, reason)
    by_group = np.zeros((len(names), sums.shape[1]))
    np.add.at(by_group, place, sums)
    rng = np.random.default_rng(seed)
    values = []
    block = max(1, _BLOCK // len(names))
    chance = np.full(len(names), 1 / len(names))
    for start in range(0, resamples, block):
        times = rng.multinomial(len(names), chance, size=min(block, resamples - start))
        values.append(statistic(times @ by_group))
    drawn = np.concatenate(values)
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < (1 - _MOST_UNDEFINED) * resamples:
        return Interval(None, None, "too few groups in which it is defined")
    low, high = np.percentile(defined, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(low), float(high))
