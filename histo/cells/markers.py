"""How much of each marker a cell has, in its nucleus, its ring and as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histo.cells.compartments import Compartments
from histo.cells.detect import TileCells
from histo.cells.table import marker_columns
from histo.stain.panel import PanelTransform


def with_markers(cells: TileCells, pixels: NDArray[Any], panel: PanelTransform) -> TileCells:
    """Measure markers in the cells of a tile: its table gets the columns of `marker_columns`.

    Parameters
    ----------
    pixels : (H, W, C) over the tile's read box: what `panel` takes.
    """
    # Only what lies in cells is turned into amounts, one marker at a time.
    values = pixels[cells.parts.rows, cells.parts.columns]
    measured = [
        statistics(panel.amount(values, place), cells.parts, panel.upper_quantile)
        for place in range(len(panel.markers))
    ]
    columns = np.concatenate([part.reshape(-1, cells.parts.n) for part in measured])
    table = pd.DataFrame(dict(zip(marker_columns(panel.markers), columns.astype(np.float32), strict=True)))
    return replace(cells, table=pd.concat([cells.table, table], axis=1))


def statistics(
    values: NDArray[np.float32], parts: Compartments, upper_quantile: float
) -> NDArray[np.float64]:
    """Return mean, median and an upper quantile of each cell's compartments.

    Quantiles are interpolated linearly between pixels (definition 7 of Hyndman and Fan 1996, Am Stat 50:361).

    Parameters
    ----------
    values : (p,) one for each pixel of `parts`.

    Returns
    -------
    (3, 3, n): of nucleus, ring, cell the mean, median, upper quantile. NaN where a cell has no such pixel.
    """
    # One sort for all: by cell, then by value, the compartment in the last bit. The bits of a float sort like
    # the number itself once negative ones are inverted and the others have their sign bit set.
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    negative = bits >> 31 == 1
    key = np.where(negative, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64) << np.uint64(1)
    key[parts.ring] |= np.uint64(1)
    key |= parts.owner.astype(np.uint64) << np.uint64(33)
    key.sort()
    bits = (key >> np.uint64(1)).astype(np.uint32)
    ordered = np.where(bits >> 31 == 1, bits & np.uint32((1 << 31) - 1), ~bits).view(np.float32)
    owner = (key >> np.uint64(33)).astype(np.intp)
    in_ring = (key & np.uint64(1)).astype(bool)
    return np.stack(
        [
            _of_ordered(ordered[which], owner[which], parts.n, upper_quantile)
            for which in (~in_ring, in_ring, np.ones_like(in_ring))
        ]
    )


def _of_ordered(
    values: NDArray[np.float32], owner: NDArray[np.intp], n: int, upper_quantile: float
) -> NDArray[np.float64]:
    """Return (3, n) mean, median and upper quantile of values that are sorted by owner, then by value."""
    count = np.bincount(owner, minlength=n + 1)[1:]
    some = count > 0
    first = (np.cumsum(count) - count)[some]
    out = np.full((3, n), np.nan)
    out[0, some] = np.bincount(owner, values, n + 1)[1:][some] / count[some]
    for row, quantile in ((1, 0.5), (2, upper_quantile)):
        place = (count[some] - 1) * quantile
        below = np.floor(place).astype(np.intp)
        low = values[first + below].astype(np.float64)
        high = values[first + np.minimum(below + 1, count[some] - 1)]
        out[row, some] = low + (high - low) * (place - below)
    return out
