"""Sparse assignment: which of some possible pairs to choose, one to one, at the least total cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

IntArray = NDArray[np.int64]


def assign(
    rows: IntArray, columns: IntArray, costs: NDArray[np.float64], shape: tuple[int, int], *, unmatched: float
) -> NDArray[np.int64]:
    """Choose pairs one to one with the least total cost, where every row left alone costs `unmatched`.

    Time grows with the number of possible pairs, not with the product of rows and columns (LAPJVsp: Jonker
    and Volgenant 1987, Computing 38:325-340). Each row has a column of its own that stands for staying
    alone, so that an assignment of all rows exists.

    Parameters
    ----------
    rows, columns, costs : (k,) the possible pairs, none twice.
    shape : (n, m), numbers of rows and columns.
    unmatched : where it exceeds all costs together, as many pairs as possible are chosen.

    Returns
    -------
    (p,) indices into `rows`: the pairs chosen, by row.
    """
    if len(rows) == 0:
        return np.empty(0, np.int64)
    # Rows without a possible pair need not be looked at.
    present, row = np.unique(rows, return_inverse=True)
    n, m = len(present), shape[1]
    alone = np.arange(n)
    # The solver takes no zeros. A constant on every cost changes no choice, for n pairs are chosen anyway.
    shift = 1.0 + abs(float(costs.min(initial=0.0)))
    graph = sparse.csr_array(
        (
            np.concatenate([costs, np.full(n, unmatched)]) + shift,
            (np.concatenate([row, alone]), np.concatenate([columns, m + alone])),
        ),
        shape=(n, m + n),
    )
    _, chosen = min_weight_full_bipartite_matching(graph)
    # A pair is known by its place in the dense table.
    keys = row * m + columns
    order = np.argsort(keys)
    real = chosen < m
    return np.asarray(order[np.searchsorted(keys[order], (alone * m + chosen)[real])], np.int64)
