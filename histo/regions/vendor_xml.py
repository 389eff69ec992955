"""Annotations from Aperio ImageScope, HALO and Hamamatsu NDP.view: three XML dialects.

ImageScope and HALO count level-0 pixels from the corner of the whole stored image. NDP.view counts nanometres
from the centre of the glass slide, y downwards.
"""

from __future__ import annotations

from collections import Counter
from xml.etree.ElementTree import Element

import numpy as np
import shapely
from shapely.affinity import affine_transform
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from histo.errors import AnnotationError
from histo.regions.shapes import Drawing, Shape, ellipse, polygon, rectangle, repair
from histo.slide.base import Slide

# Region types as ImageScope (numbers) and HALO (words) write them.
_REGION_TYPES = {
    "0": "polygon",
    "1": "rectangle",
    "2": "ellipse",
    "3": "arrow",
    "4": "ruler",
    "polygon": "polygon",
    "rectangle": "rectangle",
    "ellipse": "ellipse",
    "ruler": "ruler",
    "pin": "pin",
}


def read_xml(root: Element, slide: Slide) -> Drawing:
    """Read the annotations below a parsed XML root, whichever of the three dialects it is.

    Raises
    ------
    ValueError : the XML is none of the three, or not as they are written.
    AnnotationError : the slide lacks what is needed to place NDP.view annotations.
    """
    if root.find("ndpviewstate") is not None or (root.tag == "annotations" and len(root) == 0):
        return _read_ndpa(root, slide)
    if root.tag == "Annotations":
        return _read_layers(root, slide.info.origin_px)
    raise ValueError(f"XML with root <{root.tag}> is neither ImageScope, HALO nor NDP.view")


def _read_layers(root: Element, origin_px: tuple[int, int]) -> Drawing:
    shapes: list[Shape] = []
    ignored: Counter[str] = Counter()
    for layer in root.iter("Annotation"):
        layer_names = _layer_names(layer)
        positive: list[Shape] = []
        negative: list[BaseGeometry] = []
        for region in layer.iter("Region"):
            geometry = _region(region, ignored)
            if geometry is None:
                continue
            if region.get("NegativeROA", "0").strip().lower() in ("1", "true"):
                negative.append(repair(geometry))
            else:
                positive.append(Shape(_names(region.get("Text"), *layer_names), geometry))
        shapes += [Shape(shape.names, _cut(shape.geometry, negative)) for shape in positive]
    # The frame starts where the slide's bounds start.
    move = [1, 0, 0, 1, -origin_px[0], -origin_px[1]]
    return Drawing(
        tuple(Shape(shape.names, affine_transform(shape.geometry, move)) for shape in shapes), dict(ignored)
    )


def _layer_names(layer: Element) -> tuple[str, ...]:
    # ImageScope keeps what the user typed for a layer either as its name or as an attribute's name or value.
    attributes = layer.findall("Attributes/Attribute")
    return _names(
        layer.get("Name"),
        *(attribute.get(key) for key in ("Value", "Name") for attribute in attributes),
    )


def _names(*candidates: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in candidates if name is not None and name.strip())


def _region(region: Element, ignored: Counter[str]) -> Polygon | None:
    kind = _REGION_TYPES.get(region.get("Type", "0").strip().lower())
    if kind is None:
        raise ValueError(f"unknown region type {region.get('Type')!r}")
    if kind in ("arrow", "ruler", "pin"):
        ignored[kind] += 1
        return None
    corners = [vertex for vertex in region.iter() if vertex.tag in ("Vertex", "V")]
    points = np.array([[_number(corner, "X"), _number(corner, "Y")] for corner in corners])
    # Two vertices of an ellipse or rectangle are opposite corners of its box.
    if len(points) == 2 and kind == "ellipse":
        found = ellipse(points[0], points[1])
    elif len(points) == 2 and kind == "rectangle":
        found = rectangle(points[0], points[1])
    else:
        found = polygon(points) if len(points) else None
    if found is None:
        ignored["outline with fewer than 3 vertices"] += 1
    return found


