"""Annotated slides to samples, and a classifier over a slide: a class raster, then regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry import MultiPolygon
from skimage.measure import find_contours

from histo.errors import ClassifierError
from histo.regions.classifier import Samples, TissueClassifier
from histo.regions.features import CELL_UM, HALO_CELLS
from histo.regions.raster import rasterise
from histo.regions.scribbles import SKIPPED, Scribble
from histo.regions.shapes import as_multipolygon
from histo.regions.windows import WINDOW_CELLS, ClassifiedSlide, windows
from histo.slide.geometry import Box

_TRUNCATE: Final = 3.0
# Outlines keep to the raster's within this, in its pixels: stairs become slopes.
_TOLERANCE_PX: Final = 0.5


def sample_slides(
    slides: Sequence[tuple[str, ClassifiedSlide, Sequence[Scribble]]], *, threads: int = 2
) -> Samples:
    """Take the features of all annotated cells of some slides.

    A cell under annotations of two classes is left out, and so is what is annotated to be excluded.

    Parameters
    ----------
    slides : name, the slide as `prepare` gives it, its annotations. The slides are read one after the other.

    Raises
    ------
    ClassifierError : no annotation lies on assessed tissue.
    """
    classes = sorted({s.class_name for _, _, scribbles in slides for s in scribbles} - {SKIPPED})
    features, labels, slide_of, annotation_of = [], [], [], []
    n_before = 0
    for index, (_, slide, scribbles) in enumerate(slides):
        label, annotation = _labelled(scribbles, classes, slide.assessed)
        for tile, maps in windows(slide, label >= 0, HALO_CELLS, threads=threads):
            core = np.s_[tile.core.y : tile.core.bottom, tile.core.x : tile.core.right]
            here = label[core] >= 0
            inner = _inner(tile.core, tile.read)
            features.append(np.stack([values[inner][here] for values in maps], axis=1))
            labels.append(label[core][here])
            annotation_of.append(annotation[core][here] + n_before)
            slide_of.append(np.full(int(here.sum()), index, np.int64))
        n_before += len(scribbles)
    if not features:
        raise ClassifierError(
            "no annotation covers assessed tissue",
            fix="Check that the annotations belong to the slides, and draw areas or lines of some 100 um",
        )
    label, annotation = np.concatenate(labels), np.concatenate(annotation_of)
    used = np.unique(label)
    return Samples(
        classes=tuple(classes[k] for k in used),
        slides=tuple(name for name, _, _ in slides),
        features=np.concatenate(features),
        label=np.searchsorted(used, label),
        slide=np.concatenate(slide_of),
        annotation=annotation,
    )


def _labelled(
    scribbles: Sequence[Scribble], classes: Sequence[str], assessed: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the class of each cell, -1 for none, and the number of its annotation."""
    shape = assessed.shape
    label = np.full(shape, -1, np.int64)
    annotation = np.zeros(shape, np.int64)
    usable = assessed.copy()
    for index, scribble in enumerate(scribbles):
        here = rasterise(scribble.area_um, (shape[0], shape[1]), CELL_UM)
        if scribble.class_name == SKIPPED:
            usable &= ~here
            continue
        own = classes.index(scribble.class_name)
        usable &= ~(here & (label >= 0) & (label != own))
        label[here], annotation[here] = own, index
    label[~usable] = -1
    return label, annotation


def classify(
    classifier: TissueClassifier,
    of: ClassifiedSlide,
    *,
    threads: int = 2,
    window_cells: int = WINDOW_CELLS,
) -> NDArray[np.uint8]:
    """Return the class of each cell of a slide's assessed tissue.

    The classifier's probabilities are averaged over a Gaussian of `smoothing_um`, the greatest is taken, and
    pieces smaller than `min_area_um2` take the class that most of their surroundings have. Window by window:
    what grows with the slide is this raster.

    Returns
    -------
    (rows, columns) on the grid at `CELL_UM`: 1 + the place in `classifier.classes`, 0 where tissue is not
    assessed.
    """
    sigma = classifier.smoothing_um / CELL_UM
    reach = ceil(_TRUNCATE * sigma) + 1
    raster = np.zeros(of.assessed.shape, np.uint8)
    halo = HALO_CELLS + reach
    for tile, maps in windows(of, of.assessed, halo, threads=threads, window_cells=window_cells):
        votes = _votes(classifier, maps)
        votes *= _cut(of.assessed, tile.read)
        best = np.full((tile.core.height, tile.core.width), -1, np.float32)
        found = np.zeros(best.shape, np.uint8)
        inner = _inner(tile.core, tile.read)
        for k, share in enumerate(votes):
            smoothed = ndimage.gaussian_filter(share, sigma, mode="constant", truncate=_TRUNCATE)[inner]
            better = smoothed > best
            best[better], found[better] = smoothed[better], k + 1
        raster[tile.core.y : tile.core.bottom, tile.core.x : tile.core.right] = found
    raster[~of.assessed] = 0
    return _without_small(raster, len(classifier.classes), classifier.min_area_um2 / CELL_UM**2)


