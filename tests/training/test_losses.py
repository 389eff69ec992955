from __future__ import annotations

import pytest
import torch

from histo.cells.network import Maps
from histo.training.config import LossConfig
from histo.training.losses import losses, offset_loss, quality_focal, soft_dice
from histo.training.targets import Targets


def _targets() -> Targets:
    classes = torch.zeros(1, 16, 16, dtype=torch.long)
    classes[:, 2:8, 2:8], classes[:, 9:15, 9:15] = 1, 2
    centre = torch.zeros(1, 1, 8, 8)
    centre[..., 2, 2] = centre[..., 5, 5] = 1
    offsets = torch.ones(1, 2, 16, 16)
    return Targets(classes, centre, offsets, (classes > 0)[:, None])


def _right(targets: Targets, sharpness: float = 20.0) -> Maps:
    one_hot = torch.nn.functional.one_hot(targets.classes, 3).movedim(-1, 1).float()
    return Maps((2 * one_hot - 1) * sharpness, (2 * targets.centre - 1) * sharpness, targets.offsets.clone())


def test_the_right_answer_costs_nothing() -> None:
    targets = _targets()
    parts = losses(_right(targets), targets, LossConfig())
    assert set(parts) == {"cross_entropy", "dice", "centre", "offsets", "total"}
    assert all(float(value) == pytest.approx(0, abs=1e-3) for value in parts.values())


def test_each_part_answers_to_its_own_map_and_weight() -> None:
    targets = _targets()
    right, wrong = _right(targets), Maps(*(-m for m in _right(targets)))
    good = losses(right, targets, LossConfig())
    for changed, names in ((0, {"cross_entropy", "dice"}), (1, {"centre"}), (2, {"offsets"})):
        maps = Maps(*(wrong[i] if i == changed else right[i] for i in range(3)))
        bad = losses(maps, targets, LossConfig())
        assert {
            name for name in good if name != "total" and float(bad[name]) > float(good[name]) + 0.1
        } == names
        doubled = losses(maps, targets, LossConfig(cross_entropy=2, dice=1, centre=2, offsets=1))
        torch.testing.assert_close(doubled["total"], 2 * bad["total"])


def test_dice_of_no_overlap_is_one_and_of_nothing_zero() -> None:
    classes = torch.ones(1, 8, 8, dtype=torch.long)
    logits = torch.full((1, 3, 8, 8), -30.0)
    logits[:, 2] = 30
    assert float(soft_dice(logits, classes)) == pytest.approx(1, abs=0.02)
    background = torch.full((1, 3, 8, 8), -30.0)
    background[:, 0] = 30
    assert float(soft_dice(background, torch.zeros_like(classes))) == pytest.approx(0, abs=1e-6)


def test_quality_focal_is_least_at_the_true_quality() -> None:
    quality = torch.full((1, 1, 4, 4), 0.7)
    at = [float(quality_focal(torch.full_like(quality, p).logit(), quality)) for p in (0.5, 0.7, 0.9)]
    assert at[1] == pytest.approx(0)
    assert at[0] > 0
    assert at[2] > 0
    # (0.9 - 0.7)^2 * BCE(0.7 | 0.9), summed and divided by the sum of qualities.
    p = torch.tensor(0.9)
    expected = 0.04 * -(0.7 * p.log() + 0.3 * (1 - p).log()) / 0.7
    assert at[2] == pytest.approx(float(expected), rel=1e-5)


def test_offsets_outside_cells_do_not_count() -> None:
    targets = _targets()
    offsets = torch.where(targets.inside, targets.offsets, 99.0)
    assert float(offset_loss(offsets, targets.offsets, targets.inside)) == 0
    nothing = torch.zeros_like(targets.inside)
    assert float(offset_loss(offsets, targets.offsets, nothing)) == 0
