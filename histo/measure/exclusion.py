"""Immune exclusion: how CD8+ cells are divided between the tumour and what lies round it."""

from __future__ import annotations

from math import hypot, log2

from scipy.stats import beta

from histo.measure.summary import Estimate, Phenotype

LOG2_RATIO = "log2 ratio"
INFILTRATION = "fraction of density"

PHENOTYPE_RULE = (
    "inflamed: CD8+ density above the cut-off in the tumour core; excluded: not in the core, but in the "
    "outer invasive margin; desert: in neither. Rule and default cut-off: Kather et al. 2018, eLife 7:e36967 "
    "(there hot, excluded and cold; the cut-off is the median of the CD8 densities of core and outer margin, "
    "pooled over all their tumours)."
)


def kather_phenotype(
    core: Estimate, outer: Estimate, cutoff_per_mm2: float
) -> tuple[Phenotype | None, str | None]:
    """Return the phenotype by the two-compartment rule of Kather 2018, or None and the reason.

    Parameters
    ----------
    core, outer : CD8+ density in the tumour core and in the outer invasive margin, /mm2.
    cutoff_per_mm2 : one cut-off for both; a density equal to it is not above it.
    """
    if core.value is None:
        return None, f"tumour core: {core.not_assessable}"
    # The outer margin has no say where the core is above the cut-off.
    if core.value > cutoff_per_mm2:
        return "inflamed", None
    if outer.value is None:
        return None, f"outer margin: {outer.not_assessable}"
    return ("excluded" if outer.value > cutoff_per_mm2 else "desert"), None


def log2_density_ratio(
    first: Estimate, second: Estimate, offset_per_mm2: float, *, names: tuple[str, str]
) -> Estimate:
    """Return log2((first + offset) / (second + offset)), as of core to outer margin.

    The interval joins those of the two densities by the method of variance estimates recovery (Zou and Donner
    2008, Stat Med 27:1693) on the log scale: with each log density t and its limits l and u, the lower limit
    is t1 - t2 - sqrt((t1 - l1)^2 + (u2 - t2)^2), the upper one t1 - t2 + sqrt((u1 - t1)^2 + (t2 - l2)^2). It
    has a closed form and is finite for counts of 0.

    Parameters
    ----------
    first, second : densities with intervals, /mm2.
    offset_per_mm2 : above 0; keeps the ratio finite where a density is 0.
    names : what the two are called where the ratio cannot be assessed.
    """
    for name, density in zip(names, (first, second), strict=True):
        if density.value is None:
            return Estimate.missing(LOG2_RATIO, f"{name}: {density.not_assessable}")
    t1, l1, u1 = _log2(first, offset_per_mm2)
    t2, l2, u2 = _log2(second, offset_per_mm2)
    return Estimate(
        value=t1 - t2,
        low=t1 - t2 - hypot(t1 - l1, u2 - t2),
        high=t1 - t2 + hypot(u1 - t1, t2 - l2),
        unit=LOG2_RATIO,
    )


def infiltration_fraction(
    n_core: int, area_core_mm2: float, n_outer: int, area_outer_mm2: float, level: float
) -> Estimate:
    """Return core / (core + outer) of the CD8+ densities: 0 where all cells stay outside, 1/2 for no step.

    Given the cells of both together, those of the core are binomial with odds (core density * core area) /
    (outer density * outer area): the exact limits of that share (Clopper and Pearson 1934, Biometrika 26:404)
    become limits of the fraction (the conditional test of two Poisson rates, Przyborowski and Wilenski 1940,
    Biometrika 31:313). As there, cells are taken as independent.

    Parameters
    ----------
    n_core, n_outer : CD8+ cells. area_core_mm2, area_outer_mm2 : areas in which they were counted, above 0.
    level : confidence level.
    """
    n = n_core + n_outer
    if n == 0:
        return Estimate.missing(INFILTRATION, "no CD8+ cell in tumour core and outer margin")
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, n_core, n_outer + 1)) if n_core > 0 else 0.0
    high = float(beta.isf(tail, n_core + 1, n_outer)) if n_outer > 0 else 1.0

    def fraction(share: float) -> float:
        core, outer = share / area_core_mm2, (1 - share) / area_outer_mm2
        return core / (core + outer)

    return Estimate(value=fraction(n_core / n), low=fraction(low), high=fraction(high), unit=INFILTRATION)


def _log2(density: Estimate, offset_per_mm2: float) -> tuple[float, float, float]:
    if density.value is None or density.low is None or density.high is None:
        raise ValueError("a density without a value or an interval")
    return (
        log2(density.value + offset_per_mm2),
        log2(density.low + offset_per_mm2),
        log2(density.high + offset_per_mm2),
    )
