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
# A plane is fitted to no more pixels than these.
_MAX_PLANE_PIXELS = 200_000
_PLANE_STEPS, _PLANE_STARTS = 40, 5
# The expected vectors count like so many pixels of a density of 0.5: they decide where a stain is absent.
_PRIOR_PIXELS = 200
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


def clear_of_third(
    od: NDArray[np.float32], pair: FloatArray, third: FloatArray, within_deg: float
) -> FloatArray:
    """Turn two stain vectors so that pixels without the third stain show none of it.

    Mixtures of two stains lie in a plane, however much of each there is, and what of them is taken for the
    third stain follows from that plane alone. It is fitted to the pixels (least squares of their distance
    from it), those off it counting less, and at the start those on the third stain's side: cells that carry
    it do not draw the plane to them, unless next to all of a stain lies in such cells.

    Parameters
    ----------
    od : (n, 3) optical density of a sample of tissue.
    pair : (2, 3) unit vectors, nuclear and CD8. third : (3,) the unit vector of the third stain.
    within_deg : farther than this the plane is not turned: `pair` is returned.

    Returns
    -------
    (2, 3) unit vectors, the nearest ones in that plane.
    """
    densities = od[:: len(od) // _MAX_PLANE_PIXELS + 1].astype(np.float64)
    length = np.linalg.norm(densities, axis=1)
    usable = (length >= min(_MIN_OD)) & (length <= _MAX_OD) & (densities.min(axis=1) > -0.05)
    densities = densities[usable]
    if len(densities) < _MIN_PIXELS:
        return pair
    prior = 0.25 * _PRIOR_PIXELS * (pair.T @ pair)
    first = _normal(pair, third)
    normal = first
    for step in range(_PLANE_STEPS):
        off = densities @ normal
        if step < _PLANE_STARTS:
            weight = np.where(off > 0, 0.1, 0.9)
        else:
            # Noise is what lies on the side where the third stain is not.
            noise = 1.4826 * float(np.median(-off[off < 0])) if (off < 0).any() else 0.0
            weight = np.exp(-0.5 * np.square(off / max(1.5 * noise, 1e-3)))
        scatter = (densities * weight[:, None]).T @ densities + prior
        # Of ascending eigenvalues: the direction in which pixels differ least from the plane.
        turned = np.linalg.eigh(scatter)[1][:, 0]
        turned *= np.sign(turned @ third)
        still = step > _PLANE_STARTS and np.abs(turned - normal).max() < 1e-5
        normal = turned
        if still:
            break
    if normal @ first < np.cos(np.radians(within_deg)) or normal @ third < 0.5 * (first @ third):
        return pair
    moved = pair - np.outer(pair @ normal, normal)
    cleared: FloatArray = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return cleared


def _normal(pair: FloatArray, towards: FloatArray) -> FloatArray:
    """Return the unit normal of the plane of two vectors, on the side of a third."""
    normal = np.cross(pair[0], pair[1])
    normal *= np.sign(normal @ towards) / np.linalg.norm(normal)
    return np.asarray(normal, np.float64)


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
