"""Whether intensities show one population of cells or two, on an arcsinh scale."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

Values = NDArray[np.float64]

# More cells do not move a gate, only the time it takes.
_MAX_CELLS: Final = 8_000
# From all but logarithmic to all but linear, in units of the spread of the values.
_COFACTORS: Final = (0.1, 0.3, 1.0, 4.0)
# Where a scale begins: at 0, or at the lowest values, for background that was over- or undersubtracted.
_ORIGINS: Final = (None, 0.01)
_STARTS: Final = (0.05, 0.3, 0.7)
_MIN_CELLS: Final = 10


@dataclass(frozen=True)
class Scale:
    """A value x lies at arcsinh((x - origin) / cofactor): linear near the origin, logarithmic far above."""

    cofactor: float
    origin: float = 0.0

    def of(self, values: Values) -> Values:
        """Return values on the scale."""
        return np.arcsinh((values - self.origin) / self.cofactor)

    def value(self, at: Values | float) -> Values:
        """Return values from their places on the scale."""
        back: Values = np.sinh(np.asarray(at)) * self.cofactor + self.origin
        return back

    def log_slope(self, values: Values) -> Values:
        """Return the log of d(place) / d(value): densities on two scales compare by it."""
        return -0.5 * np.log((values - self.origin) ** 2 + self.cofactor**2)


@dataclass(frozen=True)
class Population:
    """A normal population on a scale: its share of the cells, mean and standard deviation."""

    share: float
    mean: float
    sd: float


@dataclass(frozen=True)
class Populations:
    """One and two populations fitted to the same cells, each on the scale that fits it best.

    n : cells. spread : see `spread_of`.
    single : mean is the median, sd that of the half below it, so that positive cells among them hardly count.
    bic_gain : by how much the Bayesian information criterion prefers two.
    ashman_d : sqrt(2) |m1 - m2| / sqrt(s1^2 + s2^2) (Ashman 1994, Astron J 108:2348); above 2 they are apart.
    dip : the lowest density between the two by the lesser of their peaks, on a scale of the whole spread;
        1 where there is no valley.
    crossing : value between both that belongs to either with probability 0.5.
    """

    n: int
    spread: float
    single: Population
    single_scale: Scale
    lower: Population
    upper: Population
    scale: Scale
    bic_gain: float
    ashman_d: float
    dip: float
    crossing: float

    def above_single(self, tail: float) -> float:
        """Return the value above which a share `tail` of the single population lies, taken as normal."""
        place = self.single.mean + float(norm.isf(tail)) * self.single.sd
        return float(self.single_scale.value(place))


def spread_of(values: Values) -> float:
    """Return the distance from the median down to the 16th percentile: positive cells do not widen it."""
    middle, low = np.quantile(values, [0.5, norm.cdf(-1)])
    return float(middle - low)


def fit_populations(values: Values, seed: int = 0) -> Populations | None:
    """Fit one and two normal populations on arcsinh scales.

    The scale is part of either fit, since a single skewed population is two normal ones on the wrong scale.

    Parameters
    ----------
    values : (n,) finite intensities; of more than 8,000 a sample is taken.
    seed : of the sample.

    Returns
    -------
    Both fits; None where there are fewer than 10 values or they hardly differ.
    """
    if len(values) > _MAX_CELLS:
        values = np.random.default_rng(seed).choice(values, _MAX_CELLS, replace=False)
    spread = spread_of(values) if len(values) >= _MIN_CELLS else 0.0
    if spread <= 0:
        return None
    origins = [0.0 if share is None else float(np.quantile(values, share)) for share in _ORIGINS]
    scales = [Scale(factor * spread, origin) for factor in _COFACTORS for origin in origins]
    ones = [(_log_likelihood_of_one(values, scale), i) for i, scale in enumerate(scales)]
    best_one, i = max(ones)
    fits = [(_two(scale.of(values)), scale) for scale in scales]
    best_two, j = max(
        (float(fit.score_samples(scale.of(values)[:, None]).sum() + scale.log_slope(values).sum()), k)
        for k, (fit, scale) in enumerate(fits)
    )
    fit, scale = fits[j]
    order = np.argsort(fit.means_[:, 0])
    lower, upper = (
        Population(float(fit.weights_[k]), float(fit.means_[k, 0]), sqrt(fit.covariances_[k, 0, 0]))
        for k in order
    )
    in_one = scales[i].of(values)
    return Populations(
        n=len(values),
        spread=spread,
        single=Population(1.0, float(np.median(in_one)), spread_of(in_one)),
        single_scale=scales[i],
        lower=lower,
        upper=upper,
        scale=scale,
        # A mean and a deviation, and two of each with a share: 3 parameters more.
        bic_gain=2 * (best_two - best_one) - 3 * log(len(values)),
        ashman_d=sqrt(2) * (upper.mean - lower.mean) / sqrt(lower.sd**2 + upper.sd**2),
        dip=_dip(lower, upper, scale, spread),
        crossing=_crossing(lower, upper, scale),
    )


def _log_likelihood_of_one(values: Values, scale: Scale) -> float:
    places = scale.of(values)
    return float(norm.logpdf(places, places.mean(), places.std()).sum() + scale.log_slope(values).sum())


def _two(places: Values) -> GaussianMixture:
    """Fit two populations, from starts at several shares: the likeliest."""
    spread = spread_of(places)
    fits = []
    for share in _STARTS:
        above = places > np.quantile(places, 1 - share)
        parts = places[~above], places[above]
        if min(len(part) for part in parts) < 2:
            continue
        variances = [max(float(part.var()), (0.1 * spread) ** 2) for part in parts]
        fits.append(
            GaussianMixture(
                2,
                weights_init=[1 - share, share],
                means_init=[[part.mean()] for part in parts],
                precisions_init=[[[1 / variance]] for variance in variances],
                # No population is narrower than this: a few equal values are none.
                reg_covar=(0.05 * spread) ** 2 + 1e-12,
                max_iter=200,
                tol=1e-4,
            ).fit(places[:, None])
        )
    return max(fits, key=lambda fit: fit.lower_bound_)


def _dip(lower: Population, upper: Population, scale: Scale, spread: float) -> float:
    """Return the valley of the density by its lesser peak.

    On a scale that is linear over the bulk of the cells: an arcsinh scale with a small cofactor has a valley
    of its own where values lie round its origin.
    """
    common = Scale(spread, scale.origin)
    ends = common.of(scale.value(np.array([lower.mean, upper.mean])))
    places = np.linspace(ends[0], ends[1], 801)
    values = common.value(places)
    density = sum(p.share * norm.pdf(scale.of(values), p.mean, p.sd) for p in (lower, upper)) * np.exp(
        scale.log_slope(values) - common.log_slope(values)
    )
    low = int(np.argmin(density))
    if low in (0, len(density) - 1):
        return 1.0
    return float(density[low] / min(density[:low].max(), density[low:].max()))


def _crossing(lower: Population, upper: Population, scale: Scale) -> float:
    places = np.linspace(lower.mean, upper.mean, 2001)
    below, above = (log(p.share) + norm.logpdf(places, p.mean, p.sd) for p in (lower, upper))
    won = np.flatnonzero(above > below)
    # Where the lower one outweighs the other as far as the other's mean, that.
    return float(scale.value(places[won[0] if len(won) else -1]))
