"""From a cohort's table to everything its report says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from histo import __version__
from histo.cohort.compare import compare
from histo.cohort.config import CohortConfig
from histo.cohort.covariates import describe_covariates, subgroups
from histo.cohort.exclusion_model import exclusion_model
from histo.cohort.margins import fits, with_margins
from histo.cohort.patients import lesion_names, patient_values
from histo.cohort.phenotypes import phenotype_shares, pooled_cutoff
from histo.cohort.profiles import site_profiles
from histo.cohort.states import check_primary_state, compare_states
from histo.cohort.statistics.multiplicity import benjamini_hochberg, holm
from histo.cohort.summary import (
    SITES,
    CohortSummary,
    Comparison,
    Design,
    Exclusion,
    FractionModel,
    PhenotypeShares,
    Sensitivity,
    Site,
    SiteCount,
    StainResults,
    StateResults,
    StatesResults,
)
from histo.cohort.table import CohortTable
from histo.errors import ConfigError
from histo.measure.catalogue import DENSITIES, EXCLUSION
from histo.measure.measure import Measure
from histo.measure.summary import ZONES, DistanceBin, Estimate

_Tested = TypeVar("_Tested", Comparison, FractionModel)

_NO_STAIN = "CD8"
_NO_RATIO = "no tumour core or no outer margin: not in the ratio of the two"


def analyse_cohort(table: CohortTable, config: CohortConfig) -> CohortSummary:
    """Compare metastases with primary tumours, stain by stain.

    Raises
    ------
    ConfigError : no slide has a patient and a site, or the declared measure is not in the table.
    """
    slides = table.slides.assign(stain=table.slides["stain"].fillna(_NO_STAIN))
    placed = slides["patient"].notna() & slides["site"].notna()
    measures = (*DENSITIES, *table.measures)
    if config.primary_measure not in {measure.name for measure in measures}:
        raise ConfigError(
            f"primary_measure {config.primary_measure!r} is not in this cohort",
            fix=f"Name one of {', '.join(measure.name for measure in measures)}",
        )
    check_primary_state(table.states, config)
    if not placed.any():
        raise ConfigError(
            f"no slide of {table.source} has a patient and a site: there is nothing to compare",
            fix="Give a --manifest with the columns slide, patient and site",
        )
    results = [
        _stain(stain, slides[slides["stain"] == stain], table, measures, config)
        for stain in _in_order(slides["stain"][placed])
    ]
    return CohortSummary(
        title=config.title,
        histo_version=__version__,
        source=table.source,
        manifest=table.manifest,
        primary_measure=config.primary_measure,
        primary_state=config.primary_state,
        confidence_level=config.confidence_level,
        seed=config.seed,
        bootstrap_samples=config.bootstrap_samples,
        permutations=config.permutations,
        notes=table.notes,
        excluded=table.excluded,
        stains=_with_adjusted(results),
    )


def _declared(measures: Sequence[Measure], config: CohortConfig) -> Measure:
    return next(measure for measure in measures if measure.name == config.primary_measure)


def _in_order(stains: pd.Series[str]) -> list[str]:
    """Return each stain once: CD8 first, the others by name."""
    return sorted(set(stains), key=lambda stain: (not stain.upper().startswith("CD8"), stain))


def choose_design(slides: pd.DataFrame, config: CohortConfig) -> tuple[Design, str, int]:
    """Return the design, why, and how many patients have slides of both sites."""
    sites = slides.groupby("patient")["site"].nunique()
    n_pairs, n_patients = int((sites > 1).sum()), len(sites)
    have = f"{n_pairs} of {n_patients} patients have both sites"
    if config.design != "auto":
        return config.design, f"as configured; {have}", n_pairs
    if n_pairs == 0:
        return "unpaired", "no patient has both sites", n_pairs
    if 2 * n_pairs >= n_patients:
        return "paired", have, n_pairs
    return "unpaired", f"only {have}; they count at both, as if they were two", n_pairs


def _stain(
    stain: str,
    slides: pd.DataFrame,
    table: CohortTable,
    measures: Sequence[Measure],
    config: CohortConfig,
) -> StainResults:
    """Analyse the slides of one stain; those without patient or site count for the pooled cut-off only."""
    placed = slides[slides["patient"].notna() & slides["site"].notna()]
    design, reason, n_pairs = choose_design(placed, config)
    profiles = {name: table.profiles[name] for name in placed["slide_id"] if name in table.profiles}
    sensitivity = _sensitivity(placed, profiles, table.margin_um, design, config)
    positive_name = table.positive_name or f"{stain}+"
    known = [m for m in measures if _is_known(placed, m, config) or m.name == config.primary_measure]
    told = ("growth_pattern", "treatment", *table.covariates)
    return StainResults(
        stain=stain,
        positive_name=positive_name,
        design=design,
        design_reason=reason,
        groups=tuple(_all_of(placed, site) for site in SITES),
        n_pairs=n_pairs,
        excluded=_unplaced(slides),
        flagged=_flagged(placed, design),
        comparisons=tuple(compare(placed, measure, design, config) for measure in known),
        not_measured=tuple(measure.label for measure in measures if measure not in known),
        count_model=exclusion_model(placed, config.confidence_level),
        profiles=()
        if not profiles
        else site_profiles(
            placed,
            profiles,
            level=config.confidence_level,
            bootstrap_samples=config.bootstrap_samples,
            seed=config.seed,
        ),
        profiles_not_assessable=None if profiles else "this source has none",
        phenotypes=_phenotypes(slides, placed, design, positive_name, config),
        covariates=describe_covariates(placed, told),
        subgroups=subgroups(placed, told, _declared(measures, config), design, config),
        sensitivity=() if isinstance(sensitivity, str) else sensitivity,
        sensitivity_not_assessable=sensitivity if isinstance(sensitivity, str) else None,
        states=_states(placed, table, config),
    )


def _states(placed: pd.DataFrame, table: CohortTable, config: CohortConfig) -> StatesResults | None:
    states = None if table.states is None else table.states.of_slides(placed["slide_id"].tolist())
    if states is None:
        return None
    with_states = placed[placed["slide_id"].isin(states.counts["slide_id"])]
    design, reason, _ = choose_design(with_states, config)
    return compare_states(with_states, states, (design, reason), config, len(placed) - len(with_states))


def _is_known(placed: pd.DataFrame, measure: Measure, config: CohortConfig) -> bool:
    return not patient_values(placed, measure, config.log_offset_per_mm2).empty


def _all_of(placed: pd.DataFrame, site: Site) -> SiteCount:
    slides = placed[placed["site"] == site]
    areas = slides[[f"area_{zone}_mm2" for zone in ZONES]].to_numpy(np.float64)
    return SiteCount(
        site=site,
        n_patients=int(slides["patient"].nunique()),
        n_lesions=int(lesion_names(slides).nunique()),
        n_slides=len(slides),
        area_mm2=None if np.isnan(areas).all() else float(np.nansum(areas)),
    )


def _unplaced(slides: pd.DataFrame) -> tuple[Exclusion, ...]:
    return tuple(
        Exclusion(
            name=row["slide_id"],
            reason=" and ".join(f"no {what}" for what in ("patient", "site") if pd.isna(row[what])),
        )
        for row in slides.to_dict(orient="records")
        if pd.isna(row["patient"]) or pd.isna(row["site"])
    )


def _flagged(placed: pd.DataFrame, design: Design) -> tuple[Exclusion, ...]:
    """Return what a reader must know of slides and patients that are in the comparison."""
    flagged = [
        Exclusion(name=row["slide_id"], reason=_NO_RATIO)
        for row in placed.to_dict(orient="records")
        if pd.isna(row["density_core_per_mm2"]) or pd.isna(row["density_outer_margin_per_mm2"])
    ]
    sites = placed.groupby("patient")["site"].nunique()
    if design == "unpaired":
        reason = "has both sites in an unpaired comparison: its two values are not independent"
        flagged += [Exclusion(name=patient, reason=reason) for patient in sites.index[sites > 1]]
    else:
        reason = "has one site only: in the count model, not in paired comparisons"
        flagged += [Exclusion(name=patient, reason=reason) for patient in sites.index[sites == 1]]
    return tuple(flagged)


def _phenotypes(
    slides: pd.DataFrame, placed: pd.DataFrame, design: Design, positive_name: str, config: CohortConfig
) -> tuple[PhenotypeShares, ...]:
    """Return phenotypes at the published cut-off (of CD8+ cells only), this cohort's own, and others."""
    cutoffs: list[tuple[float, str]] = []
    own = pooled_cutoff(slides)
    if positive_name == "CD8+":
        fixed = config.phenotype_cutoff_per_mm2
        cutoffs.append((fixed, "as configured; the default is that of Kather 2018 for CD8"))
        others = [(fixed * factor, f"{factor:g} times that") for factor in config.cutoff_factors]
    else:
        others = []
    if own is not None:
        n = int(slides[["density_core_per_mm2", "density_outer_margin_per_mm2"]].notna().all(axis=1).sum())
        cutoffs.append((own, f"median over core and outer margin of all {n} slides of this stain"))
    return tuple(phenotype_shares(placed, cutoff, source, design) for cutoff, source in (*cutoffs, *others))


