"""Tumour from a channel that stains it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from looking import look
from scipy import ndimage
from slides import ArraySlide

from histo.config import Config, RegionsConfig, load_config
from histo.errors import ChannelError
from histo.regions.channel import two_kinds
from histo.regions.find import find_regions
from histo.slide import Slide

NAMES = ("DAPI", "CD8", "Pan-CK", "FoxP3")
FIELD = 900  # um


def field(rng, ck_share=0.4, *, ck=900.0, background=120.0):
    """Return pixels at 1 um with nuclei, some CD8+ cells and keratin in the left part, and where it is."""
    shape = FIELD, FIELD + 300
    tissue = np.zeros(shape, bool)
    tissue[60:-60, 60:-60] = True
    tumour = np.zeros(shape, bool)
    tumour[60:-60, 60 : 60 + int(ck_share * (shape[1] - 120))] = True
    nuclei = ndimage.gaussian_filter((rng.random(shape) < 0.004).astype(np.float32), 2.5) * 30
    cells = ndimage.gaussian_filter((rng.random(shape) < 0.0003).astype(np.float32), 2.5) * 30
    patchy = np.exp(0.35 * ndimage.gaussian_filter(rng.normal(size=shape), 6) * 20)
    planes = [
        np.minimum(nuclei, 1) * 3000 * tissue + 60,
        np.minimum(cells, 1) * 2000 * tissue + 30 * tissue + 50,
        (ck * tumour + background * tissue) * patchy + 40,
        20 * tissue + 50,
    ]
    noisy = [rng.poisson(np.maximum(plane, 1)) for plane in planes]
    return np.stack(noisy, axis=-1).astype(np.uint16), tumour & tissue


def config(**regions):
    return Config.model_validate(
        {
            "stain": {"kind": "fluorescence", "nuclear": "DAPI", "cd8": "CD8"},
            "regions": regions,
            # What is drawn here has little fine detail.
            "tissue": {"exclude_out_of_focus": False},
        }
    )


def find(slide: Slide, settings: Config):
    seen = look(slide, settings)
    return find_regions(seen.slide, seen.survey, seen.tissue, seen.stain, None, settings, None)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def slide_and_tumour(rng):
    pixels, tumour = field(rng)
    return ArraySlide(pixels, 1.0, channels=NAMES), tumour


def test_two_kinds_of_tissue_are_told_apart(slide_and_tumour):
    slide, tumour = slide_and_tumour
    found = find(slide, config(tumour_channel="ck"))
    assert found.polygons_um["tumour"].area == pytest.approx(tumour.sum(), rel=0.04)
    assert found.polygons_um["tumour"].bounds == pytest.approx((60, 60, 60 + 432, 840), abs=16)
    ((code, message),) = found.flags
    assert code == "tumour_channel"
    assert "found on this slide" in message


def test_a_fixed_threshold(slide_and_tumour):
    slide, tumour = slide_and_tumour
    found = find(slide, config(tumour_channel="Pan-CK", tumour_channel_threshold=500))
    assert found.polygons_um["tumour"].area == pytest.approx(tumour.sum(), rel=0.04)
    assert "above 500 (of the configuration)" in found.flags[0][1]
    nothing = find(slide, config(tumour_channel="Pan-CK", tumour_channel_threshold=30_000))
    assert nothing.polygons_um == {}
    assert "above 3e+04" in nothing.why_no_tumour


@pytest.mark.parametrize("ck_share", [0.0, 1.0])
def test_one_kind_of_tissue_is_not_cut_in_two(rng, ck_share):
    pixels, _ = field(rng, ck_share)
    found = find(ArraySlide(pixels, 1.0, channels=NAMES), config(tumour_channel="Pan-CK"))
    assert found.polygons_um == {}
    assert "one kind of tissue" in found.why_no_tumour


def test_a_channel_that_is_not_there_is_told_with_those_that_are(slide_and_tumour):
    with pytest.raises(ChannelError, match="'DAPI', 'CD8', 'Pan-CK', 'FoxP3'"):
        find(slide_and_tumour[0], config(tumour_channel="EpCAM"))


def test_stroma_within_the_tumour_is_told_apart(rng):
    pixels, tumour = field(rng)
    strand = np.s_[300:360, 60:492]
    pixels[strand][..., 2] = rng.poisson(140, (60, 432))
    found = find(ArraySlide(pixels, 1.0, channels=NAMES), config(tumour_channel="Pan-CK"))
    # The tumour goes on across it.
    assert found.polygons_um["tumour"].area == pytest.approx(tumour.sum(), rel=0.04)
    assert found.polygons_um["stroma"].area == pytest.approx(60 * 432, rel=0.25)


def test_keratin_in_a_chromogenic_duplex(rng):
    """Nuclei blue, CD8 brown, keratin red: the third vector finds the tumour."""
    shape = 700, 900
    tissue = np.zeros(shape, bool)
    tissue[60:-60, 60:-60] = True
    tumour = tissue.copy()
    tumour[:, 450:] = False
    blue, brown, red = np.array([(0.651, 0.701, 0.290), (0.269, 0.568, 0.778), (0.10, 0.85, 0.52)])
    nuclei = np.minimum(ndimage.gaussian_filter((rng.random(shape) < 0.004).astype(float), 2.5) * 30, 1)
    cells = np.minimum(ndimage.gaussian_filter((rng.random(shape) < 0.0003).astype(float), 2.5) * 30, 1)
    patchy = np.exp(0.25 * ndimage.gaussian_filter(rng.normal(size=shape), 6) * 20)
    od = (0.6 * nuclei * tissue)[..., None] * blue + (0.9 * cells * tissue)[..., None] * brown
    od += (0.45 * patchy * tumour + 0.03 * patchy * tissue)[..., None] * red + (0.04 * tissue)[
        ..., None
    ] * blue
    pixels = np.clip(240 * 10**-od + rng.normal(0, 1, od.shape), 0, 255).astype(np.uint8)
    settings = load_config(
        None,
        [
            "stain.vectors.residual=[0.10, 0.85, 0.52]",
            "stain.residual_name=CK",
            "regions.tumour_channel=CK",
            "stain.estimate_within_deg=0",
            "tissue.exclude_out_of_focus=false",
        ],
    )
    found = find(ArraySlide(pixels, 1.0), settings)
    assert found.polygons_um["tumour"].area == pytest.approx(tumour.sum(), rel=0.05)


class TestTwoKinds:
    def test_the_threshold_lies_between(self, rng):
        values = np.exp(np.concatenate([rng.normal(4, 0.4, 20_000), rng.normal(7, 0.4, 5_000)]))
        threshold, reason = two_kinds(values.astype(np.float32))
        assert reason is None
        assert np.exp(5) < threshold < np.exp(6.2)

    @pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
    def test_a_long_tail_is_no_second_kind(self, rng, sigma):
        values = np.exp(rng.normal(5, sigma, 30_000)).astype(np.float32)
        assert two_kinds(values)[0] is None

    def test_even_values(self):
        assert two_kinds(np.full(1000, 7, np.float32)) == (None, "the tissue is stained evenly")

    def test_uniform_and_gamma_values_have_no_valley(self, rng):
        for values in (rng.uniform(0, 1000, 30_000), rng.gamma(2, 100, 30_000)):
            assert two_kinds(values.astype(np.float32))[0] is None


def test_no_assessed_tissue(slide_and_tumour):
    slide, _ = slide_and_tumour
    settings = config(tumour_channel="Pan-CK")
    seen = look(slide, settings)
    nothing = replace(seen.tissue, assessed=np.zeros_like(seen.tissue.assessed))
    found = find_regions(seen.slide, seen.survey, nothing, seen.stain, None, settings, None)
    assert "no assessed tissue" in found.why_no_tumour
    assert settings.regions != RegionsConfig()
