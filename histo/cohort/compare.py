"""One measure, metastasis against primary: from patients' values to shift, effect size and p values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histo.cohort.config import CohortConfig
from histo.cohort.patients import patient_values
from histo.cohort.statistics.bootstrap import bootstrap_groups, mean_difference
from histo.cohort.statistics.permutation import permutation_test
from histo.cohort.statistics.two_groups import (
    CLIFFS_DELTA,
    RANK_BISERIAL,
    compare_paired,
    compare_unpaired,
    pair_by_patient,
)
from histo.cohort.summary import SITES, Comparison, Design, Exclusion, Group, PatientValue, Site
from histo.measure.measure import Measure
from histo.measure.summary import Estimate

_REFERENCE, _OTHER = SITES


@dataclass(frozen=True)
class RankTest:
    """What the rank statistics of two sites say; values are on the scale that is compared."""

    shift: Estimate
    effect_size: Estimate
    test: str
    p: float | None
    reason: str | None


def compare(slides: pd.DataFrame, measure: Measure, design: Design, config: CohortConfig) -> Comparison:
    """Compare the sites in one measure. Its adjusted p value is None: it hangs on all other tests.

    Parameters
    ----------
    slides : rows of one stain of a `CohortTable`, all with patient and site.
    """
    values = patient_values(slides, measure, config.log_offset_per_mm2)
    return compare_values(values, measure, design, config, declared=measure.name == config.primary_measure)


def compare_values(
    values: pd.DataFrame,
    measure: Measure,
    design: Design,
    config: CohortConfig,
    *,
    declared: bool,
    no_value: Sequence[Exclusion] = (),
) -> Comparison:
    """Compare the sites in the values of patients; see `compare`.

    Parameters
    ----------
    values : as `patient_values` returns them.
    declared : whether this is one of the study's questions.
    no_value : patients without a value at a site, and why.
    """
    left_out = tuple(no_value)
    n_pairs = None
    if design == "paired":
        pairs = pair_by_patient(values["patient"].tolist(), values["site"].tolist(), values["value"])
        values = values[values["patient"].isin(pairs.patients)]
        known = {row.name for row in left_out}
        left_out += tuple(
            Exclusion(name=name, reason=reason)
            for name, reason in pairs.left_out.items()
            if name not in known
        )
        n_pairs = len(pairs.patients)
    # Sorted by patient, so that pairs lie at the same place.
    groups = {site: values[values["site"] == site].sort_values("patient") for site in SITES}
    plain = {site: group["value"].to_numpy(np.float64) for site, group in groups.items()}
    scaled = {site: on_scale(numbers, measure) for site, numbers in plain.items()}
    found = rank_test(scaled[_REFERENCE], scaled[_OTHER], design, measure.unit, config.confidence_level)
    paired = design == "paired"
    difference = bootstrap_groups(
        plain[_REFERENCE],
        plain[_OTHER],
        unit=measure.unit,
        paired=paired,
        level=config.confidence_level,
        resamples=config.bootstrap_samples,
        seed=config.seed,
    )
    permuted = permutation_test(
        scaled[_REFERENCE],
        scaled[_OTHER],
        paired=paired,
        statistic=mean_difference,
        level=config.confidence_level,
        arrangements=config.permutations,
        seed=config.seed,
    )
    return Comparison(
        measure=measure.name,
        label=measure.label,
        unit=measure.unit,
        scale=measure.scale,
        scale_offset=measure.offset,
        is_primary_measure=declared,
        design=design,
        groups=tuple(_group(site, groups[site]) for site in SITES),
        n_pairs=n_pairs,
        left_out=left_out,
        values=tuple(
            PatientValue(patient=patient, site=site, value=value)
            for site in SITES
            for patient, value in zip(groups[site]["patient"], plain[site], strict=True)
        ),
        shift=found.shift,
        median_difference=difference.estimate,
        effect_size=found.effect_size,
        effect_size_name=RANK_BISERIAL if paired else CLIFFS_DELTA,
        test=found.test,
        p=found.p,
        p_permutation=permuted.p_value,
        p_adjusted=None,
        adjustment="Holm" if declared else "Benjamini-Hochberg",
        not_assessable=found.reason,
    )


def rank_test(
    reference: NDArray[np.float64], other: NDArray[np.float64], design: Design, unit: str, level: float
) -> RankTest:
    """Test two sites by ranks: signed ranks where paired, Mann-Whitney otherwise.

    Parameters
    ----------
    reference, other : (n,) and (m,) a value a patient; of one order where paired.
    """
    if design == "paired":
        paired = compare_paired(reference, other, unit=unit, level=level)
        test = f"Wilcoxon signed-rank test ({paired.p_method or 'not made'})"
        return RankTest(paired.shift, paired.rank_biserial, test, paired.p_value, paired.reason)
    unpaired = compare_unpaired(reference, other, unit=unit, level=level)
    test = f"Mann-Whitney test ({unpaired.p_method or 'not made'})"
    return RankTest(unpaired.shift, unpaired.cliffs_delta, test, unpaired.p_value, unpaired.reason)


def on_scale(values: NDArray[np.float64], measure: Measure) -> NDArray[np.float64]:
    """Return values on the scale on which the measure is compared."""
    if measure.scale == "linear":
        return values
    logarithms: NDArray[np.float64] = np.log2(values + measure.offset)
    return logarithms


def _group(site: Site, group: pd.DataFrame) -> Group:
    values = group["value"].to_numpy(np.float64)
    area = group["area_mm2"].sum(min_count=1)
    if len(values) == 0:
        numbers: list[float | None] = [None] * 5
    else:
        q1, median, q3 = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
        sd = float(values.std(ddof=1)) if len(values) > 1 else None
        numbers = [median, q1, q3, float(values.mean()), sd]
    return Group(
        site=site,
        n_patients=len(values),
        n_lesions=int(group["n_lesions"].sum()),
        n_slides=int(group["n_slides"].sum()),
        area_mm2=None if pd.isna(area) else float(area),
        **dict(zip(("median", "q1", "q3", "mean", "sd"), numbers, strict=True)),
    )
