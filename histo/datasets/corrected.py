"""Corrected slides as a dataset: a folder of one's own (`own_folder`), cut from the areas that were reviewed.

Only where a person has looked at every cell is it known that there is no other: fields lie wholly inside such
areas. Fields are cut on the network's own grid, and carry the white point of their slide, so that what is
learnt from them is what inference sees.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import shapely
import tifffile
import yaml
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry import MultiPolygon, Polygon

from histo.cells.table import CD8, OTHER
from histo.errors import DatasetError
from histo.results.atomic import write_text
from histo.results.cells_parquet import GEOMETRY
from histo.slide import Box, Slide

# Classes of the labels to those of `own_folder`.
CLASSES: Final = {CD8: "cd8_positive", OTHER: "other_nucleus"}
GROUPS: Final = "fields.csv"
_FIELD_PX: Final = 512
# Smaller ones tell too little of their staining.
_SMALLEST_PX: Final = 96
# Less of a cell than this at a field's edge is not worth an outline.
_SLIVER_UM2: Final = 4.0


@dataclass(frozen=True, eq=False)
class ReviewedSlide:
    """A slide, its corrected cells, and where they are known to be all.

    slide_id : names its fields. group : patient, or what stands for it. slide : open.
    cells : cell_class and geometry (outlines in um) of all cells. reviewed : um in the slide's frame.
    white_point : of the slide, for brightfield; None where it is not known.
    channels : names of the channels nuclear, cd8 and perhaps autofluorescence; None for brightfield.
    """

    slide_id: str
    group: str
    slide: Slide
    cells: pd.DataFrame
    reviewed: MultiPolygon
    white_point: tuple[float, float, float] | None = None
    channels: Mapping[str, str] | None = None


@dataclass(frozen=True)
class FieldsWritten:
    """What became of a slide: fields and cells in them, and how much of the reviewed area they cover."""

    n_fields: int
    n_cells: int
    n_cd8: int
    covered: float


class CorrectedDataset:
    """Writes slides into a dataset folder, one after the other; a context manager.

    The folder is a dataset once the block has ended.

    Parameters
    ----------
    out : folder; made, must be empty.
    mpp : um per pixel of the fields: that of the network.
    licence : as `dataset.yaml` shall state it.

    Raises DatasetError where the folder is not empty or cannot be written.
    """

    def __init__(self, out: Path, *, mpp: float = 0.5, licence: str = "not stated") -> None:
        self._out, self._mpp, self._licence = out, mpp, licence
        self._rows: list[dict[str, Any]] = []
        self._channels: dict[str, str] | None = None
        self._kind: str | None = None
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DatasetError("the folder is not empty", path=out, fix="Name another one")
        try:
            for name in ("images", "labels"):
                (out / name).mkdir(parents=True)
        except OSError as error:
            raise DatasetError(
                f"cannot write there ({error.strerror})", path=out, fix="Name another folder"
            ) from None

    def add(self, reviewed: ReviewedSlide) -> FieldsWritten:
        """Cut a slide's reviewed areas into fields of at most 256 um and write them with their cells.

        Raises
        ------
        DatasetError : a slide of another kind or with other channels than those before, or with no area that
            holds a field.
        SlideError : pixels cannot be read.
        """
        kind = reviewed.slide.kind
        channels = None if reviewed.channels is None else dict(reviewed.channels)
        if self._kind not in (None, kind) or (self._rows and channels != self._channels):
            raise DatasetError(
                f"{reviewed.slide_id} is stained otherwise than the slides before it",
                fix="Export the slides of each protocol apart",
            )
        self._kind, self._channels = kind, channels
        boxes = list(fields_in(reviewed.reviewed, self._mpp))
        if not boxes:
            raise DatasetError(
                f"no reviewed area of {reviewed.slide_id} holds a field of {_SMALLEST_PX * self._mpp:.0f} um",
                fix="Draw a larger one",
            )
        outlines = reviewed.cells[GEOMETRY].to_numpy(object)
        classes = reviewed.cells["cell_class"].to_numpy(object)
        tree = shapely.STRtree(outlines)
        counts: list[str] = []
        for number, box in enumerate(boxes, start=1):
            name = f"{reviewed.slide_id}_{number:04d}"
            near = tree.query(_square(box, self._mpp), predicate="intersects")
            counts += self._write_field(name, box, reviewed, outlines[near], classes[near])
            white = reviewed.white_point or ("", "", "")
            row = dict(zip(("white_red", "white_green", "white_blue"), white, strict=True))
            self._rows.append({"image": name, "group": reviewed.group, **row})
        area_px = sum(box.width * box.height for box in boxes)
        return FieldsWritten(
            len(boxes), len(counts), counts.count(CD8), area_px * self._mpp**2 / reviewed.reviewed.area
        )

    def __enter__(self) -> CorrectedDataset:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None or not self._rows:
            return
        settings: dict[str, Any] = {
            "licence": self._licence,
            "mpp": self._mpp,
            "kind": self._kind,
            "classes": CLASSES,
            "background_known": True,
            "groups": GROUPS,
        }
        if self._channels is not None:
            settings["channels"] = self._channels
        with (self._out / GROUPS).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(self._rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
        # Without it the folder is no dataset.
        write_text(self._out / "dataset.yaml", yaml.safe_dump(settings, sort_keys=False))

    def _write_field(
        self,
        name: str,
        box: Box,
        reviewed: ReviewedSlide,
        outlines: NDArray[np.object_],
        classes: NDArray[np.object_],
    ) -> list[str]:
        """Write one field; return the classes of the cells in it."""
        pixels = reviewed.slide.read(box, self._mpp)
        if reviewed.channels is None:
            Image.fromarray(pixels[..., :3]).save(self._out / "images" / f"{name}.png", compress_level=6)
        else:
            tifffile.imwrite(
                self._out / "images" / f"{name}.ome.tif",
                np.moveaxis(pixels, -1, 0),
                compression="zlib",
                metadata={
                    "axes": "CYX",
                    "Channel": {"Name": list(reviewed.slide.channels)},
                    "PhysicalSizeX": self._mpp,
                    "PhysicalSizeY": self._mpp,
                },
            )
        inside = shapely.intersection(outlines, _square(box, self._mpp))
        features, kept = [], []
        for outline, cell_class in zip(inside, classes, strict=True):
            piece = max(shapely.get_parts(outline), key=shapely.area)
            if not isinstance(piece, Polygon) or piece.area < _SLIVER_UM2:
                continue
            in_px = np.round(shapely.get_coordinates(piece.exterior) / self._mpp - (box.x, box.y), 2)
            kept.append(str(cell_class))
            features.append(
                {
                    "type": "Feature",
                    "geometry": {"type": "Polygon", "coordinates": [in_px.tolist()]},
                    "properties": {"objectType": "detection", "classification": {"name": cell_class}},
                }
            )
        text = json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"))
        write_text(self._out / "labels" / f"{name}.geojson", text)
        return kept


def fields_in(area: MultiPolygon, mpp: float) -> Iterator[Box]:
    """Yield boxes of the grid at `mpp` that lie wholly in an area (um): 512 px at most, 96 px at least.

    A rectangle is covered but for less than a pixel along its sides; of other shapes the rim is left out.
    """
    for piece in area.geoms:
        shapely.prepare(piece)
        x0, y0, x1, y1 = (bound / mpp for bound in piece.bounds)
        for top, bottom in _spans(ceil(y0 - 1e-6), floor(y1 + 1e-6)):
            for left, right in _spans(ceil(x0 - 1e-6), floor(x1 + 1e-6)):
                yield from _within(piece, Box(left, top, right - left, bottom - top), mpp)


def _spans(low: int, high: int) -> Iterator[tuple[int, int]]:
    """Divide a stretch of pixels into equal ones that are as long as a field may be."""
    n = max(1, -(-(high - low) // _FIELD_PX))
    edges = [low + (high - low) * k // n for k in range(n + 1)]
    yield from pairwise(edges)


def _within(piece: Polygon, box: Box, mpp: float) -> Iterator[Box]:
    """Yield a box, or the quarters of it, that lie in a polygon."""
    if min(box.width, box.height) < _SMALLEST_PX:
        return
    # A hair smaller: bounds that were divided by the pixel size do not come back to the last digit.
    if piece.covers(_square(box, mpp).buffer(-1e-6)):
        yield box
        return
    left, upper = box.width // 2, box.height // 2
    for x, width in ((box.x, left), (box.x + left, box.width - left)):
        for y, height in ((box.y, upper), (box.y + upper, box.height - upper)):
            yield from _within(piece, Box(x, y, width, height), mpp)


def _square(box: Box, mpp: float) -> Polygon:
    return shapely.box(box.x * mpp, box.y * mpp, box.right * mpp, box.bottom * mpp)
