"""Stain vectors of a slide, found near the ones that the protocol expects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Optical density (length of the vector) that a pixel needs to have a direction worth counting, and beyond
# which the camera no longer follows Beer-Lambert.
_NUCLEAR_OD = 0.25
_CD8_OD = 0.45
_MAX_OD = 2.2
# As few pixels as about ten cells have at 0.5 um.
_MIN_PIXELS = 800
# Kernel of the mode search.
_BANDWIDTH_DEG = 4.0

FloatArray = NDArray[np.float64]


def estimate_vectors(
    od: NDArray[np.float32], expected: FloatArray, within_deg: float
) -> tuple[FloatArray, list[str]]:
    """Estimate the nuclear and the CD8 vector from the densities of a sample of tissue.

    Both are modes of the direction of optical density (weighted by density) among pixels near the expected
    vector. A stain of which there is too little keeps the expected one.

    Parameters
    ----------
    od : (n, 3) optical density.
    expected : (2, 3) unit vectors, nuclear and CD8.
    within_deg : farthest that an estimate may be from what is expected.

    Returns
    -------
    (2, 3) unit vectors, and a note per stain that was not estimated.
    """
    od64 = od.astype(np.float64)
    length = np.linalg.norm(od64, axis=1)
    usable = (length >= _NUCLEAR_OD) & (length <= _MAX_OD) & (od64.min(axis=1) > -0.05)
    od64, length = od64[usable], length[usable]
    unit = od64 / np.maximum(length, 1e-6)[:, None]
    closeness = unit @ expected.T
    found = expected.copy()
    notes = []
    for index, (name, least) in enumerate((("nuclear", _NUCLEAR_OD), ("cd8", _CD8_OD))):
        near = closeness[:, index] > np.cos(np.radians(within_deg))
        own = near & (closeness[:, index] > closeness[:, 1 - index]) & (length >= least)
        if np.count_nonzero(own) < _MIN_PIXELS:
            notes.append(f"too little pure {name} stain to estimate its vector: taken as configured")
            continue
        mode = _mode(unit[own], length[own], expected[index])
        found[index] = mode
    return found, notes


def _mode(unit: FloatArray, weight: FloatArray, start: FloatArray) -> FloatArray:
    """Return the densest direction, by mean shift from the weighted mean."""
    step = max(1, len(unit) // 200_000)
    unit, weight = unit[::step], weight[::step]
    direction = weight @ unit
    direction /= np.linalg.norm(direction)
    sharp = 1 / np.radians(_BANDWIDTH_DEG) ** 2
    for _ in range(20):
        # Von Mises-Fisher kernel, the Gaussian on the sphere.
        kernel = weight * np.exp(sharp * (unit @ direction - 1))
        moved = kernel @ unit
        moved /= np.linalg.norm(moved)
        if moved @ direction > 1 - 1e-10:
            break
        direction = moved
    return direction
