from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo.config import StainVectors
from histo.errors import ConfigError
from histo.stain.deconvolution import mix, optical_density, stain_matrix, transmitted, unmix

WHITE = np.array([240.0, 238.0, 243.0], np.float32)


def test_optical_density_by_hand() -> None:
    pixels = np.array([[240, 238, 243], [24, 23, 24], [0, 1, 255]], np.uint8)
    od = optical_density(pixels, WHITE)
    assert od.dtype == np.float32
    expected = np.log10([[1, 1, 1], [10, 238 / 23, 243 / 24], [240, 238, 243 / 255]])
    np.testing.assert_allclose(od, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_optical_density_takes_any_dtype_and_shape(dtype: type) -> None:
    od = optical_density(np.full((2, 4, 5, 3), 100, dtype), WHITE)
    assert od.shape == (2, 4, 5, 3)
    assert od.dtype == np.float32
    np.testing.assert_allclose(od[1, 2, 3], np.log10(WHITE / 100), atol=1e-6)


def test_matrix_has_unit_rows_and_a_residual_across() -> None:
    matrix = stain_matrix(StainVectors(nuclear=(2, 2, 1), cd8=(1, 2, 3)))
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix[2] @ matrix[:2].T, 0, atol=1e-6)
    named = stain_matrix(StainVectors(residual=(0.21, 0.85, 0.48)))
    np.testing.assert_allclose(named[2] / named[2, 0], [1, 0.85 / 0.21, 0.48 / 0.21], rtol=1e-5)


def test_default_vectors_are_the_published_ones() -> None:
    # Kather 2018 (eLife 7:e36967): the vectors in the QuPath result files.
    np.testing.assert_allclose(stain_matrix(StainVectors())[0], [0.65111, 0.70119, 0.29049], atol=1e-5)


@pytest.mark.parametrize(
    "vectors",
    [
        StainVectors(nuclear=(0, 0, 0)),
        StainVectors(nuclear=(1, 1, 1), cd8=(2, 2, 2)),
        StainVectors(residual=(0.65111, 0.70119, 0.29049)),
    ],
)
def test_vectors_that_cannot_be_told_apart_are_refused(vectors: StainVectors) -> None:
    with pytest.raises(ConfigError, match=r"Correct stain\.vectors"):
        stain_matrix(vectors)


amounts = st.lists(st.floats(-0.5, 3.0), min_size=3, max_size=3)


@given(amounts)
def test_unmix_is_the_inverse_of_mix(values: list[float]) -> None:
    matrix = stain_matrix(StainVectors())
    given_amounts = np.broadcast_to(np.array(values, np.float32), (2, 3, 3))
    np.testing.assert_allclose(unmix(mix(given_amounts, matrix), matrix), given_amounts, atol=1e-5)


@given(st.lists(st.floats(0, 0.9), min_size=3, max_size=3))
def test_grey_levels_are_the_inverse_of_density(values: list[float]) -> None:
    od = np.array(values, np.float32)
    np.testing.assert_allclose(optical_density(transmitted(od, WHITE), WHITE), od, atol=1e-5)


def test_agrees_with_scikit_image_up_to_the_logarithm() -> None:
    # It takes logarithms to the base of a millionth, and vectors that are not of unit length.
    from skimage.color import hed_from_rgb, rgb_from_hed, separate_stains

    vectors = StainVectors(
        nuclear=tuple(rgb_from_hed[0]), cd8=tuple(rgb_from_hed[2]), residual=tuple(rgb_from_hed[1])
    )
    pixels = np.random.default_rng(0).integers(30, 255, (8, 8, 3)).astype(np.uint8)
    theirs = separate_stains(pixels / 255.0, hed_from_rgb)[..., [0, 2, 1]]
    matrix = stain_matrix(vectors)
    ours = unmix(optical_density(pixels, np.full(3, 255.0)), matrix)
    lengths = np.linalg.norm(rgb_from_hed, axis=1)[[0, 2, 1]]
    base = np.log(10) / -np.log(1e-6)
    # Theirs cuts negative amounts off.
    np.testing.assert_allclose(np.maximum(ours * base / lengths, 0), theirs, atol=1e-5)
