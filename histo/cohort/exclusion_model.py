"""The exclusion test of a cohort: one model of the counts of all zones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pandas as pd

from histo.cohort.patients import lesion_names
from histo.cohort.statistics.count_model import fit_count_model
from histo.cohort.statistics.site_by_zone import Ratio, SiteByZoneModel
from histo.cohort.summary import CountModel, RateRatio
from histo.measure.summary import ZONES

REFERENCE_ZONE: Final = "outer_margin"
_TEST: Final = "Robust Wald test of the site by zone interaction"


def exclusion_model(slides: pd.DataFrame, level: float) -> CountModel:
    """Fit the negative binomial mixed model to the counts of slides; see `fit_count_model`.

    Every assessable zone is a row, with its area. Slides of one lesion are pooled; a slide whose lesion is
    not named is a lesion of its own.

    Parameters
    ----------
    slides : rows of one stain of a `CohortTable`, all with patient and site.
    """
    rows = _rows(slides)
    found: dict[str, int] = {
        "n_patients": int(rows["patient"].nunique()),
        "n_slides": int(slides["slide_id"].nunique()),
        "n_observations": len(rows),
    }
    if REFERENCE_ZONE not in set(rows["zone"]):
        return _record(None, found, f"no slide has an assessable {REFERENCE_ZONE.replace('_', ' ')}")
    fitted = fit_count_model(
        rows["n"],
        rows["area_mm2"],
        rows["site"].tolist(),
        rows["zone"].tolist(),
        rows["patient"].tolist(),
        rows["lesion"].tolist(),
        reference_zone=REFERENCE_ZONE,
        level=level,
    )
    return _record(fitted, found, "; ".join(fitted.reasons) or None)


def _rows(slides: pd.DataFrame) -> pd.DataFrame:
    lesion = lesion_names(slides)
    known = {zone: slides[f"density_{zone}_per_mm2"].notna() for zone in ZONES}
    parts = [
        pd.DataFrame(
            {
                "patient": slides["patient"][known[zone]],
                "lesion": lesion[known[zone]],
                "site": slides["site"][known[zone]],
                "zone": zone,
                "n": slides[f"n_positive_{zone}"][known[zone]],
                "area_mm2": slides[f"area_{zone}_mm2"][known[zone]],
            }
        )
        for zone in ZONES
    ]
    together = pd.concat(parts)
    return together.groupby(["patient", "lesion", "site", "zone"], as_index=False, sort=True).sum()


def _record(fitted: SiteByZoneModel | None, found: dict[str, int], reason: str | None) -> CountModel:
    fit = None if fitted is None or reason is not None else fitted.fit
    test = None if fitted is None else fitted.robust_wald
    return CountModel(
        formula=(
            "Negative binomial counts, log area as offset, site x zone, random intercepts of patient and of "
            "lesion within patient"
        ),
        **found,
        reference_zone=REFERENCE_ZONE,
        rate_ratios=() if fitted is None or fit is None else _in_order(fitted.site_ratios),
        interactions=() if fitted is None or fit is None else _in_order(fitted.interactions),
        p_interaction=None if test is None else test.p_value,
        interaction_test=_TEST,
        dispersion_k=None if fit is None else fit.dispersion_k,
        patient_sd=None if fit is None else fit.patient_sd,
        lesion_sd=None if fit is None else fit.lesion_sd,
        notes=() if fitted is None else fitted.remarks,
        not_assessable=reason,
    )


def _in_order(ratios: Iterable[Ratio]) -> tuple[RateRatio, ...]:
    """Return ratios in the order of the zones."""
    by_zone = {found.zone: found for found in ratios}
    return tuple(
        RateRatio(zone=zone, ratio=by_zone[zone].ratio, p=by_zone[zone].p_value)
        for zone in ZONES
        if zone in by_zone
    )
