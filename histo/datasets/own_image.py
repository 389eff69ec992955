"""One annotated image of one's own: the image, and its labels in any of the forms that are read."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from shapely import centroid, get_coordinates

from histo.datasets.arrays import annotated, centroids_um, number, read_labels
from histo.datasets.folder_settings import Channels, FolderSettings
from histo.datasets.geojson import MAX_BYTES, Drawn, read_cells
from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, UNKNOWN, AnnotatedImage
from histo.datasets.tables import read_csv
from histo.errors import DatasetError, PixelSizeError, SlideError
from histo.regions.raster import paint
from histo.slide.base import Slide
from histo.slide.geometry import Box
from histo.slide.open import open_slide

# No cell has a larger outline: it is a region that someone drew.
_MAX_CELL_UM2 = 5000.0
_MAX_IMAGE_PX = 1 << 28
# Scanners state both sides of a pixel, and they differ in the last digits.
_MAX_SQUARENESS_ERROR = 1e-3
_CODES: Final[dict[str, int]] = {
    "cd8_positive": CD8_POSITIVE,
    "other_nucleus": OTHER_NUCLEUS,
    "unknown": UNKNOWN,
    "ignore": -1,
}

log = logging.getLogger(__name__)


def load_own_image(
    image: Path,
    labels: Path,
    settings: FolderSettings,
    mpp: float | None,
    white_point: tuple[float, float, float] | None = None,
) -> AnnotatedImage:
    """Read an image and its labels, as `own_folder` describes them.

    Where a GeoJSON holds points and outlines, all become points: an outline its centroid.

    Parameters
    ----------
    mpp : um per pixel; None where the image must state it.
    white_point : of the slide that it was cut from, where that is known.

    Raises
    ------
    DatasetError : a file that cannot be read, labels that do not fit the image, classes that are not mapped,
        or no pixel size.
    """
    annotated_image = _load(image, labels, settings, mpp)
    return annotated_image if white_point is None else replace(annotated_image, white_point=white_point)


def _load(image: Path, labels: Path, settings: FolderSettings, mpp: float | None) -> AnnotatedImage:
    pixels, size = _read_image(image, settings, mpp)
    suffix = labels.suffix.lower()
    if suffix == ".csv":
        points, names = _read_points(labels, size)
        return _with_points(pixels, size, points, names, labels, settings)
    if suffix in (".geojson", ".json"):
        drawn = _read_geojson(labels)
        if len(drawn.points):
            outlined = get_coordinates(centroid(np.array(drawn.outlines, dtype=object)))
            points = np.concatenate([drawn.points, outlined]) * size
            names = drawn.point_names + drawn.outline_names
            return _with_points(pixels, size, points, names, labels, settings)
        return _with_outlines(pixels, size, drawn, labels, settings)
    raw = read_labels(labels, pixels.shape[:2])
    code = _codes((None,), labels, settings)[0]
    return annotated(
        settings.kind,
        pixels,
        size,
        raw if code >= 0 else np.zeros_like(raw),
        max(code, 0),
        background_known=settings.background_known,
        path=labels,
    )


def _read_image(path: Path, settings: FolderSettings, mpp: float | None) -> tuple[NDArray[Any], float]:
    """Return (H, W, 3) pixels as in `AnnotatedImage`, and the um per pixel."""
    try:
        with open_slide(path, mpp=mpp) as slide:
            size = _check_image(slide, settings)
        # With square pixels of just this size, stored pixels are read as they are.
        with open_slide(path, mpp=size) as slide:
            pixels, channels = slide.read(Box(0, 0, *slide.size_px), size), slide.channels
    except SlideError as error:
        fix = "Give mpp in dataset.yaml" if isinstance(error, PixelSizeError) else error.fix
        raise DatasetError(error.what, path=path, fix=fix) from error
    if settings.channels is None or settings.kind == "brightfield":
        return pixels, size
    return _pick(pixels, channels, settings.channels, path), size


def _check_image(slide: Slide, settings: FolderSettings) -> float:
    """Return the um per pixel; raises DatasetError where the image is none of this dataset."""
    if slide.kind != settings.kind:
        raise DatasetError(
            f"a {slide.kind} image in a {settings.kind} dataset",
            path=slide.path,
            fix="Correct 'kind:' in dataset.yaml, or move the image away",
        )
    width, height = slide.size_px
    if width * height > _MAX_IMAGE_PX:
        raise DatasetError(
            f"{width} x {height} px are too many for one annotated image",
            path=slide.path,
            fix="Cut it into fields",
        )
    x, y = slide.mpp
    if abs(y / x - 1) > _MAX_SQUARENESS_ERROR:
        raise DatasetError(
            f"pixels that are not square ({x:g} x {y:g} um)", path=slide.path, fix="Resample the image"
        )
    return x


def _pick(pixels: NDArray[Any], names: tuple[str, ...], wanted: Channels, path: Path) -> NDArray[Any]:
    picked = []
    for name in (wanted.nuclear, wanted.cd8, wanted.autofluorescence):
        if name is None:
            picked.append(np.zeros(pixels.shape[:2], pixels.dtype))
        elif name in names:
            picked.append(pixels[..., names.index(name)])
        else:
            raise DatasetError(
                f"no channel {name!r} (channels: {', '.join(names)})",
                path=path,
                fix="Correct 'channels:' in dataset.yaml",
            )
    stacked = np.stack(picked, axis=2)
    return stacked.astype(np.uint16) if stacked.dtype == np.uint8 else stacked


def _with_points(
    pixels: NDArray[Any],
    mpp: float,
    points_um: NDArray[np.float64],
    names: tuple[str | None, ...],
    path: Path,
    settings: FolderSettings,
) -> AnnotatedImage:
    codes = _codes(names, path, settings)
    points_um, codes = points_um[codes >= 0], codes[codes >= 0]
    _check_inside(points_um, pixels, mpp, path)
    return AnnotatedImage(
        kind=settings.kind,
        pixels=pixels,
        mpp=mpp,
        points_um=points_um,
        classes=codes.astype(np.uint8),
        background_known=settings.background_known,
    )


def _with_outlines(
    pixels: NDArray[Any], mpp: float, drawn: Drawn, path: Path, settings: FolderSettings
) -> AnnotatedImage:
    codes = _codes(drawn.outline_names, path, settings)
    outlines = [(area, code) for area, code in zip(drawn.outlines, codes, strict=True) if code >= 0]
    largest = max((area.area for area, _ in outlines), default=0.0) * mpp**2
    if largest > _MAX_CELL_UM2:
        raise DatasetError(
            f"an outline of {largest:.0f} um2 is no cell",
            path=path,
            fix="Give it a class of its own, and map that to 'ignore' under 'classes:' in dataset.yaml",
        )
    centres = get_coordinates(centroid(np.array([area for area, _ in outlines], dtype=object))) * mpp
    _check_inside(centres, pixels, mpp, path)
    # The smaller one on top where two overlap.
    outlines.sort(key=lambda pair: -pair[0].area)
    raw = np.zeros(pixels.shape[:2], np.int32)
    for place, (area, _) in enumerate(outlines, start=1):
        paint(raw, area, 1.0, place)
    labels, ids = number(raw, path)
    if lost := len(outlines) - len(ids):
        log.warning("%s: %d outlines hold no pixel of their own, left out", path, lost)
    return AnnotatedImage(
        kind=settings.kind,
        pixels=pixels,
        mpp=mpp,
        labels=labels,
        points_um=centroids_um(labels, len(ids), mpp),
        classes=np.array([code for _, code in outlines], np.uint8)[ids - 1],
        background_known=settings.background_known,
    )


def _read_geojson(path: Path) -> Drawn:
    fix = "Export the objects of this image again as GeoJSON"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
        text = path.read_bytes()
        return read_cells(text) if text.strip() else Drawn((), (), np.empty((0, 2)), ())
    except (OSError, ValueError) as error:
        raise DatasetError(f"not GeoJSON of cells ({error})", path=path, fix=fix) from None


def _read_points(path: Path, mpp: float) -> tuple[NDArray[np.float64], tuple[str | None, ...]]:
    """Return (n, 2) x, y in um, and class names."""
    table = read_csv(path)
    scale = {"px": mpp, "um": 1.0}
    units = [unit for unit in scale if {f"x_{unit}", f"y_{unit}"} <= set(table.columns)]
    if not units and not len(table) and not len(table.columns):
        return np.empty((0, 2)), ()
    if len(units) != 1:
        raise DatasetError(
            f"neither x_px and y_px nor x_um and y_um, or both (columns: {', '.join(table.columns)})",
            path=path,
            fix="Name the columns x_px, y_px (or x_um, y_um) and, if wished, class",
        )
    columns = [pd.to_numeric(table[f"{axis}_{units[0]}"], errors="coerce") for axis in "xy"]
    xy = np.stack([column.to_numpy(np.float64) for column in columns], axis=1)
    bad = np.flatnonzero(~np.isfinite(xy).all(axis=1))
    if bad.size:
        raise DatasetError(f"line {bad[0] + 2} holds no position", path=path, fix="Correct it")
    names = table["class"] if "class" in table else pd.Series("", index=table.index)
    return xy * scale[units[0]], tuple(name or None for name in names)


def _codes(names: tuple[str | None, ...], path: Path, settings: FolderSettings) -> NDArray[np.int64]:
    """Return the class of each name, -1 for those to be left out."""
    known = {name: _CODES[name] for name in _CODES}
    known |= {name.strip().casefold(): _CODES[ours] for name, ours in settings.classes.items()}
    keys = [settings.default_class if name is None else name.strip().casefold() for name in names]
    unknown = sorted(set(keys) - set(known))
    if unknown:
        raise DatasetError(
            f"classes that dataset.yaml does not map: {', '.join(unknown[:10])}",
            path=path,
            fix="Map each under 'classes:' to cd8_positive, other_nucleus, unknown or ignore",
        )
    return np.array([known[key] for key in keys], np.int64)


def _check_inside(points_um: NDArray[np.float64], pixels: NDArray[Any], mpp: float, path: Path) -> None:
    height, width = pixels.shape[:2]
    outside = ~((points_um >= 0) & (points_um <= np.array([width, height]) * mpp)).all(axis=1)
    if outside.any():
        x, y = points_um[outside][0] / mpp
        raise DatasetError(
            f"a cell at x {x:.0f}, y {y:.0f} px lies outside the image ({width} x {height} px)",
            path=path,
            fix="Check that the file belongs to this image and counts in its pixels, x before y",
        )
