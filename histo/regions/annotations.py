"""Annotations: what people drew on a slide, in the slide's frame."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import ParseError

import shapely
from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeElementTree
from shapely.affinity import scale
from shapely.errors import ShapelyError
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from histo.config import RegionName
from histo.errors import AnnotationError
from histo.regions.geojson import read_geojson
from histo.regions.shapes import Drawing, as_multipolygon, repair
from histo.regions.vendor_xml import read_xml
from histo.slide.base import Slide

SUFFIXES = (".geojson", ".json", ".geojson.gz", ".xml", ".ndpa", ".annotations")
NO_CLASS = "(no class)"
# Of the text, unpacked. As Python objects it takes a multiple.
_MAX_BYTES = 1 << 28
# An annotation that loses more than this share at the slide's edge is worth a note.
_NOTED_LOSS = 0.01


@dataclass(frozen=True)
class Annotations:
    """The regions of one slide, drawn by people or found by a program.

    polygons_um : by region, valid and clipped to the slide, um in the slide's frame. A region that is not
        annotated has no entry.
    source : the file they come from.
    unmapped : class names in the file that the configuration does not map; their shapes are left out.
    notes : what was repaired, clipped or ignored, in words.
    flags : (code, message) of what a reader of the results must know.
    why_no_tumour : what to say where there is no tumour among them.
    """

    polygons_um: Mapping[RegionName, MultiPolygon]
    source: Path
    unmapped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    flags: tuple[tuple[str, str], ...] = ()
    why_no_tumour: str = "no tumour annotated: the tumour border is not known"


def find_annotations(slide_path: Path, folder: Path | None = None) -> Path | None:
    """Find the annotation file of a slide by its name.

    Looked for are the slide's name with and without its extension ("case1.ome.tif": also "case1"), followed
    by one of `SUFFIXES`.

    Parameters
    ----------
    slide_path : the slide.
    folder : where to look; None for the slide's own folder.

    Returns
    -------
    The file, or None where there is none.

    Raises
    ------
    AnnotationError : more than one file fits, or the folder does not exist.
    """
    where = slide_path.parent if folder is None else folder
    if folder is not None and not folder.is_dir():
        raise AnnotationError(
            "no such folder of annotations", path=folder, fix="Give the folder that holds them"
        )
    candidates = (where / name for name in annotation_names(slide_path.name))
    found = [path for path in candidates if path != slide_path and path.is_file()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise AnnotationError(
            f"more than one annotation file for {slide_path.name}: {names}",
            path=where,
            fix="Keep the one that is meant",
        )
    return found[0] if found else None


def annotation_names(slide_name: str) -> list[str]:
    """Return what annotation files of a slide can be called, sorted; its own name may be among them."""
    stem = Path(slide_name).stem
    stems = {slide_name, stem, stem.removesuffix(".ome")}
    return sorted(f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES)


def read_annotations(path: Path, slide: Slide, names: Mapping[str, RegionName]) -> Annotations:
    """Read an annotation file; its format is told by its content.

    Known are QuPath GeoJSON (also gzipped), Aperio ImageScope XML, HALO .annotations and Hamamatsu NDPA.

    Parameters
    ----------
    path : the file.
    slide : the slide that it belongs to.
    names : class names of the file to ours, matched without regard to case.

    Raises
    ------
    AnnotationError : the file cannot be read, holds no annotation, or does not fit the slide: an annotation
        lies wholly outside of it.
    """
    return annotations_in(
        read_drawing(path, slide),
        path,
        names,
        size_px=slide.size_px,
        mpp=slide.mpp,
        slide_name=slide.path.name,
    )


def annotations_in(
    drawing: Drawing,
    path: Path,
    names: Mapping[str, RegionName],
    *,
    size_px: tuple[int, int],
    mpp: tuple[float, float],
    slide_name: str,
) -> Annotations:
    """Return the regions of a drawing; parameters and errors as in `read_annotations`.

    Parameters
    ----------
    size_px : level-0 (width, height) of the slide. mpp : its um per pixel (x, y). slide_name : for messages.
    """
    if not drawing.shapes:
        others = ", ".join(f"{n} {kind}" for kind, n in sorted(drawing.ignored.items()))
        raise AnnotationError(
            f"no annotated region in the file{f' (only: {others})' if others else ''}",
            path=path,
            fix="Export the annotations of this slide again, or remove the file",
        )
    pieces: dict[RegionName, list[BaseGeometry]] = {}
    unmapped: Counter[str] = Counter()
    notes: Counter[str] = Counter({f"{kind}: ignored": n for kind, n in drawing.ignored.items()})
    for shape in drawing.shapes:
        region = region_named(shape.names, names)
        if region is None:
            unmapped[shape.names[0] if shape.names else NO_CLASS] += 1
            continue
        area = repair(shape.geometry)
        if not shape.geometry.is_valid:
            notes["invalid outline: repaired"] += 1
        if area.is_empty:
            notes["outline without an area: ignored"] += 1
            continue
        clipped = _clip(area, size_px, slide_name, path)
        if clipped.area < area.area * (1 - _NOTED_LOSS):
            notes["annotation reaches outside the slide: clipped"] += 1
        pieces.setdefault(region, []).append(clipped)
    return Annotations(
        polygons_um={
            region: as_multipolygon(scale(shapely.union_all(parts), *mpp, origin=(0, 0)))
            for region, parts in sorted(pieces.items())
        },
        source=path,
        unmapped=tuple(sorted(unmapped)),
        notes=tuple(f"{n} x {note}" for note, n in sorted(notes.items())),
    )


def region_named(candidates: Iterable[str], names: Mapping[str, RegionName]) -> RegionName | None:
    """Return the region that the first mapped one of some class names means; None where none is mapped."""
    ours = {name.strip().casefold(): region for name, region in names.items()}
    return next((ours[n] for n in (name.strip().casefold() for name in candidates) if n in ours), None)


def read_drawing(path: Path, slide: Slide) -> Drawing:
    """Read whatever an annotation file holds; its format is told by its content.

    Raises
    ------
    AnnotationError : the file cannot be read.
    """
    fix = "Export the annotations again as QuPath GeoJSON, ImageScope XML, HALO .annotations or NDPA"
    data = unpacked(path, _MAX_BYTES, too_much="Export the regions without the cells in them")
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    try:
        if start in (b"{", b"["):
            return read_geojson(data)
        return read_xml(SafeElementTree.fromstring(data), slide)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"not valid JSON ({error})", path=path, fix=fix) from None
    except DefusedXmlException as error:
        raise AnnotationError(f"XML that defines entities is refused ({error})", path=path, fix=fix) from None
    except (ParseError, LookupError) as error:  # LookupError: an encoding that no one knows
        raise AnnotationError(f"neither JSON nor valid XML ({error})", path=path, fix=fix) from None
    except (ValueError, OverflowError, ShapelyError) as error:
        raise AnnotationError(f"not a known annotation file: {error}", path=path, fix=fix) from None


def unpacked(path: Path, max_bytes: int, *, too_much: str) -> bytes:
    """Return the content of a file of annotations, gzipped or not.

    Raises
    ------
    AnnotationError : it cannot be read, or is larger than `max_bytes`; `too_much` says what to do then.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise AnnotationError(
            f"the annotations cannot be read ({error})", path=path, fix="Export them again"
        ) from None
    if len(data) > max_bytes:
        raise AnnotationError(f"more than {max_bytes >> 20} MiB of annotations", path=path, fix=too_much)
    return data


def _clip(area: MultiPolygon, size_px: tuple[int, int], slide_name: str, path: Path) -> MultiPolygon:
    width, height = size_px
    inside = as_multipolygon(shapely.intersection(area, shapely.box(0, 0, width, height)))
    if inside.is_empty:
        x0, y0, x1, y1 = area.bounds
        raise AnnotationError(
            f"an annotation at x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f} px lies wholly outside the "
            f"slide {slide_name} ({width} x {height} px)",
            path=path,
            fix="Check that the file belongs to this slide and was exported in full-resolution pixels",
        )
    return inside
