"""What else is known of the slides: how it is spread over the sites, and the answer within its levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from histo.cohort.compare import compare
from histo.cohort.config import CohortConfig
from histo.cohort.summary import SITES, Covariate, Design, Subgroup
from histo.measure.measure import Measure

# A column with more different words than this is no grouping; one with fewer patients in a level no group.
_MOST_LEVELS: Final = 6
_FEWEST_PATIENTS: Final = 3
_NOT_KNOWN: Final = "not recorded"


def describe_covariates(placed: pd.DataFrame, names: Sequence[str]) -> tuple[Covariate, ...]:
    """Say how each covariate is spread over the slides of each site.

    Numbers: median (quartiles); words: how many slides have each. Columns that are empty throughout, and
    those with many words that are no numbers, are left out.

    Parameters
    ----------
    placed : rows of a `CohortTable`, all with patient and site. names : columns, text.
    """
    rows = []
    for name in names:
        values = placed[name].replace("", None)
        if values.isna().all():
            continue
        as_numbers = pd.to_numeric(values, errors="coerce")
        numeric = bool((as_numbers.notna() == values.notna()).all()) and values.nunique() > 2
        if not numeric and values.nunique() > _MOST_LEVELS:
            continue
        told = {
            site: (
                _numbers(as_numbers[placed["site"] == site])
                if numeric
                else _words(values[placed["site"] == site])
            )
            for site in SITES
        }
        rows.append(Covariate(name=name, by_site=told))
    return tuple(rows)


def subgroups(
    placed: pd.DataFrame, names: Sequence[str], measure: Measure, design: Design, config: CohortConfig
) -> tuple[Subgroup, ...]:
    """Compare the sites within each level of each covariate that is words; exploratory, not adjusted.

    A site of which a covariate says nothing (the growth pattern of primary tumours) stays whole. Levels with
    fewer than 3 patients at a site are left out.
    """
    found = []
    for name in names:
        values = placed[name].replace("", None)
        levels = sorted(values.dropna().astype(str).unique())
        if not 2 <= len(levels) <= _MOST_LEVELS:
            continue
        silent = [site for site in SITES if values[placed["site"] == site].isna().all()]
        for level in levels:
            within = placed[(values == level) | placed["site"].isin(silent)]
            patients = within.groupby("site")["patient"].nunique()
            if any(patients.get(site, 0) < _FEWEST_PATIENTS for site in SITES):
                continue
            comparison = compare(within, measure, design, config)
            primary, metastasis = comparison.groups
            found.append(
                Subgroup(
                    covariate=name,
                    level=level,
                    n_primary=primary.n_patients,
                    n_metastasis=metastasis.n_patients,
                    shift=comparison.shift,
                    p=comparison.p,
                )
            )
    return tuple(found)


def _numbers(values: pd.Series[float]) -> str:
    known = values.dropna().to_numpy(np.float64)
    if len(known) == 0:
        return _NOT_KNOWN
    q1, median, q3 = np.quantile(known, [0.25, 0.5, 0.75])
    missing = len(values) - len(known)
    text = f"{median:g} ({q1:g} to {q3:g})"
    return f"{text}; {_NOT_KNOWN}: {missing}" if missing else text


def _words(values: pd.Series[str]) -> str:
    if values.isna().all():
        return _NOT_KNOWN
    counts = values.fillna(_NOT_KNOWN).value_counts().sort_index()
    return ", ".join(f"{word}: {n}" for word, n in counts.items())
