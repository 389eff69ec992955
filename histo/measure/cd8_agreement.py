"""Do CD8 intensity and the network's calls say the same of a slide's cells?"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histo.cells.table import CD8
from histo.measure.density import wilson_fraction
from histo.measure.summary import Cd8Agreement, Estimate
from histo.stain.deconvolution import AMOUNT_RANGE

# Stain amounts are clipped to this range: a histogram holds all of them, however many cells there are.
_EDGES: Final = np.linspace(*AMOUNT_RANGE, 3501)
_MIN_CELLS: Final = 20


class RingIntensities:
    """Collects the CD8 intensity in the ring of each cell in assessed tissue, by class."""

    def __init__(self) -> None:
        # Rows: CD8+ cells, others.
        self._counts = np.zeros((2, len(_EDGES) - 1), np.int64)

    def add(self, cells: pd.DataFrame) -> None:
        """Add cells; columns of `CELL_COLUMNS`."""
        known = (cells["in_tissue"] & cells["cd8_ring_mean"].notna()).to_numpy()
        ring = np.clip(cells["cd8_ring_mean"].to_numpy()[known], *AMOUNT_RANGE)
        is_cd8 = (cells["cell_class"] == CD8).to_numpy()[known]
        for row, which in enumerate((is_cd8, ~is_cd8)):
            self._counts[row] += np.histogram(ring[which], _EDGES)[0]

    def agreement(self, *, unit: str, level: float) -> Cd8Agreement:
        """Return how far calls and intensity agree.

        Parameters
        ----------
        unit : of the intensity.
        level : confidence level of the shares' Wilson intervals.
        """
        n_cd8, n_other = (int(n) for n in self._counts.sum(axis=1))
        if min(n_cd8, n_other) < _MIN_CELLS:
            reason = f"{n_cd8} CD8+ cells and {n_other} others, {_MIN_CELLS} of each needed"
            missing = {
                "cut": Estimate.missing(unit, reason),
                "cd8_below": Estimate.missing("fraction of CD8+ cells", reason),
                "other_above": Estimate.missing("fraction of other nuclei", reason),
            }
            return Cd8Agreement(n_cd8=n_cd8, n_other=n_other, **missing)
        edge = best_cut(self._counts)
        below = wilson_fraction(int(self._counts[0, :edge].sum()), n_cd8, level)
        above = wilson_fraction(int(self._counts[1, edge:].sum()), n_other, level)
        return Cd8Agreement(
            n_cd8=n_cd8,
            n_other=n_other,
            cut=Estimate(value=float(_EDGES[edge]), unit=unit),
            cd8_below=below.model_copy(update={"unit": "fraction of CD8+ cells"}),
            other_above=above.model_copy(update={"unit": "fraction of other nuclei"}),
        )


def best_cut(counts: NDArray[np.int64]) -> int:
    """Return the edge between bins that separates two histograms best.

    The one with the largest share of the first class above it plus share of the second below it (Youden 1950,
    Cancer 3:32); of equal ones the middle of the lowest stretch.

    Parameters
    ----------
    counts : (2, bins) of the class that should be high, and of the other; neither without any.
    """
    shares = counts / counts.sum(axis=1, keepdims=True)
    gain = np.concatenate([[0.0], np.cumsum(shares[1] - shares[0])])
    # Sums of shares that are equal may differ in the last digits.
    best = gain >= gain.max() - 1e-12
    first = int(best.argmax())
    stretch = best[first:]
    length = len(stretch) if stretch.all() else int((~stretch).argmax())
    return first + (length - 1) // 2
