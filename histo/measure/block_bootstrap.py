"""Intervals of a density from blocks of tissue: they hold where cells cluster, which Poisson's do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from histo.errors import PointsError
from histo.measure.density import PER_MM2
from histo.measure.summary import Estimate

# Fewer blocks say little about how the next ones would differ.
_MIN_BLOCKS = 10


def block_bootstrap_density(
    counts: ArrayLike, areas_mm2: ArrayLike, *, level: float = 0.95, n_samples: int = 2000, seed: int = 0
) -> Estimate:
    """Return a density with its block-bootstrap percentile interval.

    Whole blocks are drawn with replacement, each with its count and area, and total count over total area is
    taken (Hall 1985, Stoch Proc Appl 20:231). It takes blocks as independent: they must be wider than clumps.

    Parameters
    ----------
    counts, areas_mm2 : (k,) of each block; blocks without area are left out.
    seed : the same seed gives the same interval.

    Returns
    -------
    Cells per mm2; missing, with the reason, for fewer than 10 blocks.
    """
    n, area = np.asarray(counts, dtype=np.float64), np.asarray(areas_mm2, dtype=np.float64)
    if n.ndim != 1 or n.shape != area.shape or (area < 0).any() or (n < 0).any():
        raise PointsError(
            "counts and areas of blocks do not fit", fix="Give one of each, not below 0, a block."
        )
    if (n[area == 0] > 0).any():
        raise PointsError("a block holds cells and no area", fix="Count cells of the assessed tissue only.")
    n, area = n[area > 0], area[area > 0]
    if len(n) < _MIN_BLOCKS:
        return Estimate.missing(PER_MM2, f"only {len(n)} blocks of tissue, {_MIN_BLOCKS} needed")
    rng = np.random.default_rng(seed)
    total_n, total_area = np.empty(n_samples), np.empty(n_samples)
    for k in range(n_samples):
        drawn = rng.integers(0, len(n), len(n))
        total_n[k], total_area[k] = n[drawn].sum(), area[drawn].sum()
    low, high = np.quantile(total_n / total_area, [(1 - level) / 2, (1 + level) / 2])
    value = n.sum() / area.sum()
    # Where all blocks are alike, rounding must not put a limit on the wrong side.
    return Estimate(
        value=float(value), low=float(min(low, value)), high=float(max(high, value)), unit=PER_MM2
    )
