from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import tifffile
from pictures import DAB, GLASS, HAEMATOXYLIN, blobs, read_picture, stained
from slides import ArraySlide

from histo.config import BrightfieldStain, FluorescenceStain, StainVectors, TissueConfig
from histo.errors import ChannelError, SlideError
from histo.slide.geometry import Box
from histo.slide.survey import survey_slide
from histo.slide.tissue import detect_tissue
from histo.stain.deconvolution import unmix
from histo.stain.space import BrightfieldTransform, FluorescenceTransform, StainTransform, fit_stain

RED, TEAL = np.array([0.214, 0.851, 0.478]), np.array([0.92, 0.37, 0.15])
MIF = FluorescenceStain(kind="fluorescence", nuclear="DAPI", cd8="CD8", autofluorescence="AF")


def fit(slide: ArraySlide, config: Any = None) -> StainTransform:
    survey = survey_slide(slide)
    tissue = detect_tissue(survey, slide.kind, TissueConfig())
    return fit_stain(slide, survey, tissue, config or BrightfieldStain())


def turned(vector: np.ndarray, degrees: float, seed: int) -> np.ndarray:
    across = np.random.default_rng(seed).normal(size=3)
    across -= across @ vector * vector
    across /= np.linalg.norm(across)
    return np.cos(np.radians(degrees)) * vector + np.sin(np.radians(degrees)) * across


def degrees(a: Any, b: Any) -> float:
    return float(np.degrees(np.arccos(np.clip(np.dot(a, b), -1, 1))))


