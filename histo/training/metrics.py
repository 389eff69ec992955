"""How well found cells agree with true ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


class Matching(NamedTuple):
    """Counts of one-to-one matched, spurious and missed cells. Add up over images with `pooled`."""

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN where there is nothing to find and nothing found."""
        return _ratio(
            2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives
        )

    @property
    def precision(self) -> float:
        """Share of the found that is true; NaN where nothing is found."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the true that is found; NaN where there is nothing to find."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def count_bias(self) -> float:
        """Found over true count, minus 1; NaN where there is nothing to find."""
        found = self.true_positives + self.false_positives
        true = self.true_positives + self.false_negatives
        return _ratio(found, true) - 1


def match_centroids(
    found_um: NDArray[np.float64], true_um: NDArray[np.float64], within_um: float
) -> Matching:
    """Match found and true cells one to one within a distance.

    The matching has as many pairs as possible, and of those the least sum of distances (Hungarian method).

    Parameters
    ----------
    found_um, true_um : (n, 2) and (m, 2) centroids.
    within_um : the largest distance of a pair.
    """
    if len(found_um) == 0 or len(true_um) == 0:
        return Matching(0, len(found_um), len(true_um))
    distance = np.linalg.norm(found_um[:, None] - true_um[None], axis=2)
    # One pair too far apart must cost more than all good pairs together.
    too_far = within_um * (min(distance.shape) + 1)
    rows, columns = linear_sum_assignment(np.where(distance <= within_um, distance, too_far))
    pairs = int((distance[rows, columns] <= within_um).sum())
    return Matching(pairs, len(found_um) - pairs, len(true_um) - pairs)


def pooled(matchings: Iterable[Matching]) -> Matching:
    """Add up the counts of several images."""
    counts = [tuple(matching) for matching in matchings]
    return Matching(*(int(total) for total in np.sum(counts, axis=0))) if counts else Matching(0, 0, 0)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
