"""The window in which points are observed: a polygon with holes, or a mask of tissue. Never a bounding box.

Both kinds know their area, which points they hold, how far points are from their edge, and how much of
themselves they overlap when shifted, which is all that edge corrections need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon, box

from histo.errors import PointsError
from histo.regions.border import segments
from histo.regions.raster import pixels_under
from histo.regions.shapes import as_multipolygon

# Shifts dx, dy in um, (n,) each, to areas in um2, (n,).
Overlap = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class PolygonWindow:
    """A window bounded by polygons, holes cut out; um. Its edge belongs to it.

    Raises PointsError where the polygons are invalid or empty.
    """

    polygon: MultiPolygon

    def __post_init__(self) -> None:
        if not self.polygon.is_valid:
            raise PointsError(
                f"the window is no valid polygon: {shapely.is_valid_reason(self.polygon)}",
                fix="Repair it first, for instance with shapely.make_valid.",
            )
        if self.polygon.area == 0:
            raise PointsError("the window is empty", fix="Give a polygon with an area.")

    @classmethod
    def of(cls, polygon: Polygon | MultiPolygon) -> PolygonWindow:
        """Make a window of a polygon or several."""
        return cls(as_multipolygon(polygon))

    @classmethod
    def rectangle(cls, x0_um: float, y0_um: float, x1_um: float, y1_um: float) -> PolygonWindow:
        """Make an upright rectangle from two opposite corners."""
        return cls.of(box(min(x0_um, x1_um), min(y0_um, y1_um), max(x0_um, x1_um), max(y0_um, y1_um)))

    @property
    def area_um2(self) -> float:
        """Area without the holes."""
        return float(self.polygon.area)

    def contains(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which points (n, 2) lie in the window."""
        shapely.prepare(self.polygon)
        inside: NDArray[np.bool_] = shapely.intersects_xy(self.polygon, points[:, 0], points[:, 1])
        return inside

    def border_distance_um(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance of each point (n, 2) to the nearest edge, outer or of a hole; exact."""
        distance = np.empty(len(points))
        index, found = self._edge_tree.query_nearest(
            shapely.points(points), return_distance=True, all_matches=False
        )
        distance[index[0]] = found
        return distance

    def overlap(self, reach_um: float) -> Overlap:
        """Return what gives the area that the window shares with itself shifted by (dx, dy); exact.

        A rectangle has a formula; for other polygons each shift is an overlay of its own (some 40,000 a
        second for a simple outline), so that a `MaskWindow` serves many points better.

        Parameters
        ----------
        reach_um : the longest shift that will be asked for.
        """
        if np.isclose(box(*self.polygon.bounds).area, self.area_um2, rtol=1e-12, atol=0):
            return self._overlap_of_rectangle
        return self._overlap_of_polygon

    def _overlap_of_rectangle(
        self, dx_um: NDArray[np.float64], dy_um: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        x0, y0, x1, y1 = self.polygon.bounds
        width, height = np.clip(x1 - x0 - np.abs(dx_um), 0, None), np.clip(y1 - y0 - np.abs(dy_um), 0, None)
        area: NDArray[np.float64] = width * height
        return area

    def _overlap_of_polygon(
        self, dx_um: NDArray[np.float64], dy_um: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        area = np.empty(len(dx_um))
        for k, (dx, dy) in enumerate(zip(dx_um, dy_um, strict=True)):
            area[k] = self.polygon.intersection(translate(self.polygon, dx, dy)).area
        return area

    @cached_property
    def edges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Start and end, each (n, 2), of all edges, with the window on their left (x to y turns left)."""
        oriented = shapely.orient_polygons(self.polygon, exterior_cw=False)
        return segments(shapely.get_rings(shapely.get_parts(oriented)))

    @cached_property
    def _edge_tree(self) -> shapely.STRtree:
        lines: Any = shapely.linestrings(np.stack(self.edges, axis=1))
        return shapely.STRtree(lines)


@dataclass(frozen=True, eq=False)
class MaskWindow:
    """A window made of the pixels of a raster, such as the assessed tissue of a slide.

    mask : bool (rows, columns); pixel (i, j) covers [j, j + 1) x [i, i + 1) times `mpp` um.
    mpp : um per pixel.

    Raises PointsError for a mask that is empty or no raster, and for a pixel size that is none.
    """

    mask: NDArray[np.bool_]
    mpp: float

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise PointsError(
                f"a mask of shape {self.mask.shape} and type {self.mask.dtype}",
                fix="Give a bool array (rows, columns).",
            )
        if not (np.isfinite(self.mpp) and self.mpp > 0):
            raise PointsError(f"a pixel size of {self.mpp} um", fix="Give the um per pixel of the mask.")
        if not self.mask.any():
            raise PointsError("the window is empty", fix="Give a mask that holds tissue.")

    @cached_property
    def area_um2(self) -> float:
        """Area of the pixels."""
        return int(np.count_nonzero(self.mask)) * self.mpp**2

    def contains(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which points (n, 2) lie in a pixel of the mask."""
        on_grid, under = pixels_under(points[:, 0], points[:, 1], self.mask.shape, self.mpp)
        inside: NDArray[np.bool_] = on_grid & self.mask[under]
        return inside

    def border_distance_um(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance of each point (n, 2) of the window to the nearest pixel outside of it.

        The distance is that to the square of the pixel that is nearest to the centre of the pixel under the
        point, so it is never too small and at most about a pixel too large. The raster's edge is an edge of
        the window.
        """
        _, (row, column) = pixels_under(points[:, 0], points[:, 1], self.mask.shape, self.mpp)
        outside_row, outside_column = self._nearest_outside
        low = np.stack([outside_column[row, column], outside_row[row, column]], axis=1) * self.mpp
        gap = np.maximum(np.maximum(low - points, points - low - self.mpp), 0)
        distance: NDArray[np.float64] = np.hypot(gap[:, 0], gap[:, 1])
        return distance

    def overlap(self, reach_um: float) -> Overlap:
        """Return what gives the area that the window shares with itself shifted by (dx, dy); exact.

        The overlap of a set of pixels is bilinear between shifts by whole pixels, so it is counted for those
        and interpolated.

        Parameters
        ----------
        reach_um : the longest shift that will be asked for.
        """
        reach = int(reach_um / self.mpp) + 1
        table = self._overlaps(reach)

        def overlap(dx_um: NDArray[np.float64], dy_um: NDArray[np.float64]) -> NDArray[np.float64]:
            # A shift and its opposite overlap alike: the table holds shifts to the right only.
            x, y = np.abs(dx_um) / self.mpp, np.where(dx_um < 0, -dy_um, dy_um) / self.mpp + reach
            j, i = x.astype(np.int64), y.astype(np.int64)
            fx, fy = x - j, y - i
            upper = (1 - fx) * table[i, j] + fx * table[i, j + 1]
            lower = (1 - fx) * table[i + 1, j] + fx * table[i + 1, j + 1]
            area: NDArray[np.float64] = (1 - fy) * upper + fy * lower
            return area

        return overlap

    def _overlaps(self, reach: int) -> NDArray[np.float64]:
        """Return the overlap in um2 for shifts by -reach..reach rows (one more is 0) and 0..reach columns."""
        rows, columns = self.mask.shape
        table = np.zeros((2 * reach + 2, reach + 2))
        for right in range(min(reach + 1, columns)):
            # Eight pixels a byte, so that a shift is one quick pass.
            still, moved = _packed(self.mask[:, : columns - right]), _packed(self.mask[:, right:])
            for down in range(max(-reach, 1 - rows), min(reach, rows - 1) + 1):
                pair = (still[: rows - down], moved[down:]) if down >= 0 else (still[-down:], moved[:down])
                table[reach + down, right] = np.bitwise_count(pair[0] & pair[1]).sum(dtype=np.int64)
        table *= self.mpp**2
        return table

    @cached_property
    def _nearest_outside(self) -> NDArray[np.int32]:
        """Row and column, (2, rows, columns), of the nearest pixel outside; it may lie beside the raster."""
        found: NDArray[np.int32] = distance_transform_edt(
            np.pad(self.mask, 1), return_distances=False, return_indices=True
        )
        found -= 1
        return found[:, 1:-1, 1:-1]


Window = PolygonWindow | MaskWindow


def check_inside(points: NDArray[np.float64], window: Window, what: str) -> None:
    """Raise PointsError where points lie outside the window."""
    n_outside = int((~window.contains(points)).sum())
    if n_outside:
        raise PointsError(
            f"{n_outside} of {len(points)} {what} lie outside the window",
            fix="Keep only the points for which window.contains is true.",
        )


def _packed(mask: NDArray[np.bool_]) -> NDArray[np.uint64]:
    bits = np.packbits(mask, axis=1)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)
