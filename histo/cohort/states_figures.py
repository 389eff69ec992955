"""The figures of the states in a cohort report, as SVG inside the page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from histo.cohort.figures import COLOURS, SHAPES
from histo.cohort.summary import SITES, JointView, StateResults
from histo.measure.summary import Estimate
from histo.results.page import INK, drawing, inline_svg

# Odds ratios beyond these are drawn at the edge.
_SMALLEST, _LARGEST = 1 / 64, 64.0


def states_forest(states: Sequence[StateResults]) -> Markup | None:
    """Draw shifts and odds ratios of all assessed tissue with their intervals, a line a state.

    None where no state has either.
    """
    rows = [
        (state, state.fractions[0].comparison, next((r.ratio for r in state.overall.odds_ratios), None))
        for state in states
    ]
    rows = [row for row in rows if row[1].shift.value is not None or row[2] is not None]
    if not rows:
        return None
    with drawing(7.2, 1.0 + 0.32 * len(rows)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for at, (state, comparison, ratio) in enumerate(reversed(rows)):
            _line(left, at, comparison.shift, state.is_primary_state, comparison.p_adjusted)
            if ratio is not None:
                _line(right, at, ratio, state.is_primary_state, state.overall.p_adjusted)
        left.axvline(0, color=INK, linewidth=0.8, alpha=0.5)
        left.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        left.set_xlabel("shift, percentage points of CD8+ cells", fontsize=9)
        left.set_yticks(range(len(rows)), [row[0].state for row in reversed(rows)], fontsize=9)
        right.axvline(1, color=INK, linewidth=0.8, alpha=0.5)
        right.set_xscale("log", base=2)
        low, high = right.get_xlim()
        right.set_xlim(max(low, _SMALLEST), min(high, _LARGEST))
        right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        right.set_xlabel("odds ratio", fontsize=9)
        for axes in (left, right):
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        figure.supxlabel("← lower in metastases   higher →", fontsize=9)
        return inline_svg(figure, "Shifts and odds ratios of the states, with their intervals")


def _line(axes: Axes, at: int, estimate: Estimate, declared: bool, p_adjusted: float | None) -> None:
    if estimate.value is None:
        return
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [at, at], color=INK, linewidth=1.4)
    axes.plot(
        [estimate.value],
        [at],
        "D" if declared else "o",
        color=INK,
        markersize=7 if declared else 6,
        markerfacecolor=INK if p_adjusted is not None and p_adjusted < 0.05 else "none",
    )


def joint_plot(states: Sequence[StateResults]) -> Markup | None:
    """Draw exclusion against the fraction with each state, a dot a patient and site; None without any dot."""
    shown = [state for state in states if state.joint.points]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    with drawing(max(3.1 * columns, 4.2), 2.9 * rows + 0.4) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        for axes, state in zip(panels, shown, strict=False):
            _joint(axes, state.joint)
            axes.set_title(textwrap.fill(state.state, 26), fontsize=9.5)
            axes.set_ylabel(f"{state.state}, % of CD8+ cells", fontsize=9)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9)
        return inline_svg(figure, "Exclusion and fraction with a state, of each patient at each site")


def _joint(axes: Axes, view: JointView) -> None:
    for site in SITES:
        points = [point for point in view.points if point.site == site]
        axes.plot(
            [point.log2_core_outer for point in points],
            [point.fraction for point in points],
            SHAPES[site],
            color=COLOURS[site],
            alpha=0.75,
            markersize=4.5,
            markeredgewidth=0,
            label=site,
        )
    if view.exclusion_cutoff is not None and view.fraction_cutoff is not None:
        axes.axvline(view.exclusion_cutoff, color=INK, linewidth=0.8, alpha=0.5)
        axes.axhline(view.fraction_cutoff, color=INK, linewidth=0.8, alpha=0.5)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    axes.set_ylim(bottom=min(0.0, -0.03 * float(np.max([point.fraction for point in view.points]))))
    axes.set_xlabel("log2 core : outer margin\n← more excluded", fontsize=9)
