from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
from pictures import GLASS, blobs, read_picture, stained
from scipy import ndimage
from slides import ArraySlide

from histo.config import TissueConfig
from histo.slide.background import dark_level, glass_level
from histo.slide.geometry import Box
from histo.slide.survey import survey_slide
from histo.slide.tissue import Tissue, detect_tissue


def tissue_of(slide: ArraySlide, config: TissueConfig | None = None) -> Tissue:
    return detect_tissue(survey_slide(slide), slide.kind, config or TissueConfig())


def share(tissue: Tissue) -> float:
    return tissue.area_mm2(tissue.assessed) / float(tissue.coverage.sum() * tissue.mpp**2 / 1e6)


@pytest.mark.parametrize("nuclear", [0.15, 0.4, 1.0])
@pytest.mark.parametrize("cd8_share", [0.0, 0.1])
def test_a_crop_that_is_all_tissue_is_all_tissue(nuclear: float, cd8_share: float) -> None:
    tissue = tissue_of(ArraySlide(stained(nuclear=nuclear, cd8_share=cd8_share), 0.5))
    assert share(tissue) > 0.99


def test_a_slide_of_glass_is_empty_whatever_noise_dust_and_vignetting() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:1024j, -1:1:1024j]
    glass = np.array(GLASS) * (1 - 0.08 * (x**2 + y**2))[..., None]
    for at in rng.integers(50, 950, (15, 2)):
        glass[at[0] : at[0] + 20, at[1] : at[1] + 12] *= 0.4
    glass += rng.normal(0, 4, glass.shape)
    tissue = tissue_of(ArraySlide(glass.clip(0, 255).round().astype(np.uint8), 0.5))
    assert not tissue.mask.any()
    assert [code for code, _ in tissue.flags] == ["no_tissue"]


@pytest.mark.parametrize("level", [0, 255])
def test_a_picture_of_one_colour_is_empty(level: int) -> None:
    assert not tissue_of(ArraySlide(np.full((512, 512, 3), level, np.uint8), 0.5)).mask.any()


@pytest.mark.parametrize("nuclear", [0.25, 0.8])
def test_tissue_on_glass_is_found_to_a_survey_pixel(nuclear: float) -> None:
    y, x = np.mgrid[:1600, :1600]
    where = np.hypot(x - 800, y - 800) < 600
    tissue = tissue_of(ArraySlide(stained((1600, 1600), nuclear=nuclear, where=where), 0.5))
    truth = where.reshape(100, 16, 100, 16).mean(axis=(1, 3)) > 0.5
    inside, outside = ndimage.binary_erosion(truth), ndimage.binary_dilation(truth, iterations=2)
    assert tissue.mask[inside].mean() > 0.995
    assert not tissue.mask[~outside].any()
    assert tissue.area_mm2(tissue.mask) == pytest.approx(np.pi * 0.3**2, rel=0.06)


def test_large_holes_are_left_out_and_small_ones_filled() -> None:
    where = np.ones((1280, 1280), bool)
    where[200:500, 200:500] = False  # 150 um wide
    where[800:880, 800:880] = False  # 40 um wide
    mask = tissue_of(ArraySlide(stained((1280, 1280), where=where), 0.5)).mask
    assert not mask[16:28, 16:28].any()
    assert mask[49:56, 49:56].all()


def test_scanner_rim_is_no_tissue() -> None:
    where = np.zeros((1280, 1280), bool)
    where[400:900, 400:900] = True
    pixels = stained((1280, 1280), where=where)
    pixels[:, :150] = 6
    pixels[1200:] = 150
    tissue = tissue_of(ArraySlide(pixels, 0.5))
    assert not tissue.mask[:, :8].any()
    assert not tissue.mask[77:].any()
    assert tissue.mask[27:55, 27:55].all()


def test_unreadable_tissue_is_not_assessed_and_flagged() -> None:
    slide = ArraySlide(stained((1024, 1024)), 0.5, broken=[Box(0, 0, 512, 512)])
    tissue = tissue_of(slide)
    assert tissue.unread.sum() == 32 * 32
    assert not (tissue.assessed & tissue.unread).any()
    assert tissue.assessed[40:, 40:].all()
    assert "unread" in dict(tissue.flags)


