from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
from pictures import GLASS, read_picture, stained
from scipy import ndimage
from slides import ArraySlide

from histo.config import TissueConfig
from histo.slide.survey import survey_slide
from histo.slide.tissue import Tissue, detect_tissue

# Optical densities of markers, as on the published slides.
INKS = {
    "blue": (0.75, 0.42, 0.06),
    "green": (0.95, 0.35, 0.45),
    "red": (0.07, 0.55, 0.48),
    "black": (1.3, 1.35, 1.3),
}


def look(pixels: np.ndarray, mpp: float = 0.5, **settings: object) -> Tissue:
    slide = ArraySlide(pixels, mpp)
    return detect_tissue(survey_slide(slide), "brightfield", TissueConfig.model_validate(settings))


def lost(tissue: Tissue, name: str) -> float:
    return float((tissue.artefacts[name] & tissue.mask).sum() / tissue.mask.sum())


@pytest.mark.parametrize(
    ("ink", "on_tissue"),
    # Red over haematoxylin has the colour of a red chromogen, and is left alone.
    [("blue", True), ("green", True), ("black", True), *((ink, False) for ink in INKS)],
)
def test_ink_is_found_and_excluded(ink: str, on_tissue: bool) -> None:
    where = np.zeros((1600, 1600), bool)
    where[:, 800:] = True
    pixels = stained((1600, 1600), where=where).astype(float)
    left = 1100 if on_tissue else 300
    pixels[200:1400, left : left + 200] *= 10 ** -np.array(INKS[ink])
    tissue = look(pixels.clip(0, 255).astype(np.uint8))
    stroke = np.zeros((100, 100), bool)
    stroke[13:87, left // 16 + 1 : (left + 200) // 16 - 1] = True
    assert tissue.artefacts["pen"][stroke].mean() > 0.95
    assert not (tissue.assessed & stroke & tissue.artefacts["pen"]).any()
    assert tissue.mask[stroke].mean() == pytest.approx(float(on_tissue), abs=0.05)
    kept = tissue.assessed[:, 52:] if not on_tissue else tissue.assessed[:, 90:]
    assert kept.mean() > 0.99


def test_ink_is_only_flagged_where_the_configuration_says_so() -> None:
    pixels = stained((1600, 1600)).astype(float)
    pixels[:, 500:1100] *= 10 ** -np.array(INKS["green"])
    picture = pixels.astype(np.uint8)
    assert not look(picture).assessed[10:90, 35:65].any()
    assert {"pen_area", "excluded_area"} <= dict(look(picture).flags).keys()
    flagged = look(picture, exclude_pen=False)
    assert flagged.assessed.all()
    assert "pen_area" in dict(flagged.flags)


@pytest.mark.parametrize("cd8_share", [0.0, 0.05, 0.6])
@pytest.mark.parametrize("nuclear", [0.3, 1.2])
def test_stained_tissue_is_no_artefact(cd8_share: float, nuclear: float) -> None:
    tissue = look(stained(cd8_share=cd8_share, nuclear=nuclear))
    for name in ("pen", "out_of_focus", "bubble"):
        assert lost(tissue, name) <= 0.01


def test_half_out_of_focus() -> None:
    pixels = stained((1280, 1280)).astype(float)
    blurred = ndimage.gaussian_filter(pixels, (8, 8, 0))
    pixels[:, 640:] = blurred[:, 640:]
    tissue = look(pixels.round().astype(np.uint8))
    assert tissue.artefacts["out_of_focus"][:, 46:].mean() > 0.95
    assert tissue.artefacts["out_of_focus"][:, :34].mean() < 0.01
    assert "out_of_focus_area" in dict(tissue.flags)


@pytest.mark.parametrize("sigma_um", [3.0, 6.0])
def test_published_tissue_blurred_is_out_of_focus(data_dir: Path, sigma_um: float) -> None:
    pixels = read_picture(data_dir / "ihc" / "cd31_crc_kather.png")
    blurred = ndimage.gaussian_filter(pixels.astype(np.float32), (sigma_um / 0.5, sigma_um / 0.5, 0))
    assert lost(look(blurred.round().astype(np.uint8)), "out_of_focus") > 0.95


@pytest.mark.parametrize(
    ("name", "mpp"), [("ihc/cd31_crc_kather.png", 0.5), ("ihc/ki67_os2_ndpi.ome.tif", 0.2271)]
)
def test_published_h_dab_loses_at_most_one_percent(data_dir: Path, name: str, mpp: float) -> None:
    tissue = look(read_picture(data_dir / name), mpp)
    for artefact in ("pen", "out_of_focus", "bubble"):
        assert lost(tissue, artefact) <= 0.01


def test_skimage_h_dab_loses_nothing() -> None:
    tissue = look(skimage.data.immunohistochemistry())
    np.testing.assert_array_equal(tissue.assessed, tissue.mask)


def test_published_h_and_e_in_focus_loses_at_most_one_percent(data_dir: Path) -> None:
    with tifffile.TiffFile(data_dir / "slides" / "he_cmu1_small_region.svs") as file:
        tissue = look(file.pages[0].asarray(), 0.499)
    for artefact in ("pen", "out_of_focus", "bubble"):
        assert lost(tissue, artefact) <= 0.01


def test_published_pen_marks(data_dir: Path) -> None:
    # Thumbnails: treated as if at the survey's own scale.
    blue = look(read_picture(data_dir / "slides" / "wsi-blue-pen.png"), 8.0)
    assert blue.artefacts["pen"][60:76, 152:172].mean() > 0.8
    assert not blue.artefacts["pen"][:, :138].any()
    green = look(read_picture(data_dir / "slides" / "tcga-green-pen.png"), 4.0)
    assert green.artefacts["pen"][20:200, 160:200].mean() > 0.7
    assert green.artefacts["pen"][:, 250:].mean() < 0.01


def test_air_bubble_is_found_and_a_vessel_is_not() -> None:
    y, x = np.mgrid[:1600, :1600]
    ring = np.abs(np.hypot(x - 800, y - 800) - 400) < 24
    pixels = stained((1600, 1600)).astype(float)
    pixels[ring] = 60
    tissue = look(pixels.astype(np.uint8))
    assert tissue.artefacts["bubble"][35:65, 35:65].all()
    assert tissue.artefacts["bubble"].mean() < 0.3
    lumen = stained((1600, 1600), where=~(np.hypot(x - 800, y - 800) < 400), glass=GLASS)
    assert not look(lumen).artefacts["bubble"].any()


def test_coarse_slide_says_that_focus_was_not_assessed() -> None:
    assert "focus_not_assessed" in dict(look(stained(), mpp=4.0).flags)
