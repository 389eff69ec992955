from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from slides import ArraySlide

from histo.errors import SlideError
from histo.slide.geometry import Box
from histo.slide.survey import survey_slide


def noise_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_overview_is_the_mean_of_the_pixels_under_it() -> None:
    pixels = noise_image(160, 320)
    survey = survey_slide(ArraySlide(pixels, mpp=1.0))
    assert survey.overview.shape == (20, 40, 3)
    assert survey.overview.dtype == np.uint8
    mean = pixels.reshape(20, 8, 40, 8, 3).mean(axis=(1, 3))
    assert np.abs(survey.overview - mean).max() <= 1.0  # rounded at 2 um and again at 8 um
    assert survey.coverage.min() == 1.0
    assert not survey.unread.any()


def test_survey_does_not_depend_on_stored_tiles_or_threads() -> None:
    pixels = noise_image(500, 700)
    reference = survey_slide(ArraySlide(pixels, mpp=0.5, tile_px=(700, 500)))
    for tile_px, threads in (((64, 64), 1), ((700, 16), 2), ((96, 33), 2)):
        other = survey_slide(ArraySlide(pixels, mpp=0.5, tile_px=tile_px), threads=threads)
        for name in ("overview", "sharpness", "contrast", "coverage", "unread"):
            np.testing.assert_array_equal(getattr(other, name), getattr(reference, name))


@settings(max_examples=25)
@given(width=st.integers(20, 200), height=st.integers(20, 200), mpp=st.floats(0.3, 3.0))
def test_coverage_adds_up_to_the_area_of_the_slide(width: int, height: int, mpp: float) -> None:
    slide = ArraySlide(np.full((height, width, 3), 200, np.uint8), mpp=mpp)
    survey = survey_slide(slide)
    area_um2 = slide.size_um[0] * slide.size_um[1]
    # A sliver below a millionth of a pixel is no pixel of the grid.
    assert survey.coverage.sum(dtype=float) * survey.mpp**2 == pytest.approx(area_um2, rel=1e-4)


def test_pixels_at_the_edge_are_not_paled_by_padding() -> None:
    survey = survey_slide(ArraySlide(np.full((100, 100, 3), 120, np.uint8), mpp=0.5))
    assert survey.overview.shape == (7, 7, 3)
    # A sixteenth of the corner is on the slide: rounding counts 16 times there.
    off = np.abs(survey.overview.astype(int) - 120)
    assert off[:-1].max() <= 2
    assert off.max() <= 8


def test_each_pixel_of_a_file_without_pyramid_is_decoded_about_once() -> None:
    boxes: list[Box] = []
    slide = ArraySlide(
        np.full((4096, 6144, 3), 230, np.uint8), mpp=0.25, on_read=lambda level, box: boxes.append(box)
    )
    survey_slide(slide)
    assert slide.n_pixels_read <= 1.02 * 4096 * 6144
    assert max(box.width * box.height for box in boxes) <= 4_300_000


def test_a_coarser_level_is_used_where_there_is_one() -> None:
    levels: set[int] = set()
    slide = ArraySlide(
        noise_image(1024, 1024), 0.5, downsamples=(1, 4), on_read=lambda level, box: levels.add(level)
    )
    survey_slide(slide)
    assert levels == {1}


def test_damaged_tiles_are_marked_and_nothing_else() -> None:
    slide = ArraySlide(np.full((2048, 2048, 3), 200, np.uint8), 0.5, broken=[Box(512, 768, 256, 256)])
    survey = survey_slide(slide)
    expected = np.zeros((128, 128), bool)
    expected[48:64, 32:48] = True
    np.testing.assert_array_equal(survey.unread, expected)
    assert (survey.overview[expected] == 255).all()
    assert (survey.overview[~expected] == 200).all()
    assert np.isnan(survey.sharpness[expected]).all()


def test_nothing_readable_is_an_error_that_names_the_file() -> None:
    slide = ArraySlide(np.full((600, 600, 3), 200, np.uint8), 0.5, broken=[Box(0, 0, 600, 600)])
    with pytest.raises(SlideError, match=r"array\.tif.*no part of the slide can be decoded"):
        survey_slide(slide)


def test_other_errors_are_not_swallowed() -> None:
    def fail(level: int, box: Box) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        survey_slide(ArraySlide(np.zeros((64, 64, 3), np.uint8), 0.5, on_read=fail))


def test_sharpness_falls_with_blur_and_is_unknown_for_a_coarse_slide() -> None:
    sharp = ndimage.gaussian_filter(noise_image(512, 512).astype(float), (2, 2, 0)) * 1.0
    sharp = np.clip(128 + (sharp - sharp.mean()) * 6, 0, 255)
    blurred = ndimage.gaussian_filter(sharp, (8, 8, 0))
    ratio = [
        float(np.median(survey_slide(ArraySlide(image.astype(np.uint8), 0.5)).sharpness))
        for image in (sharp, blurred)
    ]
    assert ratio[0] > 3 * ratio[1]
    assert np.isnan(survey_slide(ArraySlide(noise_image(64, 64), mpp=4.0)).sharpness).all()


def test_fluorescence_keeps_its_dtype_and_channels() -> None:
    pixels = np.random.default_rng(0).random((64, 96, 5), np.float32)
    survey = survey_slide(ArraySlide(pixels, mpp=1.0))
    assert survey.overview.dtype == np.float32
    np.testing.assert_allclose(survey.overview, pixels.reshape(8, 8, 12, 8, 5).mean(axis=(1, 3)), rtol=1e-5)
