"""A few strokes per class on a rendered slide, as somebody would draw them to teach the tissue classifier."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import shapely
import shapely.ops
from shapely.geometry import LineString
from shapely.geometry.base import BaseGeometry

from histo.config import RegionName
from histo.regions.annotations import read_annotations
from histo.slide import open_slide
from histo.synthetic.slide import RenderedSlide

_NAMES: dict[str, RegionName] = {"Tumor": "tumour", "Liver": "host", "Bowel": "host"}
# Between tumour and liver a rim of stroma is rendered, some 45 um wide; its middle lies here.
_RIM_MIDDLE_UM = 22.0


def write_scribbles(
    rendered: RenderedSlide, path: Path, *, per_class: int = 3, length_um: float = 150.0, seed: int = 1
) -> Path:
    """Write strokes through tumour, host and, in the liver, the rim of stroma, as QuPath lines.

    Strokes through tumour and host are straight, of any place and direction, and pass over whatever is
    there; those of stroma follow the rim. The same seed draws the same strokes.

    Parameters
    ----------
    path : a `.geojson`.
    """
    with open_slide(rendered.slide) as slide:
        truth = read_annotations(rendered.annotations, slide, _NAMES).polygons_um
        mpp = np.asarray(slide.mpp)
    rng = np.random.default_rng(seed)
    tumour, host = truth["tumour"], truth["host"]
    strokes = {
        "Tumor": _across(rng, tumour.buffer(-40), per_class, length_um),
        "Host": _across(rng, host.buffer(-100), per_class, length_um),
    }
    if rendered.spec.host == "liver":
        rim = tumour.buffer(_RIM_MIDDLE_UM).boundary.intersection(host.buffer(-10))
        strokes["Stroma"] = _along(rim, per_class, length_um)
    features = [
        {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(shapely.transform(line, lambda xy: xy / mpp))),
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for name, lines in strokes.items()
        for line in lines
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


def _across(rng: np.random.Generator, area: BaseGeometry, n: int, length_um: float) -> list[LineString]:
    """Draw straight strokes that lie in an area."""
    x0, y0, x1, y1 = area.bounds
    lines: list[LineString] = []
    while len(lines) < n:
        middle = rng.uniform((x0, y0), (x1, y1))
        turn = rng.uniform(0, np.pi)
        half = length_um / 2 * np.array([np.cos(turn), np.sin(turn)])
        line = LineString([middle - half, middle + half])
        if area.contains(line):
            lines.append(line)
    return lines


def _along(way: BaseGeometry, n: int, length_um: float) -> list[LineString]:
    """Draw strokes along the longest stretch of a line, evenly spread."""
    longest = max(shapely.get_parts(shapely.line_merge(way)), key=shapely.length)
    starts = (np.arange(n) + 0.5) / n * longest.length - length_um / 2
    pieces = [shapely.ops.substring(longest, start, start + length_um) for start in starts]
    return [piece for piece in pieces if isinstance(piece, LineString)]
