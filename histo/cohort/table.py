"""The slides of a cohort as one table, wherever their numbers come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd
from pydantic import ValidationError

from histo.cohort.manifest import Manifest, ManifestRow
from histo.cohort.states_table import CohortStates, has_states, read_states
from histo.cohort.summary import Exclusion
from histo.errors import ConfigError, ResultsError
from histo.measure.catalogue import COMPARED, EXCLUSION, OVERALL_DENSITY
from histo.measure.measure import Measure
from histo.measure.summary import ZONES, DistanceBin, SlideSummary
from histo.results.slides_table import read_slides_table

# Who and where; text, None where not known.
IDENTITY: Final = ("slide_id", "patient", "lesion", "site", "stain", "growth_pattern", "treatment")
# What was counted; numbers, NaN where not known. A zone that may not be assessed has no density.
COUNTS: Final = tuple(
    f"{what}_{zone}{unit}"
    for zone in ZONES
    for what, unit in (("n_positive", ""), ("n_cells", ""), ("area", "_mm2"), ("density", "_per_mm2"))
)


@dataclass(frozen=True, eq=False)
class CohortTable:
    """The slides of a cohort that have numbers, and those that have none.

    slides : a row per slide: `IDENTITY`, `COUNTS`, `measures` and covariates as columns.
    measures : what the table holds beside densities by zone; each is a column.
    covariates : further columns, as the manifest or the source has them.
    excluded : slides without numbers, or that cannot be placed in the cohort, and why.
    profiles : slide_id to its bins of distance to the border, where there are any.
    source, manifest : where it comes from. notes : what a reader must know of the source.
    positive_name : what a counted cell is called; None: the stain with a "+".
    margin_um : width of both margins of the zones; None where it is not known, or the two differ.
    states : of the CD8+ cells; None where they were not called.
    """

    slides: pd.DataFrame
    measures: tuple[Measure, ...]
    excluded: tuple[Exclusion, ...]
    source: str
    manifest: str | None = None
    covariates: tuple[str, ...] = ()
    profiles: Mapping[str, Sequence[DistanceBin]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    positive_name: str | None = None
    margin_um: float | None = None
    states: CohortStates | None = None


def cohort_of_results(folder: Path, manifest: Manifest | None = None) -> CohortTable:
    """Read a results folder of `histo infer` into a cohort table.

    Parameters
    ----------
    folder : holds `slides.parquet` and a folder with `summary.json` for each slide.
    manifest : whose slide is which; None takes patient and site from `slides.parquet`, as `infer --manifest`
        wrote them there.

    Raises
    ------
    ResultsError : there is no table of slides, or a summary cannot be read.
    """
    table = read_slides_table(folder)
    rows: list[dict[str, Any]] = []
    excluded: list[Exclusion] = []
    profiles: dict[str, Sequence[DistanceBin]] = {}
    covariates: dict[str, None] = {}
    margins: set[float] = set()
    records: list[dict[str, Any]] = table.to_dict(orient="records")  # type: ignore[assignment]
    for record in records:
        name = str(record["slide_id"])
        entry = _entry(record, manifest)
        if record["status"] != "done":
            excluded.append(Exclusion(name=name, reason=f"failed: {record['error']}"))
            continue
        if entry is None:
            excluded.append(Exclusion(name=name, reason="not in the manifest"))
            continue
        summary = _read_summary(folder / name / "summary.json")
        covariates |= dict.fromkeys(entry.covariates)
        rows.append({**identity(name, entry), **_counts(summary), **_measured(summary)})
        margins |= {summary.exclusion.inner_margin_um, summary.exclusion.outer_margin_um}
        if summary.distance_profile is not None:
            profiles[name] = summary.distance_profile
    measured = {name for row in rows for name in row}
    measures = tuple(measure for measure in COMPARED if measure.name in measured)
    names = [*COUNTS, *(measure.name for measure in measures)]
    slides = pd.DataFrame(rows, columns=[*IDENTITY, *names, *covariates])
    excluded += _unused(manifest, table)
    return CohortTable(
        slides=numbers(slides, names),
        measures=measures,
        excluded=tuple(excluded),
        source=folder.resolve().name,
        manifest=None if manifest is None else manifest.path.name,
        covariates=tuple(covariates),
        profiles=profiles,
        positive_name="CD8+",
        margin_um=margins.pop() if len(margins) == 1 else None,
        states=read_states(folder) if has_states(folder) else None,
    )


def _entry(record: Mapping[str, Any], manifest: Manifest | None) -> ManifestRow | None:
    if manifest is not None:
        return manifest.row_for(Path(str(record["path"]))) or manifest.rows.get(str(record["slide_id"]))
    return ManifestRow(
        slide=str(record["slide_id"]),
        path=None,
        patient=record["patient"],
        lesion=None,
        site=record["site"],
        stain=None,
        mpp_um=None,
        growth_pattern=None,
        treatment=None,
        covariates={},
    )


def _read_summary(path: Path) -> SlideSummary:
    try:
        return SlideSummary.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ResultsError(
            f"the slide's summary cannot be read ({error.strerror})", path=path, fix="Run infer again"
        ) from None
    except ValidationError:
        raise ResultsError(
            "the slide's summary was written by another version", path=path, fix="Run infer again"
        ) from None


def check_covariates(manifest: Manifest) -> None:
    """Raise ConfigError where a column of the manifest has the name of one of ours."""
    names = {name for row in manifest.rows.values() for name in row.covariates}
    ours = names & {*IDENTITY, *COUNTS, *(measure.name for measure in COMPARED)}
    if ours:
        raise ConfigError(
            f"columns of the manifest have names of measures: {', '.join(sorted(ours))}",
            path=manifest.path,
            fix="Rename these columns",
        )


def identity(name: str, entry: ManifestRow) -> dict[str, Any]:
    """Return `IDENTITY` and the covariates of a slide, as the manifest has them."""
    return {
        "slide_id": name,
        "patient": entry.patient,
        "lesion": entry.lesion,
        "site": entry.site,
        "stain": entry.stain,
        "growth_pattern": entry.growth_pattern,
        "treatment": entry.treatment,
        **entry.covariates,
    }


def _counts(summary: SlideSummary) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for zone, measured in summary.zones.items():
        values[f"n_positive_{zone}"] = measured.n_cd8
        values[f"n_cells_{zone}"] = measured.n_cells
        values[f"area_{zone}_mm2"] = measured.area_mm2
        values[f"density_{zone}_per_mm2"] = measured.cd8_density.value
    return values


def _measured(summary: SlideSummary) -> dict[str, float | None]:
    known = {
        OVERALL_DENSITY.name: summary.cd8_density,
        EXCLUSION[0].name: summary.exclusion.log2_core_outer,
        **summary.measures,
    }
    return {name: estimate.value for name, estimate in known.items()}


def _unused(manifest: Manifest | None, table: pd.DataFrame) -> list[Exclusion]:
    if manifest is None:
        return []
    ids = set(table["slide_id"])
    unused = manifest.unused([Path(str(path)) for path in table["path"]])
    return [
        Exclusion(name=name, reason="named in the manifest, not among the results")
        for name in unused
        if name not in ids
    ]


def numbers(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return a table with some columns as numbers, NaN where there is none."""
    return frame.assign(**{name: pd.to_numeric(frame[name]).astype("float64") for name in names})
