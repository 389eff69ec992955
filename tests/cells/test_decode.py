from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from histo.cells.decode import decode
from histo.cells.instances import Instances, fill_holes, largest_parts, number_by_centroid
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


def _plainly(maps: TileMaps, mpp: float, threshold: float) -> NDArray[np.int32]:
    """Return 1 + the index of the peak that each pixel joins: the words of the module, pixel by pixel."""
    centre = maps.centre.astype(float)
    height, width = centre.shape
    around = ndimage.maximum_filter(centre, 5, mode="constant", cval=-np.inf)
    equal = np.argwhere((centre == around) & (centre > np.log(threshold / (1 - threshold))))
    near = np.abs(equal[:, None] - equal[None]).max(axis=2) <= 2
    peaks = equal[~np.tril(near, -1).any(axis=1)]
    joined = np.zeros(maps.classes.shape[1:], np.int32)
    for row, column in np.argwhere(maps.classes.argmax(axis=0) > 0):
        vote = (
            np.array([row, column]) + 0.5 + (maps.offsets[::-1, row, column] / np.float32(mpp)).astype(float)
        )
        place = np.clip(np.floor(vote / 2), 0, (height - 1, width - 1))
        distance2 = ((peaks - place) ** 2).sum(axis=1)
        if len(peaks) == 0 or distance2.min() > 16:
            continue
        nearest = int(distance2.argmin())
        if ((2 * peaks[nearest] + 0.5 - (row, column)) ** 2).sum() <= 21**2:
            joined[row, column] = nearest + 1
    return joined


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_rule_written_plainly(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def noise(channels: int, size: int, sigma: float, scale: float) -> NDArray[np.float32]:
        smooth = ndimage.gaussian_filter(rng.normal(size=(channels, size, size)), (0, sigma, sigma))
        return (smooth / smooth.std() * scale).astype(np.float32)

    centre = noise(1, 48, 1.5, 3)[0]
    # Whole numbers: many peaks are plateaus, and many votes as near to one peak as to another.
    centre = np.round(centre) if seed % 2 else centre
    maps = TileMaps(noise(3, 96, 3, 3), centre, noise(2, 96, 3, 3))
    found = decode(maps, mpp=0.44, centre_threshold=0.4, area_um2=(0, 1e9))
    joined = _plainly(maps, 0.44, 0.4)
    np.testing.assert_array_equal(found.occupied, joined > 0)
    whole = fill_holes(largest_parts(joined))
    numbers = number_by_centroid(whole, (0, np.inf))
    np.testing.assert_array_equal(found.labels, numbers.number[whole])

    share = np.exp(maps.classes.astype(float))
    share /= share.sum(axis=0)
    mean = np.array([share[1:, found.labels == i + 1].mean(axis=1) for i in range(len(found.area_px))])
    np.testing.assert_array_equal(found.cell_class, mean.argmax(axis=1))
    np.testing.assert_allclose(found.probability, mean.max(axis=1), rtol=1e-6)


def test_threads_decode_tiles_at_once(draw_discs: Discs, true_maps: TrueMaps) -> None:
    tiles = [draw_discs(192, 100, seed=seed) for seed in range(8)]
    maps = [true_maps(labels, np.arange(labels.max()) % 2 == 0) for labels in tiles]
    alone = [_decode(each) for each in maps]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(_decode, maps))
    for one, other in zip(alone, together, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(ours, theirs)