def _cut(geometry: BaseGeometry, negative: list[BaseGeometry]) -> BaseGeometry:
    """Take holes out; a hole leaves an island that is drawn within it alone."""
    holes = [hole for hole in negative if hole.intersects(geometry) and not hole.covers(repair(geometry))]
    if not holes:
        return geometry
    return shapely.difference(repair(geometry), shapely.union_all(holes))


def _read_ndpa(root: Element, slide: Slide) -> Drawing:
    shapes: list[Shape] = []
    ignored: Counter[str] = Counter()
    to_px: list[float] | None = None
    for view in root.iter("ndpviewstate"):
        annotation = view.find("annotation")
        if annotation is None:
            continue
        unit = (view.findtext("coordformat") or "nanometers").strip()
        if unit != "nanometers":
            raise ValueError(f"coordinates in {unit!r}; only nanometers are known")
        geometry = _ndpa_outline(annotation, ignored)
        if geometry is not None:
            to_px = to_px or _ndpa_to_px(slide)
            shapes.append(Shape(_names(view.findtext("title")), affine_transform(geometry, to_px)))
    return Drawing(tuple(shapes), dict(ignored))


def _ndpa_outline(annotation: Element, ignored: Counter[str]) -> Polygon | None:
    kind = annotation.get("type", "")
    if kind == "circle":
        x, y, radius = (_text_number(annotation, tag) for tag in ("x", "y", "radius"))
        return ellipse((x - radius, y - radius), (x + radius, y + radius))
    # Rectangles are freehand outlines too; a freehand line is one that is not closed.
    if kind != "freehand":
        ignored[kind or "annotation without a type"] += 1
        return None
    if (annotation.findtext("closed") or "1").strip() == "0":
        ignored["open line"] += 1
        return None
    points: list[list[float]] = [
        [_text_number(point, "x"), _text_number(point, "y")] for point in annotation.iter("point")
    ]
    found = polygon(points) if points else None
    if found is None:
        ignored["outline with fewer than 3 vertices"] += 1
    return found


def _ndpa_to_px(slide: Slide) -> list[float]:
    """Return the affine transform from nm from the centre of the glass to level-0 pixels."""
    keys = [f"hamamatsu.{axis}OffsetFromSlideCentre" for axis in "XY"]
    missing = [key for key in keys if key not in slide.info.properties]
    if missing or slide.info.origin_px != (0, 0):
        reason = f"{' and '.join(missing)} missing" if missing else "the image is cut to bounds"
        raise AnnotationError(
            f"NDP.view annotations cannot be placed on this slide: {reason}",
            path=slide.path,
            fix="Use the original NDPI file, or export the annotations as QuPath GeoJSON",
        )
    try:
        offset_nm = [float(slide.info.properties[key]) for key in keys]
    except ValueError as error:
        raise AnnotationError(
            f"the slide's offset cannot be read ({error})",
            path=slide.path,
            fix="Export the annotations as QuPath GeoJSON",
        ) from None
    # The file's own pixel size wrote these positions, whatever pixel size the user gave.
    nm_per_px = [1000 * mpp for mpp in (slide.info.mpp or slide.mpp)]
    shift = [
        size / 2 - offset / scale
        for size, offset, scale in zip(slide.size_px, offset_nm, nm_per_px, strict=True)
    ]
    return [1 / nm_per_px[0], 0, 0, 1 / nm_per_px[1], shift[0], shift[1]]


def _number(element: Element, key: str) -> float:
    value = element.get(key)
    if value is None:
        raise ValueError(f"<{element.tag}> without {key}")
    # Some exports write a decimal comma.
    return float(value.replace(",", "."))


def _text_number(element: Element, tag: str) -> float:
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f"<{element.tag}> without <{tag}>")
    return float(text)
