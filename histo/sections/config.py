"""How serial sections are laid over each other, and what is then measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Sections are 4 to 5 um thick and lymphocytes 7 to 10 um wide: the same cell is usually not there. Below this
# tile size a claim would be one about cells.
SMALLEST_TILE_UM = 100.0


class SectionsConfig(BaseModel):
    """Settings of `histo sections`.

    restained : the two slides are one section, stained twice. Only then may tiles be smaller than 100 um, and
    only then are single cells matched, one to one within `match_radius_um`.
    max_error_um : a pair whose median error is larger is refused; so is a tile.
    min_verified : share of the common tissue that has to look alike more than by chance, else the pair is
    refused.
    finest_mpp_um : of the pictures that are registered; coarser on slides of more than `max_px` such pixels.
    grid_um : spacing of the B-spline's control points.
    flips : whether a section mounted upside down is thought of.
    column : of the cell table, what the gates are set on. gates, bright_gates : by marker; stained cells
    below the gate are not counted, those above the bright gate are counted as bright too.
    rich_fraction : share of the tiles that are called rich in CD8.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tile_um: Annotated[float, Field(gt=0)] = 100.0
    restained: bool = False
    match_radius_um: Annotated[float, Field(gt=0, le=20)] = 5.0
    max_error_um: Annotated[float, Field(gt=0)] = 25.0
    min_verified: Annotated[float, Field(ge=0, le=1)] = 0.3
    min_tile_area_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    min_tiles: Annotated[int, Field(ge=3)] = 20
    finest_mpp_um: Annotated[float, Field(ge=1, le=16)] = 4.0
    max_px: Annotated[int, Field(ge=100_000)] = 24_000_000
    grid_um: Annotated[float, Field(ge=100)] = 400.0
    flips: bool = True
    column: str = "cd8_ring_mean"
    gates: dict[str, float] = {}
    bright_gates: dict[str, float] = {}
    rich_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    confidence_level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    block_um: Annotated[float, Field(gt=0)] = 500.0
    bootstrap_samples: Annotated[int, Field(ge=100)] = 2000

    @model_validator(mode="after")
    def _claims_fit_the_sections(self) -> SectionsConfig:
        if self.tile_um < SMALLEST_TILE_UM and not self.restained:
            raise ValueError(
                f"tile_um {self.tile_um:g} is below {SMALLEST_TILE_UM:g} um: serial sections do not hold "
                "the same cells; set restained: true only where one section was stained twice"
            )
        if self.block_um < self.tile_um:
            raise ValueError("block_um must not be below tile_um")
        for marker, bright in self.bright_gates.items():
            if marker in self.gates and bright <= self.gates[marker]:
                raise ValueError(f"bright_gates.{marker} must lie above gates.{marker}")
        return self
