"""Generalised linear mixed models with nested random intercepts: maximum likelihood by Laplace.

Row i, given the effects b of its patient and v of its lesion, has a distribution (`Family`) with the linear
predictor offset + x'beta + b + v and one parameter k of dispersion that all rows share; b and v are normal.
The integral over the effects is taken by Laplace's approximation (Tierney and Kadane 1986, J Am Stat Assoc
81:82; for these models as in Kristensen et al. 2016, J Stat Softw 70(5), which is what R's glmmTMB does).
Because lesions lie within patients the Hessian of the effects has an arrow's shape for each patient and is
solved in closed form, so time and memory grow with the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize

Array = NDArray[np.float64]
Index = NDArray[np.intp]

# log(sd) is sought within these: below the first an effect changes no odds and no rate by more than 1 %.
_LOG_SD = (-4.6, 2.5)
# The predictor is held here so that a step too far does not overflow.
_MOST_ETA = 40.0
_INNER_STEPS = 100
_POLISH_STEPS = 8
# No patient is taken to hold more than this share of the information on a coefficient.
_LARGEST_SHARE = 0.98


@dataclass(frozen=True)
class Terms:
    """The log density f of each row and its derivatives, all (n,), by the predictor eta and by log k."""

    slope: Array  # df / d eta
    weight: Array  # -d2f / d eta2
    third: Array  # d3f / d eta3
    by_log_k: Array  # df / d log k
    slope_by_log_k: Array  # d2f / d eta d log k
    weight_by_log_k: Array  # -d3f / d eta2 d log k


class Family(Protocol):
    """What the rows are drawn from, given their predictors."""

    @property
    def log_k(self) -> tuple[float, float]:
        """Limits within which log k is sought; the upper one is that of no dispersion."""

    def start(self) -> Array:
        """Return (n,) predictors near each row's own, finite."""

    def log_density(self, eta: Array, k: float) -> float:
        """Return the sum over the rows."""

    def slope_and_weight(self, eta: Array, k: float) -> tuple[Array, Array]:
        """Return the first two of `Terms`."""

    def terms(self, eta: Array, k: float) -> Terms:
        """Return all derivatives."""


@dataclass(frozen=True)
class Layout:
    """Rows of one data set.

    Parameters
    ----------
    family : of the rows' values.
    offset : (n,) added to each predictor.
    design : (n, p) fixed effects.
    patient : (n,) index of the patient of each row, 0 to P - 1, every one used.
    lesion : (n,) index of the lesion of each row, 0 to L - 1, every one used.
    patient_of_lesion : (L,) index of the patient of each lesion.
    has_patient_effect, has_lesion_effect : which random intercepts there are.
    """

    family: Family
    offset: Array
    design: Array
    patient: Index
    lesion: Index
    patient_of_lesion: Index
    has_patient_effect: bool
    has_lesion_effect: bool

    @property
    def n_patients(self) -> int:
        """Number of patients."""
        return int(self.patient_of_lesion.max()) + 1


@dataclass(frozen=True)
class Sandwich:
    """Covariance of the p coefficients from how P patients scatter, and how well it is known.

    `covariance`, `model_covariance` : (p, p), the latter what the former tends to if the model is right, the
    variance parameters taken as known. The rest says how it is made of the patients' scores, scaled so that
    the whole information is 1: `shares`, `vectors` : (P, p) and (P, p, p) eigenvalues and eigenvectors of
    each patient's information; `to_pulls` : (P, p, p) from scores along those to enlarged pulls.
    """

    covariance: Array
    model_covariance: Array
    to_pulls: Array
    shares: Array
    vectors: Array

    def degrees_of_freedom(self, contrasts: Array) -> float:
        """Return those of the covariance of (c, p) contrasts, as if it were Wishart's.

        Satterthwaite's for one contrast (Bell and McCaffrey 2002), for several the approximation to
        Hotelling's T2 of Pustejovsky and Tipton (2018, J Bus Econ Stat 36:672): c (c + 1) over the summed
        variances of the elements of the covariance, scaled to expectation 1, under the model.
        """
        values, axes = np.linalg.eigh(contrasts @ self.model_covariance @ contrasts.T)
        scaled = (axes / np.sqrt(values)).T @ contrasts
        # The pulls are a'(s_i - H_i sum_j s_j): of covariance a'(1 if i = j) H_i b - (H_i a)'(H_j b).
        a = np.einsum("pki,ci->cpk", self.to_pulls, scaled)
        own = np.einsum("spk,pk,tpk->stp", a, self.shares, a)
        carried = np.einsum("pik,pk,cpk->cpi", self.vectors, self.shares, a)
        shared = np.einsum("spi,tpi->stp", carried, carried)
        moments = np.einsum("spi,tpj->stij", carried, carried)
        variance = 0.0
        for s in range(len(contrasts)):
            for t in range(len(contrasts)):
                both = own[s, s] * own[t, t] - own[s, s] * shared[t, t] - own[t, t] * shared[s, s]
                mixed = own[s, t] * (own[s, t] - 2 * shared[s, t])
                variance += float((both + mixed).sum() + (moments[s, t] ** 2).sum())
                variance += float((moments[s, t] * moments[s, t].T).sum())
        return len(contrasts) * (len(contrasts) + 1) / variance


