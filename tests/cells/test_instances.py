"""The compiled passes against plain, slow ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from histo.cells.instances import MAX_HOLE_PX, fill_holes, largest_parts, number_by_centroid

LABELS = arrays(np.int32, (11, 13), elements=st.integers(0, 3))
# Of few gaps, so that there are holes.
CLOSED = arrays(np.int32, (9, 10), elements=st.sampled_from([0, 1, 1, 1, 1, 2]))


@settings(max_examples=100, deadline=None)
@given(LABELS)
def test_the_largest_part_is_kept_the_first_of_equal_ones(labels: NDArray[np.int32]) -> None:
    expected = np.zeros_like(labels)
    for number in range(1, 4):
        parts, n = ndimage.label(labels == number)
        # Parts are numbered in reading order, and argmax takes the first.
        if n > 0:
            expected[parts == 1 + np.bincount(parts.ravel())[1:].argmax()] = number
    np.testing.assert_array_equal(largest_parts(labels), expected)


@settings(max_examples=200, deadline=None)
@given(CLOSED)
def test_holes_within_one_instance_are_filled(labels: NDArray[np.int32]) -> None:
    expected = labels.copy()
    gaps, n = ndimage.label(labels == 0, np.ones((3, 3)))
    for gap in range(1, n + 1):
        inside = np.pad(gaps == gap, 1)
        beside = np.pad(labels, 1, constant_values=-1)[ndimage.binary_dilation(inside) & ~inside]
        if len(set(beside)) == 1 and beside[0] > 0:
            expected[gaps == gap] = beside[0]
    np.testing.assert_array_equal(fill_holes(labels), expected)


def test_holes_are_filled_up_to_a_size() -> None:
    labels = np.ones((20, 40), np.int32)
    labels[2 : 2 + MAX_HOLE_PX // 10, 2:12] = 0
    labels[2 : 2 + MAX_HOLE_PX // 10, 22:32] = 0
    labels[2, 32] = 0
    filled = fill_holes(labels)
    assert filled[:, :20].all()
    assert (filled[:, 20:] == 0).sum() == MAX_HOLE_PX + 1


@settings(max_examples=50, deadline=None)
@given(LABELS, st.integers(0, 20), st.integers(20, 60))
def test_instances_are_numbered_by_their_centroids(
    labels: NDArray[np.int32], smallest: int, largest: int
) -> None:
    found = number_by_centroid(labels, (smallest, largest))
    pixels = {number: np.argwhere(labels == number) for number in range(1, 4)}
    kept = [number for number, at in pixels.items() if max(smallest, 1) <= len(at) <= largest]
    kept.sort(key=lambda number: tuple(pixels[number].mean(axis=0)))
    assert found.kept.tolist() == kept
    assert [found.number[number] for number in kept] == list(range(1, len(kept) + 1))
    assert found.area_px.tolist() == [len(pixels[number]) for number in kept]
    assert found.row_sum.tolist() == [pixels[number][:, 0].sum() for number in kept]
    assert found.column_sum.tolist() == [pixels[number][:, 1].sum() for number in kept]
