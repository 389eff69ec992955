"""The states of CD8+ cells, metastasis against primary: fractions of patients, and a model of the counts."""

from __future__ import annotations

from collections.abc import Sequence
from math import atanh, sqrt, tanh
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from histo.cohort.compare import compare_values
from histo.cohort.config import CohortConfig
from histo.cohort.patients import lesion_names, patient_values
from histo.cohort.states_table import CohortStates
from histo.cohort.statistics.fraction_model import fit_fraction_model
from histo.cohort.statistics.site_by_zone import Ratio, SiteByZoneModel
from histo.cohort.summary import (
    SITES,
    Design,
    Exclusion,
    FractionModel,
    JointPoint,
    JointView,
    OddsRatio,
    SiteCorrelation,
    StateFraction,
    StateResults,
    StatesResults,
)
from histo.errors import ConfigError
from histo.measure.catalogue import EXCLUSION
from histo.measure.measure import Measure
from histo.measure.state.fractions import OF_CD8, too_few
from histo.measure.state.rules import parse_rule
from histo.measure.state.summary import STATE_ZONES, StateDefinition
from histo.measure.state.words import kind_of
from histo.measure.summary import ZONES, Estimate

ALL: Final = "all"
REFERENCE_ZONE: Final = "outer_margin"
ZONE_LABELS: Final[dict[str, str]] = {
    ALL: "all assessed tissue",
    **{zone: zone.replace("_", " ") for zone in ZONES},
}
_RHO: Final = "Spearman's rho"
# Of fewer patients a rank correlation says nothing.
_FEWEST_POINTS: Final = 6


def check_primary_state(states: CohortStates | None, config: CohortConfig) -> None:
    """Raise ConfigError where the state declared first is not among those of a cohort."""
    if config.primary_state is None:
        return
    names = [] if states is None else [state.name for state in states.definitions]
    if config.primary_state not in names:
        raise ConfigError(
            f"primary_state {config.primary_state!r} is not in this cohort",
            fix=f"Name one of {', '.join(names)}" if names else "This cohort has no states: run histo states",
        )


def compare_states(
    placed: pd.DataFrame,
    states: CohortStates,
    design: tuple[Design, str],
    config: CohortConfig,
    n_slides_without: int,
) -> StatesResults:
    """Compare the sites in every state, by zone and over all tissue; adjusted p values are None.

    Parameters
    ----------
    placed : slides with states, of one stain of a `CohortTable`, all with patient and site.
    states : of these slides.
    """
    exclusion = patient_values(placed, EXCLUSION[0], config.log_offset_per_mm2)
    told = [state for state in states.definitions if state.not_assessable is None]
    return StatesResults(
        design=design[0],
        design_reason=design[1],
        n_slides=len(placed),
        n_slides_without=n_slides_without,
        min_cd8_cells=config.min_cd8_cells,
        gates=tuple(states.gates),
        states=tuple(_state(state, placed, states, exclusion, design[0], config) for state in told),
        not_assessable=tuple(
            Exclusion(name=state.name, reason=state.not_assessable)
            for state in states.definitions
            if state.not_assessable is not None
        ),
        notes=tuple(states.notes),
        limits=states.limits,
    )


def _state(
    state: StateDefinition,
    placed: pd.DataFrame,
    states: CohortStates,
    exclusion: pd.DataFrame,
    design: Design,
    config: CohortConfig,
) -> StateResults:
    counts = states.counts[states.counts["state"] == state.name].dropna(subset=["n_cd8", "n_positive"])
    whose = placed[["slide_id", "patient", "site"]].assign(lesion=lesion_names(placed))
    rows = whose.merge(counts, on="slide_id")
    is_primary = state.name == config.primary_state
    fractions = tuple(_fraction(state, rows, zone, design, config) for zone in STATE_ZONES)
    level = config.confidence_level
    in_zones = rows[rows["zone"] != ALL]
    return StateResults(
        state=state.name,
        rule=state.rule,
        description=state.description,
        is_primary_state=is_primary,
        fractions=fractions,
        overall=_model(rows[rows["zone"] == ALL], ALL, level),
        by_zone=_model(in_zones, REFERENCE_ZONE, level),
        joint=joint_view(
            exclusion,
            patient_fractions(rows[rows["zone"] == config.primary_state_zone], config.min_cd8_cells)[0],
            kind_of(state.name, parse_rule(state.rule)),
            config,
        ),
    )