def _votes(classifier: TissueClassifier, maps: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the probability of each class: (n_classes, rows, columns), feature by feature."""
    scores: NDArray[np.float32] | None = None
    for values, weights in zip(maps, classifier.coefficient, strict=True):
        if scores is None:
            scores = np.empty((len(classifier.classes), *values.shape), np.float32)
            scores[:] = classifier.intercept[:, None, None]
        scores += weights[:, None, None] * values
    assert scores is not None
    scores -= scores.max(axis=0)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=0)
    return scores


def _inner(core: Box, read: Box) -> tuple[slice, slice]:
    top, left = core.y - read.y, core.x - read.x
    return slice(top, top + core.height), slice(left, left + core.width)


def _cut(mask: NDArray[np.bool_], box: Box) -> NDArray[np.bool_]:
    """Return a box of a mask; False beside it."""
    inside = box.intersect(Box(0, 0, mask.shape[1], mask.shape[0]))
    part = np.zeros((box.height, box.width), np.bool_)
    part[_inner(inside, box)] = mask[inside.y : inside.bottom, inside.x : inside.right]
    return part


def _without_small(raster: NDArray[np.uint8], n_classes: int, min_px: float) -> NDArray[np.uint8]:
    """Give pieces of fewer pixels the class that is commonest along their outline; alone they stay."""
    cleaned = raster.copy()
    for k in range(1, n_classes + 1):
        pieces, n = ndimage.label(raster == k)
        if n == 0:
            continue
        small = np.flatnonzero(np.bincount(pieces.ravel(), minlength=n + 1) < min_px)
        where = ndimage.find_objects(pieces)
        for piece in small[small > 0].tolist():
            rows, columns = where[piece - 1]
            around = np.s_[
                max(0, rows.start - 1) : rows.stop + 1, max(0, columns.start - 1) : columns.stop + 1
            ]
            own = pieces[around] == piece
            ring = cleaned[around][ndimage.binary_dilation(own) & ~own]
            counts = np.bincount(ring[ring > 0], minlength=n_classes + 1)
            if counts.any():
                cleaned[around][own] = counts.argmax()
    return cleaned


def regions_of(raster: NDArray[np.uint8], names: Sequence[str], mpp: float) -> dict[str, MultiPolygon]:
    """Turn a class raster into polygons with holes, um in the slide's frame.

    Parameters
    ----------
    raster : (rows, columns), 0 for none, else 1 + the place in `names`.
    mpp : um per pixel.

    Returns
    -------
    By name; a class that is nowhere has no entry.
    """
    found = {name: mask_to_polygons(raster == k, mpp) for k, name in enumerate(names, start=1)}
    return {name: region for name, region in found.items() if not region.is_empty}


def mask_to_polygons(mask: NDArray[np.bool_], mpp: float) -> MultiPolygon:
    """Return the polygons of a (rows, columns) mask, with holes, um; stairs are smoothed by half a pixel."""
    # A frame of background, so that what reaches the edge is closed.
    rings = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    if not rings:
        return MultiPolygon()
    # Row and column of pixel centres; the frame shifts them by one.
    lines = shapely.multilinestrings([shapely.linestrings((ring[:, ::-1] - 0.5) * mpp) for ring in rings])
    areas = as_multipolygon(shapely.build_area(lines))
    return as_multipolygon(shapely.make_valid(shapely.simplify(areas, _TOLERANCE_PX * mpp)))