def glassed(size: int = 1024) -> np.ndarray:
    where = np.zeros((size, size), bool)
    where[: 2 * size // 3] = True
    return where


def test_amounts_of_known_pixels() -> None:
    transform = fit(ArraySlide(stained((1024, 1024), where=glassed()), 0.5))
    assert isinstance(transform, BrightfieldTransform)
    assert transform.white_point_source == "glass"
    np.testing.assert_allclose(transform.white_point, GLASS, atol=1)
    od = 0.6 * HAEMATOXYLIN + 0.9 * DAB
    pixel = (np.array(GLASS) * 10**-od).round().astype(np.uint8)
    amounts = transform(np.tile(pixel, (4, 5, 1)))
    assert amounts.shape == (3, 4, 5)
    assert amounts.dtype == np.float32
    np.testing.assert_allclose(amounts[:, 2, 3], [0.6, 0.9, 0.0], atol=0.1)
    assert transform.unit == "optical density"


def test_amounts_are_clipped() -> None:
    transform = BrightfieldTransform(GLASS, "config", ((1, 0, 0), (0, 1, 0), (0, 0, 1)), ("config", "config"))
    amounts = transform(np.array([[[255.0, 0.01, 0.0]], [[4000.0, 4000.0, 4000.0]]]))
    assert amounts.min() == -0.5
    assert amounts.max() <= 3.0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cd8_share", [0.02, 0.3])
def test_estimated_vectors_are_nearer_the_truth_than_the_expected(seed: int, cd8_share: float) -> None:
    truth = turned(HAEMATOXYLIN, 8, seed), turned(DAB, 7, seed + 100)
    pixels = stained((1024, 1024), vectors=truth, cd8_share=cd8_share, haze=0.06, where=glassed(), seed=seed)
    transform = fit(ArraySlide(pixels, 0.5))
    assert isinstance(transform, BrightfieldTransform)
    assert transform.vectors_source == ("estimated", "estimated")
    assert degrees(transform.vectors[0], truth[0]) < 4
    assert degrees(transform.vectors[1], truth[1]) < 5
    np.testing.assert_allclose(np.linalg.norm(transform.vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_slide_without_cd8_keeps_the_configured_vector(seed: int) -> None:
    pixels = stained((1024, 1024), cd8_share=0.0, nuclear=1.0, where=glassed(), seed=seed)
    transform = fit(ArraySlide(pixels, 0.5))
    assert isinstance(transform, BrightfieldTransform)
    assert transform.vectors_source == ("estimated", "config")
    assert degrees(transform.vectors[1], DAB) < 0.05
    assert "cd8" in transform.note


def test_an_empty_slide_keeps_everything_configured() -> None:
    transform = fit(ArraySlide(np.full((512, 512, 3), 240, np.uint8), 0.5))
    assert isinstance(transform, BrightfieldTransform)
    assert transform.vectors_source == ("config", "config")
    assert transform.white_point == (240, 240, 240)


def test_configured_white_point_and_vectors_are_taken_as_they_are() -> None:
    config = BrightfieldStain(
        white_point=(250.0, 251.0, 252.0),
        estimate_within_deg=0,
        vectors=StainVectors(residual=(0.2, 0.9, 0.4)),
    )
    transform = fit(ArraySlide(stained(), 0.5), config)
    assert isinstance(transform, BrightfieldTransform)
    assert (transform.white_point, transform.white_point_source) == ((250, 251, 252), "config")
    assert transform.vectors_source == ("config", "config")
    np.testing.assert_allclose(
        transform.vectors[2], np.array([0.2, 0.9, 0.4]) / np.linalg.norm([0.2, 0.9, 0.4]), atol=1e-5
    )
    assert transform.note == ""


@pytest.mark.parametrize("third", [RED, TEAL])
@pytest.mark.parametrize("seed", range(3))
def test_two_stains_leave_no_trace_in_a_third(third: np.ndarray, seed: int) -> None:
    truth = turned(HAEMATOXYLIN, 5, seed), turned(DAB, 5, seed + 100)
    pixels = stained((1024, 1024), vectors=truth, cd8_share=0.05, where=glassed(), seed=seed)
    # Half of the CD8+ cells, and a few others, carry the third stain.
    carry = blobs((1024, 1024), 0.03, 4.0, seed + 1) * 0.5 * glassed()
    pixels = (pixels * 10 ** (-carry[..., None] * third)).round().astype(np.uint8)
    transform = fit(ArraySlide(pixels, 0.5), BrightfieldStain(vectors=StainVectors(residual=tuple(third))))
    assert isinstance(transform, BrightfieldTransform)
    traces = unmix(np.array(truth), transform.matrix())[:, 2]
    assert float(np.abs(traces).max()) < 0.012
    np.testing.assert_allclose(transform.vectors[2], third / np.linalg.norm(third), atol=1e-6)


def test_all_tissue_takes_the_brightest_for_white() -> None:
    transform = fit(ArraySlide(stained(haze=0.0), 0.5))
    assert isinstance(transform, BrightfieldTransform)
    assert transform.white_point_source == "brightest tissue"
    np.testing.assert_allclose(transform.white_point, GLASS, atol=5)


def test_fit_is_the_same_every_time_and_survives_damaged_tiles() -> None:
    pixels = stained((1024, 1024), where=glassed())
    assert fit(ArraySlide(pixels, 0.5)) == fit(ArraySlide(pixels, 0.5, tile_px=(64, 64)))
    damaged = fit(ArraySlide(pixels, 0.5, broken=[Box(0, 0, 256, 512)]))
    assert isinstance(damaged, BrightfieldTransform)
    assert damaged.vectors_source == ("estimated", "estimated")


def marked(cd8_share: float = 0.03, scale: float = 2000.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = (800, 800)
    nuclei = 100 + scale * blobs(size, 0.3, 4, seed)
    cd8 = 150 + (scale * 0.5 * blobs(size, cd8_share, 4, seed + 1) if cd8_share else np.zeros(size))
    pixels = np.stack([nuclei, cd8, np.full(size, 80.0)], axis=2) + rng.normal(0, 6, (*size, 3))
    return pixels.clip(0, 65535).astype(np.uint16)


CHANNELS = ("DAPI (Opal)", "CD8 (Opal 520)", "AF")


def test_fluorescence_puts_background_at_zero_and_cells_near_one() -> None:
    slide = ArraySlide(marked(), 0.5, channels=CHANNELS)
    transform = fit(slide, MIF)
    assert isinstance(transform, FluorescenceTransform)
    assert transform.channels == CHANNELS
    amounts = transform(slide.levels[0])
    assert amounts.shape == (3, 800, 800)
    assert amounts.dtype == np.float32
    nuclei, cells = blobs((800, 800), 0.3, 4, 0), blobs((800, 800), 0.03, 4, 1)
    for plane, truth in zip(amounts[:2], (nuclei, cells), strict=True):
        assert float(np.median(plane[truth == 0])) == pytest.approx(0, abs=0.03)
        assert float(np.median(plane[truth == 1])) == pytest.approx(1, abs=0.1)
    assert amounts[2].std() < 0.2


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_fluorescence_does_not_depend_on_exposure(factor: float) -> None:
    pixels = marked().astype(np.float32)
    one, other = (
        fit(ArraySlide(p, 0.5, channels=CHANNELS), MIF) for p in (pixels, pixels * np.float32(factor))
    )
    first, second = one(pixels), other(pixels * np.float32(factor))
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_noise_of_a_slide_without_cd8_is_not_blown_up() -> None:
    slide = ArraySlide(marked(cd8_share=0.0), 0.5, channels=CHANNELS)
    transform = fit(slide, MIF)
    assert isinstance(transform, FluorescenceTransform)
    amounts = transform(slide.levels[0])
    assert float(amounts[1].std()) < 0.2
    assert "CD8" in transform.note


def test_without_autofluorescence_the_residual_is_zero() -> None:
    config = MIF.model_copy(update={"autofluorescence": None})
    slide = ArraySlide(marked(), 0.5, channels=CHANNELS)
    assert not fit(slide, config)(slide.levels[0][:8])[2].any()


@pytest.mark.parametrize(
    ("channels", "found"),
    [
        (("dapi", "cd8", "af"), ("dapi", "cd8", "af")),
        (("DAPI", "CD80", "CD8a"), None),
        (("CD8 (Opal 520)", "af", "DAPI nuclei"), ("DAPI nuclei", "CD8 (Opal 520)", "af")),
        (("xDAPIx", "CD86", "CD8"), None),
    ],
)
def test_channels_are_found_by_name(channels: tuple[str, ...], found: tuple[str, ...] | None) -> None:
    slide = ArraySlide(marked(), 0.5, channels=channels)
    config = MIF if found else MIF.model_copy(update={"autofluorescence": None})
    transform = fit(slide, config)
    assert isinstance(transform, FluorescenceTransform)
    expected = found or {"CD8a": ("DAPI", "CD8a", None), "CD8": ("xDAPIx", "CD8", None)}[channels[2]]
    assert transform.channels == expected


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (("DAPI", "CD3", "AF"), "no channel 'CD8'.*'DAPI', 'CD3', 'AF'"),
        (("DAPI", "CD80", "AF"), "no channel 'CD8'"),
        (("DAPI", "CD8 Opal", "AF CD8"), "'CD8' may be any of 'CD8 Opal', 'AF CD8'"),
        (("CD8 DAPI", "b", "AF"), "both mean channel 'CD8 DAPI'"),
    ],
)
def test_missing_and_ambiguous_channels_are_listed(channels: tuple[str, ...], message: str) -> None:
    with pytest.raises(ChannelError, match=rf"array\.tif.*{message}"):
        fit(ArraySlide(marked(), 0.5, channels=channels), MIF)


def test_a_slide_of_the_other_kind_says_which_configuration_to_use() -> None:
    with pytest.raises(SlideError, match=r"fluorescence slide.*cd8_mif\.yaml"):
        fit(ArraySlide(marked(), 0.5), BrightfieldStain())
    with pytest.raises(SlideError, match=r"brightfield slide.*cd8_ihc\.yaml"):
        fit(ArraySlide(stained(), 0.5), MIF)


def test_published_h_dab(data_dir: Path) -> None:
    ki67 = fit(ArraySlide(read_picture(data_dir / "ihc" / "ki67_os2_ndpi.ome.tif"), 0.2271))
    assert isinstance(ki67, BrightfieldTransform)
    assert ki67.white_point_source == "glass"
    np.testing.assert_allclose(ki67.white_point, (226, 224, 235), atol=2)
    assert ki67.vectors_source == ("estimated", "estimated")


def test_skimage_h_dab_is_explained_by_its_two_stains() -> None:
    pixels = skimage.data.immunohistochemistry()
    slide = ArraySlide(pixels, 0.5)
    residual = [
        float(np.abs(fit(slide, BrightfieldStain(estimate_within_deg=within))(pixels)[2]).mean())
        for within in (0, 15)
    ]
    assert residual[1] < residual[0]


def test_published_fluorescence_field(data_dir: Path) -> None:
    pixels = tifffile.imread(data_dir / "mif" / "FIHC4__0929309_HP_IM3_2_component_data.tif")
    slide = ArraySlide(np.moveaxis(pixels, 0, 2), 0.5, channels=("PDL1", "CD8", "FoxP3", "DAPI", "AF"))
    amounts = fit(slide, MIF)(slide.levels[0])
    assert 0.8 < float(np.percentile(amounts[0], 99)) < 1.2
    assert abs(float(np.median(amounts[1]))) < 0.3
