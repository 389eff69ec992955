"""The measures of one slide, from its counts and its areas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histo.config import MeasureConfig
from histo.measure.block_bootstrap import block_bootstrap_density
from histo.measure.blocks import blocks_of
from histo.measure.density import FRACTION, PER_MM2, poisson_density, wilson_fraction, zone_density
from histo.measure.exclusion import LOG2_RATIO, PHENOTYPE_RULE, kather_phenotype, log2_density_ratio
from histo.measure.further import apart_from_zones, exclusion_measures
from histo.measure.points import Points
from histo.measure.spatial.slide import spatial_measures
from histo.measure.summary import ZONES, DistanceBin, Estimate, ExclusionSummary, Zone, ZoneSummary
from histo.measure.tally import Tally
from histo.regions.place import REGION_NAMES, ZONE_NAMES, Regions

# The profile reaches this far to either side of the border.
PROFILE_REACH_UM = 1500.0


@dataclass(frozen=True)
class SlideMeasures:
    """The measures of one slide, named as in `SlideSummary`."""

    n_cells: int
    n_cd8: int
    n_cells_outside_assessed_tissue: int
    cd8_density: Estimate
    cd8_fraction: Estimate
    zones: dict[Zone, ZoneSummary]
    exclusion: ExclusionSummary
    distance_profile: list[DistanceBin] | None
    measures: dict[str, Estimate]


def measure_slide(
    tally: Tally, points: Points, regions: Regions, *, tissue_area_mm2: float, config: MeasureConfig
) -> SlideMeasures:
    """Turn cells and areas into densities, fractions, exclusion, the distance profile and spatial measures.

    Parameters
    ----------
    tally : counts of all cells of the slide. points : those in assessed tissue.
    regions : the regions in which they were counted; their coverage already without unread area.
    tissue_area_mm2 : area of all tissue found, assessed or not: tells an empty slide from an unusable one.
    """
    level = config.confidence_level
    area = regions.assessed_area_mm2
    if area > 0:
        density = poisson_density(tally.n_cd8, area, level)
        fraction = wilson_fraction(tally.n_cd8, tally.n_cells, level)
    else:
        found = tissue_area_mm2 > 0
        reason = "no assessed tissue: all was excluded or unread" if found else "no tissue found"
        density, fraction = Estimate.missing(PER_MM2, reason), Estimate.missing(FRACTION, reason)
    zones = {zone: _zone(zone, tally, points, regions, config) for zone in ZONES}
    core, outer = zones["core"].cd8_density, zones["outer_margin"].cd8_density
    phenotype, why_not = kather_phenotype(core, outer, config.phenotype_cutoff_per_mm2)
    if regions.not_assessable is not None:
        why_not = regions.not_assessable
        ratio = Estimate.missing(LOG2_RATIO, regions.not_assessable)
    else:
        ratio = log2_density_ratio(
            core, outer, config.log_ratio_offset_per_mm2, names=("tumour core", "outer margin")
        )
    measures = exclusion_measures(points, regions, zones, config)
    measures |= apart_from_zones(points, regions, config)
    if config.spatial:
        measures |= _spatial(points, regions, config)
    return SlideMeasures(
        n_cells=tally.n_cells,
        n_cd8=tally.n_cd8,
        n_cells_outside_assessed_tissue=tally.n_outside,
        cd8_density=density,
        cd8_fraction=fraction,
        zones=zones,
        exclusion=ExclusionSummary(
            border_length_um=regions.border_length_um if regions.border_length_um > 0 else None,
            inner_margin_um=regions.margins_um[0],
            outer_margin_um=regions.margins_um[1],
            log2_core_outer=ratio,
            phenotype=phenotype,
            phenotype_not_assessable=why_not,
            phenotype_rule=PHENOTYPE_RULE,
            phenotype_cutoff_per_mm2=config.phenotype_cutoff_per_mm2,
        ),
        distance_profile=distance_profile(tally, regions, level),
        measures=measures,
    )


def distance_profile(tally: Tally, regions: Regions, level: float) -> list[DistanceBin] | None:
    """Return the density of CD8+ cells by signed distance to the tumour border.

    Each bin's area is that of the assessed pixels whose centre lies in it, never a ring computed from the
    border's length. Bins are as wide as the tally's and reach up to 1.5 mm to either side; the outermost ones
    without area are left out.

    Returns
    -------
    Bins from the inside outwards; None where zones cannot be assessed.
    """
    if regions.not_assessable is not None:
        return None
    width = tally.profile_bin_um
    half = int(PROFILE_REACH_UM / width)
    counted = regions.assessed & (np.abs(regions.signed_distance_um) < half * width)
    index = np.floor(regions.signed_distance_um[counted] / width).astype(np.int64) + half
    weight = np.bincount(index, regions.coverage[counted], 2 * half)
    area_mm2 = weight * regions.mpp**2 / 1e6
    with_area = np.flatnonzero(area_mm2)
    if len(with_area) == 0:
        return []
    return [
        DistanceBin(
            low_um=(k - half) * width,
            high_um=(k - half + 1) * width,
            n_cd8=tally.cd8_in_bin(k - half),
            area_mm2=float(area_mm2[k]),
            cd8_density=poisson_density(tally.cd8_in_bin(k - half), float(area_mm2[k]), level),
        )
        for k in range(int(with_area[0]), int(with_area[-1]) + 1)
    ]


def _spatial(points: Points, regions: Regions, config: MeasureConfig) -> dict[str, Estimate]:
    found = spatial_measures(
        points.x_um,
        points.y_um,
        points.is_cd8,
        points.region == REGION_NAMES.index("tumour"),
        regions.assessed,
        regions.mpp,
        None if regions.not_assessable is not None else regions.signed_distance_um,
        n_permutations=config.permutations,
    )
    # These are points in tissue: none lies off it.
    return {name: estimate for name, estimate in found.items() if name != "cells_off_tissue"}


def _zone(zone: Zone, tally: Tally, points: Points, regions: Regions, config: MeasureConfig) -> ZoneSummary:
    if regions.not_assessable is not None:
        missing = Estimate.missing(PER_MM2, regions.not_assessable)
        return ZoneSummary(
            n_cells=None,
            n_cd8=None,
            area_mm2=None,
            cd8_density=missing,
            cd8_density_by_blocks=missing,
            cd8_fraction=Estimate.missing(FRACTION, regions.not_assessable),
        )
    level = config.confidence_level
    n_cells, n_cd8 = tally.in_zone(zone)
    area = regions.zone_area_mm2[zone]
    density = zone_density(n_cd8, area, min_area_mm2=config.min_zone_area_mm2, level=level)
    if density.value is not None and n_cells < config.min_zone_cells:
        reason = f"only {n_cells} cells in this zone, {config.min_zone_cells} needed"
        density = Estimate.missing(PER_MM2, reason)
    return ZoneSummary(
        n_cells=n_cells,
        n_cd8=n_cd8,
        area_mm2=area,
        cd8_density=density,
        cd8_density_by_blocks=_by_blocks(density, zone, points, regions, config),
        cd8_fraction=wilson_fraction(n_cd8, n_cells, level),
    )


def _by_blocks(
    density: Estimate, zone: Zone, points: Points, regions: Regions, config: MeasureConfig
) -> Estimate:
    if density.value is None:
        return density
    code = ZONE_NAMES.index(zone)
    held = points.is_cd8 & (points.zone == code)
    blocks = blocks_of(
        points.x_um[held],
        points.y_um[held],
        regions.coverage * (regions.zone_map == code),
        regions.mpp,
        config.block_um,
    )
    return block_bootstrap_density(
        blocks.n, blocks.area_mm2, level=config.confidence_level, n_samples=config.bootstrap_samples
    )
