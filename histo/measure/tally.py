"""Counts of cells, taken up piece by piece."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from histo.cells.table import CD8
from histo.measure.summary import ZONES, Zone

PROFILE_BIN_UM = 50.0


class Tally:
    """Running counts of a slide's cells: by class and zone, and of CD8+ cells by distance to the border.

    Only cells in assessed tissue count; the others are counted apart. The order and the size of the pieces
    that are added make no difference.

    Parameters
    ----------
    profile_bin_um : width of the classes of distance.
    """

    def __init__(self, profile_bin_um: float = PROFILE_BIN_UM) -> None:
        self.profile_bin_um = profile_bin_um
        self.n_cells = 0
        self.n_cd8 = 0
        self.n_outside = 0
        # (zone, whether CD8+): cells. Zone "" is assessed tissue without a zone.
        self._zones: Counter[tuple[str, bool]] = Counter()
        # Bin k is the distance from k to k + 1 times the width of a bin.
        self._cd8_by_bin: Counter[int] = Counter()

    def add(self, cells: pd.DataFrame) -> None:
        """Add rows of the cell table with its place columns."""
        counted = cells[cells["in_tissue"].to_numpy(bool)]
        cd8 = (counted["cell_class"] == CD8).to_numpy(bool)
        self.n_outside += len(cells) - len(counted)
        self.n_cells += len(counted)
        self.n_cd8 += int(cd8.sum())
        for is_cd8 in (False, True):
            zones, counts = np.unique(counted["zone"].to_numpy(str)[cd8 == is_cd8], return_counts=True)
            for zone, count in zip(zones, counts, strict=True):
                self._zones[str(zone), is_cd8] += int(count)
        distance = counted["signed_distance_um"].to_numpy(np.float64)[cd8]
        bins, counts = np.unique(
            np.floor(distance[~np.isnan(distance)] / self.profile_bin_um), return_counts=True
        )
        for index, count in zip(bins, counts, strict=True):
            self._cd8_by_bin[int(index)] += int(count)

    def in_zone(self, zone: Zone) -> tuple[int, int]:
        """Return the number of cells, and of CD8+ cells among them, in a zone."""
        if zone not in ZONES:
            raise KeyError(zone)
        n_cd8 = self._zones[zone, True]
        return n_cd8 + self._zones[zone, False], n_cd8

    def cd8_in_bin(self, index: int) -> int:
        """Return the number of CD8+ cells whose distance lies in bin `index`."""
        return self._cd8_by_bin[index]
