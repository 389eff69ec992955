"""The report of one slide: one HTML file that needs nothing else, for screen, phone and paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from histo.measure.catalogue import FURTHER
from histo.measure.summary import ZONES, DistanceBin, SlideSummary
from histo.results.atomic import write_text
from histo.results.page import ACCENT, INK, drawing, embed, environment, inline_svg


def write_report(
    path: Path, summary: SlideSummary, *, overlay: Path | None = None, confidence_level: float | None = None
) -> None:
    """Write the report of a slide.

    Parameters
    ----------
    path : an `.html`.
    summary : what was measured.
    overlay : a picture to embed, scaled down to 1600 px; None for none.
    confidence_level : of the intervals, to be named with them (0.95).

    Raises
    ------
    ResultsError : the picture cannot be read or the report not be written.
    """
    write_text(path, render_report(summary, overlay=overlay, confidence_level=confidence_level))


def render_report(
    summary: SlideSummary, *, overlay: Path | None = None, confidence_level: float | None = None
) -> str:
    """Return the report as HTML; parameters and errors as in `write_report`."""
    border_um = summary.exclusion.border_length_um
    return (
        environment()
        .get_template("slide_report.html")
        .render(
            s=summary,
            zones=[(zone.replace("_", " "), summary.zones[zone]) for zone in ZONES if zone in summary.zones],
            border_mm=None if border_um is None else border_um / 1000,
            measures=[(m, summary.measures[m.name]) for m in FURTHER if m.name in summary.measures],
            picture=None if overlay is None else embed(overlay),
            profile=profile_svg(summary.distance_profile) if summary.distance_profile else None,
            interval_name=(
                "confidence interval"
                if confidence_level is None
                else f"{confidence_level * 100:g} % interval"
            ),
            methods=methods_sentence(summary),
        )
    )


def methods_sentence(summary: SlideSummary) -> str:
    """Say how the numbers were made, in words for a methods section."""
    if summary.image.kind == "brightfield":
        stain = (
            "Stains were separated by colour deconvolution in optical density "
            "(Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291)."
        )
    else:
        stain = "Channel intensities were normalised per slide by background and full scale."
    zones = (
        " Zones are bands round the tumour border by signed distance, as in Kather et al. 2018 "
        "(eLife 7:e36967, doi 10.7554/eLife.36967)."
        if summary.exclusion.border_length_um
        else ""
    )
    return (
        f"CD8+ cells were segmented with histo {summary.histo_version} ({summary.detector_name}, "
        f"configuration {summary.config_name}). {stain} A density is the number of CD8+ cells whose centroid "
        "lies in assessed tissue, divided by the area of that tissue, with an exact Poisson interval "
        f"(Garwood 1936, Biometrika 28:437); a share has a Wilson interval (Wilson 1927, JASA 22:209).{zones}"
    )


def profile_svg(bins: Sequence[DistanceBin]) -> Markup:
    """Draw CD8+ density against signed distance to the border as inline SVG in the page's text colour."""
    known = [step for step in bins if step.cd8_density.value is not None]
    low, high, value = (
        np.array([(step.low_um, step.high_um, step.cd8_density.value) for step in known], np.float64)
        .reshape(-1, 3)
        .T
    )
    with_interval = [
        ((step.low_um + step.high_um) / 2, step.cd8_density.low, step.cd8_density.high)
        for step in known
        if step.cd8_density.low is not None and step.cd8_density.high is not None
    ]
    with drawing(7.2, 2.9) as figure:
        axes = figure.add_subplot()
        axes.bar(low, value, width=high - low, align="edge", color=ACCENT, alpha=0.7, linewidth=0)
        if with_interval:
            axes.vlines(*zip(*with_interval, strict=True), color=INK, linewidth=0.8)
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.set_xlabel("signed distance to tumour border (µm): inside the tumour < 0 < outside")
        axes.set_ylabel("CD8+ cells per mm²")
        # Steps with little tissue have intervals that would leave no room for the rest.
        axes.set_ylim(0, 1.3 * max(value.max(initial=0), 1.0))
        return inline_svg(figure, "CD8+ density by signed distance to the tumour border")
