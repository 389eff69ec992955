"""A batch's states on disk: `gates.json`, `states.csv`; of a slide `states.json` and `states.parquet`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from histo.measure.state.summary import BatchGates, StateInZone, StatesSummary
from histo.results.atomic import replacing, write_text
from histo.results.slides_table import for_csv

GATES: Final = "gates.json"
STATES_TABLE: Final = "states.csv"
SLIDE_STATES: Final = "states.json"
CELL_STATES: Final = "states.parquet"
# Of `states.csv`, in order; a row per slide, zone and state.
STATES_COLUMNS: Final = (
    "slide_id",
    "state",
    "zone",
    "n_cd8",
    "n_positive",
    "fraction",
    "fraction_low",
    "fraction_high",
    "area_mm2",
    "density_per_mm2",
    "density_low_per_mm2",
    "density_high_per_mm2",
    "not_assessable",
)


def write_slide_states(folder: Path, summary: StatesSummary, cells: pd.DataFrame) -> None:
    """Write the states of a slide and of its CD8+ cells; raises ResultsError where that cannot be done."""
    with replacing(folder / CELL_STATES) as part:
        cells.to_parquet(part, index=False)
    write_text(folder / SLIDE_STATES, summary.model_dump_json(indent=2))


def write_states_table(path: Path, slides: Sequence[StatesSummary]) -> None:
    """Write `states.csv`; a number that is not known is an empty cell, with the reason in the last column."""
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(STATES_COLUMNS)
        for slide in slides:
            writer.writerows(map(for_csv, row) for row in _rows(slide))


def write_gates(path: Path, gates: BatchGates) -> None:
    """Write `gates.json`."""
    write_text(path, gates.model_dump_json(indent=2))


def _rows(slide: StatesSummary) -> Iterable[list[Any]]:
    for row in slide.states:
        yield [
            slide.slide_id,
            row.state,
            row.zone,
            row.n_cd8,
            row.n_positive,
            row.fraction.value,
            row.fraction.low,
            row.fraction.high,
            row.area_mm2,
            row.density.value,
            row.density.low,
            row.density.high,
            _reasons(row),
        ]


def _reasons(row: StateInZone) -> str:
    """Say once what fraction and density lack, each by its name where they differ."""
    fraction, density = row.fraction.not_assessable, row.density.not_assessable
    if fraction == density:
        return fraction or ""
    named = (("fraction", fraction), ("density", density))
    return "; ".join(f"{name}: {reason}" for name, reason in named if reason is not None)
