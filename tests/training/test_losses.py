from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from histo.cells.network import CellNet, Maps
from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, UNKNOWN
from histo.training.config import LossConfig
from histo.training.losses import count_loss, losses, offset_loss, quality_focal, soft_dice
from histo.training.targets import (
    MAY_BE_ANY,
    NO_CENTRE,
    UNANNOTATED,
    PackedTargets,
    Targets,
    discs_from_points,
    known_classes,
    known_from_outlines,
    pack_targets,
    peak_mass,
    unpack_targets,
)


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
    parts = losses(_right(targets), targets, LossConfig(), mpp=0.5)
    assert set(parts) == {"cross_entropy", "dice", "centre", "offsets", "total"}
    assert all(float(value) == pytest.approx(0, abs=1e-3) for value in parts.values())


def test_each_part_answers_to_its_own_map_and_weight() -> None:
    targets = _targets()
    right, wrong = _right(targets), Maps(*(-m for m in _right(targets)))
    good = losses(right, targets, LossConfig(), mpp=0.5)
    for changed, names in ((0, {"cross_entropy", "dice"}), (1, {"centre"}), (2, {"offsets"})):
        maps = Maps(*(wrong[i] if i == changed else right[i] for i in range(3)))
        bad = losses(maps, targets, LossConfig(), mpp=0.5)
        assert {
            name for name in good if name != "total" and float(bad[name]) > float(good[name]) + 0.1
        } == names
        doubled = losses(maps, targets, LossConfig(cross_entropy=2, dice=1, centre=2, offsets=1), mpp=0.5)
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