def patient_fractions(rows: pd.DataFrame, min_cd8_cells: int) -> tuple[pd.DataFrame, tuple[Exclusion, ...]]:
    """Return the fraction of each patient at each site, and who has too few CD8+ cells for one.

    All positive cells of a patient's slides at a site, over all their CD8+ cells.

    Parameters
    ----------
    rows : slide_id, patient, lesion, site, n_cd8, n_positive, area_mm2 of one state in one zone.

    Returns
    -------
    Columns patient, site, value, n_slides, n_lesions, area_mm2, n_cd8, n_positive, ordered by patient and
    site.
    """
    pooled = (
        rows.groupby(["patient", "site"], sort=True)
        .agg(
            n_slides=("slide_id", "size"),
            n_lesions=("lesion", "nunique"),
            area_mm2=("area_mm2", lambda areas: areas.sum(min_count=1)),
            n_cd8=("n_cd8", "sum"),
            n_positive=("n_positive", "sum"),
        )
        .reset_index()
    )
    enough = pooled["n_cd8"] >= min_cd8_cells
    without = tuple(
        Exclusion(name=row["patient"], reason=f"{row['site']}: {too_few(int(row['n_cd8']), min_cd8_cells)}")
        for row in pooled[~enough].to_dict(orient="records")
    )
    known = pooled[enough].reset_index(drop=True)
    return known.assign(value=known["n_positive"] / known["n_cd8"]), without


def _fraction(
    state: StateDefinition, rows: pd.DataFrame, zone: str, design: Design, config: CohortConfig
) -> StateFraction:
    """Compare fractions as they are, not their logits.

    A patient's fraction is without bias however few CD8+ cells it rests on. The logit of (n + 1/2) of (N + 1)
    is not: of 0 positive cells it is the lower the more cells were counted, and metastases often hold fewer.
    """
    values, without = patient_fractions(rows[rows["zone"] == zone], config.min_cd8_cells)
    measure = Measure(
        name=f"fraction {state.name}, {zone}",
        label=f"{state.name}, {ZONE_LABELS[zone]}",
        unit=OF_CD8,
        meaning=f"fraction of CD8+ cells that are {state.name}",
        higher_means="more of them are",
        source="cells with the state over CD8+ cells",
    )
    declared = state.name == config.primary_state and zone == config.primary_state_zone
    comparison = compare_values(values, measure, design, config, declared=declared, no_value=without)
    used = values[values["patient"].isin({value.patient for value in comparison.values})]
    by_site = {site: used[used["site"] == site] for site in SITES}
    return StateFraction(
        zone=zone,
        n_cd8={site: int(part["n_cd8"].sum()) for site, part in by_site.items()},
        n_positive={site: int(part["n_positive"].sum()) for site, part in by_site.items()},
        comparison=comparison,
    )


def _model(rows: pd.DataFrame, reference_zone: str, level: float) -> FractionModel:
    """Fit the counts of lesions, by zone or over all tissue; what has no CD8+ cell tells nothing."""
    pooled = rows.groupby(["patient", "lesion", "site", "zone"], as_index=False, sort=True)[
        ["n_cd8", "n_positive"]
    ].sum()
    pooled = pooled[pooled["n_cd8"] > 0]
    by_zone = reference_zone != ALL
    fitted, reason = None, None
    if pooled.empty:
        reason = "no CD8+ cell in any zone" if by_zone else "no CD8+ cell on any slide"
    elif reference_zone not in set(pooled["zone"]):
        reason = f"no slide has CD8+ cells in an assessable {ZONE_LABELS[reference_zone]}"
    elif by_zone and pooled["zone"].nunique() < 2:
        reason = "only one zone: no difference between zones"
    else:
        fitted = fit_fraction_model(
            pooled["n_positive"],
            pooled["n_cd8"],
            pooled["site"].tolist(),
            pooled["zone"].tolist(),
            pooled["patient"].tolist(),
            pooled["lesion"].tolist(),
            reference_zone=reference_zone,
            level=level,
        )
        reason = "; ".join(fitted.reasons) or None
    return _record(fitted, pooled, reference_zone, reason)


