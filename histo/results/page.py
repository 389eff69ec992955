"""What every report page shares: the look, numbers in words, figures and pictures inside the page."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from histo.errors import ResultsError
from histo.measure.summary import Estimate

_PICTURE_PX: Final = 1600
# Stands for the page's own text colour until the drawing is in the page.
INK: Final = "#010203"
ACCENT: Final = "#c2189b"


def environment(*packages: str) -> Environment:
    """Return the templates of packages, and those that all pages share; text is escaped."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "histo.results")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
    )
    made.filters.update(number=number, count=count, percent=percent)
    return made


@contextmanager
def drawing(width_in: float, height_in: float) -> Iterator[Figure]:
    """Give a figure to draw in, in the page's text colour and without a background."""
    style: dict[Any, Any] = {
        "svg.hashsalt": "histo",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def inline_svg(figure: Figure, title: str) -> Markup:
    """Return a figure as SVG that takes the page's text colour; `title` is read out in its place.

    Call it inside `drawing`. Text in the figure is escaped by the SVG writer.
    """
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{Markup.escape(title)}"', 1))


def embed(path: Path) -> str:
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


def number(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits, never in powers of ten unless tiny."""
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    places = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: Any) -> Any:
    """Write a whole number with separators; NA where there is none."""
    return Markup('<span class="na">NA</span>') if value is None else f"{value:,}"


def percent(share: Estimate) -> Estimate:
    """Return a share as a percentage."""
    if share.value is None:
        return share
    low, high = (None if end is None else end * 100 for end in (share.low, share.high))
    return Estimate(value=share.value * 100, low=low, high=high, unit="%")
