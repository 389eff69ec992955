"""Slides of a patient become one value."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from histo.cohort.patients import lesion_names, patient_values
from histo.measure.catalogue import DENSITIES, EXCLUSION
from histo.measure.measure import Measure

SCORE = Measure("score", "score", "", "", "", "")
NAN = np.nan


@pytest.fixture
def slides():
    """Patient a: two primary slides of one lesion, one metastasis; b: a primary without outer margin."""
    frame = pd.DataFrame(
        {
            "slide_id": ["s1", "s2", "s3", "s4"],
            "patient": ["a", "a", "a", "b"],
            "lesion": ["L1", "L1", None, "L1"],
            "site": ["primary", "primary", "metastasis", "primary"],
            "n_positive_core": [10.0, 50, 7, 0],
            "area_core_mm2": [1.0, 2.0, 3.5, 2.0],
            "n_positive_outer_margin": [30.0, 90, 14, 8],
            "area_outer_margin_mm2": [1.0, 1.0, 3.5, 0.01],
            "score": [1.0, 4.0, NAN, 0.0],
        }
    )
    for zone in ("core", "outer_margin"):
        frame[f"density_{zone}_per_mm2"] = frame[f"n_positive_{zone}"] / frame[f"area_{zone}_mm2"]
    # Too small to be assessed.
    frame.loc[3, "density_outer_margin_per_mm2"] = NAN
    return frame


def values(slides, measure):
    return patient_values(slides, measure, 1.0).set_index(["patient", "site"])


def test_densities_are_all_cells_over_all_area(slides):
    found = values(slides, DENSITIES[0])
    assert found["value"].to_dict() == {
        ("a", "metastasis"): 2.0,
        ("a", "primary"): 20.0,
        ("b", "primary"): 0.0,
    }
    assert found.loc[("a", "primary"), "n_slides"] == 2
    assert found.loc[("a", "primary"), "n_lesions"] == 1
    assert found["area_mm2"].sum() == 8.5


def test_ratios_are_of_pooled_densities_where_both_zones_can_be_assessed(slides):
    found = values(slides, EXCLUSION[0])["value"]
    assert found[("a", "primary")] == pytest.approx(np.log2(21 / 61))
    assert found[("a", "metastasis")] == pytest.approx(np.log2(3 / 5))
    assert ("b", "primary") not in found


def test_infiltration_fraction_of_no_cells_is_not_there(slides):
    none = slides.assign(n_positive_core=0.0, n_positive_outer_margin=0.0)
    none = none.assign(density_core_per_mm2=0.0, density_outer_margin_per_mm2=0.0)
    assert patient_values(none, EXCLUSION[1], 1.0).empty
    assert values(slides, EXCLUSION[1])["value"][("a", "primary")] == pytest.approx(20 / 80)


def test_other_measures_are_means_over_the_slides_that_have_them(slides):
    found = values(slides, SCORE)["value"]
    assert found.to_dict() == {("a", "primary"): 2.5, ("b", "primary"): 0.0}


def test_lesions_are_told_apart_over_patients(slides):
    names = lesion_names(slides)
    assert names[0] == names[1]
    assert names.nunique() == 3
