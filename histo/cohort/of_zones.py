"""Zone tables of others as a cohort table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from histo.cohort.manifest import Manifest
from histo.cohort.summary import Exclusion
from histo.cohort.table import COUNTS, IDENTITY, CohortTable, identity, numbers
from histo.measure.catalogue import EXCLUSION
from histo.measure.measure import Measure
from histo.tables.zones import ZoneTable

# What follows from the densities of zones alone.
ZONE_MEASURES: tuple[Measure, ...] = tuple(
    measure
    for measure in EXCLUSION
    if measure.name in ("log2_core_outer", "infiltration_fraction", "log2_core_far", "log2_outer_far")
)


def cohort_of_zones(table: ZoneTable, source: Path, manifest: Manifest | None = None) -> CohortTable:
    """Turn counts and areas by zone into a cohort table.

    A manifest says whose slide is which instead of the source; without one the source's own patients and
    sites hold. Zones are taken as the source has them: no smallest area is asked for.
    """
    rows: list[dict[str, Any]] = []
    excluded: list[Exclusion] = []
    covariates: dict[str, None] = {"group": None}
    records: list[dict[str, Any]] = (
        table.frame.astype(object)
        .where(table.frame.notna(), None)
        .to_dict(  # type: ignore[assignment]
            orient="records"
        )
    )
    for record in records:
        own = {name: record.get(name) for name in IDENTITY}
        if manifest is not None:
            entry = manifest.rows.get(str(record["slide_id"]))
            if entry is None:
                excluded.append(Exclusion(name=str(record["slide_id"]), reason="not in the manifest"))
                continue
            covariates |= dict.fromkeys(entry.covariates)
            told = {key: value for key, value in identity(str(record["slide_id"]), entry).items() if value}
            own |= told
        rows.append({**own, "group": record["group"], **{name: record[name] for name in COUNTS}})
    names = [measure.name for measure in ZONE_MEASURES]
    slides = pd.DataFrame(rows, columns=[*IDENTITY, *COUNTS, *names, *covariates])
    slides = numbers(slides, [*COUNTS, *names])
    return CohortTable(
        slides=slides,
        measures=ZONE_MEASURES,
        excluded=tuple(excluded),
        source=source.name,
        manifest=None if manifest is None else manifest.path.name,
        covariates=tuple(covariates),
        notes=table.notes,
    )
