"""Hot spots of cell density on a grid of squares, within the tissue only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import convolve
from scipy.stats import false_discovery_control, norm

from histo.errors import PointsError


@dataclass(frozen=True, eq=False)
class HotSpots:
    """Where values are higher than chance would gather them; arrays (rows, columns).

    z : Getis-Ord Gi*; NaN outside tissue.
    q : its one-sided normal p, adjusted for the number of squares (Benjamini and Hochberg); NaN outside.
    hot : q below the level.
    """

    z: NDArray[np.float64]
    q: NDArray[np.float64]
    hot: NDArray[np.bool_]


def hot_spots(values: ArrayLike, in_tissue: ArrayLike, *, level: float = 0.05, reach: int = 1) -> HotSpots:
    """Return the hot spots of a grid.

    Gi*(i) = (sum_j w_ij x_j - mean * W_i) / (s * sqrt((n sum_j w_ij**2 - W_i**2) / (n - 1))), with w 1 for
    the square itself and for the tissue squares round it, else 0, W_i = sum_j w_ij, and mean, standard
    deviation s (over n) and number n of all tissue squares (Getis and Ord 1992, Geogr Anal 24:189; Ord and
    Getis 1995, Geogr Anal 27:286). Where nothing varies, or every square neighbours every other, z is 0.

    Parameters
    ----------
    values : (rows, columns), such as cells per mm2; outside tissue they are not looked at.
    in_tissue : (rows, columns), which squares count.
    level : largest share of false hot spots among all.
    reach : neighbours up to so many squares away, diagonals too.

    Raises
    ------
    PointsError : shapes differ, or values in tissue are not finite.
    """
    x, tissue = _grid(values, in_tissue)
    n = int(tissue.sum())
    z, q = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    if n == 0:
        return HotSpots(z, q, np.zeros(x.shape, dtype=np.bool_))
    w = np.ones((2 * reach + 1, 2 * reach + 1))
    near, n_near = convolve(x, w, mode="constant"), convolve(tissue.astype(np.float64), w, mode="constant")
    mean, variance = x[tissue].mean(), x[tissue].var()
    # Weights are 0 or 1, so that sum w**2 = sum w.
    spread = np.sqrt(variance * np.clip(n * n_near - n_near**2, 0, None)[tissue] / max(n - 1, 1))
    above = (near - mean * n_near)[tissue]
    z[tissue] = np.divide(above, spread, out=np.zeros(n), where=spread > 1e-12 * max(abs(mean), 1e-300))
    q[tissue] = false_discovery_control(norm.sf(z[tissue]))
    return HotSpots(z, q, np.nan_to_num(q, nan=1.0) < level)


def colocalisation(
    hot_x: NDArray[np.bool_], hot_t: NDArray[np.bool_], area: NDArray[np.float64]
) -> float | None:
    """Return the share of the hot-spot area of T that is a hot spot of X too; None where T has none.

    After the co-localised immune and cancer hot spots of Nawaz et al. 2015, Mod Pathol 28:766, who weigh them
    by tissue as well; the denominator is ours.

    Parameters
    ----------
    hot_x, hot_t : (rows, columns).
    area : (rows, columns), tissue in each square.
    """
    total = area[hot_t].sum()
    return float(area[hot_t & hot_x].sum() / total) if total > 0 else None


def moran_i(values: ArrayLike, in_tissue: ArrayLike, *, reach: int = 1) -> float:
    """Return Moran's I of a grid: above 0 where like values lie together; about -1 / (n - 1) by chance.

    n / sum w * sum_ij w_ij z_i z_j / sum z**2, with z the deviation from the mean and w 1 for tissue squares
    within `reach` of each other, diagonals too, not for a square and itself (Moran 1950, Biometrika 37:17).
    NaN where nothing varies or no squares touch.

    Parameters and errors are those of `hot_spots`.
    """
    x, tissue = _grid(values, in_tissue)
    if not tissue.any():
        return float("nan")
    w = np.ones((2 * reach + 1, 2 * reach + 1))
    w[reach, reach] = 0
    deviation = np.where(tissue, x - x[tissue].mean(), 0.0)
    total = convolve(tissue.astype(np.float64), w, mode="constant")[tissue].sum()
    squares = (deviation**2).sum()
    if total == 0 or squares == 0:
        return float("nan")
    return float(tissue.sum() / total * (deviation * convolve(deviation, w, mode="constant")).sum() / squares)


def _grid(values: ArrayLike, in_tissue: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    x, tissue = np.asarray(values, dtype=np.float64), np.asarray(in_tissue, dtype=np.bool_)
    if x.ndim != 2 or x.shape != tissue.shape:
        raise PointsError(
            f"values of shape {x.shape} for tissue of shape {tissue.shape}",
            fix="Give two grids of one shape.",
        )
    n_bad = int((~np.isfinite(x[tissue])).sum())
    if n_bad:
        raise PointsError(
            f"{n_bad} squares of tissue have no finite value", fix="Leave them out of the tissue."
        )
    return np.where(tissue, x, 0.0), tissue
