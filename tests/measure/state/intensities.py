"""Invented intensities: log-normal staining over a subtracted background, with the noise of a camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def intensities(
    n: int, fraction: float, seed: int, *, contrast: float = 2.2, bleed: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return intensities, and which cells are truly positive.

    contrast : natural log of how much brighter positive cells are. bleed : share of cells that take up light
    of a neighbour.
    """
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < fraction
    stained = 10.0 * np.exp(rng.normal(0, 0.4, n) + contrast * positive) - 8.0
    neighbour = (rng.random(n) < bleed) * rng.exponential(20.0, n)
    return stained + neighbour + rng.normal(0, 3.0, n), positive
