"""How well found cells agree with true ones: one-to-one matching of centroids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from histo.evaluation.assignment import assign


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
    """Match found and true cells one to one within a distance; see `matched_pairs`.

    Parameters
    ----------
    found_um, true_um : (n, 2) and (m, 2) centroids.
    within_um : the largest distance of a pair.
    """
    pairs = len(matched_pairs(found_um, true_um, within_um))
    return Matching(pairs, len(found_um) - pairs, len(true_um) - pairs)


def matched_pairs(
    found_um: NDArray[np.float64], true_um: NDArray[np.float64], within_um: float
) -> NDArray[np.int64]:
    """Return which found cell is which true one.

    The matching has as many pairs as possible, and of those the least sum of distances.

    Parameters
    ----------
    found_um, true_um : (n, 2) and (m, 2) centroids.
    within_um : the largest distance of a pair.

    Returns
    -------
    (k, 2) places in `found_um` and `true_um`, by the former.
    """
    if len(found_um) == 0 or len(true_um) == 0:
        return np.empty((0, 2), np.int64)
    # A little further than asked for: the tree's distances may be rounded otherwise than ours.
    near = KDTree(found_um).sparse_distance_matrix(
        KDTree(true_um), within_um * (1 + 1e-9), output_type="ndarray"
    )
    found, true = near["i"].astype(np.int64), near["j"].astype(np.int64)
    distance = np.linalg.norm(found_um[found] - true_um[true], axis=1)
    reached = distance <= within_um
    found, true, distance = found[reached], true[reached], distance[reached]
    # One more pair is worth more than any gain in distance.
    most = within_um * (min(len(found_um), len(true_um)) + 1) + 1
    chosen = assign(found, true, distance, (len(found_um), len(true_um)), unmatched=most)
    return np.column_stack([found[chosen], true[chosen]])


def pooled(matchings: Iterable[Matching]) -> Matching:
    """Add up the counts of several images."""
    counts = [tuple(matching) for matching in matchings]
    return Matching(*(int(total) for total in np.sum(counts, axis=0))) if counts else Matching(0, 0, 0)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
