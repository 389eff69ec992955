"""What each measure of a slide is: its name, unit and meaning, for tables, reports and comparisons."""

from __future__ import annotations

from typing import Final

from histo.measure.density import PER_MM2
from histo.measure.exclusion import INFILTRATION, LOG2_RATIO
from histo.measure.inflamed_tiles import INFLAMED_TILES
from histo.measure.measure import Measure
from histo.measure.spatial.measures import SPATIAL


def _density(
    zone: str,
    label: str,
    meaning: str = "positive cells per area of assessed tissue",
    source: str = "zones of Kather 2018, eLife 7:e36967",
) -> Measure:
    return Measure(
        name=f"density_{zone}_per_mm2" if zone else "density_per_mm2",
        label=label,
        unit=PER_MM2,
        meaning=meaning,
        higher_means="more of them there",
        source=source,
        scale="log2",
        offset=1.0,
    )


DENSITIES: Final = (
    _density("core", "density, tumour core"),
    _density("inner_margin", "density, inner margin"),
    _density("outer_margin", "density, outer margin"),
    _density("far", "density, far tissue"),
)
OVERALL_DENSITY: Final = _density("", "density, all assessed tissue", source="cells over area")
APART: Final = (
    _density(
        "host_margin",
        "density, host margin",
        "positive cells per area of host tissue along its border behind a rim",
        "the second reference where growth is desmoplastic",
    ),
    _density(
        "portal",
        "density, portal tracts",
        "positive cells per area of portal tracts outside the tumour: resident cells",
        "kept out of the zones",
    ),
    _density(
        "vessel",
        "density, large vessels",
        "positive cells per area of large vessels outside the tumour: resident cells",
        "kept out of the zones",
    ),
)

EXCLUSION: Final = (
    Measure(
        "log2_core_outer",
        "log2 core : outer margin",
        LOG2_RATIO,
        "log2 of the density in the tumour core over that in the outer margin, 1 per mm2 added to both",
        "less exclusion (0: no step at the margin)",
        "zones of Kather 2018, eLife 7:e36967",
    ),
    Measure(
        "infiltration_fraction",
        "infiltration fraction",
        INFILTRATION,
        "density in the tumour core, to the sum of core and outer margin densities",
        "less exclusion (1/2: no step at the margin)",
        "zones of Kather 2018, eLife 7:e36967",
    ),
    Measure(
        "log2_core_far",
        "log2 core : far tissue",
        LOG2_RATIO,
        "log2 of the density in the tumour core over that in far tissue, 1 per mm2 added to both",
        "more than the host organ's own background",
        "zones of Kather 2018, eLife 7:e36967",
    ),
    Measure(
        "log2_outer_far",
        "log2 outer margin : far tissue",
        LOG2_RATIO,
        "log2 of the density in the outer margin over that in far tissue, 1 per mm2 added to both",
        "more gather at the border than the host organ's own background",
        "zones of Kather 2018, eLife 7:e36967",
    ),
    Measure(
        "log2_epithelium_stroma",
        "log2 epithelium : stroma in the tumour",
        LOG2_RATIO,
        "log2 of the density in tumour epithelium over that in tumour stroma, both inside the border",
        "more among the tumour cells, fewer held in the stroma",
        "regions tumour and stroma",
    ),
    Measure(
        "inflamed_tile_share",
        "share of inflamed 1 mm2 tumour tiles",
        INFLAMED_TILES,
        "share of 1 mm2 tiles of tumour whose density is above the cut-off of the phenotype rule",
        "more of the tumour is inflamed",
        "tiles as in J Immunother Cancer 2024, 12:e008339; cut-off of Kather 2018",
    ),
)

# p values, and what grows with the number of cells, are for one slide; a cohort compares the others.
_OF_ONE_SLIDE: Final = frozenset(
    {"cells_off_tissue", "cross_g_20um_random_z", "cross_g_20um_random_p", "cross_g_random_p"}
)
COMPARED_SPATIAL: Final = tuple(measure for measure in SPATIAL if measure.name not in _OF_ONE_SLIDE)

# What `SlideSummary.measures` may hold, in the order of the columns of `slides.csv`.
FURTHER: Final = (
    *EXCLUSION[1:],
    *APART,
    *(measure for measure in SPATIAL if measure.name != "cells_off_tissue"),
)
# What a cohort of our own results compares beside the densities by zone.
COMPARED: Final = (*EXCLUSION, *APART, OVERALL_DENSITY, *COMPARED_SPATIAL)
