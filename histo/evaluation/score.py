"""What one image says about a detector: matched cells, outlines and counts, by class.

What an image cannot tell has no number, and a reason why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, UNKNOWN, AnnotatedImage
from histo.errors import DatasetError
from histo.evaluation.find import Found
from histo.evaluation.matching import Matching, matched_pairs
from histo.evaluation.segmentation import (
    Agreement,
    Overlaps,
    agreement,
    centroids_um,
    inside_margin,
    overlaps,
)

# 4 um is about half a lymphocyte, and what the field scores with (e.g. IGNITE: 8 px at 0.5 um).
RADII_UM: Final = (4.0, 6.0, 8.0)
CellGroup = Literal["cd8", "other", "all"]
CELL_GROUPS: Final[tuple[CellGroup, ...]] = ("cd8", "other", "all")

_NO_CELLS = "the image is not annotated"
_COUNT_ONLY = "only the number of cells is annotated, not where they lie"
_NO_OUTLINES = "cells are annotated as points"
_NO_CLASS = "the class of the annotated cells is not known"
_SOME_CLASS = "the class of some annotated cells is not known"
_OTHERS_NOT_ANNOTATED = "only stained cells are annotated, others may lie anywhere"
_MARGIN = "the count is that of the whole image, and its margin is not scored"

Points = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class GroupScore:
    """Score of CD8+ cells, of other nuclei, or of all cells, in one image.

    n_found, n_true : cells in the scored part; the latter None where not known.
    matching : by radius in um; None where it is not known where true cells lie. Where `reasons` has
        "precision", nothing is known of found cells without a partner: the false positives are 0 and mean
        nothing.
    segmentation : None where true outlines are not known.
    reasons : why there is no "matching", "precision", "segmentation" or "count".
    """

    n_found: int
    n_true: int | None
    matching: Mapping[float, Matching] | None
    segmentation: Agreement | None
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageScore:
    """Score of one image.

    groups : by group of cells. area_mm2 : of the scored part.
    """

    groups: Mapping[CellGroup, GroupScore]
    area_mm2: float


@dataclass(frozen=True)
class Truth:
    """The true cells of an image.

    points_um : (n, 2) x, y from the image's corner. classes : (n,), see `AnnotatedImage`.
    """

    points_um: Points
    classes: NDArray[np.uint8]


def truth_of(image: AnnotatedImage, name: str = "image") -> Truth | None:
    """Return the true cells of an image, by instances or else points; None where neither is known.

    Raises
    ------
    DatasetError : labels are not 1 ... n, or points or classes are not one for each cell.
    """
    if image.labels is not None:
        points = centroids_um(image.labels, image.mpp)
        if len(points) != int(image.labels.max(initial=0)):
            raise DatasetError("its instances are not numbered 1 ... n", path=name)
    elif image.points_um is not None:
        points = np.asarray(image.points_um, np.float64).reshape(-1, 2)
    else:
        return None
    classes = np.full(len(points), UNKNOWN, np.uint8) if image.classes is None else image.classes
    if len(classes) != len(points):
        raise DatasetError(f"it has {len(points)} cells and the classes of {len(classes)}", path=name)
    return Truth(points, classes)


def score_image(
    image: AnnotatedImage, found: Found, *, edge_um: float = 0.0, name: str = "image"
) -> ImageScore:
    """Score the cells found in an image.

    Parameters
    ----------
    image : what is true.
    found : what was found.
    edge_um : width of the margin that is not scored: a cell there is not seen whole. A cell of the margin may
        still be the partner of one that is scored; a pair counts where its true cell is scored.
    name : what errors call it.

    Raises
    ------
    DatasetError : the margin leaves nothing of the image; and see `truth_of`.
    """
    height, width = image.pixels.shape[:2]
    size = np.array([width, height]) * image.mpp
    if (size <= 2 * edge_um).any():
        raise DatasetError(
            f"it is {size[0]:.4g} x {size[1]:.4g} um, and a margin of {edge_um:g} um leaves nothing to score",
            path=name,
            fix="Choose a narrower margin",
        )
    found_in = inside_margin(found.points_um, size, edge_um)
    area_mm2 = float(np.prod(size - 2 * edge_um)) / 1e6
    truth = truth_of(image, name)
    table = None if truth is None or image.labels is None else overlaps(found.labels, image.labels)
    groups: dict[CellGroup, GroupScore] = {}
    for group in CELL_GROUPS:
        chosen = _chosen(group, found.is_cd8)
        n_found = int((chosen & found_in).sum())
        if truth is None:
            groups[group] = _count_only(group, image, n_found, edge_um)
        else:
            groups[group] = _score_group(group, image, truth, found, chosen, found_in, table, size, edge_um)
    return ImageScore(groups, area_mm2)


def _score_group(
    group: CellGroup,
    image: AnnotatedImage,
    truth: Truth,
    found: Found,
    chosen: Mask,
    found_in: Mask,
    table: Overlaps | None,
    size_um: NDArray[np.float64],
    edge_um: float,
) -> GroupScore:
    n_found = int((chosen & found_in).sum())
    unknown = truth.classes == UNKNOWN
    if group != "all" and len(unknown) and unknown.all():
        unclassed = _count_only(group, image, n_found, edge_um)
        return replace(unclassed, reasons=dict.fromkeys(unclassed.reasons, _NO_CLASS))
    wanted = {
        "cd8": truth.classes == CD8_POSITIVE,
        "other": truth.classes == OTHER_NUCLEUS,
        "all": np.ones(len(unknown), bool),
    }[group]
    true_in = inside_margin(truth.points_um, size_um, edge_um)
    reasons = {}
    n_true: int | None = int((wanted & true_in).sum())
    if group != "cd8" and not image.background_known:
        reasons = dict.fromkeys(("precision", "segmentation", "count"), _OTHERS_NOT_ANNOTATED)
        n_true = None
    # A found cell whose partner is of unknown class is neither right nor wrong.
    doubtful = unknown if group != "all" else np.zeros(len(unknown), bool)
    if doubtful.any():
        reasons.update(dict.fromkeys(("segmentation", "count"), _SOME_CLASS))
        n_true = None
    matching = {}
    for radius in RADII_UM:
        matching[radius] = _match(found, chosen, found_in, truth, wanted, doubtful, true_in, radius)
        if "precision" in reasons:
            matching[radius] = matching[radius]._replace(false_positives=0)
    segmentation = None
    if image.labels is None:
        reasons.setdefault("segmentation", _NO_OUTLINES)
    elif table is not None and "segmentation" not in reasons:
        segmentation = _segment(image, found, chosen, found_in, table, wanted, true_in, edge_um)
    return GroupScore(n_found, n_true, matching, segmentation, reasons)


def _match(
    found: Found,
    chosen: Mask,
    found_in: Mask,
    truth: Truth,
    wanted: Mask,
    doubtful: Mask,
    true_in: Mask,
    radius_um: float,
) -> Matching:
    which_found, which_true = np.flatnonzero(chosen), np.flatnonzero(wanted)
    pairs = matched_pairs(found.points_um[which_found], truth.points_um[which_true], radius_um)
    partner = which_true[pairs[:, 1]]
    alone = chosen.copy()
    alone[which_found[pairs[:, 0]]] = False
    missed = wanted.copy()
    missed[partner] = False
    if doubtful.any() and alone.any():
        rest = np.flatnonzero(alone)
        excused = matched_pairs(found.points_um[rest], truth.points_um[doubtful], radius_um)
        alone[rest[excused[:, 0]]] = False
    return Matching(int(true_in[partner].sum()), int((alone & found_in).sum()), int((missed & true_in).sum()))


def _segment(
    image: AnnotatedImage,
    found: Found,
    chosen: Mask,
    found_in: Mask,
    table: Overlaps,
    wanted: Mask,
    true_in: Mask,
    edge_um: float,
) -> Agreement:
    # A found cell may be smaller than a pixel of the image, and then is not in the table.
    seen = table.found_ids - 1
    mine = table.between(chosen[seen], wanted)
    result = agreement(mine, found_in[seen][chosen[seen]], true_in[wanted])
    if edge_um == 0 or image.labels is None:
        return result
    # Dice is one of pixels, and those of the margin are not scored.
    edge = round(edge_um / image.mpp)
    inner = np.s_[edge : image.labels.shape[0] - edge, edge : image.labels.shape[1] - edge]
    is_found = np.concatenate([[False], chosen])[found.labels[inner]]
    is_true = np.concatenate([[False], wanted])[image.labels[inner]]
    return result._replace(
        dice_shared=int((is_found & is_true).sum()), dice_total=int(is_found.sum() + is_true.sum())
    )


def _count_only(group: CellGroup, image: AnnotatedImage, n_found: int, edge_um: float) -> GroupScore:
    if image.n_cd8 is None:
        reasons = dict.fromkeys(("matching", "precision", "segmentation", "count"), _NO_CELLS)
        return GroupScore(n_found, None, None, None, reasons)
    reasons = dict.fromkeys(("matching", "precision", "segmentation"), _COUNT_ONLY)
    if group != "cd8":
        return GroupScore(n_found, None, None, None, reasons | {"count": "only stained cells are counted"})
    if edge_um > 0:
        return GroupScore(n_found, None, None, None, reasons | {"count": _MARGIN})
    return GroupScore(n_found, image.n_cd8, None, None, reasons)


def _chosen(group: CellGroup, is_cd8: Mask) -> Mask:
    return {"cd8": is_cd8, "other": ~is_cd8, "all": np.ones(len(is_cd8), bool)}[group]
