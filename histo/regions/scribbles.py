"""What people drew to show the tissue classifier its classes: areas and lines, each with a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import shapely
from shapely.affinity import scale
from shapely.geometry import MultiPolygon

from histo.config import RegionName
from histo.errors import AnnotationError
from histo.regions.annotations import read_drawing, region_named
from histo.regions.shapes import as_multipolygon, repair
from histo.slide.base import Slide

# Pixels under this class teach nothing.
SKIPPED: Final = "exclude"


@dataclass(frozen=True)
class Scribble:
    """One annotation: its class, ours where the configuration maps it, else as the file has it."""

    class_name: str
    area_um: MultiPolygon


def read_scribbles(
    path: Path, slide: Slide, names: Mapping[str, RegionName], line_width_um: float
) -> tuple[Scribble, ...]:
    """Read areas and lines of an annotation file; annotations without a class are left out.

    Parameters
    ----------
    path : any file that `read_annotations` reads; lines are those of GeoJSON.
    slide : the slide that it belongs to.
    names : class names of the file to ours.
    line_width_um : how wide a line counts.

    Raises
    ------
    AnnotationError : the file cannot be read, or none of its annotations has a class.
    """
    drawing = read_drawing(path, slide)
    mpp_x, mpp_y = slide.mpp
    frame = shapely.box(0, 0, *slide.size_um)
    found: list[Scribble] = []
    for shape in (*drawing.shapes, *drawing.lines):
        if not shape.names:
            continue
        name = region_named(shape.names, names) or shape.names[0]
        is_line = shapely.get_dimensions(shape.geometry) == 1
        in_um = scale(shape.geometry if is_line else repair(shape.geometry), mpp_x, mpp_y, origin=(0, 0))
        area = in_um.buffer(line_width_um / 2) if is_line else in_um
        inside = as_multipolygon(shapely.intersection(area, frame))
        if not inside.is_empty:
            found.append(Scribble(name, inside))
    if not found:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(drawing.ignored).items()))
        raise AnnotationError(
            f"no area or line with a class lies on the slide{f' (only: {kinds})' if kinds else ''}",
            path=path,
            fix="Draw some in QuPath, give each a class, and export them as GeoJSON",
        )
    return tuple(found)
