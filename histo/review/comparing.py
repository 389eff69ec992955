"""Agreement of two readings of the same things: densities over fields or slides, categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from histo.evaluation.agreement import bland_altman, concordance, moment_rows
from histo.measure.summary import Estimate

_MIN_PAIRS: Final = 3


class DensityAgreement(BaseModel):
    """Agreement on one density over slides or fields.

    concordance : Lin's coefficient. ratio : of the second reader's density to the first's, geometric mean and
    95 % limits of agreement (Bland and Altman on the logarithm, the configured offset added to both).
    """

    model_config = ConfigDict(frozen=True)

    label: str
    n: int
    concordance: Estimate
    ratio: Estimate


def density_agreement(
    label: str, first: Sequence[float], second: Sequence[float], offset: float
) -> DensityAgreement:
    """Compare densities per mm2 of the same slides or fields by two readings."""
    n = len(first)
    if n < _MIN_PAIRS:
        reason = f"{n} have it from both readings, {_MIN_PAIRS} needed"
        missing = Estimate.missing
        return DensityAgreement(
            label=label, n=n, concordance=missing("", reason), ratio=missing("ratio", reason)
        )
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    ccc = float(concordance(moment_rows(x, y).sum(axis=0)))
    limits = bland_altman(np.log(x + offset), np.log(y + offset))
    return DensityAgreement(
        label=label,
        n=n,
        concordance=(
            Estimate.missing("", "the densities do not vary")
            if np.isnan(ccc)
            else Estimate(value=ccc, unit="")
        ),
        ratio=Estimate(
            value=float(np.exp(limits.mean)),
            low=float(np.exp(limits.low)),
            high=float(np.exp(limits.high)),
            unit="ratio",
        ),
    )


def cohen_kappa(first: Sequence[object], second: Sequence[object], what: str) -> Estimate:
    """Return Cohen's kappa (Cohen 1960, Educ Psychol Meas 20:37-46) of two readers' categories."""
    if len(first) == 0:
        return Estimate.missing("", f"no {what} from both readers")
    names, codes = np.unique(np.array([*map(str, first), *map(str, second)]), return_inverse=True)
    a, b = codes[: len(first)], codes[len(first) :]
    table = np.zeros((len(names), len(names)))
    np.add.at(table, (a, b), 1)
    table /= table.sum()
    by_chance = float(table.sum(axis=1) @ table.sum(axis=0))
    if by_chance >= 1:
        return Estimate.missing("", f"all {what} are {names[0]} to both readers")
    return Estimate(value=float((np.trace(table) - by_chance) / (1 - by_chance)), unit="")
