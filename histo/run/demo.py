"""The demo: render a paired cohort with known truth, analyse it, and print measured against true."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from histo.cohort.manifest import read_manifest
from histo.config import Config
from histo.results.slides_table import SlideRow
from histo.run.batch import run_batch
from histo.synthetic.cohort import demo_cohort
from histo.synthetic.slide import RenderedSlide

log = logging.getLogger("histo")

# A measured count further than this from the true one is an error of the demo.
TOLERANCE = 0.10


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


def run_demo(out: Path, config: Config, console: Console) -> bool:
    """Render into `out`/cohort, analyse into `out`, print the comparison; return whether all agree."""
    with console.status("rendering the demo cohort"):
        cohort = demo_cohort(out / "cohort")
    result = run_batch(
        list(cohort.slide_paths),
        out,
        config,
        manifest=read_manifest(cohort.manifest),
        annotations=cohort.annotations_folder,
        console=console,
    )
    comparisons = [compare(slide, row) for slide, row in zip(cohort.slides, result.rows, strict=True)]
    _print(comparisons, out)
    return all(comparison.passed for comparison in comparisons)


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


def _print(comparisons: list[Comparison], out: Path) -> None:
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
    console.print(f"Reports: {out}/*/report.html   Table: {out / 'slides.csv'}", soft_wrap=True)
