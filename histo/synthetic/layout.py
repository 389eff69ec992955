"""Where tissue and tumour lie on a rendered slide, and how far everything is from the tumour border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry import MultiLineString, MultiPolygon, Polygon

from histo.regions.border import SignedDistance
from histo.regions.raster import rasterise
from histo.regions.shapes import as_multipolygon
from histo.slide.geometry import Box
from histo.synthetic.noise import FloatArray, as_float, noise

# From inside to outside; limits at -500, 0 and 500 um.
ZONES = ("core", "inner_margin", "outer_margin", "far")
ZONE_WIDTH_UM = 500.0
# Closer to the edge of the tissue than this, a tumour's outline has no host tissue outside.
_EDGE_UM = 40.0
# Correlation length of nests and strands.
_NEST_UM = 24.0


def zone_of(signed_distance_um: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return the place in `ZONES` for signed distances to the border, negative inside the tumour."""
    zone: NDArray[np.intp] = np.digitize(signed_distance_um, [-ZONE_WIDTH_UM, 0.0, ZONE_WIDTH_UM])
    return zone


@dataclass(frozen=True)
class Layout:
    """The geometry of one slide, um.

    tissue, tumour, host : tumour and host make up the tissue. border : stretches of the tumour's outline with
    host outside. zone_area_mm2 : of tissue, as in `ZONES`. rasters : (3, rows, columns), one every step_um:
    signed distance into tissue and into tumour, um, and smooth noise of unit variance that shapes nests.
    """

    size_um: tuple[float, float]
    tissue: MultiPolygon
    tumour: MultiPolygon
    host: MultiPolygon
    border: MultiLineString
    zone_area_mm2: tuple[float, float, float, float]
    distance: SignedDistance
    step_um: float
    rasters: FloatArray

    def signed_distance(self, x_um: FloatArray, y_um: FloatArray) -> NDArray[np.float64]:
        """Return the distance to the tumour border, negative inside the tumour."""
        return self.distance(np.asarray(x_um, np.float64), np.asarray(y_um, np.float64))

    def at(self, x_um: FloatArray, y_um: FloatArray) -> FloatArray:
        """Return the rasters at points: (3, n)."""
        # Raster pixels are centred on multiples of the step, from minus one on.
        row, down = self._steps(y_um, self.rasters.shape[1])
        column, right = self._steps(x_um, self.rasters.shape[2])
        top = self.rasters[:, row, column] * (1 - right) + self.rasters[:, row, column + 1] * right
        low = self.rasters[:, row + 1, column] * (1 - right) + self.rasters[:, row + 1, column + 1] * right
        return as_float(top * (1 - down) + low * down)

    def window(self, box: Box, mpp: float) -> FloatArray:
        """Return the rasters for the pixels of a window: (3, H, W)."""
        first_row, down = self._steps((np.arange(box.y, box.bottom) + 0.5) * mpp, self.rasters.shape[1])
        first_column, right = self._steps((np.arange(box.x, box.right) + 0.5) * mpp, self.rasters.shape[2])
        # Columns first, on the few raster rows of the window.
        part = self.rasters[:, first_row[0] : first_row[-1] + 2]
        part = part[:, :, first_column] * (1 - right) + part[:, :, first_column + 1] * right
        row = first_row - first_row[0]
        down = down[:, None]
        return as_float(part[:, row] * (1 - down) + part[:, row + 1] * down)

    def _steps(self, position_um: NDArray[Any], size: int) -> tuple[NDArray[np.intp], FloatArray]:
        steps = position_um / self.step_um + 1
        first = np.clip(np.floor(steps).astype(np.intp), 0, size - 2)
        return first, np.clip(steps - first, 0, 1).astype(np.float32)


