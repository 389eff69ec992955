"""The page of a batch's gates and states: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from histo.measure.state.mixture import Scale
from histo.measure.state.slide import h_thresholds
from histo.measure.state.summary import BatchGates, Gate, StateAtDistance, StatesSummary
from histo.results.atomic import write_text
from histo.results.page import ACCENT, INK, drawing, environment, inline_svg, number

STATES_PAGE: Final = "states.html"
# What each way of gating is, in the words of the page.
METHODS: Final = {
    "control slides": "percentile of the CD8+ cells of control slides",
    "negative cells": "percentile of cells that are negative by lineage",
    "manual": "set by hand in the configuration",
    "table": "called by the program that wrote the table",
    "mixture": "crossing of two populations of CD8+ cells",
    "one population": "above the only population of CD8+ cells, taken as negative",
    "Otsu": "Otsu's threshold, the least trusted way",
}


def write_states_page(path: Path, batch: BatchGates, slides: Sequence[StatesSummary]) -> None:
    """Write the page; raises ResultsError where it cannot be written."""
    write_text(path, render_states_page(batch, slides))


def render_states_page(batch: BatchGates, slides: Sequence[StatesSummary]) -> str:
    """Return the page as HTML."""
    flags = [*batch.flags, *(flag for gate in batch.gates for flag in gate.flags)]
    return (
        environment()
        .get_template("states.html")
        .render(
            batch=batch,
            slides=[_of_slide(slide) for slide in slides],
            flags=flags,
            gates=[
                {
                    "gate": gate,
                    "method": None if gate.method is None else METHODS[gate.method],
                    "picture": None if gate.curve is None else gate_svg(gate),
                    "numbers": [
                        (name.replace("_", " "), number(value)) for name, value in gate.numbers.items()
                    ],
                    "h_thresholds": h_thresholds(gate),
                }
                for gate in batch.gates
            ],
            assessed=[state for state in batch.states if state.not_assessable is None],
            interval_name=f"{batch.confidence_level * 100:g} % interval",
        )
    )


def _of_slide(slide: StatesSummary) -> dict[str, Any]:
    """Arrange the states of a slide for its table: a block for each zone that is assessed."""
    zones = []
    missing = []
    for measures in slide.measures:
        rows = [row for row in slide.states if row.zone == measures.zone]
        reasons = {row.fraction.not_assessable for row in rows}
        if rows and all(row.n_cd8 is None for row in rows):
            missing.append((measures.zone.replace("_", " "), "; ".join(sorted(filter(None, reasons)))))
            continue
        zones.append(
            {
                "name": "all assessed tissue" if measures.zone == "all" else measures.zone.replace("_", " "),
                "rows": rows,
                "measures": measures,
            }
        )
    profile = None if not slide.profile else profile_svg(slide.profile)
    return {"slide": slide, "zones": zones, "missing": missing, "profile": profile}


def gate_svg(gate: Gate) -> Markup:
    """Draw the cells by intensity and the share above each threshold, with the gate, as inline SVG."""
    curve = gate.curve
    assert curve is not None
    threshold, fraction = np.array(curve.threshold), np.array(curve.fraction)
    # Even steps on the scale on which the thresholds lie; small intensities keep their room.
    scale = Scale(max(float(np.abs(np.diff(threshold)).min()) * 8, 1e-12), 0.0)
    place = scale.of(threshold)
    with drawing(7.2, 3.0) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1))
        _histogram(above, place, fraction, ACCENT, "CD8+ cells")
        if curve.reference_fraction is not None:
            _histogram(above, place, np.array(curve.reference_fraction), INK, str(curve.reference))
        above.set_ylabel("cells")
        above.set_yticks([])
        above.legend(loc="upper right", fontsize=9)
        below.plot(place, fraction * 100, color=ACCENT)
        below.set_ylabel("% above")
        below.set_ylim(0, 100)
        for axes in (above, below):
            for at, style in (
                (gate.threshold, "-"),
                (gate.bright_threshold, "--"),
                (gate.manual_threshold, ":"),
            ):
                if at is not None:
                    axes.axvline(
                        float(scale.of(np.array([at]))[0]), color=INK, linestyle=style, linewidth=1.2
                    )
        ticks = np.linspace(place[0], place[-1], 7)
        below.set_xticks(ticks, [number(float(value), 2) for value in scale.value(ticks)])
        below.set_xlabel(f"intensity of {gate.marker} ({gate.column})")
        return inline_svg(
            figure, f"CD8+ cells by intensity of {gate.marker}, and the share above each threshold"
        )


def _histogram(axes: Any, place: Any, fraction: Any, colour: str, label: str) -> None:
    """Draw the cells between thresholds, which the curve holds as differences, by their own peak."""
    share = np.clip(-np.diff(fraction), 0, None) / np.diff(place)
    axes.stairs(
        share / max(share.max(), 1e-12), place, color=colour, label=label, fill=colour == ACCENT, alpha=0.7
    )


def profile_svg(steps: Sequence[StateAtDistance]) -> Markup | None:
    """Draw the fraction of each state along the distance to the border; None where no step has one."""
    known = [step for step in steps if step.fraction.value is not None]
    if not known:
        return None
    with drawing(7.2, 3.0) as figure:
        axes = figure.add_subplot()
        for state in dict.fromkeys(step.state for step in known):
            points = [
                (step.low_um + step.high_um, step.fraction.value) for step in known if step.state == state
            ]
            at, value = np.array(points, np.float64).T
            axes.plot(at / 2, value * 100, marker="o", markersize=3, linewidth=1, label=state)
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.set_xlabel("signed distance to tumour border (µm): inside the tumour < 0 < outside")
        axes.set_ylabel("% of CD8+ cells")
        axes.set_ylim(0, None)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        return inline_svg(figure, "Fraction of each state by signed distance to the tumour border")
