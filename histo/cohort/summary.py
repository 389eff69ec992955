"""What is known of a cohort: the JSON on disk, and all that its report shows."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from histo.measure.summary import Estimate
from histo.tables.zones import SITES as SITES
from histo.tables.zones import Site as Site

Design = Literal["paired", "unpaired"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Exclusion(_Record):
    """A slide, or a patient, that is not in a comparison, and why."""

    name: str
    reason: str


class Group(_Record):
    """One site in one comparison; a patient is one value.

    median, q1, q3, mean, sd are of the patients' values in the measure's own unit; None without patients.
    """

    site: Site
    n_patients: int
    n_lesions: int
    n_slides: int
    area_mm2: float | None
    median: float | None
    q1: float | None
    q3: float | None
    mean: float | None
    sd: float | None


class SiteCount(_Record):
    """How much of one site is in a comparison; area in mm2 of all zones, None where it is not known."""

    site: Site
    n_patients: int
    n_lesions: int
    n_slides: int
    area_mm2: float | None


class PatientValue(_Record):
    """A measure of one patient at one site, in its own unit."""

    patient: str
    site: Site
    value: float


class Comparison(_Record):
    """Metastasis against primary in one measure. Differences are metastasis less primary.

    Effects are on the scale that is compared: log2(value + offset) for densities (a shift of 1 is twice the
    density), the value itself otherwise.
    """

    measure: str
    label: str
    unit: str
    scale: Literal["log2", "linear"]
    scale_offset: float
    is_primary_measure: bool
    design: Design
    groups: tuple[Group, ...]
    n_pairs: int | None
    left_out: tuple[Exclusion, ...]
    values: tuple[PatientValue, ...]
    shift: Estimate  # Hodges-Lehmann
    median_difference: Estimate  # with a bootstrap interval over patients
    effect_size: Estimate  # Cliff's delta, or matched rank-biserial correlation
    effect_size_name: str
    test: str
    p: float | None
    p_permutation: float | None
    p_adjusted: float | None
    adjustment: Literal["Holm", "Benjamini-Hochberg"]
    not_assessable: str | None


class RateRatio(_Record):
    """Metastasis over primary in one zone, from the count model, with its interval and p value."""

    zone: str
    ratio: Estimate
    p: float | None


class CountModel(_Record):
    """The exclusion test: negative binomial mixed model of the counts, with log area as offset.

    interactions : metastasis over primary of the zone's density, relative to that of the reference zone.
    """

    formula: str
    n_patients: int
    n_slides: int
    n_observations: int
    reference_zone: str
    rate_ratios: tuple[RateRatio, ...]
    interactions: tuple[RateRatio, ...]
    p_interaction: float | None
    interaction_test: str
    dispersion_k: float | None  # variance = mean + mean^2 / k
    patient_sd: float | None  # of log density
    lesion_sd: float | None
    notes: tuple[str, ...]
    not_assessable: str | None


class ProfileBin(_Record):
    """Density at one range of signed distance to the border: mean over patients, with a bootstrap band."""

    low_um: float
    high_um: float
    n_patients: int
    density: Estimate


class Profile(_Record):
    """Density by signed distance to the tumour border, of one site."""

    site: Site
    bins: tuple[ProfileBin, ...]


class PhenotypeShares(_Record):
    """Slides of each phenotype by site, at one cut-off."""

    cutoff_per_mm2: float
    cutoff_source: str
    counts: dict[Site, dict[str, int]]
    not_assessable: dict[Site, int]
    p: float | None
    test: str


class Sensitivity(_Record):
    """The primary measure again, with another width of the margins."""

    margin_um: float
    n_primary: int
    n_metastasis: int
    shift: Estimate
    p: float | None


class Covariate(_Record):
    """How something else that is known is spread over the slides of each site, in words."""

    name: str
    by_site: dict[Site, str]


class Subgroup(_Record):
    """The primary measure again, within one level of a covariate; exploratory, not adjusted."""

    covariate: str
    level: str
    n_primary: int
    n_metastasis: int
    shift: Estimate
    p: float | None


class StateFraction(_Record):
    """The fraction of CD8+ cells with a state, in one zone: patients compared, and the cells they rest on."""

    zone: str  # "all": all assessed tissue
    n_cd8: dict[Site, int]
    n_positive: dict[Site, int]
    comparison: Comparison


class OddsRatio(_Record):
    """Metastasis over primary in one zone, from the fraction model, with its interval and p value."""

    zone: str
    ratio: Estimate
    p: float | None


class FractionModel(_Record):
    """Beta-binomial mixed model of a state's cells among the CD8+ cells.

    interactions : odds ratio of the zone over that of the reference zone; empty where all tissue is one row.
    p : of the interaction, or where there is none of the site; p_likelihood_ratio tests the same.
    """

    formula: str
    n_patients: int
    n_lesions: int
    n_observations: int
    n_cd8: int
    reference_zone: str
    odds_ratios: tuple[OddsRatio, ...]
    interactions: tuple[OddsRatio, ...]
    test: str
    p: float | None
    p_adjusted: float | None  # Benjamini-Hochberg over the states
    p_likelihood_ratio: float | None
    dispersion_k: float | None  # two cells of a row are correlated 1 / (1 + k)
    patient_sd: float | None  # of log odds
    lesion_sd: float | None
    notes: tuple[str, ...]
    not_assessable: str | None


class JointPoint(_Record):
    """A patient at one site: how excluded CD8+ cells are, and how many of them have the state."""

    patient: str
    site: Site
    log2_core_outer: float
    fraction: float


class SiteCorrelation(_Record):
    """Spearman's rank correlation over the patients of a site."""

    site: Site
    n_patients: int
    rho: Estimate


