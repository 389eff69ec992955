"""What the models of counts and of fractions share: site by zone, patients and lesions as random effects.

    link(E) = site + zone + site x zone + patient (+ lesion within patient)

Both are mixed models (see `mixed_model`) of rows by lesion and zone. Their exponentiated coefficients are
ratios: rate ratios of counts, odds ratios of fractions. The interaction says whether the step from the
reference zone to another differs between the sites; what is common to a lesion cancels from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from histo.cohort.statistics.mixed_model import Array, Family, Fit, Layout, fit
from histo.measure.summary import Estimate

Kind = Literal["Wald", "likelihood ratio", "robust Wald"]

# A Newton step that would add more than this to twice the log-likelihood: the maximum was not reached.
_LARGEST_DECREMENT = 1e-4
# A coefficient that is known no better than by this factor is not known: some cell is all but empty.
_LARGEST_ERROR = 5.0
# Variances of fewer patients than this are guesses; benchmarks/coverage_counts.py looks from 10 a site up.
_FEWEST_PATIENTS = 5
# Counts so dispersed: most cells are in very few rows.
_SMALLEST_K = 0.02


@dataclass(frozen=True)
class Ratio:
    """A ratio of rates or odds with its interval and two-sided p value; `zone` says of which zone."""

    zone: str
    ratio: Estimate
    p_value: float | None


@dataclass(frozen=True)
class EffectTest:
    """Test of all interactions at once (of the site, where there is one zone), by F of df and df_error."""

    kind: Kind
    f: float
    df: int
    df_error: float
    p_value: float


@dataclass(frozen=True)
class SiteByZoneModel:
    """The fitted model.

    Parameters
    ----------
    reasons : why the fit cannot be trusted; empty where it can. Ratios then have no value and tests are None.
    remarks : what a reader should know of a fit that can be trusted.
    site_ratios : other site to reference site, per zone.
    interactions : the site ratio of each zone over that of the reference zone.
    fit : the maximum itself, on the scale of the link; coefficients named by `terms`. None where nothing was
        fitted.
    """

    n_rows: int
    n_patients: int
    n_lesions: int
    reference_site: str
    other_site: str
    reference_zone: str
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]
    site_ratios: tuple[Ratio, ...]
    interactions: tuple[Ratio, ...]
    wald: EffectTest | None
    likelihood_ratio: EffectTest | None
    robust_wald: EffectTest | None
    terms: tuple[str, ...]
    fit: Fit | None

    @property
    def trusted(self) -> bool:
        """Whether the numbers may be used."""
        return not self.reasons


@dataclass(frozen=True)
class Rows:
    """Whose each row is, and where it was taken."""

    reference_site: str
    other_site: str
    other: NDArray[np.bool_]  # of the other site
    zone: NDArray[np.intp]  # place in `zones`
    zones: tuple[str, ...]  # the reference zone first
    patient: NDArray[np.intp]
    lesion: NDArray[np.intp]
    patient_of_lesion: NDArray[np.intp]
    has_patient_effect: bool
    has_lesion_effect: bool


def rows_of(
    sites: Sequence[str],
    zones: Sequence[str],
    patients: Sequence[str],
    lesions: Sequence[str] | None,
    *,
    reference_site: str,
    other_site: str,
    reference_zone: str,
    mistakes: Sequence[str] = (),
) -> Rows:
    """Check whose each row is.

    Parameters
    ----------
    sites, zones, patients, lesions : (n,) names; without lesions each patient has one at each site.
    mistakes : what the caller found wrong with the rows' values, to be told together.

    Raises
    ------
    ValueError : there are `mistakes`, a site is neither of the two, the reference zone does not occur, a
        lesion has two sites, or two rows are of one lesion and zone.
    """
    site, zone, patient = (np.asarray(names, dtype=str) for names in (sites, zones, patients))
    lesion = np.char.add(
        np.char.add(patient, "\0"), site if lesions is None else np.asarray(lesions, dtype=str)
    )
    found = list(mistakes)
    if strange := sorted(set(site) - {reference_site, other_site}):
        found.append(f"sites other than {reference_site} and {other_site}: {', '.join(strange)}")
    if reference_zone not in set(zone):
        found.append(f"no row of the reference zone {reference_zone!r}")
    names, first, lesion_index = np.unique(lesion, return_index=True, return_inverse=True)
    if (site[first][lesion_index] != site).any():
        found.append("a lesion has rows of both sites")
    if len(set(zip(lesion, zone, strict=True))) < len(zone):
        found.append("a zone has more than one row of a lesion: pool them first")
    if found:
        raise ValueError("; ".join(found))
    order = (reference_zone, *(name for name in dict.fromkeys(zone.tolist()) if name != reference_zone))
    patient_names, patient_index = np.unique(patient, return_inverse=True)
    return Rows(
        reference_site=reference_site,
        other_site=other_site,
        other=site == other_site,
        zone=np.array([order.index(name) for name in zone], np.intp),
        zones=order,
        patient=patient_index,
        lesion=lesion_index,
        patient_of_lesion=patient_index[first],
        # What has one row each is told by the dispersion; where each patient has one lesion the two effects
        # are one.
        has_patient_effect=len(patient) > len(patient_names),
        has_lesion_effect=lesions is not None and len(patient) > len(names) > len(patient_names),
    )


def fit_site_by_zone(
    rows: Rows,
    family: Family,
    offset: Array,
    *,
    separated: Callable[[NDArray[np.bool_], str], str | None],
    units: tuple[str, str],
    level: float,
    fewest_zones: int = 1,
) -> SiteByZoneModel:
    """Fit the model and test the interaction of site and zone; with one zone, the site.

    Intervals, their p values and the robust Wald test stand on how the patients themselves scatter: a
    sandwich with the small-sample correction CR2, referred to Student's t, and to F as Hotelling's T2, with
    the degrees of freedom that such a covariance has (see `mixed_model.Sandwich`).

    The Wald and the likelihood-ratio test take the model at its word. They are referred to F by the relations
    that are exact in the balanced Gaussian model, whose maximum-likelihood variance is too small by df_error
    / n: the Wald statistic times df_error / (n df), and df_error / df (exp(LR / n) - 1) for the likelihood
    ratio LR. There are n contrasts within lesions (patients, without their effect), df_error of them free of
    fixed effects, counted by containment as in R's nlme (Pinheiro and Bates 2000, Mixed-Effects Models in S
    and S-PLUS, section 2.4.2).

    Parameters
    ----------
    offset : (n,) of the predictor.
    separated : why rows (a mask, and where they are, in words) have no finite coefficient; None where they
        have.
    units : of the ratios by site, and of the interactions.
    level : of the intervals.
    """
    design, terms = _design(rows)
    if len(rows.zones) < fewest_zones:
        reasons = ["only one zone: nothing to compare the sites by"]
    else:
        reasons = _not_estimable(rows, design, separated)
    remarks: list[str] = []
    full = null = None
    one_zone = len(rows.zones) == 1
    if not reasons:
        full = fit(_layout(rows, family, offset, design))
        null = fit(_layout(rows, family, offset, design[:, : 1 if one_zone else 1 + len(rows.zones)]))
        reasons += _not_converged(full, null)
        remarks += _remarks(full)
    wald = likelihood_ratio = robust_wald = None
    if full is not None and null is not None and not reasons:
        wald, likelihood_ratio, robust_wald = _tests(full, null, rows, design)
        if robust_wald is None:
            remarks.append("too few patients hold nearly all cells: no robust test of all zones at once")
    trusted = None if reasons else full
    site_ratios, interactions = [], []
    for place, zone in enumerate(rows.zones):
        contrast = np.zeros(design.shape[1])
        if place > 0:
            contrast[len(rows.zones) + place] = 1
            interactions.append(_ratio(zone, contrast, trusted, level, units[1], reasons))
        contrast[1] = 1
        site_ratios.append(_ratio(zone, contrast, trusted, level, units[0], reasons))
    return SiteByZoneModel(
        n_rows=len(rows.other),
        n_patients=int(rows.patient.max()) + 1,
        n_lesions=len(rows.patient_of_lesion),
        reference_site=rows.reference_site,
        other_site=rows.other_site,
        reference_zone=rows.zones[0],
        reasons=tuple(reasons),
        remarks=tuple(remarks),
        site_ratios=tuple(site_ratios),
        interactions=tuple(interactions),
        wald=wald,
        likelihood_ratio=likelihood_ratio,
        robust_wald=robust_wald,
        terms=terms,
        fit=full,
    )


def _design(rows: Rows) -> tuple[Array, tuple[str, ...]]:
    other = rows.other.astype(np.float64)
    by_zone = (rows.zone[:, None] == np.arange(1, len(rows.zones))).astype(np.float64)
    columns = [np.ones(len(other)), other, *by_zone.T, *(by_zone * other[:, None]).T]
    further = rows.zones[1:]
    terms = ("intercept", "site", *further, *(f"site:{zone}" for zone in further))
    return np.column_stack(columns), terms


def _layout(rows: Rows, family: Family, offset: Array, design: Array) -> Layout:
    return Layout(
        family=family,
        offset=offset,
        design=design,
        patient=rows.patient,
        lesion=rows.lesion,
        patient_of_lesion=rows.patient_of_lesion,
        has_patient_effect=rows.has_patient_effect,
        has_lesion_effect=rows.has_lesion_effect,
    )


def _not_estimable(
    rows: Rows, design: Array, separated: Callable[[NDArray[np.bool_], str], str | None]
) -> list[str]:
    reasons = []
    for is_other, site in ((False, rows.reference_site), (True, rows.other_site)):
        at_site = rows.other == is_other
        n_patients = len(set(rows.patient[at_site].tolist()))
        if n_patients < _FEWEST_PATIENTS:
            reasons.append(f"{n_patients} patients with {site}, {_FEWEST_PATIENTS} needed")
            continue
        for place, zone in enumerate(rows.zones):
            cell = at_site & (rows.zone == place)
            if not cell.any():
                reasons.append(f"{zone} of {site} is nowhere assessable")
                continue
            where = site if len(rows.zones) == 1 else f"{zone} of {site}"
            if (why := separated(cell, where)) is not None:
                reasons.append(why)
    if not reasons and _contrasts(rows, design)[1] < 1:
        reasons.append("no more rows than the model has parameters")
    return reasons


def _not_converged(full: Fit, null: Fit) -> list[str]:
    reasons = []
    if not all(found.definite and found.decrement < _LARGEST_DECREMENT for found in (full, null)):
        reasons.append("the likelihood's maximum was not found")
    elif sqrt(float(np.diag(full.covariance).max())) > _LARGEST_ERROR:
        reasons.append("a ratio is all but undetermined: too few cells in some zone of a site (separation)")
    if full.dispersion_k < _SMALLEST_K:
        reasons.append(f"counts vary more than the model can take (k = {full.dispersion_k:.2g})")
    return reasons


def _remarks(full: Fit) -> list[str]:
    said = {
        "patient": "no variance between patients beyond that of their rows: it is at its limit, 0",
        "lesion": "no variance between lesions beyond that of patients and rows: it is at its limit, 0",
        "dispersion": "counts vary no more than by chance: the dispersion is at its limit",
    }
    return [said[name] for name in full.at_boundary]


def _contrasts(rows: Rows, design: Array) -> tuple[int, int]:
    """Return the contrasts within the innermost random effect, and those free of fixed effects."""
    n = len(rows.other)
    if not rows.has_patient_effect:
        return n, n - int(np.linalg.matrix_rank(design))
    inner = rows.lesion if rows.has_lesion_effect else rows.patient
    return n - int(inner.max()) - 1, n - _rank(design, inner)


def _rank(design: Array, group: NDArray[np.intp]) -> int:
    """Return the rank of a design and the groups' intercepts: centring within groups takes the latter out."""
    size = np.bincount(group)
    means = np.column_stack([np.bincount(group, column) / size for column in design.T])
    return len(size) + int(np.linalg.matrix_rank(design - means[group], tol=1e-8))


