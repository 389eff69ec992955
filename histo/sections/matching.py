"""The same cell on both pictures: only where one section was stained twice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histo.evaluation.matching import matched_pairs
from histo.measure.summary import Estimate
from histo.sections.codensity import MATCHED

# How far the cells of one picture are moved to see how many meet by chance: beyond a cell, within a
# neighbourhood.
_CHANCE_UM = 40.0
_CHANCE_DIRECTIONS = 8


def matched_fraction(cd8: NDArray[np.float64], marker: NDArray[np.float64], radius_um: float) -> Estimate:
    """Return the share of CD8+ cells with a marker cell of their own within `radius_um`, less chance.

    (observed - chance) / (1 - chance), as Cohen's kappa (1960, Educ Psychol Meas 20:37). Chance: the mean
    share once the marker's cells are moved 40 um in eight directions, which keeps their clumps.

    Parameters
    ----------
    cd8, marker : (n, 2) and (m, 2) centroids in one frame, of the common tissue.
    """
    if len(cd8) == 0:
        return Estimate.missing(MATCHED, "no CD8+ cells")
    observed = len(matched_pairs(marker, cd8, radius_um)) / len(cd8)
    shares = []
    for angle in np.arange(_CHANCE_DIRECTIONS) * 2 * np.pi / _CHANCE_DIRECTIONS:
        moved = marker + _CHANCE_UM * np.array([np.cos(angle), np.sin(angle)])
        shares.append(len(matched_pairs(moved, cd8, radius_um)) / len(cd8))
    chance = float(np.mean(shares))
    if chance >= 1:
        return Estimate.missing(MATCHED, "the cells are so many that all would be matched by chance")
    return Estimate(value=(observed - chance) / (1 - chance), unit=MATCHED)
