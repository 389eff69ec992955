"""The report of a cohort: one HTML file that needs nothing else, for screen, phone and paper."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from histo.cohort.figures import dot_plots, forest_plot, phenotype_bars, profile_plot
from histo.cohort.states import ZONE_LABELS
from histo.cohort.states_figures import joint_plot, states_forest
from histo.cohort.summary import SITES, CohortSummary, Exclusion, StainResults, StatesResults
from histo.cohort.words import answer, limits, methods, references, state_answers
from histo.measure.exclusion import PHENOTYPE_RULE
from histo.results.atomic import write_text
from histo.results.page import environment

# Drawn as dots, in this order, where the cohort has them.
_DRAWN = (
    "log2_core_outer",
    "density_core_per_mm2",
    "density_inner_margin_per_mm2",
    "density_outer_margin_per_mm2",
    "density_far_per_mm2",
    "infiltration_fraction",
    "log2_core_far",
    "log2_outer_far",
)


def write_cohort_report(path: Path, summary: CohortSummary) -> None:
    """Write the report of a cohort as HTML.

    Raises
    ------
    ResultsError : it cannot be written.
    """
    write_text(path, render_cohort_report(summary))


def render_cohort_report(summary: CohortSummary) -> str:
    """Return the report as HTML."""
    templates = environment("histo.cohort")
    templates.filters.update(by_reason=_by_reason, signed=_signed)
    return templates.get_template("cohort_report.html").render(
        c=summary,
        pages=[_page(stain, summary) for stain in summary.stains],
        sites=SITES,
        zone_labels=ZONE_LABELS,
        level=f"{summary.confidence_level * 100:g} %",
        rule=PHENOTYPE_RULE,
        methods=methods(summary),
        references=references(summary),
        limits=limits(summary),
    )


def _page(stain: StainResults, summary: CohortSummary) -> dict[str, Any]:
    by_name = {c.measure: c for c in stain.comparisons}
    primary = by_name.get(summary.primary_measure)
    shown = [by_name[name] for name in _DRAWN if name in by_name and by_name[name].values]
    if primary is not None and primary.values and primary not in shown:
        shown.insert(0, primary)
    note = (
        "Shift: Hodges-Lehmann estimate, metastasis less primary; for densities of log2(density + 1), "
        "so that 1 is twice the density."
    )
    return {
        "s": stain,
        "anchor": re.sub(r"[^a-z0-9]+", "-", f"stain-{stain.stain}".lower()),
        "answer": answer(stain, primary, summary.confidence_level),
        "primary": primary,
        "dots": dot_plots(shown) if shown else "",
        "profile": profile_plot(stain.profiles, stain.positive_name) if stain.profiles else None,
        "forest": forest_plot(stain.comparisons),
        "phenotype_figure": phenotype_bars(stain.phenotypes[0]) if stain.phenotypes else None,
        "effect_name": stain.comparisons[0].effect_size_name if stain.comparisons else "effect size",
        "table_note": note,
        "states": None if stain.states is None else _states(stain.states, summary),
    }


def _states(states: StatesResults, summary: CohortSummary) -> dict[str, Any]:
    whole = [state.fractions[0].comparison for state in states.states]
    drawn = [
        comparison.model_copy(
            update={
                "label": state.state,
                "unit": "% of CD8+ cells",
                "values": tuple(v.model_copy(update={"value": 100 * v.value}) for v in comparison.values),
            }
        )
        for state, comparison in zip(states.states, whole, strict=True)
        if comparison.values
    ]
    return {
        "r": states,
        "answers": state_answers(states, summary),
        "declared": next(
            (
                fraction.comparison
                for state in states.states
                for fraction in state.fractions
                if fraction.comparison.is_primary_measure
            ),
            None,
        ),
        # Most states rest on the same CD8+ cells, so lack the same patients.
        "left_out": list(dict.fromkeys(row for comparison in whole for row in comparison.left_out)),
        "dots": dot_plots(drawn) if drawn else None,
        "forest": states_forest(states.states),
        "joint": joint_plot(states.states),
        "effect_name": whole[0].effect_size_name if whole else "effect size",
    }


def _by_reason(rows: Iterable[Exclusion]) -> list[tuple[str, list[str]]]:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reasons.setdefault(row.reason, []).append(row.name)
    return list(reasons.items())


def _signed(value: float) -> str:
    # A true minus sign: what is read as a dash is no number.
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
