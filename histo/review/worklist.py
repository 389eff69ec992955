"""The work list: the slides of a results folder, what is known of each, and what most needs a look."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histo.cells.table import CD8
from histo.errors import ReviewError
from histo.results.slides_table import read_slides_table
from histo.review.actions import standing
from histo.review.log import read_log
from histo.review.slide import Who, read_summary

# A CD8+ cell called with less than this is uncertain; a slide with more than this share of them needs a look.
UNCERTAIN_BELOW: Final = 0.7
MANY_UNCERTAIN: Final = 0.15
ReviewState = Literal["not looked at", "in review", "signed"]


@dataclass(frozen=True)
class Case:
    """A slide of the list. `key` is its name in addresses and, to a blinded reader, its only one."""

    key: str
    label: str
    slide_id: str
    site: str | None
    patient: str | None
    error: str | None


def cases_of(results: Path, who: Who) -> list[Case]:
    """Return the slides of a results folder.

    To a blinded reader they have numbers in place of names, neither site nor patient, and an order that is
    random, another for each reader and always the same for one.

    Raises
    ------
    ResultsError : the folder has no table of slides.
    """
    table = read_slides_table(results)
    cases = []
    for row in table.to_dict("records"):
        name = str(row["slide_id"])
        error = _text(row.get("error")) if row.get("status") == "failed" else None
        cases.append(Case(name, name, name, _text(row.get("site")), _text(row.get("patient")), error))
    if not who.alone:
        return cases
    order = list(range(len(cases)))
    random.Random(f"{who.name}\0" + "\0".join(sorted(case.slide_id for case in cases))).shuffle(order)
    # The reason of a failure names the file.
    return [
        Case(
            f"case-{place}",
            f"Case {place}",
            cases[k].slide_id,
            None,
            None,
            None if cases[k].error is None else "it could not be analysed",
        )
        for place, k in enumerate(order, start=1)
    ]


def rows_of(results: Path, cases: list[Case], who: Who) -> list[dict[str, Any]]:
    """Return a row per slide for the page, those first that most need a look; blinded ones in their order."""
    rows = [_row(results, case, who) for case in cases]
    if who.alone:
        return rows
    return sorted(rows, key=lambda row: (-row["need"], -(row["uncertain_share"] or 0.0), row["label"]))


def _row(results: Path, case: Case, who: Who) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": case.key,
        "label": case.label,
        "site": case.site,
        "patient": case.patient,
        "error": case.error,
        "numbers": None,
        "flags": [],
        "not_assessable": None,
        "uncertain_share": None,
        "state": "not looked at",
        "n_corrections": 0,
        "signed": None,
        "need": 0,
        "why": [],
    }
    if case.error is not None:
        return row
    folder = results / case.slide_id
    try:
        summary = read_summary(folder)
        log = read_log(folder)
    except ReviewError as error:
        return row | {"error": error.what}
    entries = log.of(who.name if who.alone else None)
    stands = standing(entries, summary.fingerprint)
    uncertain = _uncertain_share(folder / "cells.parquet", summary.fingerprint)
    zones = next((z.cd8_density.not_assessable for z in summary.zones.values() if z.n_cells is None), None)
    flags = [flag.model_dump() for flag in summary.flags]
    state: ReviewState = "signed" if stands.signed else "in review" if entries else "not looked at"
    why = []
    again = stands.signed is not None and stands.signed.fingerprint != summary.fingerprint
    if again:
        why.append("analysed anew after it was signed")
    if stands.stale:
        why.append("corrected on an earlier result")
    if flags:
        why.append("flags")
    if summary.cd8_density.value is None or zones is not None:
        why.append("not assessable")
    if uncertain is not None and uncertain > MANY_UNCERTAIN:
        why.append("many uncertain cells")
    exclusion = summary.exclusion
    return row | {
        "numbers": {
            "n_cd8": summary.n_cd8,
            "cd8_density_per_mm2": summary.cd8_density.value,
            "core_per_mm2": summary.zones["core"].cd8_density.value,
            "log2_core_outer": exclusion.log2_core_outer.value,
            "phenotype": exclusion.phenotype,
            "assessed_area_mm2": summary.tissue.assessed_area_mm2,
        },
        "flags": flags,
        "not_assessable": zones,
        "uncertain_share": uncertain,
        "state": state,
        "n_corrections": len(stands.corrections),
        "signed": None if stands.signed is None else _signature(stands.signed.model_dump(mode="json")),
        "need": 0 if stands.signed and not again else 1 + len(why),
        "why": why,
    }


@lru_cache(maxsize=4096)
def _uncertain_share(path: Path, fingerprint: str) -> float | None:
    """Return the share of CD8+ cells called with less than `UNCERTAIN_BELOW`; None where none can be told.

    The fingerprint is for the cache: the cells of a result are read once.
    """
    try:
        table = pq.read_table(path, columns=["cell_class", "probability", "in_tissue"])
    except (OSError, pa.ArrowException):
        return None
    asked = pc.and_(pc.equal(table["cell_class"], CD8), table["in_tissue"])
    probability = table["probability"].filter(asked).to_numpy()
    probability = probability[~np.isnan(probability)]
    return float((probability < UNCERTAIN_BELOW).mean()) if len(probability) else None


def _signature(entry: dict[str, Any]) -> dict[str, Any]:
    action = entry["action"]
    return {
        "name": action["name"],
        "verdict": action["verdict"],
        "comment": action["comment"],
        "at_utc": entry["at_utc"],
    }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
