"""How many cells of dense clumps are counted: where cells touch, detectors merge them."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

from histo.evaluation.segmentation import centroids_um, inside_margin

# Clumps have more cells than this.
MORE_THAN: Final = 20


class Clumps(NamedTuple):
    """Cells in the clumps of one image: (k,) true and found numbers of each clump."""

    n_true: NDArray[np.int64]
    n_found: NDArray[np.int64]

    @property
    def bias(self) -> float:
        """Found over true count of all clumps together, minus 1; NaN where there is none."""
        total = int(self.n_true.sum())
        return int(self.n_found.sum()) / total - 1 if total else float("nan")


def count_in_clumps(
    true_labels: NDArray[np.int32],
    found_um: NDArray[np.float64],
    mpp: float,
    *,
    gap_um: float = 0.5,
    more_than: int = MORE_THAN,
    edge_um: float = 0.0,
) -> Clumps:
    """Count found cells in clumps of true ones.

    A clump is a group of more than `more_than` cells that touch, or lie at most `gap_um` apart, one with the
    next. A found cell is in it where its centroid lies on it or within `gap_um` of it.

    Parameters
    ----------
    true_labels : (H, W) CD8+ cells, 0 background.
    found_um : (n, 2) centroids x, y of found CD8+ cells.
    mpp : um per pixel.
    gap_um : widest gap, rounded to whole pixels.
    more_than : clumps have more cells than this; those of the margin count for it.
    edge_um : width of the margin whose cells, true and found, are not counted.
    """
    ids, first = np.unique(true_labels, return_index=True)
    first, ids = first[ids > 0], ids[ids > 0]
    if len(ids) <= more_than:
        return Clumps(np.empty(0, np.int64), np.empty(0, np.int64))
    place = np.zeros(int(ids.max()) + 1, np.int64)
    place[ids] = np.arange(len(ids))
    gap = round(gap_um / mpp)
    one, other = _neighbours(true_labels, reach=gap + 1)
    links = sparse.coo_array((np.ones(len(one), bool), (place[one], place[other])), shape=(len(ids),) * 2)
    _, group = connected_components(links, directed=False)
    large = np.bincount(group) > more_than
    number = np.where(large, np.cumsum(large), 0)[group]
    by_label = np.zeros(int(ids.max()) + 1, np.int64)
    by_label[ids] = number
    clump = by_label[true_labels]
    n = int(large.sum())
    # Clumps lie further apart than the gap; where both could claim a pixel, either may.
    near = np.where(true_labels > 0, clump, ndimage.maximum_filter(clump, size=2 * gap + 1))
    height, width = true_labels.shape
    size_um = np.array([width, height]) * mpp
    scored = inside_margin(centroids_um(true_labels, mpp), size_um, edge_um)
    n_true = np.bincount(number[scored], minlength=n + 1)[1:]
    scored = inside_margin(found_um, size_um, edge_um)
    column, row = np.floor(found_um[scored] / mpp).astype(np.int64).T
    there = near[np.minimum(row, height - 1), np.minimum(column, width - 1)]
    n_found = np.bincount(there, minlength=n + 1)[1:]
    return Clumps(n_true.astype(np.int64), n_found.astype(np.int64))


def _neighbours(labels: NDArray[np.int32], *, reach: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of labels that come within `reach` pixels (Chebyshev), each once or twice."""
    height, width = labels.shape
    base = int(labels.max(initial=0)) + 1
    keys = []
    for dy in range(reach + 1):
        for dx in range(-reach if dy else 1, reach + 1):
            left, right = max(0, -dx), max(0, dx)
            a = labels[: height - dy, left : width - right]
            b = labels[dy:, right : width - left]
            differ = (a != b) & (a > 0) & (b > 0)
            keys.append(np.unique(a[differ].astype(np.int64) * base + b[differ]))
    return np.divmod(np.unique(np.concatenate(keys)), base)