@dataclass(frozen=True)
class Fit:
    """Maximum of the Laplace likelihood.

    `covariance` is that of the fixed effects (inverse observed information, the variance parameters' share
    taken into account); `sandwich` that over patients, None where the fit is not definite. `at_boundary`
    names what ran to its limit: "patient", "lesion" (standard deviation 0) or "dispersion" (none).
    `decrement` is what a Newton step would still add to twice the log-likelihood; `definite` tells whether
    the information matrix is positive definite.
    """

    beta: Array
    covariance: Array
    sandwich: Sandwich | None
    dispersion_k: float
    patient_sd: float
    lesion_sd: float
    log_likelihood: float
    at_boundary: tuple[str, ...]
    decrement: float
    definite: bool


@dataclass(frozen=True)
class _Parameters:
    beta: Array
    log_k: float
    patient_sd: float
    lesion_sd: float


class _Laplace:
    """The likelihood of one layout; keeps the last modes, from which the next search starts."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._effects = np.zeros(layout.n_patients), np.zeros(len(layout.patient_of_lesion))

    def __call__(self, at: _Parameters) -> tuple[float, Array]:
        """Return the log-likelihood and each patient's share, (P, p + 3), of its gradient.

        The gradient is in (beta, log k, log patient sd, log lesion sd).

        Effects are scaled to standard deviation 1 (b = sd z), so that a standard deviation of 0 is no special
        case. With z at the mode, H the negative Hessian there, f the log-density of a row as a function of
        its predictor, log L = sum f - z'z / 2 - log det H / 2. The gradient follows by differentiating
        through the mode (implicit function theorem).
        """
        rows = self.layout
        k = float(np.exp(at.log_k))
        fixed = rows.offset + rows.design @ at.beta
        z, v = self._mode(at, fixed, k)
        row = rows.family.terms(self._eta(at, fixed, z, v), k)
        arrow = _Arrow(rows, at, row.weight)
        value = self._inner(at, fixed, z, v, k) - arrow.log_determinant / 2

        # How log det H answers to each row's predictor: half the leverage times the third derivative of f.
        leverage = arrow.leverage()
        c = leverage * row.third / 2
        s, t = arrow.solve(*arrow.to_effects(c))
        carried = at.patient_sd * s[rows.patient] + at.lesion_sd * t[rows.lesion]
        d_beta = rows.design * (row.slope + c - row.weight * carried)[:, None]
        d_log_k = row.by_log_k - leverage * row.weight_by_log_k / 2 + row.slope_by_log_k * carried
        inverse_z, inverse_v = arrow.inverse_diagonal()
        d_patient = z**2 + inverse_z + 2 * s * z - 1
        d_lesion = v**2 + inverse_v + 2 * t * v - 1
        by_patient = [np.bincount(rows.patient, column) for column in (*d_beta.T, d_log_k)]
        by_owner = np.bincount(rows.patient_of_lesion, d_lesion)
        return value, np.column_stack([*by_patient, d_patient, by_owner])

    def _eta(self, at: _Parameters, fixed: Array, z: Array, v: Array) -> Array:
        rows = self.layout
        eta = fixed + at.patient_sd * z[rows.patient] + at.lesion_sd * v[rows.lesion]
        return np.clip(eta, -_MOST_ETA, _MOST_ETA)

    def _inner(self, at: _Parameters, fixed: Array, z: Array, v: Array, k: float) -> float:
        density = self.layout.family.log_density(self._eta(at, fixed, z, v), k)
        return density - float(z @ z + v @ v) / 2

    def _mode(self, at: _Parameters, fixed: Array, k: float) -> tuple[Array, Array]:
        """Newton's search for the effects' mode; steps that overshoot halve.

        Where a row's density is not concave its weight is taken as 0, so that every step goes up.
        """
        rows = self.layout
        z, v = self._effects
        value = self._inner(at, fixed, z, v, k)
        for _ in range(_INNER_STEPS):
            slope, weight = rows.family.slope_and_weight(self._eta(at, fixed, z, v), k)
            arrow = _Arrow(rows, at, np.maximum(weight, 0))
            to_z, to_v = arrow.to_effects(slope)
            g, h = to_z - z, to_v - v
            step_z, step_v = arrow.solve(g, h)
            gain = g @ step_z + h @ step_v
            size = 1.0
            for _ in range(30):
                trial = self._inner(at, fixed, z + size * step_z, v + size * step_v, k)
                if trial >= value - 1e-12 * (1 + abs(value)):
                    break
                size /= 2
            z, v, value = z + size * step_z, v + size * step_v, trial
            if gain < 1e-16 * len(slope):
                break
        self._effects = z, v
        return z, v


class _Arrow:
    """The negative Hessian of the scaled effects: 1 + sd^2 (sum of weights), coupled patient to lesion."""

    def __init__(self, rows: Layout, at: _Parameters, weight: Array) -> None:
        self.rows, self.at = rows, at
        by_lesion = self._by_lesion(weight)
        self._lesion = 1 + at.lesion_sd**2 * by_lesion
        self._share = at.patient_sd * at.lesion_sd * by_lesion / self._lesion
        coupling = at.patient_sd**2 * by_lesion - self._share**2 * self._lesion
        self._patient = 1 + self._sum(coupling)
        self.log_determinant = float(np.log(self._lesion).sum() + np.log(self._patient).sum())

    def _by_lesion(self, by_row: Array) -> Array:
        summed = np.bincount(self.rows.lesion, by_row, minlength=len(self.rows.patient_of_lesion))
        return np.asarray(summed, np.float64)

    def _sum(self, by_lesion: Array) -> Array:
        summed = np.bincount(self.rows.patient_of_lesion, by_lesion, minlength=self.rows.n_patients)
        return np.asarray(summed, np.float64)

    def to_effects(self, by_row: Array) -> tuple[Array, Array]:
        """Return scaled sums over the rows of each patient, and of each lesion."""
        by_lesion = self._by_lesion(by_row)
        return self.at.patient_sd * self._sum(by_lesion), self.at.lesion_sd * by_lesion

    def solve(self, g: Array, h: Array) -> tuple[Array, Array]:
        """Return H^-1 (g, h)."""
        owner = self.rows.patient_of_lesion
        z = (g - self._sum(self._share * h)) / self._patient
        return z, h / self._lesion - self._share * z[owner]

    def inverse_diagonal(self) -> tuple[Array, Array]:
        """Return the diagonal of H^-1."""
        owner = self.rows.patient_of_lesion
        return 1 / self._patient, 1 / self._lesion + self._share**2 / self._patient[owner]

    def leverage(self) -> Array:
        """Return the variance of each row's predictor that H^-1 implies."""
        rows, at = self.rows, self.at
        per_lesion = (at.patient_sd - at.lesion_sd * self._share) ** 2 / self._patient[rows.patient_of_lesion]
        return np.asarray((per_lesion + at.lesion_sd**2 / self._lesion)[rows.lesion], np.float64)