def _record(
    fitted: SiteByZoneModel | None, rows: pd.DataFrame, reference_zone: str, reason: str | None
) -> FractionModel:
    fit = None if fitted is None or reason is not None else fitted.fit
    fixed = "site" if reference_zone == ALL else "site x zone"
    effects = [
        name
        for name, there in (
            ("patient", rows["patient"].duplicated().any()),
            ("lesion within patient", len(rows) > rows["lesion"].nunique() > rows["patient"].nunique()),
        )
        if there
    ]
    intercepts = f", random intercept of {' and of '.join(effects)}" if effects else ""
    robust = None if fitted is None else fitted.robust_wald
    ratio = None if fitted is None else fitted.likelihood_ratio
    return FractionModel(
        formula=f"Beta-binomial counts of CD8+ cells, {fixed}{intercepts}",
        n_patients=int(rows["patient"].nunique()),
        n_lesions=int(rows["lesion"].nunique()),
        n_observations=len(rows),
        n_cd8=int(rows["n_cd8"].sum()),
        reference_zone=reference_zone,
        odds_ratios=() if fitted is None or fit is None else _in_order(fitted.site_ratios),
        interactions=() if fitted is None or fit is None else _in_order(fitted.interactions),
        test=f"Robust Wald test of the {'site' if reference_zone == ALL else 'site by zone interaction'}",
        p=None if robust is None else robust.p_value,
        p_adjusted=None,
        p_likelihood_ratio=None if ratio is None else ratio.p_value,
        dispersion_k=None if fit is None else fit.dispersion_k,
        patient_sd=None if fit is None else fit.patient_sd,
        lesion_sd=None if fit is None else fit.lesion_sd,
        notes=() if fitted is None else fitted.remarks,
        not_assessable=reason,
    )


def _in_order(ratios: Sequence[Ratio]) -> tuple[OddsRatio, ...]:
    by_zone = {found.zone: found for found in ratios}
    return tuple(
        OddsRatio(zone=zone, ratio=by_zone[zone].ratio, p=by_zone[zone].p_value)
        for zone in STATE_ZONES
        if zone in by_zone
    )


def joint_view(
    exclusion: pd.DataFrame, fractions: pd.DataFrame, kind: str, config: CohortConfig
) -> JointView:
    """Set log2 core : outer margin of each patient and site beside the fraction with a state.

    Correlations are within a site: over both, a difference between the sites would make one by itself, and a
    patient with both would count twice.

    Parameters
    ----------
    exclusion, fractions : patient, site and value, a row per patient and site.
    kind : what may be said of a cell with the state, e.g. "checkpoint-positive".
    """
    joined = exclusion.merge(fractions, on=["patient", "site"], suffixes=("_exclusion", "_fraction"))
    log2, fraction = (joined[f"value_{which}"].to_numpy(np.float64) for which in ("exclusion", "fraction"))
    zone = config.primary_state_zone
    if joined.empty:
        return JointView(
            zone=zone,
            points=(),
            correlations=(),
            exclusion_cutoff=None,
            fraction_cutoff=None,
            quadrants={},
            not_assessable="no patient has both a tumour core with an outer margin and this fraction",
        )
    cut_log2, cut_fraction = float(np.median(log2)), float(np.median(fraction))
    is_excluded, is_positive = log2 < cut_log2, fraction > cut_fraction
    site = joined["site"].to_numpy(str)
    quadrants = {
        (True, True): f"excluded and {kind}",
        (True, False): f"excluded, not {kind}",
        (False, True): f"{kind}, not excluded",
        (False, False): "neither",
    }
    return JointView(
        zone=zone,
        points=tuple(
            JointPoint(patient=p, site=s, log2_core_outer=x, fraction=y)
            for p, s, x, y in zip(joined["patient"], joined["site"], log2, fraction, strict=True)
        ),
        correlations=tuple(
            SiteCorrelation(
                site=name,
                n_patients=int((site == name).sum()),
                rho=spearman(log2[site == name], fraction[site == name], config.confidence_level),
            )
            for name in SITES
        ),
        exclusion_cutoff=cut_log2,
        fraction_cutoff=cut_fraction,
        quadrants={
            label: {
                name: int(((is_excluded == out) & (is_positive == high) & (site == name)).sum())
                for name in SITES
            }
            for (out, high), label in quadrants.items()
        },
        not_assessable=None,
    )


def spearman(x: NDArray[np.float64], y: NDArray[np.float64], level: float) -> Estimate:
    """Return Spearman's rank correlation with its interval on Fisher's z scale.

    Its variance there is (1 + r^2 / 2) / (n - 3) (Bonett and Wright 2000, Psychometrika 65:23). NA below 6
    patients, and where all values of one are the same.
    """
    n = len(x)
    if n < _FEWEST_POINTS:
        return Estimate.missing(_RHO, f"{n} patients, {_FEWEST_POINTS} needed")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Estimate.missing(_RHO, "all values of one of the two are the same")
    found: Any = stats.spearmanr(x, y)
    r = float(found.statistic)
    if abs(r) > 1 - 1e-12:
        return Estimate(value=round(r), unit=_RHO)
    half = float(stats.norm.isf((1 - level) / 2)) * sqrt((1 + r**2 / 2) / (n - 3))
    return Estimate(value=r, low=tanh(atanh(r) - half), high=tanh(atanh(r) + half), unit=_RHO)
