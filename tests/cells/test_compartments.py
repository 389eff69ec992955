from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from histo.cells import compartments


def stain_means(
    stain: NDArray[np.float32], labels: NDArray[np.int32], occupied: NDArray[np.bool_], *, half_ring_px: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    parts = compartments.compartments(labels, occupied, half_ring_px=half_ring_px)
    return compartments.stain_means(stain, parts)


def _square() -> NDArray[np.int32]:
    labels = np.zeros((20, 20), np.int32)
    labels[5:12, 6:13] = 1
    return labels


def test_ring_and_nucleus_of_a_square() -> None:
    labels = _square()
    stain = np.zeros((2, 20, 20), np.float32)
    stain[0, 6:11, 7:12] = 1.0  # all but the outermost pixels
    stain[1] = 3.0
    nucleus, ring = stain_means(stain, labels, labels > 0, half_ring_px=1)
    np.testing.assert_allclose(nucleus, [[1.0, 3.0]])
    np.testing.assert_allclose(ring, [[0.0, 3.0]])


def test_the_ring_lies_half_inside_and_half_outside() -> None:
    labels = _square()
    inside = (labels > 0).astype(np.float32)
    _, ring = stain_means(inside[None], labels, labels > 0, half_ring_px=1)
    # 24 pixels inside, 28 outside: 4 sides of 7, no corners.
    assert ring[0, 0] == pytest.approx(24 / 52)


def test_pixels_of_other_cells_are_left_out() -> None:
    labels = _square()
    occupied = labels > 0
    occupied[5:12, 13:16] = True  # a neighbour without a label
    stain = np.zeros((1, 20, 20), np.float32)
    stain[0, :, 13:] = 100.0
    _, ring = stain_means(stain, labels, occupied, half_ring_px=2)
    # Of what is beyond the neighbour's edge only pixels past its ends are near enough.
    _, alone = stain_means(stain, labels, labels > 0, half_ring_px=2)
    assert ring[0, 0] < alone[0, 0] / 3


def test_a_gap_between_two_cells_belongs_to_both() -> None:
    labels = np.zeros((12, 20), np.int32)
    labels[3:9, 3:9], labels[3:9, 10:16] = 1, 2
    stain = np.zeros((1, 12, 20), np.float32)
    stain[0, 3:9, 9] = 1.0
    _, ring = stain_means(stain, labels, labels > 0, half_ring_px=1)
    np.testing.assert_allclose(ring[:, 0], 6 / 44)


def test_a_cell_without_an_inside_has_no_nucleus_mean() -> None:
    labels = np.zeros((8, 8), np.int32)
    labels[2:4, 1:7] = 1
    nucleus, ring = stain_means(np.ones((1, 8, 8), np.float32), labels, labels > 0, half_ring_px=1)
    assert np.isnan(nucleus[0, 0])
    assert ring[0, 0] == 1


@settings(max_examples=40)
@given(arrays(np.int32, (10, 12), elements=st.integers(0, 3)), st.integers(1, 3))
def test_agrees_with_a_plain_count(labels: NDArray[np.int32], radius: int) -> None:
    present = np.unique(labels)
    labels = np.searchsorted(present[present > 0], labels).astype(np.int32) + (labels > 0)
    labels[labels > (present > 0).sum()] = 0
    if not labels.any():
        return
    stain = np.random.default_rng(0).random((1, 10, 12), dtype=np.float32)
    nucleus, ring = stain_means(stain, labels, labels > 0, half_ring_px=radius)
    for number in range(1, labels.max() + 1):
        own = np.argwhere(labels == number)
        other = np.argwhere(labels != number)
        outer = [(-1, y) for y in range(-1, 13)] + [(10, y) for y in range(-1, 13)]
        outer += [(x, -1) for x in range(10)] + [(x, 12) for x in range(10)]
        beyond = np.vstack([other, np.array(outer)])
        near_other = np.abs(own[:, None] - beyond[None]).sum(axis=2).min(axis=1) <= radius
        free = np.argwhere(labels == 0)
        near_own = (
            np.abs(free[:, None] - own[None]).sum(axis=2).min(axis=1) <= radius
            if len(free)
            else np.zeros(0, bool)
        )
        band = np.vstack([own[near_other], free[near_own]])
        assert ring[number - 1, 0] == pytest.approx(stain[0][tuple(band.T)].mean(), rel=1e-5)
        if near_other.all():
            assert np.isnan(nucleus[number - 1, 0])
        else:
            assert nucleus[number - 1, 0] == pytest.approx(
                stain[0][tuple(own[~near_other].T)].mean(), rel=1e-5
            )
