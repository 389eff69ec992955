"""Immune exclusion: CD8+ cells in the tumour core against the outer invasive margin."""

from __future__ import annotations

from math import hypot, log2

from histo.measure.summary import Estimate, Phenotype

LOG2_RATIO = "log2 ratio"

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


def log2_core_outer(core: Estimate, outer: Estimate, offset_per_mm2: float) -> Estimate:
    """Return log2((core + offset) / (outer + offset)): below 0 where CD8+ cells stay outside.

    The interval joins those of the two densities by the method of variance estimates recovery (Zou and Donner
    2008, Stat Med 27:1693) on the log scale: with each log density t and its limits l and u, the lower limit
    is t1 - t2 - sqrt((t1 - l1)^2 + (u2 - t2)^2), the upper one t1 - t2 + sqrt((u1 - t1)^2 + (t2 - l2)^2). It
    has a closed form and is finite for counts of 0.

    Parameters
    ----------
    core, outer : densities with intervals, /mm2.
    offset_per_mm2 : above 0; keeps the ratio finite where a density is 0.
    """
    for name, density in (("tumour core", core), ("outer margin", outer)):
        if density.value is None:
            return Estimate.missing(LOG2_RATIO, f"{name}: {density.not_assessable}")
    t1, l1, u1 = _log2(core, offset_per_mm2)
    t2, l2, u2 = _log2(outer, offset_per_mm2)
    return Estimate(
        value=t1 - t2,
        low=t1 - t2 - hypot(t1 - l1, u2 - t2),
        high=t1 - t2 + hypot(u1 - t1, t2 - l2),
        unit=LOG2_RATIO,
    )


def _log2(density: Estimate, offset_per_mm2: float) -> tuple[float, float, float]:
    if density.value is None or density.low is None or density.high is None:
        raise ValueError("a density without a value or an interval")
    return (
        log2(density.value + offset_per_mm2),
        log2(density.low + offset_per_mm2),
        log2(density.high + offset_per_mm2),
    )
