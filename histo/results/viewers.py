"""Cells and regions as annotations of other viewers: OME-XML for OMERO, JSON for Digital Slide Archive.

Coordinates are level-0 pixels, origin at the top-left corner of the slide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import quoteattr

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from histo.cells.table import CELL_CLASSES
from histo.errors import ResultsError
from histo.results.atomic import replacing
from histo.results.cells_parquet import GEOMETRY, iter_cells
from histo.results.geojson import CLASS_COLOURS, REGION_COLOURS
from histo.results.regions_parquet import REGIONS_GEOJSON
from histo.results.stored import stored_summary

_DECIMALS: Final = 2
_OME: Final = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def write_ome_xml(folder: Path, path: Path, classes: Sequence[str] = CELL_CLASSES) -> int:
    """Write cells and regions as ROIs of the OME model (schema 2016-06), one ROI per cell and per region.

    Parameters
    ----------
    folder : of a slide's results. path : an `.ome.xml`. classes : which cells.

    Returns
    -------
    How many ROIs there are.

    Raises
    ------
    ResultsError : results cannot be read, or the file not be written.
    """
    n = 0
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(f'<?xml version="1.0" encoding="UTF-8"?>\n<OME xmlns="{_OME}">\n')
        for n, (name, text, pieces) in enumerate(_drawn(folder, classes), start=1):
            shapes = "".join(
                _ome_shape(piece, f"Shape:{n}:{k}", text, _colour(name)) for k, piece in enumerate(pieces)
            )
            file.write(f'<ROI ID="ROI:{n}" Name={quoteattr(name)}><Union>{shapes}</Union></ROI>\n')
        file.write("</OME>\n")
    return n


def write_dsa(folder: Path, path: Path, classes: Sequence[str] = CELL_CLASSES) -> int:
    """Write cells and regions as one annotation of the Digital Slide Archive (large_image's schema).

    Parameters, return value and errors as in `write_ome_xml`; `path` is a `.json`.
    """
    summary = stored_summary(folder)
    head = {
        "name": "histo",
        "description": f"{summary.slide_id}: cells and regions ({summary.detector_name})",
    }
    n = 0
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head)[:-1] + ', "elements": [')
        for name, text, pieces in _drawn(folder, classes):
            for piece in pieces:
                element = json.dumps(_dsa_element(piece, name, text), separators=(",", ":"))
                file.write(f"{',' if n else ''}\n{element}")
                n += 1
        file.write("\n]}\n")
    return n


def _drawn(folder: Path, classes: Sequence[str]) -> Iterator[tuple[str, str, list[BaseGeometry]]]:
    """Yield what there is to draw: its class, its label, and its polygons and lines in level-0 pixels."""
    summary = stored_summary(folder)
    mpp = np.array([summary.image.mpp_x_um, summary.image.mpp_y_um])
    try:
        features = json.loads((folder / REGIONS_GEOJSON).read_bytes())["features"]
    except (OSError, ValueError, KeyError) as error:
        raise ResultsError(
            f"the regions cannot be read ({error})", path=folder / REGIONS_GEOJSON, fix="Run infer again"
        ) from None
    for feature in features:
        name = str(feature["properties"]["name"])
        yield name, name, list(shapely.get_parts(shapely.from_geojson(json.dumps(feature["geometry"]))))

    def rounded(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        in_px: NDArray[np.float64] = np.round(xy / mpp, _DECIMALS)
        return in_px

    for cells in iter_cells(folder / "cells.parquet", ["cell_id", "cell_class", GEOMETRY]):
        outlines = shapely.transform(cells[GEOMETRY].to_numpy(object), rounded)
        for cell_id, name, outline in zip(cells["cell_id"], cells["cell_class"], outlines, strict=True):
            if name in classes:
                yield name, f"{name} {cell_id}", [outline]


def _colour(name: str) -> tuple[int, int, int]:
    return (CLASS_COLOURS | REGION_COLOURS).get(name, (100, 100, 100))


def _ome_shape(piece: BaseGeometry, shape_id: str, text: str, colour: tuple[int, int, int]) -> str:
    """Return a polygon (its outer ring: the model has no holes) or a line."""
    red, green, blue = colour
    # 32 bits with sign: red, green, blue, opacity.
    stroke = int(np.array(red << 24 | green << 16 | blue << 8 | 255, np.uint32).astype(np.int32))
    kind, line = ("Polygon", piece.exterior) if isinstance(piece, Polygon) else ("Polyline", piece)
    points = " ".join(f"{x},{y}" for x, y in _vertices(line))
    return (
        f'<{kind} ID="{shape_id}" StrokeColor="{stroke}" Text={quoteattr(text)} TheZ="0" TheT="0" '
        f'Points="{points}"/>'
    )


def _dsa_element(piece: BaseGeometry, name: str, text: str) -> dict[str, Any]:
    def points(line: BaseGeometry) -> list[list[float]]:
        return [[x, y, 0] for x, y in _vertices(line)]

    closed = isinstance(piece, Polygon)
    element: dict[str, Any] = {
        "type": "polyline",
        "group": name,
        "label": {"value": text},
        "lineColor": "rgb({}, {}, {})".format(*_colour(name)),
        "lineWidth": 2,
        "closed": closed,
        "points": points(piece.exterior if isinstance(piece, Polygon) else piece),
    }
    if isinstance(piece, Polygon) and piece.interiors:
        element["holes"] = [points(hole) for hole in piece.interiors]
    return element


def _vertices(line: BaseGeometry) -> list[list[float]]:
    """Return the vertices of a line; of a ring without the last, which is the first again."""
    xy = shapely.get_coordinates(line)
    kept: list[list[float]] = (xy[:-1] if line.is_ring else xy).tolist()
    return kept
