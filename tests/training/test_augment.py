from __future__ import annotations

import numpy as np
import pytest
import torch

from histo.config import StainVectors
from histo.stain.deconvolution import AMOUNT_RANGE, mix, stain_matrix, transmitted
from histo.training.augment import (
    brightfield_amounts,
    estimated_vectors,
    estimated_white_point,
    fluorescence_amounts,
    vary,
)
from histo.training.config import AugmentConfig

STILL = AugmentConfig(
    default_vectors_share=0,
    vector_error_deg=0,
    white_point_error=0,
    scale=0,
    full_scale=0,
    shift=0,
    gamma=0,
    blur_share=0,
    noise=0,
    no_residual_share=0,
)


def _amounts(n: int = 4) -> torch.Tensor:
    return torch.rand(n, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 0.2


def test_unmixing_with_the_true_vectors_gives_the_amounts_back() -> None:
    matrix = stain_matrix(StainVectors())
    white = np.array([240.0, 245.0, 243.0], np.float32)
    amounts = np.random.default_rng(0).uniform(0, 0.5, (1, 8, 8, 3)).astype(np.float32)
    pixels = transmitted(mix(amounts, matrix), white)
    back = brightfield_amounts(pixels, white[None], matrix[None])
    np.testing.assert_allclose(back, np.moveaxis(amounts, -1, 1), rtol=1e-3, atol=1e-3)


def test_each_image_has_its_own_scale() -> None:
    pixels = np.full((2, 4, 4, 3), 110, np.int32)
    background, full_scale = np.array([[10.0], [10.0]]), np.array([[100.0], [50.0]])
    out = fluorescence_amounts(
        pixels, *(each.repeat(3, axis=1).astype(np.float32) for each in (background, full_scale))
    )
    assert out.shape == (2, 3, 4, 4)
    assert np.unique(out[0]).tolist() == [1.0]
    assert np.unique(out[1]).tolist() == [2.0]


def test_estimates_err_by_about_what_is_asked() -> None:
    rng = np.random.default_rng(0)
    truth = stain_matrix(StainVectors(nuclear=(0.6, 0.7, 0.4), cd8=(0.3, 0.5, 0.8)))
    config = STILL.model_copy(update={"vector_error_deg": 4.0})
    angles = []
    for _ in range(300):
        vectors = estimated_vectors(truth, config, rng)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
        angles.append(np.degrees(np.arccos(np.clip((vectors[:2] * truth[:2]).sum(axis=1), -1, 1))))
    assert 3.2 < np.sqrt(np.mean(np.square(angles))) < 4.8
    np.testing.assert_allclose(estimated_vectors(truth, STILL, rng)[:2], truth[:2], atol=1e-6)


def test_some_fields_are_unmixed_with_the_default_vectors() -> None:
    rng = np.random.default_rng(1)
    default = stain_matrix(StainVectors())
    truth = stain_matrix(StainVectors(nuclear=(0.6, 0.7, 0.4), cd8=(0.3, 0.5, 0.8)))
    config = STILL.model_copy(update={"default_vectors_share": 0.35})
    share = np.mean([np.array_equal(estimated_vectors(truth, config, rng), default) for _ in range(400)])
    assert share == pytest.approx(0.35, abs=0.08)


def test_a_white_point_stays_a_grey_level() -> None:
    rng = np.random.default_rng(2)
    config = STILL.model_copy(update={"white_point_error": 0.1})
    points = np.stack(
        [estimated_white_point(np.array([250, 240, 3], np.float32), config, rng) for _ in range(99)]
    )
    assert points.max() <= 255
    assert points.min() >= 1
    assert points.std(axis=0)[1] > 5


def test_without_variation_only_the_range_is_cut() -> None:
    amounts = _amounts() * 3 - 1
    varied = vary(amounts.clone(), STILL, torch.Generator().manual_seed(1))
    torch.testing.assert_close(varied, amounts.clamp(*AMOUNT_RANGE), atol=2e-4, rtol=1e-5)


def test_the_same_draws_give_the_same_variation_and_others_another() -> None:
    config = AugmentConfig()
    first, again, other = (vary(_amounts(), config, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, other)
    assert first.min() >= AMOUNT_RANGE[0]
    assert first.max() <= AMOUNT_RANGE[1]


def test_blur_keeps_the_mean_and_lowers_the_contrast() -> None:
    config = STILL.model_copy(update={"blur_share": 1.0, "blur_max_px": 1.0})
    amounts = _amounts(16)
    blurred = vary(amounts.clone(), config, torch.Generator().manual_seed(5))
    assert float(blurred.mean()) == pytest.approx(float(amounts.mean()), abs=0.01)
    assert float(blurred.std()) < 0.9 * float(amounts.std())


def test_the_residual_is_left_out_of_some() -> None:
    config = STILL.model_copy(update={"no_residual_share": 0.5})
    varied = vary(_amounts(200), config, torch.Generator().manual_seed(6))
    empty = (varied[:, 2] == 0).flatten(1).all(dim=1).float().mean()
    assert float(empty) == pytest.approx(0.5, abs=0.12)
    assert (varied[:, :2] != 0).any(dim=(2, 3)).all()
