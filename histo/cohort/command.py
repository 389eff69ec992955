"""`histo cohort`: from results, or the tables of others, to the report of a cohort."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from histo.cohort.analysis import analyse_cohort
from histo.cohort.config import CohortConfig
from histo.cohort.manifest import Manifest
from histo.cohort.of_cells import cohort_of_cells
from histo.cohort.of_states import cohort_of_states
from histo.cohort.of_zones import cohort_of_zones
from histo.cohort.report import write_cohort_report
from histo.cohort.states_table import has_states, read_states
from histo.cohort.summary import CohortSummary, Comparison, StatesResults
from histo.cohort.table import CohortTable, check_covariates, cohort_of_results
from histo.cohort.words import answer, state_answers
from histo.errors import ConfigError
from histo.results.atomic import replacing, write_text
from histo.results.slides_table import for_csv
from histo.tables.layouts import Format
from histo.tables.mapping import TableMapping
from histo.tables.open import open_table
from histo.tables.zones import ZoneTable


def analyse(
    source: Path,
    out: Path,
    config: CohortConfig,
    *,
    manifest: Manifest | None = None,
    table_format: Format | None = None,
    mpp: float | None = None,
    mapping: TableMapping | None = None,
    states: Path | None = None,
) -> CohortSummary:
    """Read a cohort, compare its sites, and write `cohort.json`, `cohort.html` and `cohort_patients.csv`.

    Parameters
    ----------
    source : a results folder of `histo infer` or `histo states`, or a table of another program, or a folder
        of such.
    out : folder to write to; made where it does not exist.
    table_format, mpp, mapping : of tables of others, see `histo.tables.open.open_table`.
    states : folder of `histo states` with the states of the source's slides; None looks into the source.

    Raises
    ------
    HistoError : the source cannot be read, nothing can be compared, or the output not be written.
    """
    table = read_cohort(source, manifest, table_format=table_format, mpp=mpp, mapping=mapping)
    if states is not None:
        table = replace(table, states=read_states(states))
    return write_cohort(table, out, config)


def read_cohort(
    source: Path,
    manifest: Manifest | None = None,
    *,
    table_format: Format | None = None,
    mpp: float | None = None,
    mapping: TableMapping | None = None,
) -> CohortTable:
    """Read a cohort from where it lies; parameters and errors as in `analyse`."""
    if manifest is not None:
        check_covariates(manifest)
    if (source / "slides.parquet").is_file():
        if table_format is not None or mpp is not None or mapping is not None:
            raise ConfigError(
                "a results folder has its own format, pixel sizes and names",
                path=source,
                fix="Leave out --format, --mpp and --mapping",
            )
        return cohort_of_results(source, manifest)
    if has_states(source):
        return cohort_of_states(source, manifest)
    read = open_table(source, format=table_format, mpp=mpp, mapping=mapping)
    if isinstance(read, ZoneTable):
        return cohort_of_zones(read, source, manifest)
    return cohort_of_cells(read, source, manifest)


def write_cohort(table: CohortTable, out: Path, config: CohortConfig) -> CohortSummary:
    """Analyse a cohort and write what was found; see `analyse`."""
    summary = analyse_cohort(table, config)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write there ({error.strerror})", path=out, fix="Name another --out"
        ) from None
    write_cohort_report(out / "cohort.html", summary)
    _write_patients(out / "cohort_patients.csv", summary)
    write_text(out / "cohort.json", summary.model_dump_json(indent=2))
    return summary


def _fractions(states: StatesResults) -> list[Comparison]:
    return [fraction.comparison for state in states.states for fraction in state.fractions]


def headlines(summary: CohortSummary) -> list[str]:
    """Say for each stain who was compared, and what the declared measure shows."""
    lines = []
    for stain in summary.stains:
        n = {group.site: group.n_patients for group in stain.groups}
        declared = next((c for c in stain.comparisons if c.is_primary_measure), None)
        lines.append(
            f"{stain.stain}: {n['primary']} patients with primary, {n['metastasis']} with metastasis, "
            f"{stain.design}. {answer(stain, declared, summary.confidence_level)}"
        )
        if stain.states is not None:
            lines += [f"{stain.stain}: {line}" for line in state_answers(stain.states, summary)]
    return lines


def _write_patients(path: Path, summary: CohortSummary) -> None:
    """Write every patient's value of every measure, as compared: a row each."""
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("stain", "measure", "unit", "patient", "site", "value"))
        for stain in summary.stains:
            fractions = () if stain.states is None else _fractions(stain.states)
            for comparison in (*stain.comparisons, *fractions):
                for value in comparison.values:
                    writer.writerow(
                        (
                            for_csv(stain.stain),
                            comparison.measure,
                            comparison.unit,
                            for_csv(value.patient),
                            value.site,
                            value.value,
                        )
                    )
