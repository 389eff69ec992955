"""How a measurement is distributed over the cells of each class."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_BINS: Final = 80
# Percent of the values at each end that the outermost bins take in.
_TAIL: Final = 0.1
_QUANTILES: Final = 2000


def distribution(cd8: NDArray[np.float64], other: NDArray[np.float64]) -> dict[str, Any]:
    """Return bins and counts by class, and how many CD8+ cells lie above any threshold.

    Parameters
    ----------
    cd8, other : finite values of the cells of each class.

    Returns
    -------
    "edges" of the bins, counts "cd8" and "other", "n_cd8", and "sorted_cd8", the values of the CD8+ cells
    thinned to at most 2,000 quantiles; all empty where there is no value.
    """
    both = np.concatenate([cd8, other])
    if len(both) == 0:
        return {"edges": [], "cd8": [], "other": [], "n_cd8": 0, "sorted_cd8": []}
    low, high = np.percentile(both, [_TAIL, 100 - _TAIL])
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    ordered = np.sort(cd8)
    if len(ordered) > _QUANTILES:
        ordered = ordered[np.linspace(0, len(ordered) - 1, _QUANTILES).round().astype(int)]
    return {
        "edges": edges.tolist(),
        "cd8": np.histogram(np.clip(cd8, edges[0], edges[-1]), edges)[0].tolist(),
        "other": np.histogram(np.clip(other, edges[0], edges[-1]), edges)[0].tolist(),
        "n_cd8": len(cd8),
        "sorted_cd8": ordered.tolist(),
    }
