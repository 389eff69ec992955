"""How much of each marker a cell has, in its nucleus, its ring and as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histo.cells.compartments import Compartments
from histo.cells.detect import TileCells
from histo.cells.table import marker_columns
from histo.stain.panel import PanelTransform

_SIGN: Final = np.uint32(1 << 31)


def with_markers(cells: TileCells, pixels: NDArray[Any], panel: PanelTransform) -> TileCells:
    """Measure markers in the cells of a tile: its table gets the columns of `marker_columns`.

    Parameters
    ----------
    pixels : (H, W, C) over the tile's read box: what `panel` takes.
    """
    parts = cells.parts
    if parts is None:
        raise ValueError("the cells come without their pixels")
    # Only what lies in cells is turned into amounts, one marker at a time.
    values = pixels[parts.rows, parts.columns]
    measured = [
        statistics(panel.amount(values, place), parts, panel.upper_quantile)
        for place in range(len(panel.markers))
    ]
    rows = [row.astype(np.float32) for marker in measured for compartment in marker for row in compartment]
    table = pd.DataFrame(dict(zip(marker_columns(panel.markers), rows, strict=True)))
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
    # Sorted by owner, then by value, as whole numbers: many times faster than by two keys.
    keys = parts.owner.astype(np.uint64) << np.uint64(32) | _ordered_bits(values)
    return np.stack(
        [
            _of_pixels(values[which], parts.owner[which], np.sort(keys[which]), parts.n, upper_quantile)
            for which in (parts.nucleus, parts.ring, slice(None))
        ]
    )


def _of_pixels(
    values: NDArray[np.float32],
    owner: NDArray[np.int32],
    keys: NDArray[np.uint64],
    n: int,
    upper_quantile: float,
) -> NDArray[np.float64]:
    """Return (3, n) mean, median and upper quantile of the values of each owner."""
    count = np.bincount(owner, minlength=n + 1)[1:]
    some = count > 0
    count, first = count[some], (np.cumsum(count) - count)[some]
    out = np.full((3, n), np.nan)
    out[0, some] = np.bincount(owner, values, n + 1)[1:][some] / count
    for row, quantile in ((1, 0.5), (2, upper_quantile)):
        place = (count - 1) * quantile
        below = np.floor(place).astype(np.intp)
        low = _of_bits(keys[first + below]).astype(np.float64)
        high = _of_bits(keys[first + np.minimum(below + 1, count - 1)])
        out[row, some] = low + (high - low) * (place - below)
    return out


def _ordered_bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return whole numbers ordered as the values: of negative ones all bits turn, of others the first."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _of_bits(keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Return the values of which `_ordered_bits` are the lower 32 bits."""
    bits = keys.astype(np.uint32)
    return np.where(bits & _SIGN, bits & ~_SIGN, ~bits).view(np.float32)
