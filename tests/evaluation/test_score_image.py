from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, UNKNOWN, AnnotatedImage
from histo.errors import DatasetError
from histo.evaluation.find import Found
from histo.evaluation.matching import Matching
from histo.evaluation.measures import MEASURES, image_value
from histo.evaluation.score import score_image
from histo.evaluation.summary import ScoredImage, image_row, summarise_counts, summarise_scores

Draw = Callable[..., AnnotatedImage]

CELLS = [(20.0, 20.0, True), (40.0, 20.0, True), (60.0, 20.0, False), (20.0, 45.0, False), (2.0, 50.0, True)]


@pytest.fixture
def image(draw_image: Draw) -> AnnotatedImage:
    return draw_image((160, 120), CELLS)


@pytest.fixture
def found(draw_image: Draw) -> Found:
    """Cell 0 as it is, 1 taken for another nucleus, 2 five um off, 3 missed, the one at the edge as it is."""
    places = [(20.0, 20.0, True), (40.0, 20.0, False), (65.0, 20.0, False), (2.0, 50.0, True)]
    drawn = draw_image((160, 120), places)
    points = np.array([(x, y) for x, y, _ in places])
    assert drawn.labels is not None
    return Found(drawn.labels, points, np.array([cd8 for *_, cd8 in places]), 1.0)


def values(image: AnnotatedImage, found: Found, edge_um: float = 0.0) -> dict[str, tuple[object, object]]:
    score = score_image(image, found, edge_um=edge_um)
    return {
        f"{group}_{measure.name}": image_value(measure, part, score.area_mm2)
        for group, part in score.groups.items()
        for measure in MEASURES
    }


def test_classes_are_scored_apart_and_together(image: AnnotatedImage, found: Found) -> None:
    groups = score_image(image, found).groups
    assert groups["cd8"].matching[4.0] == Matching(2, 0, 1)
    assert groups["other"].matching[4.0] == Matching(0, 2, 2)
    assert groups["other"].matching[6.0] == Matching(1, 1, 1)
    assert groups["all"].matching[4.0] == Matching(3, 1, 2)
    assert groups["all"].matching[8.0] == Matching(4, 0, 1)
    assert (groups["cd8"].n_found, groups["cd8"].n_true) == (2, 3)
    assert groups["cd8"].segmentation.pq == pytest.approx(2 / 2.5)
    assert groups["all"].segmentation.true_positives == 3
    one = values(image, found)
    assert one["cd8_count_bias"] == (pytest.approx(-1 / 3), None)
    assert one["cd8_false_per_mm2_4um"] == (0.0, None)
    assert one["other_false_per_mm2_4um"] == (pytest.approx(2 / (80 * 60e-6)), None)


def test_what_lies_in_the_margin_is_not_scored(image: AnnotatedImage, found: Found) -> None:
    score = score_image(image, found, edge_um=6)
    assert score.groups["cd8"].matching[4.0] == Matching(1, 0, 1)
    assert score.area_mm2 == pytest.approx(68 * 48e-6)
    assert score.groups["cd8"].segmentation.false_negatives == 1
    # Found just outside of the frame, true just inside: still a pair.
    moved = replace(image, labels=None, points_um=np.array([[7.0, 30.0]]), classes=np.array([1], np.uint8))
    near = Found(np.zeros((120, 160), np.int32), np.array([[5.0, 30.0]]), np.array([True]), 1.0)
    part = score_image(moved, near, edge_um=6).groups["cd8"]
    assert part.matching[4.0] == Matching(1, 0, 0)
    assert (part.n_found, part.n_true) == (0, 1)
    with pytest.raises(DatasetError, match="leaves nothing"):
        score_image(image, found, edge_um=30)


def test_dice_counts_the_pixels_inside_the_margin(image: AnnotatedImage, found: Found) -> None:
    part = score_image(image, found, edge_um=6).groups["cd8"].segmentation
    inner = np.s_[12:-12, 12:-12]
    true = np.isin(image.labels[inner], (1, 2, 5))
    seen = np.isin(found.labels[inner], (1, 4))
    assert part.dice == pytest.approx(2 * (true & seen).sum() / (true.sum() + seen.sum()))


def test_points_give_no_outlines(image: AnnotatedImage, found: Found) -> None:
    points = np.array([(x, y) for x, y, _ in CELLS])
    one = values(replace(image, labels=None, points_um=points), found)
    assert one["cd8_f1_4um"] == (pytest.approx(0.8), None)
    assert one["cd8_pq"] == (None, "cells are annotated as points")


def test_counts_give_nothing_else(image: AnnotatedImage, found: Found) -> None:
    counted = replace(image, labels=None, classes=None, n_cd8=4)
    one = values(counted, found)
    assert one["cd8_count_bias"] == (-0.5, None)
    assert one["cd8_f1_4um"][0] is None
    assert "only the number" in str(one["cd8_f1_4um"][1])
    assert one["other_count_bias"] == (None, "only stained cells are counted")
    # The margin holds an unknown part of the count.
    assert values(counted, found, edge_um=5)["cd8_count_bias"][0] is None


def test_an_image_without_annotation_has_no_number(image: AnnotatedImage, found: Found) -> None:
    score = score_image(replace(image, labels=None, classes=None), found)
    one = values(replace(image, labels=None, classes=None), found)
    assert all(value is None and reason for value, reason in one.values())
    assert score.groups["cd8"].n_found == 2


