"""Which of the cells that were painted can be seen: the truth that detection is held to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histo.synthetic.noise import FloatArray
from histo.synthetic.stamp import WHOLE_CELL, Cells

# Of a cell that shows less than this (the rest lies outside the field or under a neighbour) no reader would
# say that it is one, and detection reports none that small.
MIN_VISIBLE_UM2 = 10.0


def visible_cells(
    owner: NDArray[np.int32], cells: Cells, mpp: float
) -> tuple[NDArray[np.int32], NDArray[np.bool_], FloatArray, FloatArray]:
    """Number the cells that a reader could see in a window, and find their centroids.

    Parameters
    ----------
    owner : (H, W) index of the cell that each pixel belongs to, -1 for none. cells : what it points to.

    Returns
    -------
    labels (H, W), 0 background, 1 ... n; whether each is stained (n,); x and y of their centroids (n,), um
    from the corner of the window.
    """
    flat = owner.ravel() + 1
    n_px = np.bincount(flat, minlength=len(cells) + 1)
    seen = n_px * mpp**2 >= MIN_VISIBLE_UM2
    seen[0] = False
    number = np.zeros(len(n_px), np.int32)
    number[seen] = np.arange(1, seen.sum() + 1)
    labels = number[flat].reshape(owner.shape)
    height, width = owner.shape
    column = np.broadcast_to(np.arange(width) + 0.5, owner.shape).ravel()
    row = np.broadcast_to((np.arange(height) + 0.5)[:, None], owner.shape).ravel()
    x = np.bincount(flat, column, len(n_px))[seen] / n_px[seen] * mpp
    y = np.bincount(flat, row, len(n_px))[seen] / n_px[seen] * mpp
    is_cd8 = cells.label[np.flatnonzero(seen) - 1] >= WHOLE_CELL
    return labels, is_cd8, x.astype(np.float32), y.astype(np.float32)
