"""How a cohort is analysed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from histo.measure.state.summary import StateZone


class CohortConfig(BaseModel):
    """Settings of `histo cohort`; the measure to be tested first is declared here, before looking."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    title: str = "CD8+ T cells in metastases and primary tumours"
    # The measure whose test is the study's question; its p values are adjusted after Holm over the stains.
    primary_measure: str = "log2_core_outer"
    # A state (as in states.csv) whose fraction is declared as well, and in which zone; Holm takes both along.
    primary_state: str | None = None
    primary_state_zone: StateZone = "all"
    # A patient with fewer CD8+ cells at a site has no fraction there.
    min_cd8_cells: Annotated[int, Field(ge=1)] = 20
    # "auto": paired where at least half of the patients have both sites.
    design: Literal["auto", "paired", "unpaired"] = "auto"
    confidence_level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    bootstrap_samples: Annotated[int, Field(ge=100)] = 4000
    permutations: Annotated[int, Field(ge=99)] = 9999
    seed: Annotated[int, Field(ge=0)] = 0
    # Added to both densities of log2 ratios, and to densities before their logarithm.
    log_offset_per_mm2: Annotated[float, Field(gt=0)] = 1.0
    # Kather 2018 (eLife 7:e36967), CD8. The median pooled over this cohort is reported beside it.
    phenotype_cutoff_per_mm2: Annotated[float, Field(gt=0)] = 294.9
    # Of the cut-off, for the phenotypes' sensitivity to it.
    cutoff_factors: tuple[float, ...] = (0.5, 0.75, 1.25, 1.5)
    # Widths of the margins with which the primary measure is computed again; multiples of the profile's bins.
    min_zone_area_mm2: Annotated[float, Field(ge=0)] = 0.1
    margins_um: tuple[float, ...] = (250.0, 350.0, 500.0)
