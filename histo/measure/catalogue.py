"""What each measure of a slide is: its name, unit and meaning, for tables, reports and comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from histo.measure.density import PER_MM2
from histo.measure.exclusion import INFILTRATION, LOG2_RATIO
from histo.measure.inflamed_tiles import INFLAMED_TILES
from histo.measure.spatial.slide import MEASURES

Scale = Literal["log2", "linear"]


@dataclass(frozen=True)
class Measure:
    """A measure of a slide.

    name : as in `summary.json` and `slides.csv`. label : for people. unit : of its value.
    meaning : what a higher value says, in one sentence. source : of the definition.
    scale : how groups are compared: "log2" of value + `offset`, or the value itself.
    """

    name: str
    label: str
    unit: str
    meaning: str
    source: str
    scale: Scale = "linear"
    offset: float = 0.0


def _density(zone: str, label: str) -> Measure:
    return Measure(
        name=f"density_{zone}_per_mm2" if zone else "density_per_mm2",
        label=label,
        unit=PER_MM2,
        meaning="more positive cells per area of assessed tissue",
        source="Kather 2018, eLife 7:e36967 (zones)",
        scale="log2",
        offset=1.0,
    )


DENSITIES: Final = (
    _density("core", "density, tumour core"),
    _density("inner_margin", "density, inner margin"),
    _density("outer_margin", "density, outer margin"),
    _density("far", "density, far tissue"),
)
OVERALL_DENSITY: Final = _density("", "density, all assessed tissue")

EXCLUSION: Final = (
    Measure(
        "log2_core_outer",
        "log2 core : outer margin",
        LOG2_RATIO,
        "more positive cells in the tumour core relative to the outer margin: less exclusion",
        "Kather 2018, eLife 7:e36967 (zones)",
    ),
    Measure(
        "infiltration_fraction",
        "infiltration fraction",
        INFILTRATION,
        "more of core and outer margin density in the core: less exclusion",
        "core / (core + outer) of the two densities",
    ),
    Measure(
        "log2_core_far",
        "log2 core : far tissue",
        LOG2_RATIO,
        "more positive cells in the tumour core relative to the host organ's own background",
        "as log2 core : outer margin, with far tissue below the line",
    ),
    Measure(
        "log2_outer_far",
        "log2 outer margin : far tissue",
        LOG2_RATIO,
        "more positive cells gather at the border relative to the host organ's own background",
        "as log2 core : outer margin, with far tissue below the line",
    ),
    Measure(
        "log2_epithelium_stroma",
        "log2 epithelium : stroma in the tumour",
        LOG2_RATIO,
        "more positive cells in contact with tumour epithelium, fewer held in its stroma",
        "densities in the regions tumour and stroma inside the border",
    ),
    Measure(
        "inflamed_tile_share",
        "share of inflamed 1 mm2 tumour tiles",
        INFLAMED_TILES,
        "more of the tumour is above the cut-off",
        "tiles as in J Immunother Cancer 2024, 12:e008339; cut-off of Kather 2018",
    ),
)

SPATIAL: Final = tuple(
    Measure(name=name, label=m.meaning, unit=m.unit, meaning=m.higher_means, source=m.source)
    for name, m in MEASURES.items()
)
# p values, and what grows with the number of cells, are for one slide; a cohort compares the others.
_OF_ONE_SLIDE: Final = frozenset(
    {"cells_off_tissue", "cross_g_20um_random_z", "cross_g_20um_random_p", "cross_g_random_p"}
)
COMPARED_SPATIAL: Final = tuple(measure for measure in SPATIAL if measure.name not in _OF_ONE_SLIDE)

# What `SlideSummary.measures` may hold, in the order of the columns of `slides.csv`.
FURTHER: Final = (*EXCLUSION[1:], *SPATIAL)
# What a cohort of our own results compares beside the densities by zone.
COMPARED: Final = (*EXCLUSION, OVERALL_DENSITY, *COMPARED_SPATIAL)