def fit(layout: Layout) -> Fit:
    """Return the maximum of the Laplace likelihood."""
    laplace = _Laplace(layout)
    p = layout.design.shape[1]
    smallest_log_k, largest_log_k = layout.family.log_k
    low = np.concatenate([np.full(p, -np.inf), [smallest_log_k, _LOG_SD[0], _LOG_SD[0]]])
    high = np.concatenate([np.full(p, np.inf), [largest_log_k, _LOG_SD[1], _LOG_SD[1]]])
    free = np.ones(p + 3, dtype=bool)
    free[-2:] = layout.has_patient_effect, layout.has_lesion_effect
    start_beta = np.linalg.lstsq(layout.design, layout.family.start() - layout.offset, rcond=None)[0]
    # A standard deviation of exp(-inf) is 0.
    sd = np.where(free[-2:], np.log(0.5), -np.inf)
    theta = np.concatenate([start_beta, [0.0], sd])
    theta = _climb(laplace, theta, free, low, high)
    # What ran to its limit is put there and held, so that the rest has its regular maximum.
    boundary = []
    for index, name, end in (
        (p, "dispersion", high[p]),
        (p + 1, "patient", low[p + 1]),
        (p + 2, "lesion", low[p + 2]),
    ):
        if free[index] and abs(theta[index] - end) < 0.05:
            boundary.append(name)
            free[index] = False
            theta[index] = end if name == "dispersion" else -np.inf
    if boundary:
        theta = _climb(laplace, theta, free, low, high)
    value, scores, informations, theta = _polish(laplace, theta, free, low, high)
    gradient, information = scores.sum(axis=0), informations.sum(axis=0)
    try:
        np.linalg.cholesky(information)  # raises where it is not positive definite
        covariance = np.asarray(np.linalg.inv(information), np.float64)
        sandwich = _sandwich(scores, informations, p)
        decrement, definite = float(gradient @ covariance @ gradient), True
    except np.linalg.LinAlgError:
        covariance, sandwich = np.full_like(information, np.nan), None
        decrement, definite = np.inf, False
    at = _parameters(theta)
    return Fit(
        beta=at.beta,
        covariance=covariance[:p, :p],
        sandwich=sandwich,
        dispersion_k=float(np.exp(at.log_k)),
        patient_sd=at.patient_sd,
        lesion_sd=at.lesion_sd,
        log_likelihood=value,
        at_boundary=tuple(boundary),
        decrement=decrement,
        definite=definite,
    )


