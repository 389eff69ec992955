from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import tifffile
from pictures import EOSIN, HAEMATOXYLIN, read_picture, stained
from slides import ArraySlide

from histo.config import BrightfieldStain, FluorescenceStain, StainVectors, TissueConfig
from histo.slide.survey import survey_slide
from histo.slide.tissue import detect_tissue
from histo.stain.check import pink_share, stain_flags
from histo.stain.space import BrightfieldTransform, fit_stain


def flags(pixels: np.ndarray, mpp: float = 0.5, config: Any = None) -> list[str]:
    config = config or BrightfieldStain()
    slide = ArraySlide(pixels, mpp)
    survey = survey_slide(slide)
    tissue = detect_tissue(survey, slide.kind, TissueConfig())
    stain = fit_stain(slide, survey, tissue, config)
    return [code for code, _ in stain_flags(slide, tissue, stain, config)]


def share(pixels: np.ndarray, mpp: float = 0.5) -> float | None:
    slide = ArraySlide(pixels, mpp)
    survey = survey_slide(slide)
    tissue = detect_tissue(survey, slide.kind, TissueConfig())
    stain = fit_stain(slide, survey, tissue, BrightfieldStain())
    assert isinstance(stain, BrightfieldTransform)
    return pink_share(slide, tissue, stain, BrightfieldStain())


def rendered_h_and_e() -> np.ndarray:
    return stained(vectors=(HAEMATOXYLIN, EOSIN), cd8_share=0.5, cd8=0.6, nuclear=0.9)


@pytest.mark.parametrize(("nuclear", "cd8_share"), [(0.15, 0.0), (0.4, 0.0), (0.8, 0.05), (1.0, 0.5)])
def test_rendered_h_dab_and_deserts_are_not_flagged(nuclear: float, cd8_share: float) -> None:
    assert flags(stained(nuclear=nuclear, cd8_share=cd8_share)) == []


def test_rendered_h_and_e_is_flagged() -> None:
    assert flags(rendered_h_and_e()) == ["not_the_stain"]


def test_a_red_chromogen_that_is_configured_is_not_taken_for_eosin() -> None:
    fast_red = np.array([0.21393921, 0.85112669, 0.47794022])
    pixels = stained(vectors=(HAEMATOXYLIN, fast_red / np.linalg.norm(fast_red)), cd8_share=0.3)
    assert flags(pixels) == ["not_the_stain"]
    red = tuple(fast_red)
    assert flags(pixels, config=BrightfieldStain(vectors=StainVectors(cd8=red))) == []
    assert flags(pixels, config=BrightfieldStain(vectors=StainVectors(residual=red))) == []


def test_an_empty_slide_is_not_flagged() -> None:
    assert flags(np.full((512, 512, 3), 240, np.uint8)) == []


def test_fluorescence_without_signal_is_flagged() -> None:
    pixels = np.random.default_rng(0).normal(100, 5, (400, 400, 2)).astype(np.uint16)
    config = FluorescenceStain(kind="fluorescence", nuclear="c0", cd8="c1")
    assert flags(pixels, config=config) == ["no_signal"]


def test_skimage_h_dab_is_not_flagged() -> None:
    assert share(skimage.data.immunohistochemistry()) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    ("name", "mpp"), [("ihc/cd31_crc_kather.png", 0.5), ("ihc/ki67_os2_ndpi.ome.tif", 0.2271)]
)
def test_published_h_dab_is_far_below_the_limit(data_dir: Path, name: str, mpp: float) -> None:
    assert share(read_picture(data_dir / name), mpp) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    ("name", "mpp"),
    [
        ("diagnostic-slide-thumb-rgb.png", 8.0),
        ("liver-level2-20914-13715-21714-14515.png", 8.0),
        ("tcga-green-pen.png", 4.0),
        ("wsi-blue-pen.png", 8.0),
        ("he_cmu1_small_region.svs", 0.499),
    ],
)
def test_published_h_and_e_is_far_above_the_limit(data_dir: Path, name: str, mpp: float) -> None:
    path = data_dir / "slides" / name
    if path.suffix == ".svs":
        with tifffile.TiffFile(path) as file:
            pixels = file.pages[0].asarray()
    else:
        pixels = read_picture(path)
    pink = share(pixels, mpp)
    assert pink is not None
    assert pink > 0.35