def test_where_others_are_not_annotated_their_precision_is_not_known(
    image: AnnotatedImage, found: Found
) -> None:
    one = values(replace(image, background_known=False), found)
    assert one["cd8_precision_4um"] == (1.0, None)
    assert one["cd8_pq"][0] is not None
    for name in ("precision_4um", "f1_4um", "pq", "dice", "count_bias"):
        assert one[f"other_{name}"] == (None, "only stained cells are annotated, others may lie anywhere")
        assert one[f"all_{name}"][0] is None
    assert one["all_recall_4um"] == (pytest.approx(0.6), None)


def test_cells_of_unknown_class_are_neither_right_nor_wrong(image: AnnotatedImage, found: Found) -> None:
    some = replace(
        image, classes=np.array([CD8_POSITIVE, UNKNOWN, OTHER_NUCLEUS, UNKNOWN, UNKNOWN], np.uint8)
    )
    groups = score_image(some, found).groups
    # The found one at the edge and the one at cell 1 are excused.
    assert groups["cd8"].matching[4.0] == Matching(1, 0, 0)
    assert groups["other"].matching[4.0] == Matching(0, 1, 1)
    assert groups["cd8"].segmentation is None
    assert groups["cd8"].n_true is None
    none = replace(image, classes=None)
    one = values(none, found)
    assert one["cd8_f1_4um"] == (None, "the class of the annotated cells is not known")
    assert one["all_f1_4um"] == (pytest.approx(6 / 9), None)


def test_nothing_to_find_and_nothing_found_is_no_score(image: AnnotatedImage) -> None:
    empty = replace(image, labels=np.zeros((120, 160), np.int32), classes=np.empty(0, np.uint8))
    nothing = Found(np.zeros((120, 160), np.int32), np.empty((0, 2)), np.empty(0, bool), 1.0)
    one = values(empty, nothing)
    assert one["cd8_f1_4um"] == (None, "no such cell is annotated, and none was found")
    assert one["cd8_false_per_mm2_4um"] == (0.0, None)
    assert one["cd8_count_bias"][0] is None


def test_annotations_that_do_not_fit_are_refused(image: AnnotatedImage, found: Found) -> None:
    assert image.labels is not None
    with pytest.raises(DatasetError, match=r"not numbered 1 \.\.\. n"):
        score_image(replace(image, labels=image.labels * 2), found)
    with pytest.raises(DatasetError, match="5 cells and the classes of 2"):
        score_image(replace(image, classes=np.array([1, 1], np.uint8)), found)


def scored(image: AnnotatedImage, found: Found, name: str, group: str) -> ScoredImage:
    height, width = image.pixels.shape[:2]
    return ScoredImage(
        name, group, None, image.kind, image.mpp, (width, height), score_image(image, found), 1.0, None
    )


def test_rows_have_empty_cells_with_reasons_and_never_a_zero_for_unknown(
    image: AnnotatedImage, found: Found
) -> None:
    counted = replace(image, labels=None, classes=None, n_cd8=4)
    row = image_row(scored(counted, found, "a", "p"))
    assert row["cd8_n_true"] == 4
    assert row["cd8_true_positives_4um"] is None
    assert row["cd8_false_positives_4um"] is None
    assert row["n_clumps"] is None
    assert "only the number of cells" in str(row["not_assessable"])
    unknown = image_row(scored(replace(image, background_known=False), found, "a", "p"))
    assert unknown["other_false_positives_4um"] is None
    assert unknown["other_true_positives_4um"] == 0


def test_the_summary_pools_cells_and_resamples_patients(image: AnnotatedImage, found: Found) -> None:
    other = Found(found.labels, found.points_um + 3.0, found.is_cd8, 1.0)
    images = [scored(image, f, str(i), "ab"[i % 2]) for i, f in enumerate([found, other, found])]
    summary = summarise_scores(images, resamples=200)
    f1 = summary["cd8"]["f1_4um"]
    matchings = [image.score.groups["cd8"].matching[4.0] for image in images]
    tp, fp, fn = np.sum(matchings, axis=0)
    assert f1.value == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert f1.n_images == 3
    assert f1.low is not None
    assert f1.low <= f1.value <= f1.high
    mean = summary["cd8"]["f1_4um_mean"].value
    assert mean == pytest.approx(np.mean([m.f1 for m in matchings]))
    alone = summarise_scores(images[:1], resamples=200)["cd8"]["f1_4um"]
    assert alone.value is not None
    assert alone.low is None
    assert "one group" in str(alone.no_interval)


def test_count_summary(image: AnnotatedImage, found: Found) -> None:
    empty = replace(image, labels=np.zeros((120, 160), np.int32), classes=np.empty(0, np.uint8))
    images = [scored(image, found, "a", "p"), scored(empty, found, "b", "q")]
    counts = summarise_counts(images, resamples=200)
    assert (counts.n_true, counts.n_found, counts.n_images) == (3, 4, 2)
    assert counts.bias.value == pytest.approx(1 / 3)
    assert counts.mean_absolute_error.value == pytest.approx(1.5)
    none = counts.by_density[0]
    assert (none.density, none.n_images, none.bias.value) == ("none", 1, None)
    assert none.found_per_mm2.value == pytest.approx(2 / (80 * 60e-6))
    assert sum(map(sum, counts.lysto_bins.images)) == 2
    nothing = summarise_counts([scored(replace(image, classes=None), found, "a", "p")])
    assert nothing.bias.value is None
    assert "class of the annotated cells" in str(nothing.bias.not_assessable)
