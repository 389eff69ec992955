"""The figures of a cohort report, as SVG inside the page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from histo.cohort.summary import SITES, Comparison, PhenotypeShares, Profile, Site
from histo.results.page import INK, drawing, inline_svg

# Told apart with any colour vision, on white and on black; by shape as well.
COLOURS: Final[dict[Site, str]] = {"primary": "#2f7fc1", "metastasis": "#d9641a"}
SHAPES: Final[dict[Site, str]] = {"primary": "o", "metastasis": "s"}
# On a logarithmic axis.
_STEPS: Final = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
_PHENOTYPE_COLOURS: Final = {"inflamed": "#b5305f", "excluded": "#e0a12e", "desert": "#6f8fa8"}


def dot_plots(comparisons: Sequence[Comparison]) -> Markup:
    """Draw the patients' values by site, a panel a measure; lines join a patient's two sites where paired.

    Densities are drawn on a log axis of value + offset. A bar marks the median.
    """
    columns = min(4, len(comparisons))
    rows = -(-len(comparisons) // columns)
    with drawing(2.3 * columns + 0.3, 3.0 * rows) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(comparisons) :]:
            axes.set_axis_off()
        for axes, comparison in zip(panels, comparisons, strict=False):
            _dots(axes, comparison)
        return inline_svg(figure, "Values of each patient at each site")


def _dots(axes: Axes, comparison: Comparison) -> None:
    values = {
        site: {v.patient: _drawn(v.value, comparison) for v in comparison.values if v.site == site}
        for site in SITES
    }
    left, right = values["primary"], values["metastasis"]
    if comparison.design == "paired":
        for patient in left.keys() & right.keys():
            axes.plot([0, 1], [left[patient], right[patient]], color=INK, alpha=0.25, linewidth=0.8)
    for at, site in enumerate(SITES):
        y = np.array(list(values[site].values()), np.float64)
        if len(y) == 0:
            continue
        shift = np.zeros(len(y)) if comparison.design == "paired" else _spread(y)
        axes.plot(
            at + shift, y, SHAPES[site], color=COLOURS[site], alpha=0.75, markersize=4.5, markeredgewidth=0
        )
        axes.hlines(np.median(y), at - 0.28, at + 0.28, color=INK, linewidth=2)
    axes.set_xticks([0, 1], [f"{site}\nn = {len(values[site])}" for site in SITES], fontsize=8)
    axes.set_xlim(-0.6, 1.6)
    axes.set_title(textwrap.fill(comparison.label, 22), fontsize=9.5)
    axes.set_ylabel(comparison.unit, fontsize=9)
    if comparison.scale == "log2":
        low, high = axes.get_ylim()
        steps = [step for step in _STEPS if low <= _drawn(step, comparison) <= high]
        axes.set_yticks([_drawn(step, comparison) for step in steps], [f"{step:,}" for step in steps])
        axes.set_ylim(low, high)


def _drawn(value: float, comparison: Comparison) -> float:
    return float(np.log2(value + comparison.scale_offset)) if comparison.scale == "log2" else value


def _spread(y: np.ndarray) -> np.ndarray:
    """Return shifts aside that keep dots of like height apart; the same for the same values."""
    order = np.argsort(y, kind="stable")
    pattern = np.array([0.0, 0.16, -0.16, 0.08, -0.08])
    shift = np.empty(len(y))
    shift[order] = pattern[np.arange(len(y)) % len(pattern)]
    return shift


def profile_plot(profiles: Sequence[Profile], positive_name: str) -> Markup:
    """Draw the mean density by signed distance to the border, with its band, a line a site."""
    with drawing(7.2, 3.4) as figure:
        axes = figure.add_subplot()
        for profile in profiles:
            known = [b for b in profile.bins if b.density.value is not None]
            if not known:
                continue
            middle = [(b.low_um + b.high_um) / 2 for b in known]
            axes.plot(
                middle,
                [b.density.value or 0.0 for b in known],
                color=COLOURS[profile.site],
                marker=SHAPES[profile.site],
                markersize=3,
                label=f"{profile.site} (n = {max(b.n_patients for b in known)})",
            )
            banded = [b for b in known if b.density.low is not None and b.density.high is not None]
            axes.fill_between(
                [(b.low_um + b.high_um) / 2 for b in banded],
                [b.density.low or 0.0 for b in banded],
                [b.density.high or 0.0 for b in banded],
                color=COLOURS[profile.site],
                alpha=0.2,
                linewidth=0,
            )
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.set_xlabel("signed distance to tumour border (µm): inside the tumour < 0 < outside")
        axes.set_ylabel(f"{positive_name} cells per mm²")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=9)
        return inline_svg(figure, "Density by signed distance to the tumour border, by site")


def phenotype_bars(shares: PhenotypeShares) -> Markup:
    """Draw the share of patients of each phenotype, a bar a site."""
    with drawing(7.2, 1.9) as figure:
        axes = figure.add_subplot()
        labels = []
        for at, site in enumerate(reversed(SITES)):
            counts = shares.counts[site]
            total = sum(counts.values())
            labels.append(f"{site} (n = {total})")
            start = 0.0
            for phenotype, colour in _PHENOTYPE_COLOURS.items():
                n = counts.get(phenotype, 0)
                if total == 0 or n == 0:
                    continue
                width = 100 * n / total
                axes.barh(at, width, left=start, height=0.62, color=colour, edgecolor="none")
                axes.text(start + width / 2, at, str(n), ha="center", va="center", color="#ffffff")
                start += width
        for phenotype, colour in _PHENOTYPE_COLOURS.items():
            axes.barh(0, 0, color=colour, label=phenotype)
        axes.set_yticks(range(len(SITES)), labels)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of patients (number in the bar)")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper center", ncols=3, fontsize=9)
        return inline_svg(figure, "Phenotypes by site")


def forest_plot(comparisons: Sequence[Comparison]) -> Markup | None:
    """Draw every effect size (-1 to 1) with its interval; None where there is none to draw."""
    known = [c for c in comparisons if c.effect_size.value is not None]
    if not known:
        return None
    with drawing(7.2, 0.9 + 0.3 * len(known)) as figure:
        axes = figure.add_subplot()
        for at, comparison in enumerate(reversed(known)):
            effect = comparison.effect_size
            if effect.low is not None and effect.high is not None:
                axes.plot([effect.low, effect.high], [at, at], color=INK, linewidth=1.4)
            strong = comparison.p_adjusted is not None and comparison.p_adjusted < 0.05
            axes.plot(
                [effect.value or 0.0],
                [at],
                "D" if comparison.is_primary_measure else "o",
                color=INK,
                markersize=7 if comparison.is_primary_measure else 6,
                markerfacecolor=INK if strong else "none",
            )
        axes.axvline(0, color=INK, linewidth=0.8, alpha=0.5)
        axes.set_yticks(range(len(known)), [c.label for c in reversed(known)], fontsize=9)
        axes.set_xlim(-1.05, 1.05)
        axes.set_xticks([-1, -0.5, 0, 0.5, 1])
        axes.set_xlabel("← lower in metastases   higher →", fontsize=9)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return inline_svg(figure, "Effect sizes with their intervals")
