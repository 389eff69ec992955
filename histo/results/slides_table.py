"""The table of all slides of a run: `slides.csv` for people, `slides.parquet` for programs."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from histo.errors import ResultsError
from histo.measure.catalogue import FURTHER
from histo.measure.summary import ZONES, Estimate, SlideId, SlideSummary
from histo.results.atomic import replacing

_TEXT, _NUMBER, _COUNT = pa.string(), pa.float64(), pa.int64()

# Every column of the table, in order.
COLUMNS: Final[dict[str, pa.DataType]] = {
    "slide_id": _TEXT,
    "path": _TEXT,
    "status": _TEXT,  # done, failed
    "error": _TEXT,
    "site": _TEXT,
    "patient": _TEXT,
    "mpp_um": _NUMBER,  # level 0, mean of x and y
    "tissue_area_mm2": _NUMBER,
    "assessed_area_mm2": _NUMBER,
    "n_cells": _COUNT,
    "n_cd8": _COUNT,
    "cd8_density_per_mm2": _NUMBER,
    "cd8_density_per_mm2_low": _NUMBER,
    "cd8_density_per_mm2_high": _NUMBER,
    "cd8_fraction": _NUMBER,
    **{
        name: _NUMBER
        for zone in ZONES
        for name in (
            f"area_{zone}_mm2",
            f"cd8_density_{zone}_per_mm2",
            f"cd8_density_{zone}_per_mm2_low",
            f"cd8_density_{zone}_per_mm2_high",
        )
    },
    **{f"n_cd8_{zone}": _COUNT for zone in ZONES},
    "border_length_um": _NUMBER,
    "log2_core_outer": _NUMBER,
    "log2_core_outer_low": _NUMBER,
    "log2_core_outer_high": _NUMBER,
    "phenotype": _TEXT,
    **{measure.name: _NUMBER for measure in FURTHER},
    "not_assessable": _TEXT,  # what has no number, and why: "core: ...; phenotype: ..."
    "flags": _TEXT,  # codes, separated by spaces
}
# A spreadsheet takes text that begins like this for a formula.
_FIRST_COLUMNS: Final = ("slide_id", "path", "status", "error", "site", "patient")
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class SlideRow:
    """One row. `values` holds what is known beside the first columns; a column without a value is NA."""

    slide_id: str
    path: str
    status: Literal["done", "failed"]
    error: str | None = None
    site: str | None = None
    patient: str | None = None
    values: dict[str, float | int | str | None] = field(default_factory=dict)

    @classmethod
    def failed(
        cls,
        slide_id: str,
        path: str | Path,
        error: str,
        *,
        site: str | None = None,
        patient: str | None = None,
    ) -> Self:
        """Return the row of a slide that could not be analysed: no numbers, only the reason."""
        return cls(slide_id, path_text(path), "failed", error, site, patient)

    @classmethod
    def from_summary(
        cls, summary: SlideSummary, *, site: str | None = None, patient: str | None = None
    ) -> Self:
        """Return the row of an analysed slide."""
        values: dict[str, float | int | str | None] = {
            "mpp_um": (summary.image.mpp_x_um + summary.image.mpp_y_um) / 2,
            "tissue_area_mm2": summary.tissue.tissue_area_mm2,
            "assessed_area_mm2": summary.tissue.assessed_area_mm2,
            "n_cells": summary.n_cells,
            "n_cd8": summary.n_cd8,
            "cd8_fraction": summary.cd8_fraction.value,
            "border_length_um": summary.exclusion.border_length_um,
            "phenotype": summary.exclusion.phenotype,
            **_with_interval("cd8_density_per_mm2", summary.cd8_density),
            **_with_interval("log2_core_outer", summary.exclusion.log2_core_outer),
        }
        reasons = {
            "density": summary.cd8_density.not_assessable,
            "fraction": summary.cd8_fraction.not_assessable,
        }
        for zone, measured in summary.zones.items():
            values[f"area_{zone}_mm2"] = measured.area_mm2
            values[f"n_cd8_{zone}"] = measured.n_cd8
            values.update(_with_interval(f"cd8_density_{zone}_per_mm2", measured.cd8_density))
            reasons[zone] = measured.cd8_density.not_assessable
        for name, estimate in summary.measures.items():
            values[name] = estimate.value
            reasons[name] = estimate.not_assessable
        reasons["log2_core_outer"] = summary.exclusion.log2_core_outer.not_assessable
        reasons["phenotype"] = summary.exclusion.phenotype_not_assessable
        values["not_assessable"] = _reasons(reasons)
        values["flags"] = " ".join(flag.code for flag in summary.flags) or None
        return cls(summary.slide_id, summary.path, "done", None, site, patient, values)

    def as_dict(self) -> dict[str, float | int | str | None]:
        """Return a value or None for every column."""
        row = {name: self.values.get(name) for name in COLUMNS}
        row.update(
            slide_id=self.slide_id,
            path=self.path,
            status=self.status,
            error=self.error,
            site=self.site,
            patient=self.patient,
        )
        return row


def write_slides_table(folder: Path, rows: Sequence[SlideRow]) -> None:
    """Write `slides.csv` and `slides.parquet`: a row per slide, failed ones too.

    Unknown numbers are empty in the CSV and null in the Parquet file. Text that a spreadsheet would run as a
    formula gets an apostrophe in front, in the CSV only.

    Raises
    ------
    ResultsError : a file cannot be written.
    """
    records = [row.as_dict() for row in rows]
    schema = pa.schema([pa.field(name, kind) for name, kind in COLUMNS.items()])
    table = pa.Table.from_pylist(records, schema=schema)
    with replacing(folder / "slides.csv") as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: for_csv(value) for name, value in record.items()} for record in records)
    with replacing(folder / "slides.parquet") as part:
        pq.write_table(table, part, compression="zstd")


def read_slides_table(folder: Path) -> pd.DataFrame:
    """Read `slides.parquet`: the columns of `COLUMNS`, counts as nullable integers.

    Raises
    ------
    ResultsError : it is missing or damaged.
    """
    path = folder / "slides.parquet"
    try:
        table = pq.ParquetFile(path).read()
        # Text that is no text is found here, not later.
        table.validate(full=True)
        missing = [name for name in _FIRST_COLUMNS if name not in table.column_names]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        TypeAdapter(list[SlideId]).validate_python(table["slide_id"].to_pylist())
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ResultsError(
            f"the table of slides cannot be read ({error})", path=path, fix="Run infer again"
        ) from None
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return frame


def path_text(path: str | Path) -> str:
    """Return a path as text that every file takes: bytes of a name that are no letters are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _with_interval(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _reasons(reasons: dict[str, str | None]) -> str | None:
    """Say each reason once, with all that it concerns."""
    by_reason: dict[str, list[str]] = {}
    for what, reason in reasons.items():
        if reason is not None:
            by_reason.setdefault(reason, []).append(what)
    return "; ".join(f"{', '.join(what)}: {reason}" for reason, what in by_reason.items()) or None


def for_csv(value: Any) -> Any:
    """Return a value for a CSV: an apostrophe goes before text that a spreadsheet would run as a formula."""
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value
