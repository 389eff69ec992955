from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score
from torchmetrics.functional.detection import panoptic_quality

from histo.evaluation.segmentation import (
    Agreement,
    agreement,
    centroids_um,
    overlaps,
    pooled_agreement,
)

images = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: st.tuples(
        arrays(np.int32, shape, elements=st.integers(0, 5)),
        arrays(np.int32, shape, elements=st.integers(0, 5)),
    )
)


def compare(found: np.ndarray, true: np.ndarray) -> Agreement:
    return agreement(overlaps(found, true))


def test_by_hand() -> None:
    # Cell 1: 6 px, found as 5 of them and 1 more (IoU 5/7). Cell 2: 4 px, found 1 px of it (IoU 1/4).
    # Found 9 lies in the void.
    true = np.array([[1, 1, 1, 0, 2, 2, 0, 0], [1, 1, 1, 0, 2, 2, 0, 0]])
    found = np.array([[7, 7, 7, 7, 3, 0, 0, 9], [7, 7, 0, 0, 0, 0, 0, 9]])
    result = compare(found, true)
    assert (result.true_positives, result.false_positives, result.false_negatives) == (1, 2, 1)
    assert result.sq == pytest.approx(5 / 7)
    assert result.rq == pytest.approx(1 / 2.5)
    assert result.pq == pytest.approx(5 / 7 / 2.5)
    # Intersections 5 + 1; unions 7 + 4, and the 2 px of found 9 that nobody takes.
    assert result.aji == pytest.approx(6 / 13)
    assert result.aji_plus == pytest.approx(6 / 13)
    assert result.dice == pytest.approx(2 * 6 / (10 + 9))


def test_aji_lets_two_cells_take_one_and_aji_plus_does_not() -> None:
    true = np.array([[1, 1, 1, 2, 2]])
    found = np.array([[1, 1, 1, 1, 1]])
    result = compare(found, true)
    # Kumar's: 3 + 2 over 5 + 5. One to one: 3 over 5, and the 2 px of cell 2 alone.
    assert result.aji == pytest.approx(5 / 10)
    assert result.aji_plus == pytest.approx(3 / 7)


def test_one_half_is_not_above_one_half() -> None:
    true, found = np.array([[1, 1, 0]]), np.array([[1, 0, 0]])
    assert compare(found, true).true_positives == 0


@given(images)
def test_panoptic_quality_is_that_of_torchmetrics(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found, true = pair
    if not (found.any() or true.any()):
        return
    # Cells are things of class 1, background is stuff of class 0.
    stacked = [torch.from_numpy(np.stack([x > 0, x], axis=-1).astype(np.int64))[None] for x in (found, true)]
    theirs = panoptic_quality(*stacked, things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True)
    ours = compare(found, true)
    sq = 0.0 if math.isnan(ours.sq) else ours.sq
    assert theirs[0].tolist() == pytest.approx([ours.pq, sq, ours.rq], abs=1e-5)


@given(images)
def test_dice_is_the_f1_of_scikit_learn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found, true = pair
    if found.any() or true.any():
        theirs = f1_score((true > 0).ravel(), (found > 0).ravel(), zero_division=0.0)
        assert compare(found, true).dice == pytest.approx(theirs)


def aji_of_the_paper(found: np.ndarray, true: np.ndarray) -> float:
    """Algorithm 1 of Kumar 2017, cell by cell."""
    shared, union, used = 0, 0, set()
    for i in np.unique(true[true > 0]):
        best, best_iou = None, 0.0
        for j in np.unique(found[found > 0]):
            both, either = ((true == i) & (found == j)).sum(), ((true == i) | (found == j)).sum()
            if both / either > best_iou:
                best, best_iou, best_both, best_either = j, both / either, both, either
        if best is None:
            union += (true == i).sum()
        else:
            shared, union = shared + best_both, union + best_either
            used.add(best)
    return shared / (union + sum((found == j).sum() for j in np.unique(found[found > 0]) if j not in used))


@given(images)
def test_aji_is_that_of_the_paper(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found, true = pair
    if found.any() or true.any():
        assert compare(found, true).aji == pytest.approx(aji_of_the_paper(found, true))


@given(images, st.randoms(use_true_random=False))
def test_numbers_of_labels_mean_nothing(pair: tuple[np.ndarray, np.ndarray], random: object) -> None:
    found, true = pair
    rng = np.random.default_rng(random.randrange(2**32))  # type: ignore[attr-defined]
    renamed = [np.concatenate([[0], rng.permutation(50)[:5] + 1])[x] for x in pair]
    ours, theirs = compare(found, true), compare(*renamed)
    for name in ("pq", "sq", "rq", "aji_plus", "dice"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), nan_ok=True)


@given(images)
def test_identity_is_perfect_and_swapping_changes_no_symmetric_measure(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    found, true = pair
    same = compare(true, true)
    if true.any():
        assert (same.pq, same.sq, same.rq, same.aji, same.aji_plus, same.dice) == (1, 1, 1, 1, 1, 1)
    ours, back = compare(found, true), compare(true, found)
    for name in ("pq", "sq", "rq", "aji_plus", "dice"):
        assert getattr(ours, name) == pytest.approx(getattr(back, name), nan_ok=True)
    assert (ours.false_positives, ours.false_negatives) == (back.false_negatives, back.false_positives)


@given(st.lists(images, min_size=1, max_size=3))
def test_pooling_is_scoring_images_side_by_side(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    height = max(found.shape[0] for found, _ in pairs)

    def strip(which: int) -> np.ndarray:
        parts = [
            np.pad(
                np.where(pair[which] > 0, pair[which] + 10 * place, 0),
                ((0, height - pair[which].shape[0]), (0, 0)),
            )
            for place, pair in enumerate(pairs)
        ]
        return np.hstack(parts)

    together = compare(strip(0), strip(1))
    pooled = pooled_agreement(compare(*pair) for pair in pairs)
    assert pooled[1:6] == together[1:6]
    assert pooled.iou_sum == pytest.approx(together.iou_sum)
    assert pooled.dice == pytest.approx(together.dice, nan_ok=True)


def test_nothing_at_all_is_not_defined() -> None:
    empty = compare(np.zeros((3, 3), int), np.zeros((3, 3), int))
    assert all(math.isnan(getattr(empty, name)) for name in ("pq", "sq", "rq", "aji", "aji_plus", "dice"))
    missed = compare(np.zeros((3, 3), int), np.ones((3, 3), int))
    assert (missed.pq, missed.aji, missed.aji_plus, missed.dice) == (0, 0, 0, 0)
    assert math.isnan(missed.sq)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        overlaps(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(ValueError, match="negative"):
        overlaps(np.full((2, 2), -1), np.zeros((2, 2), int))


def test_centroids_are_of_pixel_centres() -> None:
    labels = np.array([[0, 4, 4], [9, 0, 0]])
    assert centroids_um(labels, 0.5).tolist() == [[1.0, 0.25], [0.25, 0.75]]