def _tests(
    full: Fit, null: Fit, rows: Rows, design: Array
) -> tuple[EffectTest, EffectTest, EffectTest | None]:
    """Return the Wald, the likelihood-ratio and the robust Wald test.

    The last is None where one or two patients hold nearly all of the cells that it rests on.
    """
    assert full.sandwich is not None, "a fit that is not definite is not trusted"
    q = max(1, len(rows.zones) - 1)
    effect = full.beta[-q:]
    wald, t_squared = (
        float(effect @ np.linalg.solve(covariance[-q:, -q:], effect))
        for covariance in (full.covariance, full.sandwich.covariance)
    )
    ratio = max(0.0, 2 * (full.log_likelihood - null.log_likelihood))
    n, free = _contrasts(rows, design)
    known = full.sandwich.degrees_of_freedom(np.eye(design.shape[1])[-q:])
    return (
        _f_test("Wald", wald / q * free / n, q, free),
        _f_test("likelihood ratio", float(np.expm1(ratio / n)) * free / q, q, free),
        _f_test("robust Wald", t_squared / q * (known - q + 1) / known, q, known - q + 1)
        if known > q
        else None,
    )


def _f_test(kind: Kind, f: float, df: int, df_error: float) -> EffectTest:
    return EffectTest(kind, f, df, df_error, float(stats.f.sf(f, df, df_error)))


def _ratio(
    zone: str, contrast: Array, full: Fit | None, level: float, unit: str, reasons: list[str]
) -> Ratio:
    if full is None or full.sandwich is None:
        return Ratio(zone, Estimate.missing(unit, "; ".join(reasons)), None)
    df = full.sandwich.degrees_of_freedom(contrast[None, :])
    value = float(contrast @ full.beta)
    error = sqrt(float(contrast @ full.sandwich.covariance @ contrast))
    half = float(stats.t.isf((1 - level) / 2, df)) * error
    estimate = Estimate(value=exp(value), low=exp(value - half), high=exp(value + half), unit=unit)
    return Ratio(zone, estimate, 2 * float(stats.t.sf(abs(value) / error, df)))