def _sensitivity(
    placed: pd.DataFrame,
    profiles: Mapping[str, Sequence[DistanceBin]],
    margin_um: float | None,
    design: Design,
    config: CohortConfig,
) -> tuple[Sensitivity, ...] | str:
    """Return log2 core : outer margin with other widths of the margins, or why there is none."""
    if not profiles or margin_um is None:
        return "other widths need distance profiles, which this source has not"
    measure = EXCLUSION[0]
    found = []
    for width in config.margins_um:
        if not fits(profiles, width):
            missing = Estimate.missing(measure.unit, "lies between two bins of the distance profiles")
            found.append(Sensitivity(margin_um=width, n_primary=0, n_metastasis=0, shift=missing, p=None))
            continue
        changed = with_margins(
            placed, profiles, width, configured_um=margin_um, min_area_mm2=config.min_zone_area_mm2
        )
        comparison = compare(changed, measure, design, config)
        primary, metastasis = comparison.groups
        found.append(
            Sensitivity(
                margin_um=width,
                n_primary=primary.n_patients,
                n_metastasis=metastasis.n_patients,
                shift=comparison.shift,
                p=comparison.p,
            )
        )
    return tuple(found)


def _with_adjusted(results: Sequence[StainResults]) -> tuple[StainResults, ...]:
    """Adjust p values over all stains: what was declared after Holm, the others Benjamini-Hochberg.

    Measures of place, fractions by state and zone, and the two models of each state are families of their
    own; the declared measure and the declared state are one.
    """
    places = [c for stain in results for c in stain.comparisons]
    states = [state for stain in results if stain.states for state in stain.states.states]
    fractions = [fraction.comparison for state in states for fraction in state.fractions]
    declared = iter(holm([c.p if c.is_primary_measure else None for c in (*places, *fractions)]))
    # By the record itself: two of them may be equal.
    adjusted: dict[int, float | None] = {}
    for family in (places, fractions):
        others = benjamini_hochberg([None if c.is_primary_measure else c.p for c in family])
        adjusted |= {
            id(c): one if (one := next(declared)) is not None else other
            for c, other in zip(family, others, strict=True)
        }
    for models in ([state.overall for state in states], [state.by_zone for state in states]):
        found = benjamini_hochberg([model.p for model in models])
        adjusted |= {id(model): p for model, p in zip(models, found, strict=True)}

    def of(record: _Tested) -> _Tested:
        return record.model_copy(update={"p_adjusted": adjusted[id(record)]})

    def of_state(state: StateResults) -> StateResults:
        by_zone = tuple(
            fraction.model_copy(update={"comparison": of(fraction.comparison)})
            for fraction in state.fractions
        )
        models = {"overall": of(state.overall), "by_zone": of(state.by_zone)}
        return state.model_copy(update={"fractions": by_zone, **models})

    return tuple(
        stain.model_copy(
            update={
                "comparisons": tuple(of(c) for c in stain.comparisons),
                "states": stain.states
                and stain.states.model_copy(
                    update={"states": tuple(of_state(state) for state in stain.states.states)}
                ),
            }
        )
        for stain in results
    )