def test_pieces_below_the_least_area_are_dropped() -> None:
    where = np.zeros((1024, 1024), bool)
    where[100:160, 100:160] = True  # 30 um
    where[400:800, 400:800] = True
    slide = ArraySlide(stained((1024, 1024), where=where), 0.5)
    assert ndimage.label(tissue_of(slide).mask)[1] == 1
    assert tissue_of(slide, TissueConfig(min_area_um2=1e6)).mask.sum() == 0


def fluorescent(where: np.ndarray, dtype: type = np.uint16, scale: float = 1000.0) -> np.ndarray:
    rng = np.random.default_rng(3)
    nuclei = blobs(where.shape, 0.3, 4.0, 5) * where
    cd8 = blobs(where.shape, 0.03, 4.0, 6) * where
    pixels = np.stack([nuclei, cd8], axis=2) * scale + rng.normal(100, 8, (*where.shape, 2))
    return pixels.clip(0, None).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_fluorescence_full_field_part_and_empty(dtype: type) -> None:
    full = np.ones((800, 800), bool)
    assert share(tissue_of(ArraySlide(fluorescent(full, dtype), 0.5))) > 0.99
    part = np.zeros((800, 800), bool)
    part[:, :400] = True
    tissue = tissue_of(ArraySlide(fluorescent(part, dtype), 0.5))
    assert tissue.mask[:, :24].mean() > 0.99
    assert not tissue.mask[:, 28:].any()
    assert not tissue_of(ArraySlide(fluorescent(~full, dtype), 0.5)).mask.any()
    assert not tissue_of(ArraySlide(np.zeros((400, 400, 3), dtype), 0.5, kind="fluorescence")).mask.any()


def test_glass_is_the_scanned_glass_and_not_the_white_fill() -> None:
    where = np.zeros((1280, 1280), bool)
    where[400:900, 400:900] = True
    pixels = stained((1280, 1280), where=where)
    pixels[:, :300] = 255
    glass = glass_level(survey_slide(ArraySlide(pixels, 0.5)))
    assert glass is not None
    np.testing.assert_allclose(glass, GLASS, atol=1)
    assert glass_level(survey_slide(ArraySlide(stained(), 0.5))) is None


def test_dark_level_is_the_background_whether_cells_are_few_or_many() -> None:
    rng = np.random.default_rng(0)
    for cells in (0, 1000, 12_000):
        values = np.concatenate([rng.normal(100, 5, 20_000 - cells), rng.normal(900, 200, cells)])
        level, noise = dark_level(values)
        assert level == pytest.approx(100, abs=4)
        assert noise == pytest.approx(5, rel=0.6)
    assert dark_level(np.array([])) == (0.0, 0.0)


def test_published_h_dab_crops_are_tissue(data_dir: Path) -> None:
    cd31 = read_picture(data_dir / "ihc" / "cd31_crc_kather.png")
    ki67 = read_picture(data_dir / "ihc" / "ki67_os2_ndpi.ome.tif")
    assert share(tissue_of(ArraySlide(cd31, 0.5))) > 0.99
    # A third of a millimetre of bare glass shows between the lobes.
    assert 0.88 < share(tissue_of(ArraySlide(ki67, 0.2271))) < 0.95


def test_skimage_h_dab_is_all_tissue() -> None:
    assert share(tissue_of(ArraySlide(skimage.data.immunohistochemistry(), 0.5))) > 0.99


def test_published_slide_with_glass(data_dir: Path) -> None:
    with tifffile.TiffFile(data_dir / "slides" / "he_cmu1_small_region.svs") as file:
        pixels = file.pages[0].asarray()
    tissue = tissue_of(ArraySlide(pixels, 0.499))
    assert 0.35 < tissue.mask.mean() < 0.45
    assert not tissue.mask[:60, 110:].any()


def test_published_fluorescence_field_is_all_tissue(data_dir: Path) -> None:
    pixels = tifffile.imread(data_dir / "mif" / "FIHC4__0929309_HP_IM3_2_component_data.tif")
    assert share(tissue_of(ArraySlide(np.moveaxis(pixels, 0, 2), 0.5))) > 0.99
