"""Regions and zones of a slide on the tissue grid, and the place of each cell in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import MultiLineString, MultiPolygon

from histo.config import RegionName, RegionsConfig
from histo.regions.annotations import Annotations
from histo.regions.border import SignedDistance, tumour_body, tumour_border
from histo.regions.distance import distance_map
from histo.regions.host import HostMargin, find_host_margin
from histo.regions.raster import paint, pixels_under, rasterise

# The codes of `Regions.region_map` and `Regions.zone_map` are places in these.
REGION_NAMES: Final = (
    "",
    "tumour",
    "stroma",
    "host",
    "necrosis",
    "exclude",
    "portal",
    "vessel",
    "rim",
    "other",
)
ZONE_NAMES: Final = ("", "core", "inner_margin", "outer_margin", "far")

# Not assessed, in the order in which they are drawn over the others.
_CUT_OUT: Final[tuple[RegionName, ...]] = ("necrosis", "exclude")
_NO_CODE: Final = 255
# Hold CD8+ cells of their own: outside the tumour in no zone.
_RESIDENT: Final[tuple[RegionName, ...]] = ("portal", "vessel")


@dataclass(frozen=True, eq=False)
class Regions:
    """Where things are on a slide: rasters (rows, columns) on one grid, and the tumour border as geometry.

    Pixels are the one measure of area: a cell lies in the zone and region of the pixel that holds its
    centroid, so that what is counted in a zone lies in the area of that zone. Where more area is found to be
    unread, give a smaller coverage: `dataclasses.replace(regions, coverage=...)`.

    mpp : um per pixel of all rasters.
    coverage : float32, share of the pixel's area that counts, 0 to 1.
    region_map : uint8, places in `REGION_NAMES`, whether there is tissue or not.
    assessed : tissue that is measured: assessed by quality control, neither necrosis nor excluded.
    excluded_area_mm2 : by cause (necrosis, exclude), area that annotations take from the assessed tissue.
    tumour : what the border goes round: tumour with gaps and holes filled; um in the slide's frame.
    border : tumour border, um in the slide's frame; None where zones cannot be assessed.
    border_length_um : its length, also where it is too short to be used.
    signed_distance_um : float32, distance of the pixel's centre to the border, negative inside the tumour;
        NaN outside tissue, where there is no border, and where tissue belongs to no zone and no profile
        (portal tracts and vessels outside the tumour, a rim beside its outline).
    zone_map : uint8, places in `ZONE_NAMES`; 0 outside assessed tissue, in what belongs to no zone, and where
        zones cannot be assessed.
    not_assessable : why there are no zones; None where there are.
    margins_um : widths of the inner and the outer margin.
    host_margin : host tissue along its border behind a rim.
    """

    mpp: float
    coverage: NDArray[np.float32]
    region_map: NDArray[np.uint8]
    assessed: NDArray[np.bool_]
    excluded_area_mm2: Mapping[RegionName, float]
    tumour: MultiPolygon
    border: MultiLineString | None
    border_length_um: float
    signed_distance_um: NDArray[np.float32]
    zone_map: NDArray[np.uint8]
    not_assessable: str | None
    margins_um: tuple[float, float]
    host_margin: HostMargin

    @property
    def assessed_area_mm2(self) -> float:
        """Area of assessed tissue."""
        return self.area_mm2(self.assessed)

    def without(self, unread: NDArray[np.bool_]) -> Regions:
        """Return the regions without pixels that could not be read: neither assessed nor in a zone."""
        return replace(
            self,
            assessed=self.assessed & ~unread,
            zone_map=np.where(unread, 0, self.zone_map).astype(np.uint8),
        )

    def area_mm2(self, mask: NDArray[np.bool_]) -> float:
        """Return the area of pixels, a (rows, columns) mask, as far as it counts."""
        return _area_mm2(mask, self.coverage, self.mpp)

    @property
    def zone_area_mm2(self) -> dict[str, float]:
        """Area of assessed tissue in each zone; empty where zones cannot be assessed."""
        if self.not_assessable is not None:
            return {}
        area = self._by_code(self.zone_map, ZONE_NAMES)
        return {name: area[name] for name in ZONE_NAMES if name}

    @property
    def resident_area_mm2(self) -> dict[str, float]:
        """Area of assessed portal tracts and vessels in no zone: those outside the tumour."""
        codes = np.where(self.assessed & (self.zone_map == 0), self.region_map, _NO_CODE)
        area = self._by_code(codes, REGION_NAMES)
        return {name: area[name] for name in _RESIDENT}

    @property
    def host_margin_area_mm2(self) -> float | None:
        """Area of assessed tissue in the host margin; None where there is none."""
        margin = self.host_margin
        if margin.not_assessable is not None:
            return None
        return _area_mm2(margin.mask & self.assessed, self.coverage, self.mpp)

    def signed_distance(self, x_um: NDArray[np.float64], y_um: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the signed distance of points to the border, from the geometry; NaN where there is none."""
        if self._distance is None:
            return np.full(len(x_um), np.nan, dtype=np.float32)
        return self._distance(x_um, y_um).astype(np.float32)

    def _by_code(self, codes: NDArray[Any], names: tuple[str, ...]) -> dict[str, float]:
        """Return the covered area in mm2 of each code."""
        weight = np.bincount(codes.ravel(), self.coverage.ravel(), len(names))
        return {name: float(weight[code]) * self.mpp**2 / 1e6 for code, name in enumerate(names)}

    @cached_property
    def _distance(self) -> SignedDistance | None:
        # Made once: cells come tile by tile.
        return None if self.border is None else SignedDistance.of(self.border, self.tumour)


