"""The cells of a slide as points: what spatial measures need, taken up piece by piece."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histo.cells.table import CD8
from histo.regions.place import REGION_NAMES, ZONE_NAMES


@dataclass(frozen=True, eq=False)
class Points:
    """Cells in assessed tissue, arrays of one length; 19 bytes a cell.

    x_um, y_um : float64 centroids in the slide's frame. is_cd8 : bool.
    region, zone : uint8, places in `REGION_NAMES` and `ZONE_NAMES`.
    """

    x_um: NDArray[np.float64]
    y_um: NDArray[np.float64]
    is_cd8: NDArray[np.bool_]
    region: NDArray[np.uint8]
    zone: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.x_um)


class PointCollector:
    """Collects the points of a slide, in the order in which they come."""

    def __init__(self) -> None:
        self._pieces: list[Points] = []

    def add(self, cells: pd.DataFrame) -> None:
        """Add rows of the cell table with its place columns; cells outside assessed tissue are left out."""
        counted = cells[cells["in_tissue"].to_numpy(bool)]
        self._pieces.append(
            Points(
                x_um=counted["x_um"].to_numpy(np.float64),
                y_um=counted["y_um"].to_numpy(np.float64),
                is_cd8=(counted["cell_class"] == CD8).to_numpy(bool),
                region=_codes(counted["region"], REGION_NAMES),
                zone=_codes(counted["zone"], ZONE_NAMES),
            )
        )

    def points(self) -> Points:
        """Return all points so far."""
        names = Points.__dataclass_fields__
        dtypes = (np.float64, np.float64, np.bool_, np.uint8, np.uint8)
        return Points(
            **{
                name: np.concatenate([np.empty(0, dtype), *(getattr(piece, name) for piece in self._pieces)])
                for name, dtype in zip(names, dtypes, strict=True)
            }
        )


def _codes(names: pd.Series[str], known: tuple[str, ...]) -> NDArray[np.uint8]:
    return pd.Categorical(names, categories=list(known)).codes.astype(np.uint8)