def draw_layout(
    rng: np.random.Generator,
    size_um: tuple[float, float],
    margin_um: float,
    tumour: Literal["side", "nodule"],
    fraction: float,
) -> Layout:
    """Draw an irregular piece of tissue and an irregular tumour in it."""
    width, height = size_um
    frame = shapely.box(margin_um, margin_um, width - margin_um, height - margin_um)
    tissue = _irregular(rng, frame, margin_um)
    if tumour == "side":
        y = np.linspace(-200, height + 200, max(60, int(height / 15)))
        swing = 0.06 * min(width, height)
        x = margin_um + fraction * (width - 2 * margin_um) + _waves(rng, y / height, swing)
        outline = Polygon([(-200, -200), *zip(x, y, strict=True), (-200, height + 200)])
    else:
        angle = np.linspace(0, 2 * np.pi, max(120, int(fraction * max(size_um) / 5)), endpoint=False)
        wave = 1 + _waves(rng, angle / (2 * np.pi), 0.12, whole=True)
        half = fraction / 2 * (width - 2 * margin_um), fraction / 2 * (height - 2 * margin_um)
        outline = Polygon(
            np.column_stack(
                [width / 2 + half[0] * wave * np.cos(angle), height / 2 + half[1] * wave * np.sin(angle)]
            )
        )
    tumour_area = as_multipolygon(shapely.make_valid(outline).intersection(tissue))
    host = as_multipolygon(tissue.difference(tumour_area))
    border = tumour_area.boundary.intersection(tissue.buffer(-_EDGE_UM))
    lines = MultiLineString([line for line in shapely.get_parts(border) if line.geom_type == "LineString"])
    distance = SignedDistance.of(lines, tumour_area)
    step = 4.0 if width * height <= 1e8 else 8.0
    shape = int(height / step) + 4, int(width / step) + 4
    return Layout(
        size_um=size_um,
        tissue=tissue,
        tumour=tumour_area,
        host=host,
        border=lines,
        zone_area_mm2=_zone_areas(tissue, distance, size_um),
        distance=distance,
        step_um=step,
        rasters=np.stack(
            [
                _inside_um(tissue, shape, step),
                _inside_um(as_multipolygon(shapely.make_valid(outline)), shape, step),
                noise(
                    Box(0, 0, shape[1], shape[0]),
                    _NEST_UM / step,
                    (int(rng.integers(1024)), int(rng.integers(1024))),
                    20,
                ),
            ]
        ),
    )


def _waves(
    rng: np.random.Generator, t: NDArray[np.float64], amplitude: float, *, whole: bool = False
) -> NDArray[np.float64]:
    """Sum of sines over t in 0..1, weaker the faster; `whole` makes it periodic."""
    total = np.zeros_like(t)
    for order in range(1, 13):
        cycles = order if whole else order * rng.uniform(0.75, 1.25)
        total += amplitude / order * rng.normal() * np.sin(2 * np.pi * (cycles * t + rng.random())) * 0.7
    return total


def _irregular(rng: np.random.Generator, box: Polygon, margin_um: float) -> MultiPolygon:
    """Round a rectangle's corners and fray its outline inwards."""
    radius = 0.12 * min(box.bounds[2] - box.bounds[0], box.bounds[3] - box.bounds[1])
    outline = box.buffer(-radius).buffer(radius, quad_segs=16)
    ring = np.asarray(shapely.segmentize(outline, 10.0).exterior.coords)[:-1]
    t = np.arange(len(ring)) / len(ring)
    inwards = np.abs(_waves(rng, t, 0.35 * radius, whole=True)) + _waves(rng, 9 * t % 1, 3.0, whole=True)
    centre = np.asarray(outline.centroid.coords[0])
    towards = centre - ring
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    moved = Polygon(ring + towards * np.clip(inwards, -0.3 * margin_um, 0.8 * radius)[:, None])
    parts = as_multipolygon(shapely.make_valid(moved))
    largest = max(parts.geoms, key=lambda part: part.area)
    return MultiPolygon([Polygon(largest.exterior)])


def _inside_um(area: MultiPolygon, shape: tuple[int, int], step: float) -> FloatArray:
    """Distance into an outline on a raster whose pixel (1, 1) is centred on the origin."""
    # `rasterise` looks at pixel centres half a step in.
    moved = shapely.transform(area, lambda xy: xy + 1.5 * step)
    mask = rasterise(moved, shape, step)
    inside = ndimage.distance_transform_edt(mask) - 0.5
    outside = ndimage.distance_transform_edt(~mask) - 0.5
    signed = np.where(mask, inside, -outside).astype(np.float32)
    # Distances to pixel centres are stepped; a slight blur makes the outline run between them.
    return ndimage.gaussian_filter(signed, 1.0) * np.float32(step)


def _zone_areas(
    tissue: MultiPolygon, distance: SignedDistance, size_um: tuple[float, float]
) -> tuple[float, float, float, float]:
    # Some 400,000 points, or one every 4 um.
    step = max(4.0, float(np.sqrt(size_um[0] * size_um[1] / 400_000)))
    shape = int(np.ceil(size_um[1] / step)), int(np.ceil(size_um[0] / step))
    rows, columns = np.nonzero(rasterise(tissue, shape, step))
    x, y = np.asarray(columns, np.float64) + 0.5, np.asarray(rows, np.float64) + 0.5
    zone = zone_of(distance(x * step, y * step))
    counts = np.bincount(zone, minlength=len(ZONES)) * step**2 / 1e6
    core, inner, outer, far = (float(count) for count in counts)
    return core, inner, outer, far
