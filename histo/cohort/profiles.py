"""Density by signed distance to the tumour border, over the patients of each site."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histo.cohort.summary import SITES, Profile, ProfileBin
from histo.measure.density import PER_MM2
from histo.measure.summary import DistanceBin, Estimate

# A step that fewer patients have is not drawn; nor does a sliver of tissue make a patient's density.
_MIN_PATIENTS = 3
_MIN_AREA_MM2 = 0.01


def site_profiles(
    slides: pd.DataFrame,
    profiles: Mapping[str, Sequence[DistanceBin]],
    *,
    level: float,
    bootstrap_samples: int,
    seed: int,
) -> tuple[Profile, ...]:
    """Return the mean density over patients at each distance, with a percentile bootstrap interval.

    A patient's density at a distance is all positive cells over all area of the patient's slides there.

    Parameters
    ----------
    slides : rows of a `CohortTable` with patient and site. profiles : slide_id to its bins.
    level : of the interval. bootstrap_samples : patients are drawn so often, whole profiles together.
    """
    return tuple(
        Profile(
            site=site,
            bins=_bins(
                _densities(slides[slides["site"] == site], profiles),
                level,
                bootstrap_samples,
                np.random.default_rng([seed, at]),
            ),
        )
        for at, site in enumerate(SITES)
    )


def _densities(
    slides: pd.DataFrame, profiles: Mapping[str, Sequence[DistanceBin]]
) -> dict[tuple[float, float], dict[str, float]]:
    """Return (low, high) to the density of each patient that has tissue there."""
    n: dict[tuple[float, float], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    area: dict[tuple[float, float], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for slide, patient in zip(slides["slide_id"], slides["patient"], strict=True):
        for step in profiles.get(slide, ()):
            n[step.low_um, step.high_um][patient] += step.n_cd8
            area[step.low_um, step.high_um][patient] += step.area_mm2
    return {
        limits: {
            patient: n[limits][patient] / area_mm2
            for patient, area_mm2 in by_patient.items()
            if area_mm2 >= _MIN_AREA_MM2
        }
        for limits, by_patient in sorted(area.items())
    }


def _bins(
    densities: Mapping[tuple[float, float], Mapping[str, float]],
    level: float,
    samples: int,
    rng: np.random.Generator,
) -> tuple[ProfileBin, ...]:
    if not densities:
        return ()
    patients = sorted({patient for by_patient in densities.values() for patient in by_patient})
    # (samples, patients): how often each is drawn.
    drawn = rng.multinomial(len(patients), np.full(len(patients), 1 / max(len(patients), 1)), samples)
    bins = []
    for (low_um, high_um), by_patient in densities.items():
        values = np.array([by_patient.get(patient, np.nan) for patient in patients])
        bins.append(
            ProfileBin(
                low_um=low_um,
                high_um=high_um,
                n_patients=len(by_patient),
                density=_mean(values, drawn, level),
            )
        )
    return tuple(bins)


def _mean(values: NDArray[np.float64], drawn: NDArray[np.int64], level: float) -> Estimate:
    known = ~np.isnan(values)
    n = int(known.sum())
    if n < _MIN_PATIENTS:
        return Estimate.missing(PER_MM2, f"only {n} patients have tissue there, {_MIN_PATIENTS} needed")
    weight = drawn[:, known]
    weight = weight[weight.sum(axis=1) > 0]
    means = weight @ values[known] / weight.sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value=float(values[known].mean()), low=float(low), high=float(high), unit=PER_MM2)
