"""Folders as `histo states` leaves them, with simulated states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from histo import __version__
from histo.cohort.simulate import (
    ASSUMED_FRACTIONS,
    KATHER,
    METASTASIS,
    PRIMARY,
    StateTruth,
    simulate_cohort,
    simulate_states,
)
from histo.measure.state.rules import parse_rule
from histo.measure.state.summary import BatchGates, Gate, StateDefinition
from histo.measure.state.words import LIMITS, describe_state
from histo.measure.summary import ZONES, Flag
from histo.results.states_files import GATES, STATES_COLUMNS, STATES_TABLE

RULES = {"PD-1+": "PD-1", "PD-1+TIM-3+": "PD-1 & TIM-3", "PD-1+TCF1+": "PD-1 & TCF1"}


def flat(primary: float, metastasis: float) -> dict[str, dict[str, float]]:
    """The same fraction in all zones."""
    return {PRIMARY: dict.fromkeys(ZONES, primary), METASTASIS: dict.fromkeys(ZONES, metastasis)}


# One that differs (assumed arms), one that differs in the core only, one that does not.
TRUTHS = {
    "PD-1+": StateTruth(flat(ASSUMED_FRACTIONS[PRIMARY], ASSUMED_FRACTIONS[METASTASIS])),
    "PD-1+TIM-3+": StateTruth(
        {PRIMARY: dict.fromkeys(ZONES, 0.1), METASTASIS: {**dict.fromkeys(ZONES, 0.1), "core": 0.4}}
    ),
    "PD-1+TCF1+": StateTruth(flat(0.08, 0.08)),
}


def states_folder(
    folder: Path,
    *,
    n_primary: int = 0,
    n_metastasis: int = 0,
    n_pairs: int = 14,
    seed: int = 3,
    truths: dict[str, StateTruth] = TRUTHS,
    few: dict[str, int] | None = None,
) -> tuple[Path, Path]:
    """Write states.csv, gates.json and a manifest; `few`: CD8+ cells of some lesions in each zone instead."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"n_primary": n_primary, "n_metastasis": n_metastasis, "n_pairs": n_pairs}
    cells = replace(KATHER, mean_ln_area=1.2)
    frame = simulate_cohort(cells, **sizes, seed=seed)
    frame["slide_id"] = frame["lesion"].str.replace(" ", "_")
    for name, n in (few or {}).items():
        frame.loc[frame["slide_id"] == name, "n_cd8"] = n
    write_states(folder, frame, truths, seed)
    lines = ["slide,patient,site"]
    slides = frame.drop_duplicates("slide_id")
    lines += [f"{row.slide_id},{row.patient},{row.site}" for row in slides.itertuples()]
    manifest = folder / "cohort.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return folder, manifest


def write_states(folder: Path, cells: pd.DataFrame, truths: dict[str, StateTruth], seed: int) -> None:
    """Draw states among the CD8+ cells of slides and zones, and write states.csv and gates.json.

    cells : slide_id, patient, lesion, site, zone, n_cd8, area_mm2.
    """
    parts = []
    for at, (state, truth) in enumerate(truths.items()):
        drawn = simulate_states(cells, truth, seed=seed + 1 + at)
        zones = drawn[["slide_id", "zone", "n_cd8", "n_positive", "area_mm2"]].assign(state=state)
        whole = zones.groupby(["slide_id", "state"], as_index=False)[
            ["n_cd8", "n_positive", "area_mm2"]
        ].sum()
        parts += [zones, whole.assign(zone="all")]
    table = pd.concat(parts)
    table["fraction"] = np.where(table["n_cd8"] >= 20, table["n_positive"] / table["n_cd8"], np.nan)
    table.reindex(columns=list(STATES_COLUMNS)).to_csv(folder / STATES_TABLE, index=False)
    (folder / GATES).write_text(gates(list(truths)).model_dump_json())


def gates(states: list[str]) -> BatchGates:
    """Gates of a batch, PD-1's with a flag."""
    markers = sorted({word for name in states for word in RULES[name].split(" & ")})
    return BatchGates(
        histo_version=__version__,
        source="made up",
        slides=[],
        control_slides=[],
        min_cd8_cells=20,
        confidence_level=0.95,
        gates=[
            Gate(
                marker=marker,
                identity=marker,
                column=f"{marker}_ring_mean",
                is_checkpoint=marker != "TCF1",
                method="manual",
                threshold=120.0,
                n_cells=1000,
                flags=[Flag(code="made_up", message=f"The gate of {marker} is made up.")],
            )
            for marker in markers
        ],
        states=[
            StateDefinition(
                name=name, rule=RULES[name], description=describe_state(name, parse_rule(RULES[name]))
            )
            for name in states
        ],
        limits=LIMITS,
        flags=[],
    )
