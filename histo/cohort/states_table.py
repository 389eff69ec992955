"""The states of a cohort's slides, as `histo states` wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from pydantic import ValidationError

from histo.cohort.summary import GateRecord
from histo.errors import ConfigError, ResultsError
from histo.measure.state.rules import parse_rule
from histo.measure.state.summary import STATE_ZONES, BatchGates, StateDefinition
from histo.measure.state.words import check_state_name
from histo.results.states_files import GATES, STATES_TABLE
from histo.results.states_page import METHODS
from histo.tables.file import some
from histo.tables.written import read_written

_FIX: Final = "Run histo states again"
_SHOWN: Final = 50
# Some 500,000 lines: a line per slide, state and zone.
_MAX_BYTES: Final = 1 << 26
_COLUMNS: Final = ("slide_id", "state", "zone", "n_cd8", "n_positive", "area_mm2")


@dataclass(frozen=True, eq=False)
class CohortStates:
    """The states of slides.

    counts : a row per slide, state and zone: slide_id, state, zone (text), n_cd8, n_positive, area_mm2
        (numbers, NaN where they are not known).
    definitions : the states in order, with what may be said of them.
    notes : what a reader must know of the batch. limits : what markers cannot say.
    """

    counts: pd.DataFrame
    definitions: Sequence[StateDefinition]
    gates: Sequence[GateRecord]
    notes: Sequence[str]
    limits: str

    def of_slides(self, slide_ids: Sequence[str]) -> CohortStates | None:
        """Return the states of some slides; None where none of them has any."""
        counts = self.counts[self.counts["slide_id"].isin(slide_ids)]
        if counts.empty:
            return None
        return CohortStates(counts, self.definitions, self.gates, self.notes, self.limits)


def has_states(folder: Path) -> bool:
    """Tell whether `histo states` wrote to a folder."""
    return (folder / STATES_TABLE).is_file()


def read_states(folder: Path) -> CohortStates:
    """Read states.csv and gates.json of a folder.

    Raises
    ------
    ResultsError : one of them is missing or cannot be read, lacks a column, or holds what cannot be; every
        mistake is listed.
    """
    batch = _read_gates(folder / GATES)
    for state in batch.states:
        try:
            check_state_name(state.name, parse_rule(state.rule))
        except ConfigError as error:
            raise ResultsError(error.what, path=folder / GATES, fix=_FIX) from None
    counts = _read_counts(folder / STATES_TABLE)
    strange = sorted(set(counts["state"]) - {state.name for state in batch.states})
    if strange:
        raise ResultsError(
            f"states that {GATES} does not define: {', '.join(strange)}",
            path=folder / STATES_TABLE,
            fix=_FIX,
        )
    return CohortStates(
        counts=counts,
        definitions=batch.states,
        gates=[
            GateRecord(
                marker=gate.identity,
                method="none" if gate.method is None else METHODS[gate.method],
                threshold=gate.threshold,
                notes=(
                    *((gate.not_assessable,) if gate.not_assessable else ()),
                    *(flag.message for flag in gate.flags),
                ),
            )
            for gate in batch.gates
        ],
        notes=[flag.message for flag in batch.flags],
        limits=batch.limits,
    )


def _read_gates(path: Path) -> BatchGates:
    try:
        return BatchGates.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ResultsError(f"the gates cannot be read ({error.strerror})", path=path, fix=_FIX) from None
    except ValidationError:
        raise ResultsError("the gates were written by another version", path=path, fix=_FIX) from None


def _read_counts(path: Path) -> pd.DataFrame:
    try:
        frame = read_written(path, "the table of states", _MAX_BYTES)
    except ConfigError as error:
        raise ResultsError(error.what, path=path, fix=_FIX) from None
    missing = [name for name in _COLUMNS if name not in frame.columns]
    if missing:
        raise ResultsError(f"no column {', '.join(missing)}", path=path, fix=_FIX)
    frame = frame[list(_COLUMNS)].reset_index(drop=True)
    # A leading apostrophe keeps spreadsheets from taking a name for a formula.
    for name in ("slide_id", "state"):
        frame[name] = frame[name].str.replace(r"^'(?=[=+\-@\t\r])", "", regex=True)
    mistakes = []
    for name in ("n_cd8", "n_positive", "area_mm2"):
        as_numbers = pd.to_numeric(frame[name].replace("", np.nan), errors="coerce")
        for line in np.flatnonzero(as_numbers.isna() & (frame[name] != "")):
            mistakes.append(f"line {line + 2}: {name} {frame[name][line]!r} is no number")
        frame[name] = as_numbers.astype("float64")
    whole = frame[["n_cd8", "n_positive"]]
    wrong = {
        "no known zone": ~frame["zone"].isin(STATE_ZONES),
        "counts must be whole numbers from 0": ((whole < 0) | (whole != whole.round()) & whole.notna()).any(
            axis=1
        ),
        "more positive cells than CD8+ cells": frame["n_positive"] > frame["n_cd8"],
        "the same slide, state and zone again": frame.duplicated(["slide_id", "state", "zone"]),
    }
    mistakes += [f"line {line + 2}: {what}" for what, rows in wrong.items() for line in np.flatnonzero(rows)]
    if mistakes:
        raise ResultsError(some(mistakes, _SHOWN), path=path, fix=_FIX)
    return frame
