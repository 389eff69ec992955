"""The numbers of a slide with its corrections, beside those of the run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel

from histo.config import Config
from histo.measure.catalogue import FURTHER
from histo.measure.points import PointCollector
from histo.measure.slide import SlideMeasures, measure_slide
from histo.measure.summary import ZONES, Estimate, SlideSummary
from histo.measure.tally import Tally
from histo.regions.place import Regions

_ZONE_LABELS = {
    "core": "tumour core",
    "inner_margin": "inner margin",
    "outer_margin": "outer margin",
    "far": "far tissue",
}
_LABELS = {measure.name: measure.label for measure in FURTHER}


class Number(BaseModel):
    """One number before and after. `old`, `new`: None where it is not among those that were computed."""

    name: str
    label: str
    old: Estimate | None
    new: Estimate | None


def measured(
    cells: pd.DataFrame, regions: Regions, *, tissue_area_mm2: float, config: Config, spatial: bool
) -> SlideMeasures:
    """Measure corrected cells as the run measured those that it found.

    Parameters
    ----------
    cells : see `histo.review.cells.frame_of`.
    spatial : whether spatial statistics are computed too; they take seconds where cells are many.
    """
    tally = Tally(config.regions.profile_bin_um)
    points = PointCollector()
    tally.add(cells)
    points.add(cells)
    settings = config.measure if spatial else config.measure.model_copy(update={"spatial": False})
    return measure_slide(tally, points.points(), regions, tissue_area_mm2=tissue_area_mm2, config=settings)


def side_by_side(before: SlideSummary, after: SlideMeasures, assessed_area_mm2: float) -> list[Number]:
    """Return the numbers of the run beside those with corrections, in the order in which people read them."""
    old, new = _estimates(before, before.tissue.assessed_area_mm2), _estimates(after, assessed_area_mm2)
    return [
        Number(name=name, label=label, old=old.get(name, (label, None))[1], new=new[name][1])
        for name, (label, _) in new.items()
    ]


def phenotype_of(of: SlideSummary | SlideMeasures) -> dict[str, Any]:
    """Return the phenotype of a slide, or why there is none."""
    exclusion = of.exclusion
    return {"value": exclusion.phenotype, "not_assessable": exclusion.phenotype_not_assessable}


def _estimates(of: SlideSummary | SlideMeasures, assessed_area_mm2: float) -> dict[str, tuple[str, Estimate]]:
    found: dict[str, tuple[str, Estimate]] = {
        "n_cells": ("Cells", _exact(of.n_cells, "cells")),
        "n_cd8": ("CD8+ cells", _exact(of.n_cd8, "cells")),
        "assessed_area_mm2": ("Assessed tissue", _exact(assessed_area_mm2, "mm2")),
        "cd8_density_per_mm2": ("CD8+ density", of.cd8_density),
        "cd8_fraction": ("CD8+ fraction", of.cd8_fraction),
    }
    for zone in ZONES:
        told = of.zones[zone]
        reason = told.cd8_density.not_assessable or "not assessed"
        label = _ZONE_LABELS[zone]
        found |= {
            f"n_cd8_{zone}": (f"CD8+ cells, {label}", _exact(told.n_cd8, "cells", reason)),
            f"area_{zone}_mm2": (f"Area, {label}", _exact(told.area_mm2, "mm2", reason)),
            f"cd8_density_{zone}_per_mm2": (f"CD8+ density, {label}", told.cd8_density),
        }
    length = of.exclusion.border_length_um
    found["border_length_um"] = ("Tumour border", _exact(length, "um", "no tumour border"))
    found["log2_core_outer"] = ("log2 core : outer margin", of.exclusion.log2_core_outer)
    for name, estimate in of.measures.items():
        found[name] = (_LABELS.get(name, name), estimate)
    return found


def _exact(value: float | None, unit: str, reason: str = "not assessed") -> Estimate:
    if value is None or not np.isfinite(value):
        return Estimate.missing(unit, reason)
    return Estimate(value=float(value), unit=unit)
