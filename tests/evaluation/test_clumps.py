from __future__ import annotations

import numpy as np
import pytest

from histo.evaluation.clumps import count_in_clumps


def grid(
    n_rows: int, n_columns: int, *, gap: int = 0, size: int = 6, at: tuple[int, int] = (4, 4)
) -> np.ndarray:
    """Square cells in rows and columns, `gap` pixels apart."""
    labels = np.zeros((80, 120), np.int32)
    for number in range(n_rows * n_columns):
        row, column = divmod(number, n_columns)
        top, left = at[0] + row * (size + gap), at[1] + column * (size + gap)
        labels[top : top + size, left : left + size] = number + 1
    return labels


def centres(labels: np.ndarray) -> np.ndarray:
    return np.array([np.argwhere(labels == i).mean(axis=0)[::-1] + 0.5 for i in range(1, labels.max() + 1)])


@pytest.mark.parametrize(("gap", "expected"), [(0, [24]), (1, [24]), (2, [])])
def test_cells_a_pixel_apart_are_one_clump(gap: int, expected: list[int]) -> None:
    labels = grid(4, 6, gap=gap)
    clumps = count_in_clumps(labels, centres(labels) * 0.5, 0.5)
    assert clumps.n_true.tolist() == clumps.n_found.tolist() == expected


def test_a_clump_has_more_than_twenty_cells() -> None:
    assert count_in_clumps(grid(4, 5), np.empty((0, 2)), 0.5).n_true.tolist() == []
    clumps = count_in_clumps(grid(3, 7), np.empty((0, 2)), 0.5)
    assert (clumps.n_true.tolist(), clumps.n_found.tolist(), clumps.bias) == ([21], [0], -1.0)


def test_found_cells_count_on_the_clump_and_just_beside_it() -> None:
    labels = grid(4, 6)
    # On it; within a pixel of its edge; two pixels off; far away.
    found = np.array([[10.0, 10.0], [3.5, 10.0], [2.5, 10.0], [100.0, 70.0]]) * 0.5
    clumps = count_in_clumps(labels, found, 0.5)
    assert clumps.n_found.tolist() == [2]
    assert clumps.bias == pytest.approx(2 / 24 - 1)


def test_two_clumps_and_a_loose_cell() -> None:
    labels = grid(4, 6)
    second = grid(5, 5, at=(40, 60))
    labels[second > 0] = second[second > 0] + 40  # numbers need not be dense
    labels[70:76, 4:10] = 99
    clumps = count_in_clumps(labels, np.array([[70.0, 50.0], [10.0, 10.0], [6.0, 72.0]]) * 0.5, 0.5)
    assert sorted(clumps.n_true.tolist()) == [24, 25]
    assert clumps.n_found.tolist() == [1, 1]


def test_the_margin_is_not_counted() -> None:
    labels = grid(4, 6, at=(0, 0))
    clumps = count_in_clumps(labels, centres(labels) * 0.5, 0.5, edge_um=3.0)
    # The first row and the first column of cells have their centres 1.5 um from the edge.
    assert clumps.n_true.tolist() == clumps.n_found.tolist() == [15]


def test_the_gap_is_one_of_micrometres() -> None:
    labels = grid(4, 6, gap=2)
    assert len(count_in_clumps(labels, np.empty((0, 2)), 0.25).n_true) == 1


def test_no_clump_has_no_bias() -> None:
    assert np.isnan(count_in_clumps(np.zeros((9, 9), np.int32), np.empty((0, 2)), 0.5).bias)
