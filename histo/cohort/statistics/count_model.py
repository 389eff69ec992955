"""The exclusion test: does the site change how CD8+ cells spread over the zones?

Counts per patient, site and zone, with the area as exposure, in the model

    log E(count) = log(area) + site + zone + site x zone + patient (+ lesion within patient)

with negative binomial counts and normal random intercepts (see `site_by_zone`). The interaction is the
exclusion test: exp of it is the ratio, metastasis to primary, of the density in a zone relative to the
reference zone. What is common to a lesion cancels from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo.cohort.statistics.negative_binomial import NegativeBinomial
from histo.cohort.statistics.site_by_zone import SiteByZoneModel, fit_site_by_zone, rows_of

RATE_RATIO = "rate ratio"
RATIO_OF_RATIOS = "ratio of rate ratios"


def fit_count_model(
    counts: ArrayLike,
    area_mm2: ArrayLike,
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
    """Fit the model and test the interaction of site and zone (see `fit_site_by_zone`).

    The robust Wald test is the one to trust, for patients' densities vary more in some zones and sites than
    the model's one dispersion has it: with the spreads of Kather's table the model's own 95 % intervals hold
    the truth in 88 %, and its Wald and likelihood-ratio tests reject 8 % with 60 and 60 patients. Against
    chi-square they would also where the model holds: about 7 % with 17 and 25 patients.
    benchmarks/coverage_counts.py measures all of this.

    Where patients have two sites, give `lesions`: without their effect the tests reject too seldom.

    Parameters
    ----------
    counts : (n,) cells, whole numbers from 0; one row per patient (or lesion), site and zone.
    area_mm2 : (n,) assessed area in which they were counted, above 0.
    sites, zones, patients : (n,) names. A zone that is not assessable in a lesion has no row.
    lesions : (n,) names of lesions, or slides, for a random intercept of each within its patient; None for
        none.
    reference_zone : the zone that the others are set against.
    level : of the intervals.

    Raises
    ------
    ValueError : lengths differ, a count or an area is impossible, a site is neither of the two, the reference
        zone does not occur, a lesion has two patients or two sites, or two rows are of one lesion and zone.
    """
    y, area = np.asarray(counts, np.float64), np.asarray(area_mm2, np.float64)
    parts = (y, area, sites, zones, patients, patients if lesions is None else lesions)
    if y.ndim != 1 or len({len(part) for part in parts}) > 1:
        raise ValueError("counts, areas, sites, zones, patients and lesions must be lists of one length")
    mistakes = []
    if not (np.isfinite(y).all() and (y >= 0).all() and (y == np.rint(y)).all()):
        mistakes.append("counts must be whole numbers from 0")
    if not (np.isfinite(area).all() and (area > 0).all()):
        mistakes.append("areas must be above 0")
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
        if y[cell].sum() > 0:
            return None
        return f"not one cell in {where}: its rate has no lower limit (separation)"

    return fit_site_by_zone(
        rows,
        NegativeBinomial(y),
        np.log(area),
        separated=separated,
        units=(RATE_RATIO, RATIO_OF_RATIOS),
        level=level,
        fewest_zones=2,
    )
