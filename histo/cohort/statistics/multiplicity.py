"""p values of several tests, adjusted together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from statsmodels.stats.multitest import multipletests


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values adjusted for the false discovery rate (Benjamini and Hochberg 1995, J R Stat Soc B
    57:289).

    Parameters
    ----------
    p_values : 0 to 1; None for a test that could not be made, which stays None and does not count.

    Raises
    ------
    ValueError : a p value is not between 0 and 1.
    """
    return _adjusted(p_values, "fdr_bh")


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values adjusted for the family-wise error rate (Holm 1979, Scand J Stat 6:65); see above."""
    return _adjusted(p_values, "holm")


def _adjusted(p_values: Sequence[float | None], method: Literal["fdr_bh", "holm"]) -> list[float | None]:
    made = [p for p in p_values if p is not None]
    if not all(0 <= p <= 1 for p in made):
        raise ValueError("p values lie between 0 and 1; give None for a test that could not be made")
    if not made:
        return list(p_values)
    adjusted = iter(np.asarray(multipletests(made, method=method)[1], np.float64).tolist())
    return [None if p is None else next(adjusted) for p in p_values]
