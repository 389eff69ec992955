"""How well found counts agree with true ones.

Every measure is a function of sums over images, so that pooling and resampling need nothing but the sums.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Upper ends of the bins that LYSTO (Lymphocyte Assessment Hackathon, lysto.grand-challenge.org) scores in.
LYSTO_UPPER = (0, 5, 10, 20, 50, 200)
LYSTO_NAMES = ("0", "1-5", "6-10", "11-20", "21-50", "51-200", ">200")

# Lower ends of density classes in CD8+ cells per mm2, above none at all: sparse, up to what parts the desert
# from the inflamed (about 300: Kather 2018, eLife 7:e36967), infiltrated, dense, aggregates.
DENSITY_NAMES = ("none", "up to 300 /mm2", "300 to 1000 /mm2", "1000 to 3000 /mm2", "over 3000 /mm2")
_DENSITY_UPPER = (0.0, 300.0, 1000.0, 3000.0)


def lysto_bin(counts: NDArray[np.integer] | Array) -> NDArray[np.int64]:
    """Return the place of each count's bin in `LYSTO_NAMES`."""
    return np.searchsorted(LYSTO_UPPER, np.asarray(counts), side="left").astype(np.int64)


def density_class(true: Array, area_mm2: Array) -> NDArray[np.int64]:
    """Return the place of each image's true density in `DENSITY_NAMES`."""
    return np.searchsorted(_DENSITY_UPPER, true / area_mm2, side="left").astype(np.int64)


def quadratic_kappa(confusion: Array) -> Array:
    """Return the quadratic-weighted kappa of confusion tables (Cohen 1968, Psychol Bull 70:213-220).

    Parameters
    ----------
    confusion : (..., k, k) counts of true by found bin.

    Returns
    -------
    (...) kappa; NaN where it is not defined, for all counts lie in one bin.
    """
    k = confusion.shape[-1]
    weight = (np.arange(k)[:, None] - np.arange(k)) ** 2.0
    total = confusion.sum(axis=(-2, -1))
    rows, columns = confusion.sum(axis=-1), confusion.sum(axis=-2)
    chance = (weight * rows[..., :, None] * columns[..., None, :]).sum(axis=(-2, -1))
    seen = (weight * confusion).sum(axis=(-2, -1)) * total
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(chance > 0, 1 - seen / chance, np.nan), np.float64)


def confusion_rows(true: Array, found: Array) -> Array:
    """Return (n, 49) one row an image: 1 at its place in the flattened table of true by found LYSTO bin."""
    k = len(LYSTO_NAMES)
    rows = np.zeros((len(true), k * k))
    rows[np.arange(len(true)), lysto_bin(true) * k + lysto_bin(found)] = 1
    return rows


def moment_rows(true: Array, found: Array) -> Array:
    """Return (n, 6) one row an image: 1, x, y, x2, y2, xy of true x and found y, for `concordance`."""
    return np.column_stack([np.ones(len(true)), true, found, true**2, found**2, true * found])


def concordance(moments: Array) -> Array:
    """Return Lin's concordance correlation coefficient (Lin 1989, Biometrics 45:255-268).

    Parameters
    ----------
    moments : (..., 6) sums of `moment_rows`.

    Returns
    -------
    (...) coefficients, with variances over n as in the paper; NaN where both counts never vary and agree.
    """
    n, x, y, xx, yy, xy = np.moveaxis(moments, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_x, mean_y = x / n, y / n
        spread = (xx / n - mean_x**2) + (yy / n - mean_y**2) + (mean_x - mean_y) ** 2
        shared = 2 * (xy / n - mean_x * mean_y)
        return np.asarray(np.where(spread > 1e-12 * (1 + xx / n), shared / spread, np.nan), np.float64)


class Limits(NamedTuple):
    """Mean difference, and the limits within which 95 % of differences are expected."""

    mean: float
    low: float
    high: float


def bland_altman(true: Array, found: Array) -> Limits:
    """Return the limits of agreement of found less true (Bland and Altman 1986, Lancet 1:307-310).

    NaN where there are too few images: the mean needs one, the limits two.
    """
    difference = found - true
    if len(difference) == 0:
        return Limits(np.nan, np.nan, np.nan)
    mean = float(difference.mean())
    half = 1.96 * float(difference.std(ddof=1)) if len(difference) > 1 else np.nan
    return Limits(mean, mean - half, mean + half)