class JointView(_Record):
    """Exclusion beside a state, patient by patient.

    exclusion_cutoff, fraction_cutoff : medians over all points. quadrants : how many points of each site lie
    where, by "excluded and <state>" and so on.
    """

    zone: str
    points: tuple[JointPoint, ...]
    correlations: tuple[SiteCorrelation, ...]
    exclusion_cutoff: float | None
    fraction_cutoff: float | None
    quadrants: dict[str, dict[Site, int]]
    not_assessable: str | None


class StateResults(_Record):
    """One state of CD8+ cells, compared between the sites."""

    state: str
    rule: str
    description: str  # what may be said of its cells
    is_primary_state: bool
    fractions: tuple[StateFraction, ...]
    overall: FractionModel
    by_zone: FractionModel
    joint: JointView


class GateRecord(_Record):
    """How cells were called positive for a marker, once for the whole batch."""

    marker: str
    method: str
    threshold: float | None
    notes: tuple[str, ...]


class StatesResults(_Record):
    """The states of the CD8+ cells of one stain's slides."""

    design: Design
    design_reason: str
    n_slides: int
    n_slides_without: int  # of this stain, with patient and site, and without states
    min_cd8_cells: int
    gates: tuple[GateRecord, ...]
    states: tuple[StateResults, ...]
    not_assessable: tuple[Exclusion, ...]  # states without a gate, and why
    notes: tuple[str, ...]
    limits: str


class StainResults(_Record):
    """All comparisons of the slides of one stain."""

    stain: str
    positive_name: str  # what a counted cell is called, e.g. "CD8+"
    design: Design
    design_reason: str
    groups: tuple[SiteCount, ...]
    n_pairs: int
    excluded: tuple[Exclusion, ...]
    flagged: tuple[Exclusion, ...]  # kept, with something that a reader must know
    comparisons: tuple[Comparison, ...]
    not_measured: tuple[str, ...]  # labels of measures that no slide here has
    count_model: CountModel
    profiles: tuple[Profile, ...]
    profiles_not_assessable: str | None
    phenotypes: tuple[PhenotypeShares, ...]
    covariates: tuple[Covariate, ...]
    subgroups: tuple[Subgroup, ...]
    sensitivity: tuple[Sensitivity, ...]
    sensitivity_not_assessable: str | None
    states: StatesResults | None = None


class CohortSummary(_Record):
    """A cohort: where it comes from, who is in it, what was found."""

    title: str
    histo_version: str
    source: str
    manifest: str | None
    primary_measure: str
    primary_state: str | None
    confidence_level: float
    seed: int
    bootstrap_samples: int
    permutations: int
    notes: tuple[str, ...]
    excluded: tuple[Exclusion, ...]  # slides without numbers
    stains: tuple[StainResults, ...]
