"""Phenotypes of patients at each site, at the published cut-off and at others."""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2_contingency
from statsmodels.stats.contingency_tables import SquareTable

from histo.cohort.patients import patient_values
from histo.cohort.summary import SITES, Design, PhenotypeShares, Site
from histo.measure.catalogue import DENSITIES
from histo.measure.density import PER_MM2
from histo.measure.exclusion import kather_phenotype
from histo.measure.summary import Estimate, Phenotype

PHENOTYPES: Final[tuple[Phenotype, ...]] = ("inflamed", "excluded", "desert")
_NOT_ASSESSABLE = "zone not assessable"


def pooled_cutoff(slides: pd.DataFrame) -> float | None:
    """Return the median density over core and outer margin of all slides that have both (Kather 2018).

    The rule of the authors' own code: densities of the two zones are pooled, then their median is taken
    (eLife 7:e36967; 294.885 per mm2 for CD8 of their 169 slides). None without such slides.
    """
    both = slides[["density_core_per_mm2", "density_outer_margin_per_mm2"]].dropna()
    return None if both.empty else float(np.median(both.to_numpy(np.float64)))


def phenotype_shares(
    slides: pd.DataFrame, cutoff_per_mm2: float, cutoff_source: str, design: Design
) -> PhenotypeShares:
    """Count the patients of each phenotype at each site, from their pooled densities, and test the sites.

    Unpaired: chi-squared test of the table; paired, of patients with a phenotype at both sites:
    Stuart-Maxwell test of marginal homogeneity (Stuart 1955, Biometrika 42:412).
    """
    core, outer = (
        patient_values(slides, measure, 0.0).set_index(["patient", "site"])["value"]
        for measure in (DENSITIES[0], DENSITIES[2])
    )
    known = pd.DataFrame({"core": core, "outer": outer})
    called: dict[tuple[str, Site], Phenotype | None] = {
        (patient, site): kather_phenotype(_estimate(core_), _estimate(outer_), cutoff_per_mm2)[0]
        for (patient, site), core_, outer_ in zip(known.index, known["core"], known["outer"], strict=True)
    }
    in_all = set(zip(slides["patient"], slides["site"], strict=True))
    counts: dict[Site, dict[str, int]] = {}
    missing: dict[Site, int] = {}
    for site in SITES:
        found = [called.get(key) for key in in_all if key[1] == site]
        counts[site] = {name: found.count(name) for name in PHENOTYPES}
        missing[site] = found.count(None)
    if design == "paired":
        p, test = _stuart_maxwell(called), "Stuart-Maxwell test"
    else:
        p, test = _chi_squared(counts), "chi-squared test"
    return PhenotypeShares(
        cutoff_per_mm2=cutoff_per_mm2,
        cutoff_source=cutoff_source,
        counts=counts,
        not_assessable=missing,
        p=p,
        test=test,
    )


def _estimate(value: float) -> Estimate:
    if np.isnan(value):
        return Estimate.missing(PER_MM2, _NOT_ASSESSABLE)
    return Estimate(value=value, unit=PER_MM2)


def _chi_squared(counts: dict[Site, dict[str, int]]) -> float | None:
    table = np.array([[counts[site][name] for name in PHENOTYPES] for site in SITES])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or (table.sum(axis=1) == 0).any():
        return None
    return float(chi2_contingency(table, correction=False).pvalue)


def _stuart_maxwell(called: dict[tuple[str, Site], Phenotype | None]) -> float | None:
    table: NDArray[np.float64] = np.zeros((3, 3))
    for (patient, site), phenotype in called.items():
        other = called.get((patient, SITES[1]))
        if site == SITES[0] and phenotype is not None and other is not None:
            table[PHENOTYPES.index(phenotype), PHENOTYPES.index(other)] += 1
    used = (table.sum(axis=0) + table.sum(axis=1)) > 0
    table = table[used][:, used]
    if len(table) < 2 or np.trace(table) == table.sum():
        return None
    with warnings.catch_warnings():
        # A table without discordant pairs of one kind is singular: no test, whatever warning says so.
        warnings.simplefilter("error")
        try:
            p = float(SquareTable(table, shift_zeros=False).homogeneity().pvalue)
        except (Warning, np.linalg.LinAlgError):
            return None
    return p if np.isfinite(p) else None
