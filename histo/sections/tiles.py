"""The common tissue of two sections, cut into tiles: what may be compared, and the cells in it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histo.regions.place import ZONE_NAMES, Regions
from histo.regions.raster import pixels_under
from histo.sections.config import SectionsConfig
from histo.sections.error import LocalError
from histo.sections.mapping import Mapping

# A map that squeezes or stretches tissue more than this lies over a fold, a tear or nothing.
_STRETCH = (0.5, 2.0)


def common_tissue(first: Regions, second: Regions, forward: Mapping) -> NDArray[np.bool_]:
    """Return the pixels of the first slide's grid that are assessed on both sections."""
    rows, columns = np.nonzero(first.assessed)
    mapped = forward((np.column_stack([columns, rows]).astype(np.float64) + 0.5) * first.mpp)
    on_grid, under = pixels_under(mapped[:, 0], mapped[:, 1], second.assessed.shape, second.mpp)
    common = np.zeros_like(first.assessed)
    common[rows, columns] = on_grid & second.assessed[under]
    return common


def inside(points: NDArray[np.float64], mask: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    """Tell which points (n, 2), um, lie in a mask on the grid at `mpp`."""
    on_grid, under = pixels_under(points[:, 0], points[:, 1], mask.shape, mpp)
    return np.asarray(on_grid & mask[under])


def cut_tiles(
    first: Regions,
    common: NDArray[np.bool_],
    forward: Mapping,
    error: LocalError,
    cells: dict[str, NDArray[np.float64]],
    config: SectionsConfig,
) -> pd.DataFrame:
    """Cut the common tissue into square tiles of the first slide.

    Parameters
    ----------
    common : see `common_tissue`. cells : by column ("n_cd8", "n_marker" ...), points (n, 2) in the first
    slide's
        frame; those outside the common tissue do not count.

    Returns
    -------
    A row per tile that holds common tissue: column, row (of the tile grid, which starts at the slide's
    corner), x_um, y_um (centre), area_mm2, zone (that of most of its tissue), error_um, stretch (area on the
    second slide of 1 um2), the columns of `cells`, used, why_not (empty where used).
    """
    mpp, tile = first.mpp, config.tile_um
    rows, columns = np.nonzero(common)
    tile_row = ((rows + 0.5) * mpp // tile).astype(np.int64)
    tile_column = ((columns + 0.5) * mpp // tile).astype(np.int64)
    width = int(common.shape[1] * mpp // tile) + 2
    ids, which = np.unique(tile_row * width + tile_column, return_inverse=True)
    weight = first.coverage[rows, columns].astype(np.float64) * mpp**2 / 1e6
    by_zone = np.zeros((len(ids), len(ZONE_NAMES)))
    np.add.at(by_zone, (which, first.zone_map[rows, columns]), weight)
    area = by_zone.sum(axis=1)
    centres = (np.column_stack([ids % width, ids // width]) + 0.5) * tile
    counts = {}
    for name, points in cells.items():
        points = points[inside(points, common, mpp)]
        # By the pixel under the cell, whose centre says in which tile its area is counted.
        pixel = (np.floor(points / mpp) + 0.5) * mpp // tile
        key = (pixel[:, 1] * width + pixel[:, 0]).astype(np.int64)
        counts[name] = np.bincount(np.searchsorted(ids, key), minlength=len(ids))[: len(ids)]
    stretch = forward.stretch(centres) if len(ids) else np.empty(0)
    frame = pd.DataFrame(
        {
            "column": ids % width,
            "row": ids // width,
            "x_um": centres[:, 0],
            "y_um": centres[:, 1],
            "area_mm2": area,
            "zone": np.array(ZONE_NAMES, object)[by_zone.argmax(axis=1)],
            "error_um": error.at(centres),
            "stretch": stretch,
            **counts,
        }
    )
    usual = np.median(stretch) if len(ids) else 1.0
    why = np.full(len(ids), "", object)
    # In this order of precedence, the last one said.
    why[frame["error_um"].to_numpy() > config.max_error_um] = "error above the limit"
    why[frame["error_um"].isna().to_numpy()] = "error not known: the sections do not look alike here"
    folded = (stretch < _STRETCH[0] * usual) | (stretch > _STRETCH[1] * usual)
    why[folded] = "the registration folds or tears here"
    why[area < config.min_tile_area_fraction * tile**2 / 1e6] = "too little common tissue"
    frame["used"] = why == ""
    frame["why_not"] = why
    return frame
