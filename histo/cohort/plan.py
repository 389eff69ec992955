"""How many patients a study needs, for a difference as large as that of a known one, or a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log

from histo.cohort.statistics.power import (
    KATHER_METASTASIS,
    KATHER_PRIMARY,
    PAIR_CORRELATION,
    SampleSize,
    paired_sample_size,
    unpaired_sample_size,
)
from histo.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """Patients needed to see a shift of log2 core : outer margin, for each power.

    shift_log2 : difference of the means that is to be seen, metastasis less primary.
    """

    shift_log2: float
    correlation: float
    unpaired: tuple[SampleSize, ...]
    paired: tuple[SampleSize, ...]


def plan_study(
    effect: float = 1.0,
    *,
    correlation: float = PAIR_CORRELATION,
    targets: Sequence[float] = (0.8, 0.9),
    seed: int = 0,
) -> Plan:
    """Simulate how many patients are needed, after the spread and the shift of Kather 2018.

    Parameters
    ----------
    effect : part of Kather's shift that is to be seen; 1 for all of it, 0.5 for half.
    correlation : of the ratio between the two sites of a patient.
    targets : powers, at a two-sided 5 %.

    Raises
    ------
    ConfigError : an effect of 0, a correlation or a power outside their range.
    """
    if effect == 0 or not -1 < correlation < 1 or not all(0.05 < target < 1 for target in targets):
        raise ConfigError(
            "a study cannot be planned with these numbers",
            fix="Give an effect other than 0, a correlation between -1 and 1, powers between 0.05 and 1",
        )
    shift = effect * (KATHER_METASTASIS.ratio_mean - KATHER_PRIMARY.ratio_mean)
    core = KATHER_METASTASIS.outer_mean_ln + (KATHER_PRIMARY.ratio_mean + shift) * log(2)
    metastasis = replace(KATHER_METASTASIS, core_mean_ln=core)
    return Plan(
        shift_log2=shift,
        correlation=correlation,
        unpaired=tuple(unpaired_sample_size(target, metastasis=metastasis, seed=seed) for target in targets),
        paired=tuple(
            paired_sample_size(target, metastasis=metastasis, correlation=correlation, seed=seed)
            for target in targets
        ),
    )
