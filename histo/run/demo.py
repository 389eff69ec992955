"""The demo: render a paired cohort in two stains, analyse it, and print measured against true."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from histo.cohort.manifest import read_manifest
from histo.config import Config, load_config
from histo.results.slides_table import SlideRow
from histo.results.states_files import STATES_TABLE
from histo.run.batch import run_batch
from histo.run.cluster_config import Workers
from histo.synthetic.cohort import demo_cohort
from histo.synthetic.slide import RenderedSlide

log = logging.getLogger("histo")

# A measured count further than this from the true one is an error of the demo.
TOLERANCE = 0.10
# And a fraction of CD8+ cells further than this.
FRACTION_TOLERANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """Measured against true, of one slide. Counts are CD8+ cells in tissue."""

    slide_id: str
    site: str
    n_true: int
    n_measured: int | None
    phenotype_true: str
    phenotype_measured: str | None

    @property
    def error(self) -> float | None:
        """Relative error of the count; None where nothing was measured."""
        return None if self.n_measured is None else self.n_measured / self.n_true - 1

    @property
    def passed(self) -> bool:
        """Whether the count is within tolerance and the phenotype right."""
        return (
            self.error is not None
            and abs(self.error) <= TOLERANCE
            and self.phenotype_measured == self.phenotype_true
        )


@dataclass(frozen=True)
class StateComparison:
    """Fraction of CD8+ cells that carry a marker, measured against true, of one slide."""

    slide_id: str
    marker: str
    true: float
    measured: float | None
    low: float | None
    high: float | None

    @property
    def passed(self) -> bool:
        """Whether the fraction is within tolerance."""
        return self.measured is not None and abs(self.measured - self.true) <= FRACTION_TOLERANCE


def run_demo(out: Path, config: Config, console: Console, cluster: Workers | None = None) -> bool:
    """Render into `out`/cohort, analyse into `out` and `out`/mif, compare with the truth.

    Each stain is a run of its own, with its own configuration and results folder, and one manifest.

    Parameters
    ----------
    config : of the CD8 H-DAB; its section `run` holds for both.
    cluster : whose workers do the work; None does it in this process.

    Returns
    -------
    Whether all agree.
    """
    with console.status("rendering the demo cohort"):
        cohort = demo_cohort(out / "cohort")
    manifest = read_manifest(cohort.manifest)
    mif_config = load_config(cohort.mif_config).model_copy(update={"run": config.run})
    stains = (
        (cohort.slides, cohort.slides_folder, out, config),
        (cohort.mif_slides, cohort.mif_folder, out / "mif", mif_config),
    )
    counts: list[Comparison] = []
    for slides, folder, results, settled in stains:
        result = run_batch(
            [folder / slide.slide.name for slide in slides],
            results,
            settled,
            manifest=manifest,
            annotations=cohort.annotations_folder,
            cluster=cluster,
            console=console,
        )
        counts += [compare(slide, row) for slide, row in zip(slides, result.rows, strict=True)]
    states = compare_states(cohort.mif_slides, out / "mif" / STATES_TABLE)
    _print(counts, states, out)
    return all(item.passed for item in counts) and all(item.passed for item in states)


def compare(slide: RenderedSlide, row: SlideRow) -> Comparison:
    """Put a slide's row beside its truth."""
    n_measured, phenotype = row.values.get("n_cd8"), row.values.get("phenotype")
    return Comparison(
        slide_id=row.slide_id,
        site=slide.spec.site,
        n_true=int(slide.truth["n_cd8"]),
        n_measured=None if n_measured is None else int(n_measured),
        phenotype_true=str(slide.truth["phenotype"]),
        phenotype_measured=None if phenotype is None else str(phenotype),
    )


def compare_states(slides: Sequence[RenderedSlide], table: Path) -> list[StateComparison]:
    """Put the fractions of `states.csv` beside the truth; what it lacks has no measured fraction."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    if table.is_file():
        told = pd.read_csv(table)
        records = told[told["zone"] == "all"].to_dict(orient="records")
        rows = {(str(row["slide_id"]), str(row["state"])): row for row in records}  # type: ignore[misc]
    found = []
    for slide in slides:
        slide_id, panel = slide.spec.slide_id, slide.spec.panel
        cells = pd.read_parquet(slide.cells)
        for marker in () if panel is None else panel.markers:
            true = float(cells.loc[cells["is_cd8"], f"{marker.name}+"].mean())
            row = rows.get((slide_id, f"{marker.name}+"), {})
            values = (row.get(name, nan) for name in ("fraction", "fraction_low", "fraction_high"))
            known = [None if isnan(value) else float(value) for value in values]
            found.append(StateComparison(slide_id, marker.name, true, *known))
    return found


def _print(comparisons: list[Comparison], states: list[StateComparison], out: Path) -> None:
    table = Table(title="CD8+ cells, measured against true")
    for heading in ("slide", "site", "true", "measured", "error", "true phenotype", "measured", ""):
        table.add_column(heading, justify="right" if heading in ("true", "error") else "left")
    for item in comparisons:
        table.add_row(
            item.slide_id,
            item.site,
            str(item.n_true),
            "NA" if item.n_measured is None else str(item.n_measured),
            "NA" if item.error is None else f"{item.error:+.1%}",
            item.phenotype_true,
            item.phenotype_measured or "NA",
            "[green]agrees[/green]" if item.passed else "[red]differs[/red]",
        )
    console = Console()
    console.print(table)
    table = Table(title="CD8+ cells that carry a checkpoint, measured against true")
    for heading in ("slide", "marker", "true", "measured", "95 % interval", ""):
        table.add_column(heading, justify="right" if heading in ("true", "measured") else "left")
    for state in states:
        known = state.low is not None and state.high is not None
        table.add_row(
            state.slide_id,
            state.marker,
            f"{state.true:.3f}",
            "NA" if state.measured is None else f"{state.measured:.3f}",
            f"{state.low:.3f} to {state.high:.3f}" if known else "",
            "[green]agrees[/green]" if state.passed else "[red]differs[/red]",
        )
    console.print(table)
    mif = out / "mif"
    console.print(
        f"Reports: {out}/*/report.html   Table: {out / 'slides.csv'}   States: {mif / 'states.html'}",
        soft_wrap=True,
    )
