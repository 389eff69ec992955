from __future__ import annotations

import numpy as np
import pytest

from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, UNKNOWN
from histo.training.config import AugmentConfig
from histo.training.geometry import View, draw_view
from histo.training.sample import Sample
from histo.training.targets import (
    MAY_BE_ANY,
    NO_CENTRE,
    known_classes,
    known_from_outlines,
    pack_targets,
)

MPP = 0.5
STILL = AugmentConfig()


def _sample(shape: tuple[int, int] = (160, 200), *, known: bool = False, n: int = 24) -> Sample:
    """Ellipses whose number is their colour."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices(shape)
    labels = np.zeros(shape, np.int32)
    number = 0
    for _ in range(500):
        x, y = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        one = ((rows - y) / 9) ** 2 + ((columns - x) / 6) ** 2 < 1
        if number < n and not labels[one].any() and one.sum() > 20:
            number += 1
            labels[one] = number
    classes = np.where(np.arange(number) % 2, CD8_POSITIVE, OTHER_NUCLEUS).astype(np.uint8)
    if known:
        classes[::3] = UNKNOWN
    owner = labels[labels > 0]
    area = np.bincount(owner, minlength=number + 1)[1:]
    places = np.nonzero(labels)
    centroids = np.column_stack(
        [np.bincount(owner, axis + 0.5, number + 1)[1:] / area * MPP for axis in places[::-1]]
    )
    targets = pack_targets(labels, classes == CD8_POSITIVE, MPP)
    if known:
        map_ = known_from_outlines(labels, classes, background_known=True)
        targets = targets._replace(classes=known_classes(map_), known=map_)
    pixels = np.stack([labels, 255 * (labels > 0), rows % 256], axis=-1).astype(np.uint8)
    ones = np.ones(3, np.float32)
    return Sample(
        "test",
        "brightfield",
        pixels,
        labels,
        classes,
        centroids,
        targets,
        255 * ones,
        np.eye(3),
        0 * ones,
        ones,
    )


def _draw(
    sample: Sample, size: int = 64, config: AugmentConfig = STILL, seed: int = 0, *, partial: bool = True
) -> View:
    return draw_view(sample, size, config, np.random.default_rng(seed), mpp=MPP, partial=partial)


def _check_view(view: View, sample: Sample, slack_px: float) -> int:
    """All pixels of a cell have its colour and lead to one place, its middle; return how many do."""
    targets = view.targets
    assert targets.known is not None
    n = 0
    for number in np.unique(view.pixels[..., 0]):
        sure = (view.pixels[..., 0] == number) & (view.pixels[..., 1] == 255) & (targets.known != 0)
        if number == 0 or number > len(sample.classes) or sure.sum() < 12:
            continue
        rows, columns = np.nonzero(sure)
        allowed = {UNKNOWN: 6, CD8_POSITIVE: 2, OTHER_NUCLEUS: 4}[int(sample.classes[number - 1])]
        assert np.isin(targets.known[sure] & MAY_BE_ANY, (allowed, 1)).mean() == 1
        inside = (targets.known[sure] & 1) == 0
        assert inside.mean() > 0.9
        x = columns[inside] + targets.offsets[0][sure][inside] * 0.1 / MPP
        y = rows[inside] + targets.offsets[1][sure][inside] * 0.1 / MPP
        # One place for all pixels of a cell.
        assert np.ptp(x) < slack_px
        assert np.ptp(y) < slack_px
        n += int(inside.sum())
        if 4 < x.mean() < 60 and 4 < y.mean() < 60 and targets.known[int(y.mean()), int(x.mean())]:
            centre = targets.centre[int((y.mean() + 0.5) // 2), int((x.mean() + 0.5) // 2)]
            assert centre > 180
            if 12 < x.mean() < 52 and 12 < y.mean() < 52 and (targets.known != 0).all():
                # A cell in full view: the place is its middle.
                assert abs(columns[inside].mean() - x.mean()) < 0.7
                assert abs(rows[inside].mean() - y.mean()) < 0.7
    return n


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_crops_stay_with_their_targets(seed: int, known: bool) -> None:
    sample = _sample(known=known)
    assert _check_view(_draw(sample, seed=seed), sample, slack_px=0.5) > 200


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_turned_and_magnified_crops_stay_with_their_targets(seed: int, known: bool) -> None:
    sample = _sample(known=known)
    config = AugmentConfig(rotate_share=1.0, zoom=0.15)
    assert _check_view(_draw(sample, config=config, seed=seed), sample, slack_px=0.5) > 150


def test_magnification_makes_cells_larger() -> None:
    sample = _sample((256, 256), n=40)

    def covered(zoom: float) -> float:
        views = [_draw(sample, config=AugmentConfig(zoom=zoom), seed=seed) for seed in range(30)]
        return float(np.std([(view.targets.classes > 0).sum() for view in views]))

    assert covered(0.4) > covered(1e-6)


def test_without_asking_nothing_is_drawn_for_it() -> None:
    sample = _sample()
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    draw_view(sample, 64, STILL, one, mpp=MPP, partial=False)
    for high in (160 // 2 - 32 + 1, 200 // 2 - 32 + 1, 4, 2):
        other.integers(0, high)
    assert one.integers(2**40) == other.integers(2**40)


def test_a_turn_beyond_the_image_is_known_to_be_beyond() -> None:
    sample = _sample((64, 64), n=6)
    view = _draw(sample, config=AugmentConfig(rotate_share=1.0), seed=1)
    assert view.targets.known is not None
    assert (view.targets.known == 0).any()
    assert not view.targets.classes[view.targets.known == 0].any()


def test_a_small_image_stays_in_view_when_turned() -> None:
    sample = _sample((40, 44), n=4)
    for seed in range(5):
        targets = _draw(sample, config=AugmentConfig(rotate_share=1.0), seed=seed).targets
        assert targets.known is not None
        # At most its corners leave the square.
        assert (targets.known != 0).sum() > 0.8 * 40 * 44


def test_a_small_image_is_padded_with_what_nothing_is_known_of() -> None:
    sample = _sample((40, 52), n=4)
    for seed in range(5):
        view = _draw(sample, seed=seed)
        assert view.pixels.shape == (64, 64, 3)
        assert view.targets.known is not None
        assert (view.targets.known != 0).sum() == 40 * 52
        assert not view.targets.classes[view.targets.known == 0].any()
        # The mirror image, not a blank.
        assert (view.pixels[view.targets.known == 0][:, 2] > 0).mean() > 0.9
        _check_view(view, sample, slack_px=0.5)


def test_a_counted_image_is_seen_whole() -> None:
    whole = _sample((40, 52))
    counted = Sample(**{**vars(whole), "labels": None, "targets": None, "n_cd8": 5})
    for config in (STILL, AugmentConfig(rotate_share=1.0, zoom=0.2)):
        targets = _draw(counted, config=config).targets
        assert targets.known is not None
        assert (targets.known == (MAY_BE_ANY | NO_CENTRE)).sum() == 40 * 52
        assert (targets.known == 0).sum() == 64 * 64 - 40 * 52
        assert not targets.centre.any()
