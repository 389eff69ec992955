from __future__ import annotations

import pytest
import torch

from histo.cells.network import CellNet, flops_per_pixel, folded
from histo.cells.weights import Weights


def test_maps_have_the_input_s_size_and_the_centre_half_of_it() -> None:
    maps = CellNet(8).eval()(torch.zeros(2, 3, 64, 96))
    assert maps.classes.shape == (2, 3, 64, 96)
    assert maps.centre.shape == (2, 1, 32, 48)
    assert maps.offsets.shape == (2, 2, 64, 96)


def test_a_size_off_the_stride_says_what_to_pad_to() -> None:
    with pytest.raises(ValueError, match="from 60x64 to 64x64"):
        CellNet(8)(torch.zeros(1, 3, 60, 64))


def test_folding_the_normalisation_changes_nothing(random_weights: Weights) -> None:
    network = random_weights.network()
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for plain, fold in zip(network(x), folded(network)(x), strict=True):
            torch.testing.assert_close(plain, fold, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded(network).modules())


@pytest.mark.parametrize("place", [(160, 160), (163, 167), (167, 160)])
def test_a_pixel_matters_no_further_than_the_receptive_radius(
    random_weights: Weights, place: tuple[int, int]
) -> None:
    network = random_weights.network().double()
    x = torch.rand(1, 3, 320, 320, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    changed = x.clone()
    changed[:, :, place[0], place[1]] += 2
    with torch.inference_mode():
        before, after = network(x), network(changed)
    reach = 0
    for old, new in zip(before, after, strict=True):
        scale = 320 // old.shape[-1]
        _, _, rows, columns = torch.nonzero(old != new, as_tuple=True)
        assert len(rows) > 0
        for at, index in zip(place, (rows, columns), strict=True):
            far = torch.maximum(at - index * scale, index * scale + scale - 1 - at)
            reach = max(reach, int(far.max()))
    assert network.receptive_radius_px - network.multiple <= reach <= network.receptive_radius_px


def test_a_shift_by_the_stride_shifts_the_maps(random_weights: Weights) -> None:
    network = random_weights.network().double()
    x = torch.rand(1, 3, 192, 192, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    r, step = network.receptive_radius_px, network.multiple
    with torch.inference_mode():
        whole = network(x).classes[..., step + r : -r, step + r : -r]
        part = network(x[..., step:, step:].contiguous()).classes[..., r:-r, r:-r]
    torch.testing.assert_close(whole, part, rtol=1e-12, atol=1e-12)


def test_cost_grows_with_the_square_of_the_width() -> None:
    assert 15e3 < flops_per_pixel(16) < 20e3
    assert 3.5 < flops_per_pixel(32) / flops_per_pixel(16) < 4


def test_shifting_a_class_shifts_its_logits_only(random_weights: Weights) -> None:
    network, shifted = random_weights.network(), random_weights.network()
    shifted.shift_class(1, 0.75)
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        before, after = network(x), shifted(x)
    torch.testing.assert_close(after.classes[:, 1], before.classes[:, 1] + 0.75)
    torch.testing.assert_close(after.classes[:, ::2], before.classes[:, ::2])
    torch.testing.assert_close(after.centre, before.centre)
    torch.testing.assert_close(after.offsets, before.offsets)