def _random_maps(seed: int = 0, n: int = 1, size: int = 16) -> Maps:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    return Maps(random(n, 3, size, size), random(n, 1, size // 2, size // 2), random(n, 2, size, size))


def _gradients(maps: Maps, targets: Targets, config: LossConfig | None = None) -> Maps:
    losses(maps, targets, config or LossConfig(), mpp=0.5)["total"].backward()
    return Maps(*(m.grad for m in maps))


def test_saying_that_all_is_known_changes_nothing() -> None:
    targets, maps = _targets(), _random_maps()
    known = torch.bitwise_left_shift(torch.ones_like(targets.classes), targets.classes).to(torch.uint8)
    whole = losses(maps, targets, LossConfig(), mpp=0.5)
    said = losses(maps, targets._replace(known=known), LossConfig(), mpp=0.5)
    for name, value in whole.items():
        torch.testing.assert_close(said[name], value)


def test_a_cell_of_unknown_class_should_be_a_cell() -> None:
    classes = torch.zeros(1, 8, 8, dtype=torch.long)
    known = torch.full((1, 8, 8), 2 | 4, dtype=torch.uint8)
    nothing = torch.zeros(1, 1, 4, 4)
    targets = Targets(classes, nothing, torch.zeros(1, 2, 8, 8), known[:, None] > 0, known)
    logits = torch.tensor([0.4, 1.0, -0.5])[None, :, None, None].repeat(1, 1, 8, 8).requires_grad_()
    maps = Maps(logits, torch.full((1, 1, 4, 4), -9.0), torch.zeros(1, 2, 8, 8))
    parts = losses(maps, targets, LossConfig(), mpp=0.5)
    p = logits[0, :, 0, 0].detach().softmax(dim=0)
    assert float(parts["cross_entropy"].detach()) == pytest.approx(-math.log(p[1] + p[2]), rel=1e-5)
    parts["total"].backward()
    assert logits.grad is not None
    gradient = logits.grad[0, :, 0, 0]
    assert gradient[0] > 0
    # The two cell classes rise in proportion: their ratio stays what it is.
    assert float(gradient[1] / gradient[2]) == pytest.approx(float(p[1] / p[2]), rel=1e-4)


def test_where_only_cd8_cells_are_annotated_only_they_are_pushed_down() -> None:
    classes = torch.zeros(1, 16, 16, dtype=torch.long)
    known = torch.full((1, 16, 16), 1 | 4 | UNANNOTATED, dtype=torch.uint8)
    nothing = torch.zeros(1, 1, 8, 8)
    targets = Targets(classes, nothing, torch.zeros(1, 2, 16, 16), known[:, None] == 0, known)
    # The net sees other nuclei on the left, CD8+ cells on the right, with a centre everywhere.
    logits = torch.zeros(1, 3, 16, 16)
    logits[:, 2, :, :8], logits[:, 1, :, 8:] = 9.0, 9.0
    maps = Maps(
        logits.requires_grad_(),
        torch.ones(1, 1, 8, 8).requires_grad_(),
        torch.ones(1, 2, 16, 16).requires_grad_(),
    )
    gradient = _gradients(maps, targets)
    assert gradient.offsets.abs().max() == 0
    assert (gradient.classes[:, 1, :, 8:] > 1e-3).all()
    assert gradient.classes[:, :, :, :8].abs().max() < 1e-4
    assert (gradient.centre[..., 4:] > 0).all()
    assert gradient.centre[..., :4].abs().max() < 1e-3 * gradient.centre[..., 4:].min()


def test_a_centre_is_not_weighed_down_by_doubt_about_the_class() -> None:
    classes = torch.zeros(1, 8, 8, dtype=torch.long)
    known = torch.full((1, 8, 8), 1 | 4 | UNANNOTATED, dtype=torch.uint8)
    targets = Targets(classes, torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 8, 8), known[:, None] == 0, known)
    maps = _random_maps(1, size=8)
    centre_only = LossConfig(cross_entropy=0, dice=0, offsets=0)
    assert _gradients(maps, targets, centre_only).classes.abs().max() == 0


def test_nothing_leaks_from_outside_the_image() -> None:
    labels = np.zeros((16, 16), np.int32)
    labels[5:10, 5:10], labels[11:15, 3:8] = 1, 2
    classes = np.array([CD8_POSITIVE, UNKNOWN], np.uint8)
    packed = pack_targets(labels, classes == CD8_POSITIVE, 0.5)
    known = known_from_outlines(labels, classes, background_known=False)
    whole = PackedTargets(known_classes(known), packed.offsets, packed.centre, known)
    counted = np.full((16, 16), MAY_BE_ANY | NO_CENTRE, np.uint8)
    blank = np.zeros_like(packed.classes)
    count = PackedTargets(blank, np.zeros_like(packed.offsets), np.zeros_like(packed.centre), counted)
    batch = [PackedTargets(*whole), PackedTargets(*count)]
    stacked = PackedTargets(*(np.stack(parts) for parts in zip(*batch, strict=True)))
    assert stacked.known is not None
    stacked.known[:, :4] = 0
    stacked.known[:, :, 12:] = 0
    targets = unpack_targets(stacked)._replace(n_cd8=torch.tensor([math.nan, 5.0]))
    gradient = _gradients(_random_maps(2, n=2), targets)
    outside = torch.from_numpy(stacked.known == 0)
    half = outside[:, ::2, ::2]
    for part, where in ((gradient.classes, outside), (gradient.offsets, outside), (gradient.centre, half)):
        masked = where[:, None].expand_as(part)
        assert part[masked].abs().max() == 0
        assert part[~masked].abs().max() > 0
        # Each image has a part that teaches.
    assert gradient.classes[1].abs().max() > 0
    assert gradient.offsets[1].abs().max() == 0


def _drawn(n: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Draw n CD8+ discs of 8 um, far apart; return their labels and centres in pixels."""
    places = np.array([[16 + 32 * (i % 2), 16 + 32 * (i // 2)] for i in range(n)], np.float64).reshape(-1, 2)
    rows, columns = np.indices((size, size))
    labels = np.zeros((size, size), np.int32)
    for number, (x, y) in enumerate(places, 1):
        labels[(rows - y) ** 2 + (columns - x) ** 2 < 64] = number
    return labels, places


@pytest.mark.parametrize("n", [0, 1, 4])
def test_right_maps_hold_the_count(n: int) -> None:
    labels, _ = _drawn(n)
    packed = pack_targets(labels, np.ones(n, bool), 0.5)
    centre = torch.from_numpy(packed.centre / 255).float()[None, None].logit(eps=1e-5)
    ones = torch.ones_like(centre)

    def at(count: float) -> float:
        return float(count_loss(centre, ones, ones, torch.tensor([count]), peak_mass(0.5)))

    assert at(n) < 0.01
    assert at(n) < at(n + 1) < at(n + 2)
    # Of no use where cells are not CD8+ ones.
    if n:
        none = torch.zeros_like(centre)
        assert float(count_loss(centre, none, ones, torch.tensor([float(n)]), peak_mass(0.5))) > 0.2


def test_too_few_cells_raise_the_centre_map_and_too_many_lower_it() -> None:
    for count, sign in ((50.0, -1), (0.0, 1)):
        centre = torch.zeros(1, 1, 8, 8).requires_grad_()
        cd8 = torch.full((1, 1, 8, 8), 0.5).requires_grad_()
        within = torch.ones(1, 1, 8, 8)
        within[..., :2] = 0
        count_loss(centre, cd8, within, torch.tensor([count]), peak_mass(0.5)).backward()
        assert centre.grad is not None
        assert cd8.grad is not None
        assert (sign * centre.grad[..., 2:] > 0).all()
        assert (sign * cd8.grad[..., 2:] > 0).all()
        assert (centre.grad[..., :2] == 0).all()


def _fit(stain: torch.Tensor, targets: Targets, steps: int = 25) -> tuple[CellNet, list[float]]:
    torch.manual_seed(0)
    network = CellNet(4)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.02)
    history = []
    for _ in range(steps):
        total = losses(network(stain), targets, LossConfig(count=1.0), mpp=0.5)["total"]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        history.append(float(total.detach()))
    return network, history


def _stained(labels: np.ndarray) -> torch.Tensor:
    brown = torch.from_numpy((labels > 0).astype(np.float32))
    noise = torch.randn(3, *labels.shape, generator=torch.Generator().manual_seed(1)) * 0.02
    return torch.stack([0.3 * brown, brown, 0 * brown]) + noise


def test_counts_alone_teach_to_count() -> None:
    drawn = [_drawn(n)[0] for n in (0, 1, 2, 4)]
    nothing = PackedTargets(
        np.zeros((4, 64, 64), np.uint8),
        np.zeros((4, 2, 64, 64), np.int8),
        np.zeros((4, 32, 32), np.uint8),
        np.full((4, 64, 64), MAY_BE_ANY | NO_CENTRE, np.uint8),
    )
    targets = unpack_targets(nothing)._replace(n_cd8=torch.tensor([0.0, 1.0, 2.0, 4.0]))
    stain = torch.stack([_stained(labels) for labels in drawn])
    network, history = _fit(stain, targets, steps=40)
    assert history[-1] < 0.2 * history[0]
    with torch.no_grad():
        maps = network(stain)
        cd8 = torch.nn.functional.avg_pool2d(maps.classes.softmax(dim=1)[:, 1:2], 2)
        expected = (maps.centre.sigmoid() * cd8).sum(dim=(1, 2, 3)) / peak_mass(0.5)
    assert expected[0] < expected[1] < expected[3]


def test_points_alone_teach_places_and_classes() -> None:
    labels, places = _drawn(4)
    classes = np.array([CD8_POSITIVE, CD8_POSITIVE, OTHER_NUCLEUS, CD8_POSITIVE], np.uint8)
    discs, known = discs_from_points(places, classes, (64, 64), 0.5, background_known=True)
    packed = pack_targets(discs, classes == CD8_POSITIVE, 0.5, centroids_px=places)
    packed = packed._replace(classes=known_classes(known), known=known)
    targets = unpack_targets(PackedTargets(*(part[None] for part in packed if part is not None)))
    stain = _stained(labels)[None]
    stain[:, 1, 32:, :32] = 0
    network, history = _fit(stain, targets)
    assert history[-1] < 0.5 * history[0]
    with torch.no_grad():
        centre = network.train()(stain).centre[0, 0]
    at_cells = centre[places[:, 1].astype(int) // 2, places[:, 0].astype(int) // 2]
    assert at_cells.min() > centre[0, 0]
