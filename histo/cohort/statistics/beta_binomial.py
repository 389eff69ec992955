"""The beta-binomial family of mixed models: so many of so many, with a logit link."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, expit, gammaln, zeta

from histo.cohort.statistics.mixed_model import Array, Terms


@dataclass(frozen=True)
class BetaBinomial:
    """Positives among cells, their chance drawn for each row from a beta distribution of mean p = expit(eta).

    Its parameters are k p and k (1 - p). The variance of the count is n p (1 - p) (n + k) / (1 + k): two
    cells of a row are correlated 1 / (1 + k) (Skellam 1948, J R Stat Soc B 10:257; this k is the dispersion
    of glmmTMB's `betabinomial`).

    Parameters
    ----------
    positive, total : (n,) whole numbers, 0 <= positive <= total, total from 1.
    """

    positive: Array
    total: Array
    # Above the second a count of 10,000 cells is still binomial to 1 %.
    log_k: tuple[float, float] = (-6.0, 14.0)

    def start(self) -> Array:
        """Return the empirical logit."""
        return np.asarray(np.log((self.positive + 0.5) / (self.total - self.positive + 0.5)), np.float64)

    def log_density(self, eta: Array, k: float) -> float:
        """Return the sum of the log densities."""
        y, n = self.positive, self.total
        a, b = k * expit(eta), k * expit(-eta)
        binomial = gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)
        successes = gammaln(y + a) - gammaln(a)
        failures = gammaln(n - y + b) - gammaln(b)
        return float((binomial + successes + failures + gammaln(k) - gammaln(n + k)).sum())

    def slope_and_weight(self, eta: Array, k: float) -> tuple[Array, Array]:
        """Return df / d eta and -d2f / d eta2."""
        y, n = self.positive, self.total
        p, q = expit(eta), expit(-eta)
        a, b = k * p, k * q
        by_p = k * (digamma(y + a) - digamma(a) - digamma(n - y + b) + digamma(b))
        second = _trigamma(y + a) - _trigamma(a) + _trigamma(n - y + b) - _trigamma(b)
        return by_p * p * q, -(k**2 * second * (p * q) ** 2 + by_p * p * q * (q - p))

    def terms(self, eta: Array, k: float) -> Terms:
        """Return all derivatives."""
        y, n = self.positive, self.total
        p, q = expit(eta), expit(-eta)
        a, b = k * p, k * q
        # p by eta: once, twice and three times.
        p1 = p * q
        p2 = p1 * (q - p)
        p3 = p1 * (1 - 6 * p1)
        first_a, first_b = digamma(y + a) - digamma(a), digamma(n - y + b) - digamma(b)
        second_a, second_b = (_trigamma(m + c) - _trigamma(c) for m, c in ((y, a), (n - y, b)))
        third_a, third_b = (_tetragamma(m + c) - _tetragamma(c) for m, c in ((y, a), (n - y, b)))
        by_p = k * (first_a - first_b)
        by_p2 = k**2 * (second_a + second_b)
        by_p3 = k**3 * (third_a - third_b)
        by_k = p * first_a + q * first_b + digamma(k) - digamma(n + k)
        by_p_k = first_a - first_b + k * (p * second_a - q * second_b)
        by_p2_k = 2 * k * (second_a + second_b) + k**2 * (p * third_a + q * third_b)
        return Terms(
            slope=by_p * p1,
            weight=-(by_p2 * p1**2 + by_p * p2),
            third=by_p3 * p1**3 + 3 * by_p2 * p1 * p2 + by_p * p3,
            by_log_k=k * by_k,
            slope_by_log_k=k * by_p_k * p1,
            weight_by_log_k=-k * (by_p2_k * p1**2 + by_p_k * p2),
        )


def _trigamma(x: Array) -> Array:
    """Return the second derivative of log gamma, by Hurwitz's zeta (DLMF 5.15.1); faster than polygamma."""
    return np.asarray(zeta(2, x), np.float64)


def _tetragamma(x: Array) -> Array:
    return np.asarray(-2 * zeta(3, x), np.float64)
