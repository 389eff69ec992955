"""What an annotation file holds, whatever its format: closed outlines with the names that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

# No slide has so many pixels; the geometry of larger numbers overflows.
_MAX_PX = 1e9
# Vertices of a polygon that stands for an ellipse: its area is 0.04 % short.
ELLIPSE_VERTICES = 128


@dataclass(frozen=True)
class Shape:
    """A closed outline, or a line, as the file has it.

    names : what may say its class, the most specific first; the first one that the configuration maps counts.
    geometry : polygon or multipolygon, perhaps invalid, or line, in level-0 pixels of the slide's frame.
    """

    names: tuple[str, ...]
    geometry: BaseGeometry


@dataclass(frozen=True)
class Drawing:
    """The content of an annotation file.

    shapes : closed outlines. ignored : how many things in it are no regions, by kind. lines : those of them
    that are lines (GeoJSON only): no regions, but scribbles for the tissue classifier.
    """

    shapes: tuple[Shape, ...]
    ignored: dict[str, int]
    lines: tuple[Shape, ...] = ()


def vertices(points: ArrayLike) -> NDArray[np.float64]:
    """Return points as an (n, 2) array; further columns (z) are dropped.

    Raises ValueError for anything else than a list of finite pairs of pixels, OverflowError for integers that
    no float holds.
    """
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] < 2:
        raise ValueError("coordinates are not a list of x, y pairs")
    array = array[:, :2]
    if not np.isfinite(array).all():
        raise ValueError("coordinates are not finite")
    if (np.abs(array) > _MAX_PX).any():
        raise ValueError(f"coordinates beyond {_MAX_PX:.0e} px")
    return array


def polygon(outline: ArrayLike, holes: Sequence[ArrayLike] = ()) -> Polygon | None:
    """Make a polygon; None where the outline has fewer than 3 distinct vertices, such holes are dropped."""
    shell = vertices(outline)
    if not _encloses(shell):
        return None
    return Polygon(shell, [hole for hole in map(vertices, holes) if _encloses(hole)])


def ellipse(corner: ArrayLike, opposite: ArrayLike) -> Polygon | None:
    """Make the polygon of an ellipse from two opposite corners (x, y) of its bounding box."""
    a, b = np.asarray(corner, dtype=np.float64), np.asarray(opposite, dtype=np.float64)
    angle = np.linspace(0, 2 * pi, ELLIPSE_VERTICES, endpoint=False)
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return polygon((a + b) / 2 + unit * (b - a) / 2)


def rectangle(corner: ArrayLike, opposite: ArrayLike) -> Polygon | None:
    """Make the polygon of an upright rectangle from two opposite corners (x, y)."""
    (x0, y0), (x1, y1) = np.asarray(corner, dtype=np.float64), np.asarray(opposite, dtype=np.float64)
    return polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def repair(geometry: BaseGeometry) -> MultiPolygon:
    """Return the valid area of a geometry; what an outline encloses twice is kept.

    Zero-width spikes and lines vanish; the result may be empty.
    """
    if not geometry.is_valid:
        geometry = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
    return as_multipolygon(geometry)


def as_multipolygon(geometry: BaseGeometry) -> MultiPolygon:
    """Return the polygons of any geometry; lines and points in it are dropped."""
    if isinstance(geometry, MultiPolygon):
        return geometry
    if isinstance(geometry, Polygon):
        return MultiPolygon([] if geometry.is_empty else [geometry])
    parts = [as_multipolygon(part) for part in shapely.get_parts(geometry) if part is not geometry]
    found = [piece for part in parts if shapely.get_dimensions(part) == 2 for piece in part.geoms]
    return as_multipolygon(shapely.union_all(found)) if found else MultiPolygon()


def _encloses(ring: NDArray[np.float64]) -> bool:
    return len(ring) >= 3 and len(np.unique(ring, axis=0)) >= 3
