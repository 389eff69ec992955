"""What the words of a table mean: its columns, classes, markers, zones and groups."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from histo.config import RegionName, RegionsConfig
from histo.measure.summary import Zone
from histo.tables.zones import Site


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ColumnNames(_Section):
    """Headers of a table of cells, as they are written there.

    `x` and `y` are needed for a table of no known program. The others overrule what a known layout says.
    """

    x: str | None = None
    y: str | None = None
    image: str | None = None
    patient: str | None = None
    part: str | None = None  # of an image: TMA core, analysis region
    cell_class: str | None = None
    region: str | None = None
    # Name of a marker to the column that says "+" or "-", 1 or 0, true or false ...
    markers: dict[str, str] = {}
    # Column of an intensity to the value above which a cell is positive.
    positive_above: dict[str, float] = {}
    # Name of a marker to the column of its intensity, which is kept as it is.
    intensities: dict[str, str] = {}

    @model_validator(mode="after")
    def _x_with_y(self) -> ColumnNames:
        if (self.x is None) != (self.y is None):
            raise ValueError("x and y go together")
        return self


class TableMapping(_Section):
    """How a table of another program is to be understood.

    Names are matched without regard to case and to "cell" at their end. A class of several parts ("Tumor:
    Positive", "CD3+CD8+") means what one of its parts means.
    """

    columns: ColumnNames = ColumnNames()
    # Of positions whose header does not say. Pixels need a pixel size, too.
    unit: Literal["um", "px"] | None = None
    decimal: Literal[".", ","] = "."

    # Classes, or names of markers, that mean a CD8+ cell, and a tumour cell.
    cd8: tuple[str, ...] = (
        "CD8",
        "CD8A",
        "CD8 T",
        "CD8 T lymphocyte",
        "cytotoxic T",
        "cytotoxic T lymphocyte",
        "T cytotoxic",
        "CTL",
    )
    tumour: tuple[str, ...] = (
        "tumor",
        "tumour",
        "cancer",
        "carcinoma",
        "malignant",
        "epithelial",
        "CK",
        "panCK",
        "pan-CK",
        "cytokeratin",
        "pancytokeratin",
        "keratin",
    )
    # Whole texts of classes that mean neither, where a part of them might be taken for it.
    not_cd8: tuple[str, ...] = ()
    not_tumour: tuple[str, ...] = ()
    # A table without any CD8+ cell may name no class for them. Only with this is it read as having none.
    allow_no_cd8: bool = False
    # Further markers to look for in the texts of classes ("CD8: PD1").
    class_markers: tuple[str, ...] = ()

    # Tissue categories, parents and classifier labels to regions.
    regions: dict[str, RegionName] = RegionsConfig().names
    # Kather 2018 (eLife 7:e36967), and our own names.
    zones: dict[str, Zone] = {
        "TU_CORE": "core",
        "MARG_500_IN": "inner_margin",
        "MARG_500_OUT": "outer_margin",
        "DISTANT_OUT": "far",
        "core": "core",
        "inner_margin": "inner_margin",
        "outer_margin": "outer_margin",
        "far": "far",
    }
    # Groups of a table of zones to sites; those of Kather 2018 whose site its names tell.
    sites: dict[str, Site] = {"COAD_PRI": "primary", "COAD_MET": "metastasis"}
    # Largest difference of a stated density from count by area that rounding explains.
    density_tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3
