"""Densities and fractions with their intervals."""

from __future__ import annotations

from math import sqrt

from scipy.stats import chi2, norm

from histo.measure.summary import Estimate

PER_MM2 = "/mm2"
FRACTION = "fraction of nuclei"


def poisson_density(n: int, area_mm2: float, level: float) -> Estimate:
    """Return the density of n cells, with the exact (Garwood) interval for a Poisson count.

    Limits of the mean count: chi2(alpha / 2; 2 n) / 2 and chi2(1 - alpha / 2; 2 n + 2) / 2, the lower one 0
    for n = 0 (Garwood 1936, Biometrika 28:437). The interval is that of counting; it takes cells as
    independent, so where they cluster the density varies more than it says.

    Parameters
    ----------
    n : cells counted.
    area_mm2 : area in which they were counted.
    level : confidence level, 0.95 for a 95 % interval.
    """
    if area_mm2 <= 0:
        return Estimate.missing(PER_MM2, "no assessed area")
    tail = (1 - level) / 2
    low = float(chi2.ppf(tail, 2 * n)) / 2 if n > 0 else 0.0
    high = float(chi2.isf(tail, 2 * n + 2)) / 2
    return Estimate(value=n / area_mm2, low=low / area_mm2, high=high / area_mm2, unit=PER_MM2)


def zone_density(n: int, area_mm2: float, *, min_area_mm2: float, level: float) -> Estimate:
    """Return `poisson_density`, or why there is none: the area is too small to give one."""
    if area_mm2 < min_area_mm2 or area_mm2 <= 0:
        reason = f"only {area_mm2:.3f} mm2 of assessed tissue, {min_area_mm2:g} mm2 needed"
        return Estimate.missing(PER_MM2, reason)
    return poisson_density(n, area_mm2, level)


def wilson_fraction(n: float, total: float, level: float, *, unit: str = FRACTION) -> Estimate:
    """Return the fraction n / total with the Wilson score interval (Wilson 1927, J Am Stat Assoc 22:209).

    n and total need not be whole: of cells that cluster, a smaller effective number counts.
    """
    if total == 0:
        return Estimate.missing(unit, "no nuclei")
    z = float(norm.isf((1 - level) / 2))
    fraction = n / total
    centre = (fraction + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * sqrt(fraction * (1 - fraction) / total + (z / (2 * total)) ** 2)
    # At 0 and 1 the limit is the value itself; rounding must not put it on the wrong side.
    low = 0.0 if n == 0 else centre - half
    high = 1.0 if n == total else centre + half
    return Estimate(value=fraction, low=low, high=high, unit=unit)
