"""What a slide looks like where there is nothing: bare glass, or the dark of a fluorescence channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from histo.slide.survey import Survey

# Optical density of detail (2-8 um) that bare glass does not exceed; the palest tissue has 0.010 and more.
GLASS_DETAIL = 0.006


def glass_level(survey: Survey) -> NDArray[np.float64] | None:
    """Return the (3,) grey levels of bare glass; None where the picture shows none.

    The commonest level of bright, nearly colourless pixels without detail. Pixels that are exactly white are
    left out where there are others: scanners fill with them what they did not scan.
    """
    pixels = survey.overview.astype(np.float64)
    plain = (
        (pixels.min(axis=2) >= 170)
        & (np.ptp(pixels, axis=2) <= 35)
        & (survey.contrast < GLASS_DETAIL)
        & (survey.coverage > 0.5)
        & ~survey.unread
    )
    unscanned = plain & (survey.overview.min(axis=2) == 255)
    enough = max(16, int(0.002 * plain.size))
    if np.count_nonzero(plain & ~unscanned) >= enough:
        plain &= ~unscanned
    if np.count_nonzero(plain) < enough:
        return None
    glass = pixels[plain]
    brightness = glass.mean(axis=1)
    counts = np.bincount(np.rint(brightness).astype(np.int64), minlength=256).astype(np.float64)
    counts = ndimage.gaussian_filter1d(counts, 1.5)
    # Pale tissue that is out of focus makes a mode too; glass is the brightest mode of weight.
    peaks = np.flatnonzero((counts >= np.roll(counts, 1)) & (counts >= np.roll(counts, -1)))
    mode = int(peaks[counts[peaks] >= 0.2 * counts.max()].max())
    near = np.abs(brightness - mode) <= 3
    return np.asarray(np.median(glass[near], axis=0), np.float64)


def dark_level(values: NDArray[Any]) -> tuple[float, float]:
    """Return the background of a fluorescence channel and the noise on it.

    The background is the low mode: the middle of the shortest interval that holds a fifth of all values,
    among those up to the median. The noise is the robust standard deviation of what lies below it (1.4826
    times the median distance), for that side holds no signal.
    """
    ordered = np.sort(values.ravel().astype(np.float64))
    n = len(ordered)
    if n == 0:
        return 0.0, 0.0
    low = ordered[: max(1, (n + 1) // 2)]
    held = max(1, n // 5)
    if len(low) <= held:
        level = float(np.median(low))
    else:
        start = int(np.argmin(low[held:] - low[:-held]))
        level = float((low[start] + low[start + held]) / 2)
    below = level - ordered[ordered <= level]
    noise = 1.4826 * float(np.median(below)) if len(below) else 0.0
    return level, noise
