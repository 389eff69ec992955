"""Measures of exclusion beside the densities: ratios to other tissue, inside the tumour, tile by tile."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from histo.config import MeasureConfig
from histo.measure.blocks import blocks_of
from histo.measure.density import PER_MM2, zone_density
from histo.measure.exclusion import (
    INFILTRATION,
    LOG2_RATIO,
    infiltration_fraction,
    log2_density_ratio,
)
from histo.measure.inflamed_tiles import INFLAMED_TILES, inflamed_tile_share
from histo.measure.points import Points
from histo.measure.summary import Estimate, Zone, ZoneSummary
from histo.regions.place import REGION_NAMES, ZONE_NAMES, Regions
from histo.regions.raster import pixels_under

_RESIDENT = {"portal": "portal tract", "vessel": "large vessel"}
_INSIDE = [ZONE_NAMES.index("core"), ZONE_NAMES.index("inner_margin")]
# A tile with less tumour than this share of it is left out.
_MIN_TILE_SHARE = 0.25
_MIN_TILES = 4


def exclusion_measures(
    points: Points, regions: Regions, zones: Mapping[Zone, ZoneSummary], config: MeasureConfig
) -> dict[str, Estimate]:
    """Return measures of exclusion by name; see `histo.measure.catalogue`.

    Parameters
    ----------
    points : the slide's cells in assessed tissue. regions : those in which they were placed.
    zones : what was counted in each zone.
    """
    if regions.not_assessable is not None:
        return {
            name: Estimate.missing(unit, regions.not_assessable)
            for name, unit in (
                ("infiltration_fraction", INFILTRATION),
                ("log2_core_far", LOG2_RATIO),
                ("log2_outer_far", LOG2_RATIO),
                ("log2_epithelium_stroma", LOG2_RATIO),
                *([("inflamed_tile_share", INFLAMED_TILES)] if config.inflamed_tiles else []),
            )
        }
    core, outer, far = zones["core"], zones["outer_margin"], zones["far"]
    offset = config.log_ratio_offset_per_mm2
    measures = {
        "infiltration_fraction": _infiltration(core, outer, config.confidence_level),
        "log2_core_far": log2_density_ratio(
            core.cd8_density, far.cd8_density, offset, names=("tumour core", "far tissue")
        ),
        "log2_outer_far": log2_density_ratio(
            outer.cd8_density, far.cd8_density, offset, names=("outer margin", "far tissue")
        ),
        "log2_epithelium_stroma": _epithelium_stroma(points, regions, config),
    }
    if config.inflamed_tiles:
        measures["inflamed_tile_share"] = _inflamed_tiles(points, regions, config)
    return measures


def apart_from_zones(points: Points, regions: Regions, config: MeasureConfig) -> dict[str, Estimate]:
    """Return densities of what is told beside the zones: the host margin, portal tracts, large vessels.

    The latter two are those in no zone, outside the tumour: their CD8+ cells are resident.
    """
    margin = regions.host_margin
    if margin.not_assessable is not None:
        measures = {"density_host_margin_per_mm2": Estimate.missing(PER_MM2, margin.not_assessable)}
    else:
        area = regions.host_margin_area_mm2 or 0.0
        cd8_x, cd8_y = points.x_um[points.is_cd8], points.y_um[points.is_cd8]
        on_grid, at = pixels_under(cd8_x, cd8_y, margin.mask.shape, regions.mpp)
        n = int(np.count_nonzero(on_grid & (margin.mask & regions.assessed)[at]))
        measures = {"density_host_margin_per_mm2": _density(n, area, config)}
    for name, area in regions.resident_area_mm2.items():
        held = points.is_cd8 & (points.region == REGION_NAMES.index(name)) & (points.zone == 0)
        known = f"density_{name}_per_mm2"
        if area == 0:
            measures[known] = Estimate.missing(PER_MM2, f"no {_RESIDENT[name]} marked outside the tumour")
        else:
            measures[known] = _density(int(held.sum()), area, config)
    return measures


def _density(n: int, area_mm2: float, config: MeasureConfig) -> Estimate:
    return zone_density(n, area_mm2, min_area_mm2=config.min_zone_area_mm2, level=config.confidence_level)


def _infiltration(core: ZoneSummary, outer: ZoneSummary, level: float) -> Estimate:
    for name, zone in (("tumour core", core), ("outer margin", outer)):
        if zone.cd8_density.not_assessable is not None:
            return Estimate.missing(INFILTRATION, f"{name}: {zone.cd8_density.not_assessable}")
    if core.n_cd8 is None or core.area_mm2 is None or outer.n_cd8 is None or outer.area_mm2 is None:
        raise ValueError("a density without counts and area")
    return infiltration_fraction(core.n_cd8, core.area_mm2, outer.n_cd8, outer.area_mm2, level)


def _epithelium_stroma(points: Points, regions: Regions, config: MeasureConfig) -> Estimate:
    """Return log2 of CD8+ density in tumour epithelium over that in tumour stroma, both inside the border."""
    inside = regions.assessed & np.isin(regions.zone_map, _INSIDE)
    if not (inside & (regions.region_map == REGION_NAMES.index("stroma"))).any():
        return Estimate.missing(LOG2_RATIO, "no stroma is marked inside the tumour")
    densities = []
    for name in ("tumour", "stroma"):
        code = REGION_NAMES.index(name)
        area = regions.area_mm2(inside & (regions.region_map == code))
        held = points.is_cd8 & (points.region == code) & np.isin(points.zone, _INSIDE)
        densities.append(_density(int(held.sum()), area, config))
    return log2_density_ratio(
        densities[0],
        densities[1],
        config.log_ratio_offset_per_mm2,
        names=("tumour epithelium", "tumour stroma"),
    )


def _inflamed_tiles(points: Points, regions: Regions, config: MeasureConfig) -> Estimate:
    code = REGION_NAMES.index("tumour")
    tumour = regions.assessed & (regions.region_map == code)
    held = points.is_cd8 & (points.region == code)
    tiles = blocks_of(
        points.x_um[held], points.y_um[held], regions.coverage * tumour, regions.mpp, config.tile_um
    )
    return inflamed_tile_share(
        tiles,
        config.phenotype_cutoff_per_mm2,
        min_area_mm2=_MIN_TILE_SHARE * config.tile_um**2 / 1e6,
        min_tiles=_MIN_TILES,
        level=config.confidence_level,
    )
