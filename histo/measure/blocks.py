"""Cells and areas by square blocks of a slide: for bootstrap intervals and for rules that go by tile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Blocks:
    """Squares of a grid from the slide's corner that hold some of an area; arrays of one length.

    n : cells. area_mm2 : of the area that lies in the square, above 0.
    """

    n: NDArray[np.int64]
    area_mm2: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.n)


def blocks_of(
    x_um: NDArray[np.floating],
    y_um: NDArray[np.floating],
    weight: NDArray[np.floating],
    mpp: float,
    block_um: float,
) -> Blocks:
    """Count points and area by block.

    Parameters
    ----------
    x_um, y_um : (n,) points that lie in the area, um in the slide's frame.
    weight : (rows, columns), share of each pixel that belongs to the area, 0 to 1.
    mpp : um per pixel of `weight`. A pixel belongs to the block that holds its centre; so do the points in
        it, so that a point never lies in a block without area.
    block_um : edge of a block.
    """
    rows, columns = weight.shape
    by_row = ((np.arange(rows) + 0.5) * mpp // block_um).astype(np.int64)
    by_column = ((np.arange(columns) + 0.5) * mpp // block_um).astype(np.int64)
    n_columns = int(by_column[-1]) + 1 if columns else 1
    n_blocks = (int(by_row[-1]) + 1 if rows else 1) * n_columns
    row, column = np.nonzero(weight)
    area = np.bincount(
        by_row[row] * n_columns + by_column[column], weight[row, column].astype(np.float64), n_blocks
    )
    point_row = np.clip((y_um // mpp).astype(np.int64), 0, rows - 1)
    point_column = np.clip((x_um // mpp).astype(np.int64), 0, columns - 1)
    n = np.bincount(by_row[point_row] * n_columns + by_column[point_column], minlength=n_blocks)
    held = area > 0
    return Blocks(n=n[held].astype(np.int64), area_mm2=area[held].astype(np.float64) * mpp**2 / 1e6)
