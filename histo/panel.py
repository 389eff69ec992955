"""Markers beside CD8, how they are measured in each cell, and how their states are called.

`PanelConfig` changes the cell table; `StatesConfig` is applied to finished cell tables, so that another gate
needs no image to be read again.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Compartment = Literal["nucleus", "ring", "cell"]
COMPARTMENTS: tuple[Compartment, ...] = ("nucleus", "ring", "cell")
# "upper": the quantile `PanelConfig.upper_quantile` of the compartment's pixels.
Statistic = Literal["mean", "median", "upper"]
STATISTICS: tuple[Statistic, ...] = ("mean", "median", "upper")
Role = Literal["checkpoint", "state", "lineage", "tumour", "other"]
# The first words of columns that every cell table has.
_STAIN_NAMES = {"nuclear", "cd8", "residual"}
# Cells that do not carry a marker, by lineage: all cells that are not CD8+, or those of one region.
NegativeCells = Literal["other", "other in tumour", "other in host"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Marker(_Section):
    """A marker that is measured in every cell.

    name : as it is told, e.g. "PD-1". channel : of the slide, matched as `stain.cd8` is; in brightfield the
    name of a chromogen: `stain.residual_name`, "nuclear" or "CD8". role : "checkpoint" for co-inhibitory
    receptors, "state" for what tells states apart otherwise (TCF1, TOX, GZMB, Ki67 ...).
    compartment, statistic : where, and by what, a cell is called positive; all of them are measured.
    """

    name: Annotated[str, Field(min_length=1, pattern=r"^[^\s&|!()+^]+$")]
    channel: Annotated[str, Field(min_length=1)]
    role: Role = "other"
    compartment: Compartment = "ring"
    statistic: Statistic = "mean"

    @property
    def column(self) -> str:
        """Column of the cell table that is gated."""
        return marker_column(self.name, self.compartment, self.statistic)


def marker_column(name: str, compartment: Compartment, statistic: Statistic) -> str:
    """Return the column of the cell table, e.g. "PD-1_ring_mean"."""
    return f"{name}_{compartment}_{statistic}"


class PanelConfig(_Section):
    """What is measured in every cell.

    autofluorescence : by marker, the share of `stain.autofluorescence` that is taken from its channel.
    spillover : from a marker (or "nuclear", "CD8"), to markers, the share of its signal that reaches them;
    undone by solving the linear system. Both work on intensities above background, before anything is
    measured; both are recorded with the results.
    """

    markers: tuple[Marker, ...] = ()
    autofluorescence: dict[str, Annotated[float, Field(ge=0)]] = {}
    spillover: dict[str, dict[str, Annotated[float, Field(ge=0, lt=1)]]] = {}
    upper_quantile: Annotated[float, Field(gt=0.5, lt=1)] = 0.95

    @model_validator(mode="after")
    def _names_fit(self) -> PanelConfig:
        names = [marker.name for marker in self.markers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two markers are called {', '.join(twice)}")
        sources = {*names, "nuclear", "CD8"}
        targets = {*self.autofluorescence, *(to for row in self.spillover.values() for to in row)}
        unknown = sorted((set(self.spillover) - sources) | (targets - set(names)))
        if taken := sorted(_STAIN_NAMES & set(names)):
            raise ValueError(
                f"{', '.join(taken)}: the cell table has such columns already: name it otherwise"
            )
        if unknown:
            raise ValueError(f"no such marker in the panel: {', '.join(unknown)}")
        return self


class StatesConfig(_Section):
    """How cells are called positive, and which states are told.

    gates, bright_gates : manual thresholds by marker, in the unit of the cell table; "bright" is a second,
    higher one. bright_multiples : by marker, how many times its gate is bright, where that gate comes from
    controls or negatives.
    control_slides : slide ids whose CD8+ cells are negative for every marker (isotype, no primary antibody).
    negatives : by marker, cells of its batch that are negative by lineage.
    negative_percentile : of controls and negatives, where the gate lies.
    min_gates : by marker, in the unit of the cell table: what is less cannot be told from a trace of another
        stain. No gate lies below, but a manual one or between two populations of which one is above.
    rules : state to a rule over markers, e.g. "PD-1 & TIM-3 & !TCF1"; "PD-1^" is PD-1 bright.
    min_cd8_cells : with fewer CD8+ cells a fraction is NA.
    """

    gates: dict[str, float] = {}
    bright_gates: dict[str, float] = {}
    bright_multiples: dict[str, Annotated[float, Field(gt=1)]] = {}
    control_slides: tuple[str, ...] = ()
    negatives: dict[str, NegativeCells] = {}
    negative_percentile: Annotated[float, Field(gt=50, lt=100)] = 99.0
    min_gates: dict[str, float] = {}
    rules: dict[str, str] = {}
    min_cd8_cells: Annotated[int, Field(ge=1)] = 20
