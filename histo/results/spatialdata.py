"""Results of a slide as a SpatialData store: image, labels, shapes, points and a table in one.

Coordinate systems are "um", the slide's frame, and "px", level-0 pixels.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from histo.errors import ConfigError, ResultsError
from histo.measure.summary import SlideSummary
from histo.results.atomic import commit, discard, part_path
from histo.results.cells_parquet import GEOMETRY, read_cells
from histo.results.maps import MAPS
from histo.results.ome_zarr import level_shapes
from histo.results.regions_parquet import REGIONS_FILE, REGIONS_GEOJSON, read_regions
from histo.results.stored import stored_summary
from histo.results.stored_maps import map_mpp
from histo.slide import Box, Slide

# Columns of the cell table that say what and where a cell is; the others are what was measured of it.
_OBS: Final = (
    "cell_id",
    "cell_class",
    "in_tissue",
    "region",
    "zone",
    "signed_distance_um",
    "probability",
    "x_um",
    "y_um",
    "x_px",
    "y_px",
)
_CATEGORIES: Final = ("cell_class", "region", "zone")
_CHUNK_PX: Final = 1024
# Shapes are areas: a border is a band of this width along it.
_BORDER_WIDTH_UM: Final = 4.0


def write_spatialdata(folder: Path, path: Path, slide: Slide, mpp: float) -> None:
    """Write the results of a slide as a SpatialData store.

    images/slide            the slide from `mpp` um on, a pyramid copied block by block
    labels/cell_labels      cell ids, where the results have a label map
    labels/region_labels, zone_labels, tissue_labels
    shapes/cells, regions, borders      outlines in um; cells are indexed by cell_id
    points/centroids        of the cells, with their class
    tables/table            AnnData: measurements by cell; obs says what and where; annotates shapes/cells

    Parameters
    ----------
    folder : of the slide's results. path : a `.zarr`, replaced where it exists. slide : open.
    mpp : um per pixel of the image.

    Raises
    ------
    ConfigError : the package `spatialdata` is not installed.
    ResultsError : results cannot be read, or the store not be written.
    """
    try:
        from spatialdata import SpatialData
        from spatialdata.models import PointsModel
    except ImportError as error:
        raise ConfigError(
            f"spatialdata cannot be used ({error})",
            fix="Install the package spatialdata, with Python 3.12 or newer",
        ) from None
    summary = stored_summary(folder)
    to = _Systems(slide.mpp)
    cells = read_cells(folder / "cells.parquet")
    outlines = read_cells(folder / "cells.parquet", [GEOMETRY])[GEOMETRY]
    centroids = cells[["x_um", "y_um", "cell_id", "cell_class"]].rename(columns={"x_um": "x", "y_um": "y"})
    centroids["cell_class"] = centroids["cell_class"].astype("category")
    data = SpatialData(
        images={"slide": _image(slide, mpp, to)},
        labels=_labels(folder / MAPS, to),
        shapes=_shapes(folder, summary, cells, outlines, to),
        points={"centroids": PointsModel.parse(centroids, transformations=to.of_um())},
        tables={"table": _table(cells)},
        attrs={"histo": summary.model_dump(mode="json", exclude_none=True)},
    )
    part = part_path(path)
    discard(part)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        data.write(part)
        commit(part, path)
    except OSError as error:
        raise ResultsError(
            f"cannot be written ({error.strerror or error})",
            path=path,
            fix="Check that the folder is writable and has space left",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


class _Systems:
    """Ways to the coordinate systems; `mpp` is that of level 0 (x, y)."""

    def __init__(self, mpp: tuple[float, float]) -> None:
        self._mpp = mpp

    def of_um(self) -> dict[str, Any]:
        """Return the transformations of what is in um."""
        return self.of_pixels(1.0)

    def of_pixels(self, size_um: float) -> dict[str, Any]:
        """Return the transformations of an image with pixels of this size that begins at the origin."""
        from spatialdata.transformations import Scale

        return {
            "um": Scale([size_um, size_um], axes=("x", "y")),
            "px": Scale([size_um / self._mpp[0], size_um / self._mpp[1]], axes=("x", "y")),
        }


def _image(slide: Slide, mpp: float, to: _Systems) -> Any:
    from spatialdata.models import Image2DModel

    columns, rows = slide.grid_size(mpp)
    levels = [
        _lazy(slide, mpp * 2**level, slide.grid_size(mpp * 2**level))
        for level in range(len(level_shapes((rows, columns))))
    ]
    return _pyramid(
        levels,
        lambda pixels, to_system: Image2DModel.parse(
            pixels, dims=("c", "y", "x"), c_coords=list(slide.channels), transformations=to_system
        ),
        to.of_pixels(mpp),
    )


def _lazy(slide: Slide, mpp: float, size: tuple[int, int]) -> da.Array:
    """Return the slide on the grid at `mpp`, (channels, rows, columns), read block by block when written."""
    columns, rows = size

    def read(block_info: Any = None) -> NDArray[Any]:
        _, (top, bottom), (left, right) = block_info[None]["array-location"]
        return np.moveaxis(slide.read(Box(left, top, right - left, bottom - top), mpp), -1, 0)

    chunks = da.core.normalize_chunks((-1, _CHUNK_PX, _CHUNK_PX), (len(slide.channels), rows, columns))
    blocks: da.Array = da.map_blocks(
        read, chunks=chunks, dtype=slide.info.dtype, meta=np.empty((0, 0, 0), slide.info.dtype)
    )
    return blocks


def _labels(maps: Path, to: _Systems) -> dict[str, Any]:
    from spatialdata.models import Labels2DModel

    found = {}
    for name in ("cells", "regions", "zones", "tissue"):
        group = maps / "labels" / name
        if not group.is_dir():
            continue
        levels = [
            da.from_zarr(zarr.open_array(str(group / level), mode="r"))
            for level in sorted((p.name for p in group.iterdir() if p.name.isdigit()), key=int)
        ]
        found[f"{name.removesuffix('s')}_labels"] = _pyramid(
            levels,
            lambda values, to_system: Labels2DModel.parse(values, dims=("y", "x"), transformations=to_system),
            to.of_pixels(map_mpp(group)),
        )
    return found


def _pyramid(
    levels: Sequence[da.Array],
    parse: Callable[[da.Array, dict[str, Any]], Any],
    transformations: dict[str, Any],
) -> Any:
    """Return levels, each half as fine as the one before, as one multiscale element."""
    from spatialdata.transformations import Scale
    from spatialdata.transformations import Sequence as Chain
    from xarray import DataTree

    parsed = []
    for number, level in enumerate(levels):
        coarser = Scale([2.0**number, 2.0**number], axes=("x", "y"))
        ways = {system: Chain([coarser, way]) if number else way for system, way in transformations.items()}
        parsed.append(parse(level, ways))
    if len(parsed) == 1:
        return parsed[0]
    return DataTree.from_dict(
        {f"scale{number}": element.to_dataset(name="image") for number, element in enumerate(parsed)}
    )


def _shapes(
    folder: Path, summary: SlideSummary, cells: pd.DataFrame, outlines: pd.Series[Any], to: _Systems
) -> dict[str, Any]:
    from spatialdata.models import ShapesModel

    frames = {
        "cells": gpd.GeoDataFrame(
            {"cell_class": pd.Categorical(cells["cell_class"])},
            geometry=outlines.to_numpy(object),
            index=cells["cell_id"].to_numpy(),
        )
    }
    annotations = read_regions(folder / REGIONS_FILE)
    if annotations is not None and annotations.polygons_um:
        names = list(annotations.polygons_um)
        frames["regions"] = gpd.GeoDataFrame(
            {"name": names}, geometry=list(annotations.polygons_um.values()), index=names
        )
    drawn = gpd.read_file(folder / REGIONS_GEOJSON)
    lines = drawn[drawn.geometry.geom_type.isin(["LineString", "MultiLineString"])] if len(drawn) else drawn
    if len(lines):
        scaled = lines.geometry.scale(summary.image.mpp_x_um, summary.image.mpp_y_um, origin=(0, 0))
        frames["borders"] = gpd.GeoDataFrame(
            {"name": lines["name"].to_numpy()},
            geometry=scaled.buffer(_BORDER_WIDTH_UM / 2).to_numpy(),
            index=lines["name"].to_numpy(),
        )
    return {
        name: ShapesModel.parse(frame, transformations=to.of_um())
        for name, frame in frames.items()
        if len(frame)
    }


def _table(cells: pd.DataFrame) -> Any:
    from anndata import AnnData
    from spatialdata.models import TableModel

    measured = [name for name in cells.columns if name not in _OBS]
    obs = cells[list(_OBS)].copy()
    for name in _CATEGORIES:
        obs[name] = pd.Categorical(obs[name].replace("", "none"))
    obs["element"] = pd.Categorical(["cells"] * len(obs), categories=["cells"])
    obs.index = obs["cell_id"].astype(str)
    table = AnnData(
        cells[measured].to_numpy(np.float32),
        obs=obs.rename_axis(None),
        var=pd.DataFrame(index=measured),
        obsm={"spatial": cells[["x_um", "y_um"]].to_numpy(np.float64)},
    )
    return TableModel.parse(table, region="cells", region_key="element", instance_key="cell_id")
