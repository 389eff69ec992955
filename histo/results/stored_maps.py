"""`maps.zarr` once it is finished: reading areas and the overview back, and putting corrections into it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import zarr
from numpy.typing import NDArray
from shapely.affinity import translate

from histo.errors import ResultsError
from histo.regions.raster import rasterise
from histo.results.maps import TISSUE_NAMES
from histo.results.ome_zarr import subsample
from histo.slide.survey import coverage_of

# What reading or writing a store that is not as it was written can raise.
_FAULTS = (OSError, zarr.errors.NodeNotFoundError, KeyError, IndexError, TypeError, ValueError)
# The label map reaches beyond the outlines by less than this.
_MARGIN_PX = 2


@dataclass(frozen=True, eq=False)
class Ground:
    """What areas are made of, (rows, columns) on one grid; see `MapsWriter.write_tissue`.

    mpp : um per pixel. coverage : float32, share of each pixel that lies on the slide.
    """

    tissue: NDArray[np.bool_]
    assessed: NDArray[np.bool_]
    unread: NDArray[np.bool_]
    coverage: NDArray[np.float32]
    mpp: float


def read_ground(path: Path, size_um: tuple[float, float]) -> Ground:
    """Read back what areas are made of.

    Parameters
    ----------
    path : a `maps.zarr`.
    size_um : (width, height) of the slide.

    Raises
    ------
    ResultsError : the store has no such map, or is damaged.
    """
    group = path / "labels" / "tissue"
    try:
        mpp = map_mpp(group)
        codes = np.asarray(zarr.open_array(str(group / "0"), mode="r")[...])
    except _FAULTS as error:
        raise ResultsError(
            f"no map of the tissue can be read ({error})", path=path, fix="Run infer again with this version"
        ) from None
    unread = codes == TISSUE_NAMES.index("unread")
    return Ground(
        tissue=codes > 0,
        assessed=unread | (codes == TISSUE_NAMES.index("assessed")),
        unread=unread,
        coverage=coverage_of(size_um, codes.shape, mpp),
        mpp=mpp,
    )


def read_overview(path: Path) -> NDArray[Any]:
    """Read the overview of a slide: (rows, columns, channels) at the pixel size of `Ground`.

    Raises
    ------
    ResultsError : there is none.
    """
    try:
        return np.moveaxis(np.asarray(zarr.open_array(str(path / "0"), mode="r")[...]), 0, -1)
    except _FAULTS as error:
        raise ResultsError(f"no overview can be read ({error})", path=path) from None


def rewrite_maps(path: Path, maps: Mapping[str, NDArray[Any]]) -> None:
    """Put other values into maps of a finished store, at every level of each.

    Parameters
    ----------
    maps : by the name of its group ("labels/zones", "density"), as its level 0 is.

    Raises
    ------
    ResultsError : a map is not there or cannot be written.
    """
    for name, values in maps.items():
        try:
            for level, array in _levels(path / name):
                array[...] = subsample(values, level)
        except _FAULTS as error:
            raise ResultsError(f"the map {name} cannot be written ({error})", path=path) from None


def rewrite_labels(
    path: Path,
    gone: Mapping[int, shapely.Polygon],
    drawn: Mapping[int, shapely.Polygon],
) -> None:
    """Take cells out of the label map of a finished store, and draw others into it.

    Only the chunks under these cells are touched. A pixel that another cell has stays with it.

    Parameters
    ----------
    gone, drawn : cell id to outline in um.

    Raises
    ------
    ResultsError : the label map cannot be read or written.
    """
    if not gone and not drawn:
        return
    group = path / "labels" / "cells"
    try:
        mpp = map_mpp(group)
        levels = list(_levels(group))
        array = levels[0][1]
        size = array.chunks[0]
        ids = np.array([*gone, *drawn])
        shapes = np.array([*gone.values(), *drawn.values()], object)
        boxes = shapely.bounds(shapes) / mpp + [-_MARGIN_PX, -_MARGIN_PX, _MARGIN_PX, _MARGIN_PX]
        last = (np.array(array.shape[::-1]) - 1) // size
        low = np.clip(boxes[:, :2] // size, 0, last).astype(np.int64)
        high = np.clip(boxes[:, 2:] // size, 0, last).astype(np.int64)
        touched: dict[tuple[int, int], list[int]] = {}
        for k, ((x0, y0), (x1, y1)) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
            for row in range(y0, y1 + 1):
                for column in range(x0, x1 + 1):
                    touched.setdefault((row, column), []).append(k)
        for (row, column), which in touched.items():
            here = np.s_[row * size : (row + 1) * size, column * size : (column + 1) * size]
            chunk = np.asarray(array[here])
            chunk[np.isin(chunk, [ids[k] for k in which if k < len(gone)])] = 0
            for k in which:
                if k >= len(gone):
                    _draw(chunk, shapes[k], int(ids[k]), (column * size, row * size), mpp)
            array[here] = chunk
            # A chunk holds all that its pixels of the coarser levels are taken from.
            missing = [(0, size - n) for n in chunk.shape]
            whole = np.pad(chunk, missing, mode="edge")
            for level, coarse in levels[1:]:
                step = 2**level
                n = size // step
                top, left = row * n, column * n
                rows, columns = coarse.shape[0] - top, coarse.shape[1] - left
                picked = whole[step // 2 :: step, step // 2 :: step][:rows, :columns]
                coarse[top : top + picked.shape[0], left : left + picked.shape[1]] = picked
    except _FAULTS as error:
        raise ResultsError(f"the label map cannot be corrected ({error})", path=path) from None


def map_mpp(group: Path) -> float:
    """Return the um per pixel of level 0 of a map in a store; raises OSError, KeyError or the like."""
    attributes = json.loads((group / "zarr.json").read_bytes())["attributes"]["ome"]
    return float(attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"][-1])


def _levels(group: Path) -> Iterator[tuple[int, Any]]:
    level = 0
    while level == 0 or (group / str(level)).is_dir():
        yield level, zarr.open_array(str(group / str(level)), mode="r+")
        level += 1


def _draw(
    chunk: NDArray[np.int32], outline: shapely.Polygon, cell_id: int, origin_px: tuple[int, int], mpp: float
) -> None:
    """Draw a cell into the pixels of a chunk that are free; `origin_px` is (x, y) of its first pixel."""
    x0, y0, x1, y1 = np.asarray(outline.bounds) / mpp - np.tile(origin_px, 2)
    rows = slice(max(0, int(y0) - 1), max(0, int(y1) + 2))
    columns = slice(max(0, int(x0) - 1), max(0, int(x1) + 2))
    window = chunk[rows, columns]
    left, top = origin_px[0] + columns.start, origin_px[1] + rows.start
    local = translate(outline, -left * mpp, -top * mpp)
    window[rasterise(local, window.shape, mpp) & (window == 0)] = cell_id
