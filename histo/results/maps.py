"""`maps.zarr`: everything of a slide that is an image, in one OME-Zarr 0.5 store.

    maps.zarr           the overview of the slide (c, y, x)
      labels/cells      cell ids, int32, at the working pixel size
      labels/regions    annotated regions, uint8
      labels/zones      zones round the tumour border, uint8
      labels/tissue     what was assessed before regions were laid over it, uint8
      density           CD8+ cells per mm2, float32, NaN without tissue
      distance          signed distance to the tumour border in um, float32, NaN where unknown

All have um coordinates in the slide's frame (see `histo.results.ome_zarr`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from histo.errors import ResultsError
from histo.regions.place import REGION_NAMES, ZONE_NAMES
from histo.results.atomic import StreamedOutput, discard, unwritable
from histo.results.geojson import REGION_COLOURS
from histo.results.label_map import LabelMapWriter
from histo.results.ome_zarr import create_level, halve, level_shapes, multiscale, subsample, write_group
from histo.slide.base import Slide

MAPS: Final = "maps.zarr"
# Red, green, blue; cold inside the tumour, warm outside.
ZONE_COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "core": (51, 34, 136),
    "inner_margin": (68, 170, 153),
    "outer_margin": (221, 170, 51),
    "far": (187, 85, 102),
}
# What a pixel of tissue is worth, whatever regions say of it.
TISSUE_NAMES: Final = ("", "not assessed", "assessed", "unread")
TISSUE_COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "not assessed": (170, 68, 153),
    "assessed": (136, 204, 238),
    "unread": (80, 80, 80),
}
_RGB: Final = ("FF0000", "00FF00", "0000FF")
_CHANNEL_COLOURS: Final = ("0000FF", "00FF00", "FF0000", "FFFF00", "FF00FF", "00FFFF", "FFFFFF", "FF8000")
_CHUNK_PX: Final = 512


class MapsWriter(StreamedOutput):
    """Write the maps of one slide; a context manager.

    The store appears under its name when the block ends without an error, not before.

    Parameters
    ----------
    path : `maps.zarr`.
    slide : gives the extent, the channels and the kind.
    mpp : um per pixel of the cell labels.
    labels : whether to keep the label map of the cells.
    chunk_px : chunk edge of the label map, a power of two.

    Attributes
    ----------
    labels : the LabelMapWriter of the cells, or None.

    Raises ResultsError where the store cannot be written.
    """

    def __init__(
        self, path: Path, slide: Slide, mpp: float, *, labels: bool = True, chunk_px: int = 1024
    ) -> None:
        super().__init__(path)
        self._channels = slide.channels
        self._brightfield = slide.kind == "brightfield"
        self._has_overview = False
        self._label_names: list[str] = []
        discard(self._part)
        self.labels: LabelMapWriter | None = None
        columns, rows = slide.grid_size(mpp)
        # OME-Zarr wants the same number of levels in an image and all of its labels, whatever their sizes.
        self._n_levels = len(level_shapes((rows, columns), max_levels=chunk_px.bit_length()))
        if labels:
            self.labels = LabelMapWriter(self._label("cells"), (rows, columns), mpp, chunk_px)

    def write_overview(self, overview: NDArray[Any], mpp: float) -> None:
        """Write the image of the slide: (rows, columns, channels) at `mpp` um."""
        levels = [np.moveaxis(overview, -1, 0)]
        while len(levels) < self._n_levels:
            levels.append(halve(levels[-1]))
        self._write_image(
            self._part,
            levels,
            {
                "multiscales": [multiscale("overview", "cyx", mpp, len(levels), "mean")],
                "omero": {"channels": self._omero(levels[-1])},
            },
        )
        self._has_overview = True

    def write_regions(self, region_map: NDArray[np.uint8], zone_map: NDArray[np.uint8], mpp: float) -> None:
        """Write the maps of regions and zones.

        Parameters
        ----------
        region_map, zone_map : (rows, columns), places in `REGION_NAMES` and `ZONE_NAMES`; 0 is none.
        mpp : um per pixel.
        """
        self._write_labels("regions", region_map, REGION_NAMES, REGION_COLOURS, mpp)
        self._write_labels("zones", zone_map, ZONE_NAMES, ZONE_COLOURS, mpp)

    def write_tissue(
        self, tissue: NDArray[np.bool_], assessed: NDArray[np.bool_], unread: NDArray[np.bool_], mpp: float
    ) -> None:
        """Write what areas are made of, so that regions can be laid over it again without the slide.

        Parameters
        ----------
        tissue, assessed : (rows, columns), all tissue and what of it passed quality control.
        unread : (rows, columns), what could not be read when cells were looked for.
        mpp : um per pixel.
        """
        codes = tissue.astype(np.uint8)
        codes[assessed] = TISSUE_NAMES.index("assessed")
        codes[assessed & unread] = TISSUE_NAMES.index("unread")
        self._write_labels("tissue", codes, TISSUE_NAMES, TISSUE_COLOURS, mpp)

    def write_distance(self, signed_distance_um: NDArray[np.float32], mpp: float) -> None:
        """Write the signed distance to the tumour border: (rows, columns) in um, NaN where unknown."""
        self._write_scalar("distance", signed_distance_um, mpp, "signed distance to tumour border", "um")

    def write_density(self, cd8_per_mm2: NDArray[np.float32], cell_um: float) -> None:
        """Write the density of CD8+ cells: (rows, columns) per mm2, NaN without tissue."""
        self._write_scalar("density", cd8_per_mm2, cell_um, "CD8+ cells", "1/mm^2")

    def _finish(self) -> None:
        # Without it the store is no image.
        if not self._has_overview:
            raise ValueError("write_overview must be called before the store is closed")
        if self.labels is not None:
            self.labels.close()
        if self._label_names:
            write_group(self._part / "labels", {"labels": self._label_names})

    def _release(self) -> None:
        """Zarr keeps nothing open."""

    def _label(self, name: str) -> Path:
        self._label_names.append(name)
        return self._part / "labels" / name

    def _write_labels(
        self,
        name: str,
        values: NDArray[np.uint8],
        names: Sequence[str],
        colours: dict[str, tuple[int, int, int]],
        mpp: float,
    ) -> None:
        levels = [subsample(values, level) for level in range(self._n_levels)]
        known = [(value, text) for value, text in enumerate(names) if text]
        self._write_image(
            self._label(name),
            levels,
            {
                "multiscales": [multiscale(name, "yx", mpp, len(levels), "nearest")],
                "image-label": {
                    "colors": [
                        {"label-value": value, "rgba": [*colours.get(text, (100, 100, 100)), 255]}
                        for value, text in known
                    ],
                    "properties": [{"label-value": value, "name": text} for value, text in known],
                    "source": {"image": "../../"},
                },
            },
        )

    def _write_scalar(
        self, name: str, values: NDArray[np.float32], mpp: float, quantity: str, unit: str
    ) -> None:
        values = values.astype(np.float32, copy=False)
        n_rows, n_columns = values.shape
        levels = [subsample(values, level) for level in range(len(level_shapes((n_rows, n_columns))))]
        self._write_image(
            self._part / name,
            levels,
            {"multiscales": [multiscale(name, "yx", mpp, len(levels), "nearest")]},
            own={"quantity": quantity, "unit": unit},
            fill_value=np.nan,
        )

    def _write_image(
        self,
        group: Path,
        levels: Sequence[NDArray[Any]],
        attributes: dict[str, Any],
        *,
        own: dict[str, Any] | None = None,
        fill_value: float = 0,
    ) -> None:
        try:
            write_group(group, attributes, own=own)
            for level, values in enumerate(levels):
                array = create_level(
                    group, level, values.shape, values.dtype, chunk_px=_CHUNK_PX, fill_value=fill_value
                )
                array[...] = values
        except OSError as error:
            raise unwritable(self._path, error) from error

    def _omero(self, thumbnail: NDArray[Any]) -> list[dict[str, Any]]:
        """Say how viewers should show the channels: contrast from percentiles for fluorescence."""
        channels = []
        for k, name in enumerate(self._channels):
            if self._brightfield:
                colour, window = _RGB[k % 3], {"min": 0.0, "max": 255.0, "start": 0.0, "end": 255.0}
            else:
                values = thumbnail[k].astype(np.float64)
                low, high = np.percentile(values, [1, 99.8])
                top = float(values.max()) if values.dtype.kind == "f" else 1.0
                top = max(top, float(high), float(low) + 1e-6)
                colour = _CHANNEL_COLOURS[k % len(_CHANNEL_COLOURS)]
                window = {
                    "min": float(min(values.min(), 0.0)),
                    "max": top,
                    "start": float(low),
                    "end": max(float(high), float(low) + 1e-6),
                }
            channels.append({"label": name, "color": colour, "active": True, "window": window})
        return channels


def read_label_map(path: Path, level: int = 0) -> Any:
    """Open one level of the cells' label map of a `maps.zarr`: a zarr array (rows, columns), read on demand.

    Raises
    ------
    ResultsError : there is none.
    """
    try:
        return zarr.open_array(str(path / "labels" / "cells" / str(level)), mode="r")
    except (OSError, zarr.errors.NodeNotFoundError, KeyError, ValueError) as error:
        raise ResultsError(f"no label map can be read ({error})", path=path) from None
