"""A coarse map of cell density, filled as cells come."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray


class DensityMap:
    """Counts on a grid of squares over the slide.

    Square (column j, row i) covers [j*cell_um, (j+1)*cell_um) x [i*cell_um, (i+1)*cell_um) um.

    Parameters
    ----------
    size_um : (width, height) of the slide.
    cell_um : edge of a square.
    """

    def __init__(self, size_um: tuple[float, float], cell_um: float) -> None:
        if not cell_um > 0:
            raise ValueError("cell_um must be positive")
        self.cell_um = cell_um
        self.counts: NDArray[np.int64] = np.zeros(
            (max(1, ceil(size_um[1] / cell_um - 1e-6)), max(1, ceil(size_um[0] / cell_um - 1e-6))), np.int64
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = self.counts.shape
        return rows, columns

    def add(self, x_um: NDArray[np.float64], y_um: NDArray[np.float64]) -> None:
        """Count points; one past the slide's edge counts in the outermost square, so that none is lost.

        Raises ValueError for a position that is not a number.
        """
        if not (np.isfinite(x_um).all() and np.isfinite(y_um).all()):
            raise ValueError("positions must be finite")
        rows, columns = self.shape
        column = np.clip(np.floor(x_um / self.cell_um).astype(np.int64), 0, columns - 1)
        row = np.clip(np.floor(y_um / self.cell_um).astype(np.int64), 0, rows - 1)
        np.add.at(self.counts, (row, column), 1)

    def per_mm2(self, tissue_area_mm2: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return cells per mm2 of tissue.

        Parameters
        ----------
        tissue_area_mm2 : (rows, columns), tissue in each square (see `area_on`).

        Returns
        -------
        float32 (rows, columns); NaN where there is no tissue.
        """
        if tissue_area_mm2.shape != self.shape:
            raise ValueError(f"areas of shape {tissue_area_mm2.shape} for a map of {self.shape}")
        with np.errstate(divide="ignore", invalid="ignore"):
            density = self.counts / tissue_area_mm2
        return np.where(tissue_area_mm2 > 0, density, np.nan).astype(np.float32)

    def area_on(self, share: NDArray[np.floating] | NDArray[np.bool_], mpp: float) -> NDArray[np.float64]:
        """Sum tissue by square.

        Parameters
        ----------
        share : (rows, columns) of a finer grid at `mpp`: the share of each pixel that is tissue, 0 to 1.
        mpp : um per pixel of `share`. A pixel that straddles squares is split by area.

        Returns
        -------
        float64 (rows, columns) of this map, in mm2.
        """
        rows, columns = self.shape
        by_row = _split(share.shape[0], mpp, rows, self.cell_um)
        by_column = _split(share.shape[1], mpp, columns, self.cell_um)
        area: NDArray[np.float64] = by_row @ share.astype(np.float64) @ by_column.T * (mpp**2 / 1e6)
        return area


def _split(n_fine: int, fine_um: float, n_coarse: int, coarse_um: float) -> NDArray[np.float64]:
    """Return (n_coarse, n_fine): the share of each fine interval that lies in each coarse one."""
    low = np.arange(n_fine) * fine_um
    start = np.arange(n_coarse)[:, None] * coarse_um
    # What lies past the last square counts in it.
    stop = np.where(np.arange(n_coarse)[:, None] == n_coarse - 1, np.inf, start + coarse_um)
    overlap: NDArray[np.float64] = np.minimum(low + fine_um, stop) - np.maximum(low, start)
    return np.clip(overlap, 0, None) / fine_um
