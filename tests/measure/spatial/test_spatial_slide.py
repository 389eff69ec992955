"""The spatial measures of a slide: complete, honest about what it cannot know, and pointing the right way."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from histo.errors import PointsError
from histo.measure.spatial.measures import SPATIAL
from histo.measure.spatial.slide import spatial_measures
from histo.measure.summary import Estimate

UNITS = {measure.name: measure.unit for measure in SPATIAL}

MPP = 8.0
SHAPE = (300, 400)


class Slide:
    """A tumour on the right half of round tissue with a hole; CD8+ cells by chance of each half."""

    def __init__(self, outside, inside, seed=0, n=8000):
        rng = np.random.default_rng(seed)
        row, column = np.indices(SHAPE)
        self.mask = np.hypot((row - 150) / 150, (column - 200) / 200) < 0.97
        self.mask[100:140, 120:160] = False
        tumour = column >= 200
        distance = distance_transform_edt(~tumour) - distance_transform_edt(tumour)
        self.signed = np.where(self.mask, distance * MPP, np.nan).astype(np.float32)
        rows, columns = np.nonzero(self.mask)
        at = rng.integers(0, len(rows), n)
        self.x, self.y = ((index[at] + rng.random(n)) * MPP for index in (columns, rows))
        self.in_tumour = columns[at] >= 200
        self.is_cd8 = rng.random(n) < np.where(self.in_tumour, inside, outside)

    def measures(self, **given):
        columns = {
            "x_um": self.x,
            "y_um": self.y,
            "is_cd8": self.is_cd8,
            "in_tumour": self.in_tumour,
            "mask": self.mask,
            "mpp": MPP,
            "signed_distance_um": self.signed,
            "n_permutations": 49,
        }
        return spatial_measures(**(columns | given))


@pytest.fixture(scope="module")
def excluded():
    return Slide(0.25, 0.01).measures()


@pytest.fixture(scope="module")
def infiltrated():
    return Slide(0.02, 0.25).measures()


@pytest.fixture(scope="module")
def mixed():
    return Slide(0.1, 0.1).measures()


def test_every_measure_is_there_in_its_order_and_unit(mixed):
    assert list(mixed) == list(UNITS)
    for name, estimate in mixed.items():
        assert estimate.unit == UNITS[name]
    # Cells strewn by chance: only a crossing of cross-K cannot be had for certain.
    assert {name for name, estimate in mixed.items() if estimate.value is None} <= {
        "cross_k_crossing_100um",
        "hot_spot_colocalisation",
    }


def test_measures_are_described():
    for measure in SPATIAL:
        assert measure.meaning, measure.name
        assert measure.source, measure.name
        assert measure.higher_means, measure.name
    texts = " ".join(f"{m.meaning} {m.higher_means}" for m in SPATIAL).lower()
    for claim in ("diagnos", "exhaust", "prognos"):
        assert claim not in texts


@pytest.mark.parametrize(
    "name",
    [
        "cross_g_20um",
        "cross_g_auc_20um",
        "cross_k_ratio_20um",
        "cross_k_ratio_50um",
        "cross_k_ratio_100um",
        "cross_l_minus_r_50um",
        "cross_k_auc_difference_100um",
        "mixing_score_20um",
        "mixing_score_normalised_20um",
        "morisita_horn_50um",
        "morisita_horn_200um",
        "entropy_200um_bits",
        "mixed_squares_200um_percent",
        "cross_g_20um_to_random",
        "cross_g_20um_random_z",
        "immunogradient_centre_of_mass",
    ],
)
def test_higher_where_cells_are_in_the_tumour(name, excluded, infiltrated):
    assert infiltrated[name].value > excluded[name].value


@pytest.mark.parametrize("name", ["nearest_tumour_mean_um", "nearest_tumour_median_um", "immunodrop"])
def test_lower_where_cells_are_in_the_tumour(name, excluded, infiltrated):
    assert infiltrated[name].value < excluded[name].value


def test_against_random_labels(excluded, infiltrated, mixed):
    for slide, sign in ((excluded, -1), (infiltrated, 1)):
        assert slide["cross_g_20um_random_z"].value * sign > 3
        assert slide["cross_g_random_p"].value == pytest.approx(0.02)
        assert np.sign(slide["cross_g_20um_to_random"].value - 1) == sign
    assert abs(mixed["cross_g_20um_random_z"].value) < 3
    assert mixed["cross_g_random_p"].value > 0.02
    assert mixed["cd8_ann_index"].value == pytest.approx(1, abs=0.1)


def test_cells_off_tissue_are_counted_and_change_nothing(mixed):
    slide = Slide(0.1, 0.1)
    slide.x, slide.y = (np.append(axis, [-5.0, 4.0, 1e7]) for axis in (slide.x, slide.y))
    slide.is_cd8, slide.in_tumour = (np.append(flag, [True] * 3) for flag in (slide.is_cd8, slide.in_tumour))
    found = slide.measures()
    assert found["cells_off_tissue"].value == 3
    found.pop("cells_off_tissue")
    assert found.items() <= mixed.items()


def test_same_seed_same_numbers(mixed):
    assert Slide(0.1, 0.1).measures() == mixed
    assert Slide(0.1, 0.1).measures(seed=1)["cross_g_20um_random_z"] != mixed["cross_g_20um_random_z"]


def test_tumour_flag_of_cd8_cells_hardly_matters(mixed):
    slide = Slide(0.1, 0.1)
    found = slide.measures(in_tumour=slide.in_tumour & ~slide.is_cd8)
    for name, estimate in found.items():
        if "random" not in name:
            assert estimate == mixed[name]


def reasons(measures):
    return {estimate.not_assessable for name, estimate in measures.items() if name != "cells_off_tissue"}


class TestNotAssessable:
    def test_few_cd8_cells(self):
        slide = Slide(0.1, 0.1)
        few = np.zeros(len(slide.x), bool)
        few[:19] = True
        assert reasons(slide.measures(is_cd8=few)) == {"only 19 CD8+ cells in assessed tissue, 20 needed"}

    def test_no_tissue(self):
        slide = Slide(0.1, 0.1)
        found = slide.measures(mask=np.zeros(SHAPE, bool))
        assert reasons(found) == {"no assessed tissue"}
        assert found["cells_off_tissue"].value == len(slide.x)

    def test_no_cells(self):
        none = np.zeros(0)
        found = Slide(0.1, 0.1).measures(x_um=none, y_um=none, is_cd8=none, in_tumour=none)
        assert reasons(found) == {"only 0 CD8+ cells in assessed tissue, 20 needed"}

    def test_no_tumour(self, mixed):
        slide = Slide(0.1, 0.1)
        found = slide.measures(in_tumour=np.zeros(len(slide.x), bool), signed_distance_um=None)
        assert found["cd8_ann_index"] == mixed["cd8_ann_index"]
        assert found["hot_spot_area_share"] == mixed["hot_spot_area_share"]
        assert found["immunodrop"] == Estimate.missing("ratio", "no tumour border")
        for name in ("cross_g_20um", "cross_k_ratio_50um", "morisita_horn_50um", "cross_g_random_p"):
            assert found[name].not_assessable == "only 0 tumour nuclei in assessed tissue, 20 needed"

    def test_no_border(self):
        slide = Slide(0.1, 0.1)
        found = slide.measures(signed_distance_um=np.full(SHAPE, np.nan, np.float32))
        assert found["immunogradient_centre_of_mass"].not_assessable == "no tumour border"
        assert found["cross_g_20um"].value is not None

    def test_biopsy(self):
        # A thread of tissue of 40 um: hardly a cell is 20 um from its edge, and there are no squares.
        rng = np.random.default_rng(0)
        mask = np.zeros((20, 300), bool)
        mask[8:13] = True
        x, y = rng.uniform(0, 2400, 600), rng.uniform(64, 104, 600)
        found = spatial_measures(x, y, rng.random(600) < 0.2, x > 1200, mask, MPP)
        assert "20 um from the edge of tissue" in found["cross_g_random_p"].not_assessable
        assert "squares of 250 um" in found["hot_spot_area_share"].not_assessable
        assert found["nearest_tumour_mean_um"].value > 0
        assert all(estimate.value is None or np.isfinite(estimate.value) for estimate in found.values())


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"is_cd8": np.zeros(3, bool)}, r"columns of \[3, 8000\] cells"),
        ({"x_um": np.full(8000, np.nan)}, "8000 of 8000 cells"),
        ({"signed_distance_um": np.zeros((2, 2), np.float32)}, "one grid"),
        ({"mpp": -8.0}, "pixel size"),
    ],
)
def test_errors(given, what):
    with pytest.raises(PointsError, match=what):
        Slide(0.1, 0.1).measures(**given)