@dataclass(frozen=True, eq=False)
class CellPlace:
    """The place of cells: arrays of one length, as in the cell table."""

    region: NDArray[np.object_]
    zone: NDArray[np.object_]
    signed_distance_um: NDArray[np.float32]
    in_tissue: NDArray[np.bool_]


def place_regions(
    annotations: Annotations | None,
    *,
    tissue: NDArray[np.bool_],
    assessed: NDArray[np.bool_],
    coverage: NDArray[np.float32],
    mpp: float,
    config: RegionsConfig,
) -> Regions:
    """Lay annotations over the tissue and divide it into zones by the distance to the tumour border.

    Zones by the signed distance d, negative inside the tumour: core d < -inner_margin_um, inner margin
    -inner_margin_um <= d < 0, outer margin 0 <= d < outer_margin_um, far beyond, to `far_limit_um` where one
    is given. Stroma and lumina inside the tumour belong to the zone they lie in. Portal tracts and large
    vessels outside it belong to none: their CD8+ cells are resident. An outline drawn a little too far inside
    leaves a rim along the edge of the tissue; it is far from the border and yet no far tissue, and belongs to
    no zone. Where annotated regions overlap, the smaller outline lies on top, necrosis and exclude above all.

    Parameters
    ----------
    annotations : None where the slide has none.
    tissue : (rows, columns), all tissue.
    assessed : (rows, columns), the part of it that passed quality control.
    coverage : (rows, columns), share of each pixel's area that counts (less than 1 at the slide's edge).
    mpp : um per pixel of the grid.
    """
    polygons = {} if annotations is None else dict(annotations.polygons_um)
    region_map = _region_map(polygons, tissue.shape, mpp)
    cut_out = {name: assessed & (region_map == REGION_NAMES.index(name)) for name in _CUT_OUT}
    excluded = {name: _area_mm2(mask, coverage, mpp) for name, mask in cut_out.items()}
    counted = assessed & ~cut_out["necrosis"] & ~cut_out["exclude"]
    tumour = polygons.get("tumour", MultiPolygon())
    gap_um = config.border_tissue_within_um
    body = tumour_body(tumour, polygons.get("host", MultiPolygon()), gap_um)
    border = tumour_border(body, counted, mpp, gap_um)
    reason = _why_not(annotations, region_map, counted, border, config)
    if reason is None:
        reach_um = max(config.inner_margin_um, config.outer_margin_um, config.far_limit_um or 0.0)
        signed = distance_map(SignedDistance.of(border, body), tissue, mpp, reach_um)
        signed[_rim(body, signed, mpp, gap_um)] = np.nan
        resident = np.isin(region_map, [REGION_NAMES.index(name) for name in _RESIDENT])
        signed[resident & (signed >= 0)] = np.nan
    else:
        signed = np.full(tissue.shape, np.nan, dtype=np.float32)
    return Regions(
        mpp=mpp,
        coverage=coverage,
        region_map=region_map,
        assessed=counted,
        excluded_area_mm2=excluded,
        tumour=body,
        border=border if reason is None else None,
        border_length_um=float(border.length),
        signed_distance_um=signed,
        zone_map=_zone_map(signed, counted, config),
        not_assessable=reason,
        margins_um=(config.inner_margin_um, config.outer_margin_um),
        host_margin=find_host_margin(
            polygons.get("host", MultiPolygon()),
            polygons.get("rim", MultiPolygon()),
            body,
            counted=counted,
            host_pixels=counted & (region_map == REGION_NAMES.index("host")),
            mpp=mpp,
            config=config,
        ),
    )


