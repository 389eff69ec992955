from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from histo.cells.decode import decode
from histo.cells.instances import Instances
from histo.cells.maps import TileMaps

Discs = Callable[..., NDArray[np.int32]]
TrueMaps = Callable[..., TileMaps]


def _decode(maps: TileMaps, threshold: float = 0.5, area_um2: tuple[float, float] = (10, 400)) -> Instances:
    return decode(maps, mpp=0.5, centre_threshold=threshold, area_um2=area_um2)


def _strip(width: int, centres: list[int], radius: int = 8) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    rows, columns = np.mgrid[:64, :width]
    labels = np.zeros((64, width), np.int32)
    for number, x in enumerate(centres, start=1):
        free = (labels == 0) & ((rows - 32) ** 2 + (columns - x) ** 2 < radius**2)
        labels[free] = number
    return labels, np.ones(len(centres), bool)


def test_drawn_cells_come_back(draw_discs: Discs, true_maps: TrueMaps) -> None:
    labels = draw_discs(256, 300)
    is_cd8 = np.arange(labels.max()) % 3 == 0
    found = _decode(true_maps(labels, is_cd8))
    # Each found instance is one drawn disc, pixel by pixel.
    pairs = np.unique(np.column_stack([labels.ravel(), found.labels.ravel()]), axis=0)
    assert len(pairs) == labels.max() + 1
    drawn = pairs[1:][np.argsort(pairs[1:, 1]), 0]
    np.testing.assert_array_equal(found.area_px, np.bincount(labels.ravel())[drawn])
    np.testing.assert_array_equal(found.cell_class == 0, is_cd8[drawn - 1])
    # Logits of +-6: the class has 1 / (1 + 2 exp(-12)).
    np.testing.assert_allclose(found.probability, 1 / (1 + 2 * np.exp(-12)), rtol=1e-6)


def test_numbers_follow_the_centroids(draw_discs: Discs, true_maps: TrueMaps) -> None:
    labels = draw_discs(192, 100, seed=1)
    found = _decode(true_maps(labels, np.ones(labels.max(), bool)))
    row, column = found.row_sum / found.area_px, found.column_sum / found.area_px
    np.testing.assert_array_equal(np.lexsort((column, row)), np.arange(len(row)))


def test_touching_cells_come_apart(true_maps: TrueMaps) -> None:
    labels, is_cd8 = _strip(160, [20, 33, 46, 59, 72, 85, 98])
    found = _decode(true_maps(labels, is_cd8))
    assert len(found.area_px) == 7
    # They part along the drawn line, give or take the grid of the centre map.
    agree = found.labels[labels > 0] > 0
    assert agree.all()
    best = np.array([np.bincount(found.labels[labels == i]).max() / (labels == i).sum() for i in range(1, 8)])
    assert best.min() > 0.95


def test_a_plateau_of_equal_peaks_is_one_cell() -> None:
    rows, columns = np.mgrid[:64, :64]
    inside = (rows - 32) ** 2 + (columns - 32) ** 2 < 81
    classes = np.full((3, 64, 64), -6.0, np.float32)
    classes[0] = 6.0
    classes[1][inside] = 9.0
    centre = np.full((32, 32), -6.0, np.float32)
    centre[15:17, 15:18] = 3.0
    offsets = (np.stack([31.5 - columns, 31.5 - rows]) * 0.5).astype(np.float32)
    found = _decode(TileMaps(classes, centre, offsets))
    assert found.area_px.tolist() == [inside.sum()]


def test_two_peaks_in_one_cell_are_settled_by_the_votes(true_maps: TrueMaps) -> None:
    labels, is_cd8 = _strip(64, [32], radius=10)
    maps = true_maps(labels, is_cd8)
    maps.centre[13, 19] = 4.0
    assert len(_decode(maps).area_px) == 1


def test_holes_are_filled_and_crumbs_dropped(true_maps: TrueMaps) -> None:
    labels, is_cd8 = _strip(64, [32], radius=10)
    maps = true_maps(labels, is_cd8)
    maps.classes[0, 26:29, 30:34] = 20.0
    # A crumb whose vote points to the cell, but apart from it.
    maps.classes[1, 10, 32] = 20.0
    maps.offsets[1, 10, 32] = 11.0
    found = _decode(maps)
    np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize("limits", [(60, 400), (10, 30)])
def test_cells_outside_the_area_limits_are_dropped(true_maps: TrueMaps, limits: tuple[float, float]) -> None:
    labels, is_cd8 = _strip(64, [32], radius=8)  # about 50 um2
    found = _decode(true_maps(labels, is_cd8), area_um2=limits)
    assert len(found.area_px) == 0
    assert not found.labels.any()
    # Its pixels are still no free ground for a neighbour's ring.
    assert found.occupied.sum() == (labels > 0).sum()


def test_nothing_gives_nothing() -> None:
    zeros = np.zeros((3, 64, 64), np.float32)
    empty = TileMaps(zeros.copy(), np.full((32, 32), -9.0, np.float32), zeros[:2])
    empty.classes[0] = 5
    found = _decode(empty, 0.3)
    assert len(found.area_px) == 0
    assert found.probability.shape == found.cell_class.shape == (0,)
    assert not found.labels.any()


def test_a_lower_threshold_finds_no_fewer_cells(draw_discs: Discs, true_maps: TrueMaps) -> None:
    labels = draw_discs(192, 100, seed=2)
    maps = true_maps(labels, np.ones(labels.max(), bool))
    weak = maps._replace(centre=maps.centre - np.linspace(0, 8, 96, dtype=np.float32)[:, None])
    counts = [len(_decode(weak, t).area_px) for t in (0.1, 0.3, 0.5, 0.7)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
