"""The measures: each a ratio of sums over images, so that one image, many and resamples are treated alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histo.evaluation.score import RADII_UM, GroupScore, ImageScore

Array = NDArray[np.float64]

_NOTHING = "no such cell is annotated, and none was found"
_NONE_FOUND = "no such cell was found"
_NONE_TRUE = "no such cell is annotated"
_NO_PAIR = "no pair overlaps by more than half"
_NO_AREA = "no part of the image is scored"


class Measure(NamedTuple):
    """One measure of a group of cells.

    needs : keys of `GroupScore.reasons`; where one is there, the measure is not assessable for that reason.
    sums : what an image adds, from its score and area in mm2. statistic : (..., k) sums to (...) values, NaN
        where not defined; `undefined` says why it is not.
    averaged : whether its mean over images is of interest too.
    """

    name: str
    needs: tuple[str, ...]
    sums: Callable[[GroupScore, float], tuple[float, ...]]
    statistic: Callable[[Array], Array]
    undefined: str
    averaged: bool = False

    def why_not(self, score: GroupScore) -> str | None:
        """Return why an image cannot tell; None where it can."""
        return next((score.reasons[key] for key in self.needs if key in score.reasons), None)


def ratio(part: Array, whole: Array) -> Array:
    """Divide; NaN where the whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(whole > 0, part / whole, np.nan), np.float64)


def of_two(sums: Array) -> Array:
    """Return the first sum over the second."""
    return ratio(sums[..., 0], sums[..., 1])


def bias(sums: Array) -> Array:
    """Return the first sum over the second, less 1."""
    return of_two(sums) - 1


def _f1(sums: Array) -> Array:
    return ratio(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2])


def _precision(sums: Array) -> Array:
    return ratio(sums[..., 0], sums[..., 0] + sums[..., 1])


def _recall(sums: Array) -> Array:
    return ratio(sums[..., 0], sums[..., 0] + sums[..., 2])


def _at_radius(radius_um: float) -> list[Measure]:
    def counts(score: GroupScore, area_mm2: float) -> tuple[float, ...]:
        assert score.matching is not None
        return tuple(float(count) for count in score.matching[radius_um])

    def false(score: GroupScore, area_mm2: float) -> tuple[float, ...]:
        return counts(score, area_mm2)[1], area_mm2

    both = ("matching", "precision")
    at = f"{radius_um:g}um"
    return [
        Measure(f"f1_{at}", both, counts, _f1, _NOTHING, True),
        Measure(f"precision_{at}", both, counts, _precision, _NONE_FOUND),
        Measure(f"recall_{at}", ("matching",), counts, _recall, _NONE_TRUE),
        Measure(f"false_per_mm2_{at}", both, false, of_two, _NO_AREA),
    ]


def _outlines(score: GroupScore, area_mm2: float) -> tuple[float, ...]:
    sums = score.segmentation
    assert sums is not None
    unpaired = (sums.false_positives + sums.false_negatives) / 2
    return (
        sums.iou_sum,
        float(sums.true_positives),
        sums.true_positives + unpaired,
        float(sums.aji_intersection),
        float(sums.aji_union),
        float(sums.aji_plus_intersection),
        float(sums.aji_plus_union),
        2.0 * sums.dice_shared,
        float(sums.dice_total),
    )


def _outline(name: str, part: int, whole: int, undefined: str = _NOTHING, averaged: bool = True) -> Measure:
    def quotient(sums: Array) -> Array:
        return ratio(sums[..., part], sums[..., whole])

    return Measure(name, ("segmentation",), _outlines, quotient, undefined, averaged)


def _count(score: GroupScore, area_mm2: float) -> tuple[float, ...]:
    assert score.n_true is not None
    return float(score.n_found), float(score.n_true)


MEASURES: Final[tuple[Measure, ...]] = (
    *(measure for radius in RADII_UM for measure in _at_radius(radius)),
    _outline("pq", 0, 2),
    _outline("sq", 0, 1, _NO_PAIR, False),
    _outline("rq", 1, 2, averaged=False),
    _outline("aji", 3, 4),
    _outline("aji_plus", 5, 6),
    _outline("dice", 7, 8),
    Measure("count_bias", ("count",), _count, bias, _NONE_TRUE),
)


def image_value(measure: Measure, score: GroupScore, area_mm2: float) -> tuple[float | None, str | None]:
    """Return a measure of one image, or None and the reason."""
    reason = measure.why_not(score)
    if reason is not None:
        return None, reason
    value = float(measure.statistic(np.array(measure.sums(score, area_mm2))))
    return (value, None) if np.isfinite(value) else (None, measure.undefined)


def sums_of(
    measure: Measure, scores: Sequence[ImageScore], group: str
) -> tuple[Array, NDArray[np.int64], str | None]:
    """Return what images add to a measure: rows, which images they are of, and why others are left out."""
    rows, which, why = [], [], None
    for index, image in enumerate(scores):
        score = image.groups[group]  # type: ignore[index]
        reason = measure.why_not(score)
        if reason is None:
            rows.append(measure.sums(score, image.area_mm2))
            which.append(index)
        else:
            why = why or reason
    return np.array(rows, np.float64), np.array(which, np.int64), why
