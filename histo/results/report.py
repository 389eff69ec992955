"""The report of one slide: one HTML file that needs nothing else, for screen, phone and paper."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from histo.errors import ResultsError
from histo.measure.summary import ZONES, DistanceBin, Estimate, SlideSummary
from histo.results.atomic import write_text

_PICTURE_PX: Final = 1600
# Stands for the page's own text colour until the drawing is in the page.
_INK: Final = "#010203"
_ACCENT: Final = "#c2189b"


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
        _environment()
        .get_template("slide_report.html")
        .render(
            s=summary,
            zones=[(zone.replace("_", " "), summary.zones[zone]) for zone in ZONES if zone in summary.zones],
            border_mm=None if border_um is None else border_um / 1000,
            picture=None if overlay is None else _embed(overlay),
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
        " Zones are bands round the annotated tumour border after Kather et al. 2018 (eLife 7:e36967, "
        "doi 10.7554/eLife.36967)."
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
    style: dict[Any, Any] = {
        "svg.hashsalt": "histo",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
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
    with mpl.rc_context(style):
        figure = Figure(figsize=(7.2, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        figure.patch.set_visible(False)
        axes.bar(low, value, width=high - low, align="edge", color=_ACCENT, alpha=0.7, linewidth=0)
        if with_interval:
            axes.vlines(*zip(*with_interval, strict=True), color=_INK, linewidth=0.8)
        axes.axvline(0, color=_INK, linewidth=1.2)
        axes.set_xlabel("signed distance to tumour border (µm): inside the tumour < 0 < outside")
        axes.set_ylabel("CD8+ cells per mm²")
        # Steps with little tissue have intervals that would leave no room for the rest.
        axes.set_ylim(0, 1.3 * max(value.max(initial=0), 1.0))
        axes.spines[["top", "right"]].set_visible(False)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # Nothing but numbers and the words above went in.
    return Markup(re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL))


def _embed(path: Path) -> str:
    """Return a picture as a data URI, at most `_PICTURE_PX` long."""
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((_PICTURE_PX, _PICTURE_PX), Image.Resampling.LANCZOS)
    except OSError as error:
        raise ResultsError(f"the picture cannot be read ({error})", path=path) from None
    buffer = BytesIO()
    # Thin coloured lines need full colour resolution.
    small.save(buffer, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("histo.results"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters.update(number=_number, count=_count, percent=_percent)
    return environment


def _number(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits, never in powers of ten unless tiny."""
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    places = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _count(value: Any) -> Any:
    return Markup('<span class="na">NA</span>') if value is None else f"{value:,}"


def _percent(share: Estimate) -> Estimate:
    """Return a share as a percentage."""
    if share.value is None:
        return share
    low, high = (None if end is None else end * 100 for end in (share.low, share.high))
    return Estimate(value=share.value * 100, low=low, high=high, unit="%")
