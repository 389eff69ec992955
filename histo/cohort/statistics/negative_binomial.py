"""The negative binomial family of mixed models: counts with a log link."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, gammaln

from histo.cohort.statistics.mixed_model import Array, Terms


@dataclass(frozen=True)
class NegativeBinomial:
    """Counts of mean mu = exp(eta) and variance mu + mu^2 / k (NB2: Hilbe 2011, Negative Binomial Regression,
    chapter 8).

    Parameters
    ----------
    counts : (n,) whole numbers from 0.
    """

    counts: Array
    # Above the second a count is Poisson to any reader.
    log_k: tuple[float, float] = (-6.0, 9.0)

    def start(self) -> Array:
        """Return log(count + 1/2)."""
        return np.asarray(np.log(self.counts + 0.5), np.float64)

    def log_density(self, eta: Array, k: float) -> float:
        """Return the sum of the log densities."""
        y = self.counts
        constant = gammaln(y + k) - gammaln(k) - gammaln(y + 1) + k * np.log(k)
        return float((constant + y * eta - (y + k) * np.log(k + np.exp(eta))).sum())

    def slope_and_weight(self, eta: Array, k: float) -> tuple[Array, Array]:
        """Return df / d eta and -d2f / d eta2."""
        mu = np.exp(eta)
        total = k + mu
        return k * (self.counts - mu) / total, (self.counts + k) * k * mu / total**2

    def terms(self, eta: Array, k: float) -> Terms:
        """Return all derivatives."""
        y, mu = self.counts, np.exp(eta)
        total = k + mu
        slope, weight = self.slope_and_weight(eta, k)
        by_k = digamma(y + k) - digamma(k) + np.log(k) + 1 - np.log(total) - (y + k) / total
        return Terms(
            slope=slope,
            weight=weight,
            third=-weight * (k - mu) / total,
            by_log_k=k * by_k,
            slope_by_log_k=k * (y - mu) * mu / total**2,
            weight_by_log_k=k * mu * ((y + 2 * k) * total - 2 * (y + k) * k) / total**3,
        )
