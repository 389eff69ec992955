"""Stain vectors of a slide, found near the ones that the protocol expects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Length of optical density that a pixel needs for its direction to count, (nuclear, CD8): below, tinted
# background and camera noise decide. Above the maximum cameras no longer follow Beer-Lambert.
_MIN_OD = (0.35, 0.7)
_MAX_OD = 2.0
# Fewer than about ten cells have at 0.5 um, and the stain counts as absent.
_MIN_PIXELS = 800
# Which of the pixels near a stain are pure: percentiles of the angle away from the other stain. Nearly all
# pixels of DAB lie over or beside haematoxylin, much of the haematoxylin is free of DAB.
_PURE = ((75.0, 95.0), (93.0, 99.0))

FloatArray = NDArray[np.float64]


def estimate_vectors(
    od: NDArray[np.float32], expected: FloatArray, within_deg: float
) -> tuple[FloatArray, tuple[bool, bool]]:
    """Estimate the nuclear and the CD8 vector from the optical densities of a sample of tissue.

    Of the pixels within an angle of the expected vector (and nearer to it than to the other), those that
    point farthest away from the other stain are the purest; their mean, weighted by density, is the estimate.
    That is the idea of Macenko 2009 (ISBI, 1107-1110), guided: a stain that is hardly there keeps the
    expected vector instead of taking one from pigment or noise.

    Parameters
    ----------
    od : (n, 3) optical density.
    expected : (2, 3) unit vectors, nuclear and CD8.
    within_deg : farthest that a pixel counts.

    Returns
    -------
    (2, 3) unit vectors, and whether (nuclear, CD8) were estimated.
    """
    densities = od.astype(np.float64)
    length = np.linalg.norm(densities, axis=1)
    usable = (length >= min(_MIN_OD)) & (length <= _MAX_OD) & (densities.min(axis=1) > -0.05)
    length = length[usable]
    unit = densities[usable] / length[:, None]
    closeness = unit @ expected.T
    found = expected.copy()
    estimated = [False, False]
    for own, other in ((0, 1), (1, 0)):
        near = (closeness[:, own] > np.cos(np.radians(within_deg))) & (length >= _MIN_OD[own])
        near &= closeness[:, own] > closeness[:, other]
        if np.count_nonzero(near) < _MIN_PIXELS:
            continue
        found[own] = _purest(unit[near], length[near], expected[own], found[other], _PURE[own])
        estimated[own] = True
    return found, (estimated[0], estimated[1])


def _purest(
    unit: FloatArray, weight: FloatArray, own: FloatArray, other: FloatArray, between: tuple[float, float]
) -> FloatArray:
    """Return the mean direction of pixels between two percentiles of the angle from the other stain."""
    away = own - (own @ other) * other
    away /= np.linalg.norm(away)
    angle = np.arctan2(unit @ away, unit @ other)
    low, high = np.percentile(angle, between)
    pure = (angle >= low) & (angle <= high)
    mean: FloatArray = weight[pure] @ unit[pure]
    return mean / np.linalg.norm(mean)
