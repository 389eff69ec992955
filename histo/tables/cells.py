"""Cells of one or more images, a row each: one schema for the tables of other programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import pandas as pd

Unit = Literal["um", "px"]
UnitSource = Literal["header", "mapping", "mpp"]

_TEXT, _NUMBER, _YES_NO = "category", "float64", "boolean"

# The columns of every table, in order, with their pandas dtypes; those of further markers follow.
CELL_TABLE_COLUMNS: Final[dict[str, str]] = {
    "image_id": _TEXT,
    "part": _TEXT,  # of the image, a window of its own: TMA core, analysis region; NA: not told
    "patient": _TEXT,
    "x_um": _NUMBER,  # centre, from the source's own origin
    "y_um": _NUMBER,
    "cell_class": _TEXT,  # the source's text
    "is_cd8": _YES_NO,
    "is_tumour": _YES_NO,
    "region": _TEXT,  # tumour, stroma, host, necrosis, exclude; NA: not told
}


def intensity_column(marker: str) -> str:
    """Return the column of a marker's intensity."""
    return f"{marker}_intensity"


@dataclass(frozen=True)
class CellTable:
    """A row per cell.

    frame : the columns of `CELL_TABLE_COLUMNS`, then those of `markers` and of `intensities`. What is not
    known is NA.
    source_format, sources : what was read, and from where.
    unit, unit_source, mpp_um : of positions as given, who said so, and the pixel size if it was needed.
    markers : columns of markers (nullable booleans, named like "pd1_positive") to the source's header.
    intensities : columns of intensities (named "PD-1_intensity"), in the source's unit, to its header.
    not_assessable : columns that are NA throughout, and why.
    notes : what a reader of the numbers must know.

    Raises ValueError where the frame does not keep to the schema.
    """

    frame: pd.DataFrame
    source_format: str
    unit: Unit
    unit_source: UnitSource
    mpp_um: float | None = None
    sources: tuple[Path, ...] = ()
    markers: Mapping[str, str] = field(default_factory=dict)
    intensities: Mapping[str, str] = field(default_factory=dict)
    not_assessable: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = {
            **CELL_TABLE_COLUMNS,
            **dict.fromkeys(self.markers, _YES_NO),
            **dict.fromkeys(self.intensities, _NUMBER),
        }
        if list(self.frame.columns) != list(expected) or any(
            str(self.frame[name].dtype) != dtype for name, dtype in expected.items()
        ):
            raise ValueError(
                "the columns are not those of CELL_TABLE_COLUMNS, markers and intensities, with their dtypes"
            )
        if self.frame[["image_id", "x_um", "y_um"]].isna().to_numpy().any():
            raise ValueError("every cell must have an image and a position")


def pieces_of(frame: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Return (name, image, cells) of each image of a table, or of each of its parts where it has several."""
    pieces = []
    for image, cells in frame.groupby("image_id", observed=True, sort=True):
        if cells["part"].isna().any() or cells["part"].nunique() < 2:
            pieces.append((str(image), str(image), cells))
            continue
        parts = cells.groupby("part", observed=True, sort=True)
        pieces += [(f"{image!s}, {part!s}", str(image), some) for part, some in parts]
    return pieces
