"""From slides to patients: the patient is the unit of every comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histo.measure.measure import Measure
from histo.measure.summary import ZONES

FloatArray = NDArray[np.float64]

# Ratios that are made anew from a patient's pooled densities, not averaged over slides.
_RATIOS: Final[dict[str, tuple[str, str]]] = {
    "log2_core_outer": ("core", "outer_margin"),
    "log2_core_far": ("core", "far"),
    "log2_outer_far": ("outer_margin", "far"),
}


def patient_values(slides: pd.DataFrame, measure: Measure, log_offset_per_mm2: float) -> pd.DataFrame:
    """Return a measure by patient and site, with what it rests on.

    Several slides of a patient at one site become one value. A density is all positive cells over all area of
    those slides; a ratio of two densities is that of the patient's two densities; any other measure is the
    mean over the slides that have it.

    Parameters
    ----------
    slides : rows of one stain of a `CohortTable`, with patient and site.
    log_offset_per_mm2 : added to both densities of a log2 ratio.

    Returns
    -------
    Columns patient, site, value (no NaN), n_slides, n_lesions, area_mm2 (NaN where the measure has none), a
    row per patient and site, ordered by them.
    """
    if measure.name in _RATIOS:
        first, second = _RATIOS[measure.name]
        return _joined(
            slides,
            first,
            second,
            lambda a, b: np.log2(a + log_offset_per_mm2) - np.log2(b + log_offset_per_mm2),
        )
    if measure.name == "infiltration_fraction":
        # Of no cells at all there is no fraction.
        return _joined(slides, "core", "outer_margin", lambda a, b: a / np.where(a + b > 0, a + b, np.nan))
    for zone in ZONES:
        if measure.name == f"density_{zone}_per_mm2":
            return _pooled_density(slides, zone)
    known = slides[slides[measure.name].notna()].assign(value=slides[measure.name], area_mm2=np.nan)
    return _by_patient(known, value=("value", "mean"), area_mm2=("area_mm2", "first"))


def _pooled_density(slides: pd.DataFrame, zone: str) -> pd.DataFrame:
    known = slides[slides[f"density_{zone}_per_mm2"].notna()]
    pooled = _by_patient(known, n=(f"n_positive_{zone}", "sum"), area_mm2=(f"area_{zone}_mm2", "sum"))
    return pooled.assign(value=pooled["n"] / pooled["area_mm2"]).drop(columns="n")


def _joined(
    slides: pd.DataFrame,
    first: str,
    second: str,
    ratio: Callable[[FloatArray, FloatArray], FloatArray],
) -> pd.DataFrame:
    """Return a ratio of two pooled densities, of the slides on which both zones can be assessed."""
    both = slides[slides[f"density_{first}_per_mm2"].notna() & slides[f"density_{second}_per_mm2"].notna()]
    one, other = _pooled_density(both, first), _pooled_density(both, second)
    value = ratio(one["value"].to_numpy(np.float64), other["value"].to_numpy(np.float64))
    area = one["area_mm2"] + other["area_mm2"]
    return one.assign(value=value, area_mm2=area).dropna(subset="value").reset_index(drop=True)


def lesion_names(slides: pd.DataFrame) -> pd.Series[str]:
    """Return the lesion of each slide, told apart over patients; one that is not named is its slide's own."""
    named = slides["patient"].astype(str) + "\0" + slides["lesion"].astype(str)
    return named.where(slides["lesion"].notna(), slides["slide_id"].astype(str))


def _by_patient(slides: pd.DataFrame, **columns: tuple[str, str]) -> pd.DataFrame:
    grouped = slides.assign(_lesion=lesion_names(slides)).groupby(["patient", "site"], sort=True)
    return grouped.agg(
        n_slides=("slide_id", "size"), n_lesions=("_lesion", "nunique"), **columns
    ).reset_index()
