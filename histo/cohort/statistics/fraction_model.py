"""Does the site change the fraction of cells with a state, and does that hang on the zone?

Positives among the CD8+ cells of each patient, site and zone, in the model

    logit(fraction) = site + zone + site x zone + patient (+ lesion within patient)

with beta-binomial counts (cells of one lesion and zone are more alike than chance has it) and normal random
intercepts (see `site_by_zone`). exp of the site's coefficient is an odds ratio, metastasis to primary; exp of
the interaction says by how much that odds ratio differs between a zone and the reference zone.

Cells are not independent: a chi-squared test of all cells pooled would take each for a patient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo.cohort.statistics.beta_binomial import BetaBinomial
from histo.cohort.statistics.site_by_zone import SiteByZoneModel, fit_site_by_zone, rows_of

ODDS_RATIO = "odds ratio"
RATIO_OF_ODDS_RATIOS = "ratio of odds ratios"


def fit_fraction_model(
    n_positive: ArrayLike,
    n_cells: ArrayLike,
    sites: Sequence[str],
    zones: Sequence[str],
    patients: Sequence[str],
    lesions: Sequence[str] | None = None,
    *,
    reference_site: str = "primary",
    other_site: str = "metastasis",
    reference_zone: str = "outer_margin",
    level: float = 0.95,
) -> SiteByZoneModel:
    """Fit the model and test the interaction of site and zone; with one zone, the site.

    See `fit_site_by_zone` for the tests and intervals, and benchmarks/coverage_states.py for how well they
    keep their promises. Random intercepts are there where they can be told from the dispersion: the
    patient's where a patient has several rows, the lesion's where lesions have, and patients several lesions.
    With the patient's intercept odds ratios are those within a patient; without it, those of the mean
    fractions of the sites.

    Parameters
    ----------
    n_positive : (n,) cells with the state, whole numbers; one row per patient (or lesion), site and zone.
    n_cells : (n,) CD8+ cells, at least 1 and no fewer than positives: a zone without CD8+ cells has no row.
    sites, zones, patients : (n,) names.
    lesions : (n,) names of lesions, told apart over patients; None for none.
    reference_zone : the zone that the others are set against; the only one where there is one.
    level : of the intervals.

    Raises
    ------
    ValueError : lengths differ, a count is impossible, a site is neither of the two, the reference zone does
        not occur, a lesion has two sites, or two rows are of one lesion and zone.
    """
    positive, total = np.asarray(n_positive, np.float64), np.asarray(n_cells, np.float64)
    parts = (positive, total, sites, zones, patients, patients if lesions is None else lesions)
    if positive.ndim != 1 or len({len(part) for part in parts}) > 1:
        raise ValueError("counts, sites, zones, patients and lesions must be lists of one length")
    mistakes = []
    both = np.concatenate([positive, total])
    if not (np.isfinite(both).all() and (both >= 0).all() and (both == np.rint(both)).all()):
        mistakes.append("counts must be whole numbers from 0")
    elif (total < 1).any():
        mistakes.append("a row without CD8+ cells has no fraction: leave it out")
    elif (positive > total).any():
        mistakes.append("more positive cells than cells")
    rows = rows_of(
        sites,
        zones,
        patients,
        lesions,
        reference_site=reference_site,
        other_site=other_site,
        reference_zone=reference_zone,
        mistakes=mistakes,
    )

    def separated(cell: NDArray[np.bool_], where: str) -> str | None:
        if positive[cell].sum() == 0:
            return f"not one positive cell in {where}: its odds have no lower limit (separation)"
        if (positive[cell] == total[cell]).all():
            return f"all cells are positive in {where}: their odds have no upper limit (separation)"
        return None

    return fit_site_by_zone(
        rows,
        BetaBinomial(positive, total),
        np.zeros(len(positive)),
        separated=separated,
        units=(ODDS_RATIO, RATIO_OF_ODDS_RATIOS),
        level=level,
    )