def _sandwich(scores: Array, informations: Array, p: int) -> Sandwich:
    """Return the coefficients' covariance from how patients' scores scatter, whatever the model says of it.

    The sandwich of all parameters, each patient's pull on the coefficients enlarged for its own share in
    them: CR2 of Bell and McCaffrey (2002, Surv Methodol 28:169; of estimating equations 2006, Stat Med
    25:4081). As there, the hat matrix is that of the coefficients. The variance parameters stay out of it: a
    few patients all but determine them, and a patient's information on them can be negative, so that with
    them in it variances came out too large, by 13 % for the log odds ratio of 20 pairs.

    Parameters
    ----------
    scores, informations : (P, q) and (P, q, q) each patient's share of gradient and information; of the q
        parameters the first p are the coefficients.
    """
    information = informations.sum(axis=0)
    pulls = np.linalg.solve(information, scores.T)[:p].T
    root = np.linalg.cholesky(information[:p, :p])
    inverse = np.linalg.inv(root)
    shares, vectors = np.linalg.eigh(inverse @ informations[:, :p, :p] @ inverse.T)
    shares = np.clip(shares, 0, _LARGEST_SHARE)
    turned = vectors.transpose(0, 2, 1)
    # Along the eigenvectors of a patient's share: its score has variance `shares` if the model is right.
    to_pulls = (turned @ inverse) / np.sqrt(1 - shares)[:, :, None]
    enlarged = np.einsum("pki,pk->pi", to_pulls, np.einsum("pki,pi->pk", turned, pulls @ root))
    return Sandwich(
        covariance=np.asarray(enlarged.T @ enlarged, np.float64),
        model_covariance=np.asarray(inverse.T @ inverse, np.float64),
        to_pulls=to_pulls,
        shares=shares,
        vectors=vectors,
    )


def _parameters(theta: Array) -> _Parameters:
    return _Parameters(theta[:-3], float(theta[-3]), float(np.exp(theta[-2])), float(np.exp(theta[-1])))


def _climb(laplace: _Laplace, theta: Array, free: NDArray[np.bool_], low: Array, high: Array) -> Array:
    def negative(part: Array) -> tuple[float, Array]:
        whole = theta.copy()
        whole[free] = part
        value, shares = laplace(_parameters(whole))
        return -value, -shares[:, free].sum(axis=0)

    found = minimize(
        negative,
        theta[free],
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(low[free], high[free]),
        options={"maxiter": 500, "maxfun": 2000, "ftol": 1e-13, "gtol": 1e-5},
    )
    result = theta.copy()
    result[free] = found.x
    return result


def _polish(
    laplace: _Laplace, theta: Array, free: NDArray[np.bool_], low: Array, high: Array
) -> tuple[float, Array, Array, Array]:
    """Newton steps with the information matrix, itself the central difference of the exact gradient."""
    places = np.flatnonzero(free)
    for step in range(_POLISH_STEPS):
        value, shares = laplace(_parameters(theta))
        scores = shares[:, free]
        informations = np.empty((len(scores), len(places), len(places)))
        for j, place in enumerate(places):
            shift = np.zeros_like(theta)
            shift[place] = 1e-4
            up = laplace(_parameters(theta + shift))[1][:, free]
            down = laplace(_parameters(theta - shift))[1][:, free]
            informations[:, j] = (down - up) / 2e-4
        informations = (informations + informations.transpose(0, 2, 1)) / 2
        gradient = scores.sum(axis=0)
        try:
            move = np.linalg.solve(informations.sum(axis=0), gradient)
        except np.linalg.LinAlgError:
            break
        if gradient @ move < 1e-8 or step == _POLISH_STEPS - 1 or not np.isfinite(move).all():
            break
        trial = theta.copy()
        trial[free] = np.clip(theta[free] + move, low[free], high[free])
        if laplace(_parameters(trial))[0] < value:
            break
        theta = trial
    return value, scores, informations, theta
