"""The cell table: one schema, defined once, with units in the names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histo.panel import COMPARTMENTS, STATISTICS, marker_column
from histo.stain.names import STAINS

CD8: Final = "CD8+ cell"
OTHER: Final = "other nucleus"
CELL_CLASSES: Final = (CD8, OTHER)

# What detection fills. Positions are um in the slide's frame (origin: top-left corner of level 0).
DETECTION_COLUMNS: Final[dict[str, np.dtype[Any]]] = {
    "cell_id": np.dtype(np.int32),  # 1, 2, ... within the slide; the value in the label map
    "x_um": np.dtype(np.float64),  # centroid
    "y_um": np.dtype(np.float64),
    "cell_class": np.dtype(object),  # one of CELL_CLASSES
    "probability": np.dtype(np.float32),  # of that class, mean over the cell; NaN: the detector gives none
    "area_um2": np.dtype(np.float32),
    # Mean stain amount in the nucleus (the inside) and the ring (the band along the outline); optical density
    # for brightfield, normalised intensity for fluorescence: the summary says which.
    **{
        f"{stain}_{compartment}_mean": np.dtype(np.float32)
        for stain in STAINS
        for compartment in ("nucleus", "ring")
    },
}

# What is added once the place of the cell is known.
PLACE_COLUMNS: Final[dict[str, np.dtype[Any]]] = {
    "x_px": np.dtype(np.float64),  # centroid in level-0 pixels
    "y_px": np.dtype(np.float64),
    "in_tissue": np.dtype(np.bool_),  # in assessed tissue: only these count in densities
    "region": np.dtype(object),  # of RegionName, or "" (in none)
    "zone": np.dtype(object),  # core, inner_margin, outer_margin, far or "" (not assessable)
    "signed_distance_um": np.dtype(np.float32),  # to the tumour border, negative inside; NaN: no border
}

# Of a table without markers; see `cell_columns`.
CELL_COLUMNS: Final[dict[str, np.dtype[Any]]] = {**DETECTION_COLUMNS, **PLACE_COLUMNS}

_MARKER_COLUMN: Final = re.compile(rf"(.+)_(?:{'|'.join(COMPARTMENTS)})_(?:{'|'.join(STATISTICS)})")


def cell_columns(markers: Sequence[str]) -> dict[str, np.dtype[Any]]:
    """Return the schema of a table whose cells were measured for these markers, in the order of its columns.

    Of each marker there are mean, median and upper quantile in nucleus, ring and whole cell (both together);
    NaN where a cell has no such pixel. The summary says in what unit, above what background, and which
    quantile.
    """
    return {**CELL_COLUMNS, **marker_columns(markers)}


def marker_columns(markers: Sequence[str]) -> dict[str, np.dtype[Any]]:
    """Return the part of `cell_columns` that is the markers'."""
    return {
        marker_column(name, compartment, statistic): np.dtype(np.float32)
        for name in markers
        for compartment in COMPARTMENTS
        for statistic in STATISTICS
    }


def markers_of(columns: Iterable[str]) -> tuple[str, ...]:
    """Return the markers that a table with these columns was measured for."""
    found = (_MARKER_COLUMN.fullmatch(column) for column in columns if column not in CELL_COLUMNS)
    return tuple(dict.fromkeys(match[1] for match in found if match is not None))


def cell_frame(columns: dict[str, NDArray[Any]], schema: dict[str, np.dtype[Any]]) -> pd.DataFrame:
    """Build a table with exactly the columns of `schema`, in its order and dtypes.

    Raises KeyError for a missing column and ValueError for one too many.
    """
    extra = set(columns) - set(schema)
    if extra:
        raise ValueError(f"columns outside the schema: {sorted(extra)}")
    return pd.DataFrame({name: np.asarray(columns[name]).astype(dtype) for name, dtype in schema.items()})


def empty_cells() -> pd.DataFrame:
    """Return the whole cell table without a row."""
    return cell_frame({name: np.empty(0, dtype) for name, dtype in CELL_COLUMNS.items()}, CELL_COLUMNS)