def place_cells(regions: Regions, x_um: NDArray[np.float64], y_um: NDArray[np.float64]) -> CellPlace:
    """Return the place of cells by their centroids, um in the slide's frame.

    Region, zone and tissue are those of the grid pixel that holds the centroid; the signed distance comes
    from the geometry. The two can disagree on the side of a limit only for a cell less than half a pixel's
    diagonal away from it.
    """
    x_um, y_um = np.asarray(x_um, dtype=np.float64), np.asarray(y_um, dtype=np.float64)
    on_grid, at = pixels_under(x_um, y_um, regions.assessed.shape, regions.mpp)
    return CellPlace(
        region=_names(REGION_NAMES)[np.where(on_grid, regions.region_map[at], 0)],
        zone=_names(ZONE_NAMES)[np.where(on_grid, regions.zone_map[at], 0)],
        signed_distance_um=np.where(
            on_grid & regions.assessed[at] & np.isnan(regions.signed_distance_um[at]),
            np.float32(np.nan),
            regions.signed_distance(x_um, y_um),
        ),
        in_tissue=on_grid & regions.assessed[at],
    )


def _names(names: tuple[str, ...]) -> NDArray[np.object_]:
    return np.array(names, dtype=object)


def _area_mm2(mask: NDArray[np.bool_], coverage: NDArray[np.float32], mpp: float) -> float:
    return float(coverage[mask].sum(dtype=np.float64)) * mpp**2 / 1e6


def _region_map(
    polygons: Mapping[RegionName, MultiPolygon], shape: tuple[int, ...], mpp: float
) -> NDArray[np.uint8]:
    region_map = np.zeros(shape, dtype=np.uint8)
    pieces = [
        (-piece.area, REGION_NAMES.index(name), piece)
        for name, region in polygons.items()
        if name not in _CUT_OUT
        for piece in region.geoms
    ]
    for _, code, piece in sorted(pieces, key=lambda piece: piece[:2]):
        paint(region_map, piece, mpp, code)
    for name in _CUT_OUT:
        paint(region_map, polygons.get(name, MultiPolygon()), mpp, REGION_NAMES.index(name))
    return region_map


def _why_not(
    annotations: Annotations | None,
    region_map: NDArray[np.uint8],
    counted: NDArray[np.bool_],
    border: MultiLineString,
    config: RegionsConfig,
) -> str | None:
    """Return why zones cannot be assessed, None where they can."""
    if annotations is None:
        return "no annotations: the tumour border is not known"
    if "tumour" not in annotations.polygons_um:
        return annotations.why_no_tumour
    if not (counted & (region_map == REGION_NAMES.index("tumour"))).any():
        return "the tumour holds no assessed tissue"
    if border.length == 0:
        return "no tumour border: no other tissue lies outside the tumour"
    if border.length < config.min_border_length_um:
        return (
            f"too little tumour border: {border.length:.0f} um against other tissue, "
            f"{config.min_border_length_um:.0f} um needed"
        )
    return None


def _rim(body: MultiPolygon, signed: NDArray[np.float32], mpp: float, gap_um: float) -> NDArray[np.bool_]:
    """Return tissue that lies close outside the tumour's outline, where that is no border."""
    close = rasterise(body.buffer(gap_um), signed.shape, mpp) & ~rasterise(body, signed.shape, mpp)
    # Close to a border, the distance to it is small too; beyond its ends it grows slowly.
    rim: NDArray[np.bool_] = close & (signed > 2 * gap_um)
    return rim


def _zone_map(
    signed: NDArray[np.float32], counted: NDArray[np.bool_], config: RegionsConfig
) -> NDArray[np.uint8]:
    zone_map = np.zeros(signed.shape, dtype=np.uint8)
    known = counted & ~np.isnan(signed)
    limits = np.array([-config.inner_margin_um, 0.0, config.outer_margin_um], dtype=np.float32)
    zone_map[known] = np.searchsorted(limits, signed[known], side="right") + 1
    if config.far_limit_um is not None:
        zone_map[known & (signed >= config.far_limit_um)] = 0
    return zone_map
