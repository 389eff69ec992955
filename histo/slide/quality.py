"""What spoils a slide: ink, out-of-focus areas, air bubbles, slide edges. Judged on the survey.

The ink rules look at the direction of the optical density: every histological stain in use absorbs green at
least nearly as much as red and blue, while inks do not. They were set on published slides with blue, green,
red and black ink, against H-DAB and H&E tissue.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from histo.slide.survey import Survey

# A pen stroke is wider than this.
_STROKE_UM = 24.0
# Ink bleeds beyond what is coloured enough to be recognised.
_BLEED_UM = 24.0
_FOLLOW_UM = 160.0
_MIN_INK_UM2 = 15_000.0

# Energy ratio (see Survey.sharpness), averaged over 80 um, below which tissue counts as out of focus. Of five
# published scans it takes nothing as they are, and 97 to 100 % once blurred by a Gaussian of 3 or 6 um.
_SHARPNESS_LIMIT = 0.17
_MIN_BLURRED_UM2 = 20_000.0

_MIN_BUBBLE_UM2 = 10_000.0


def pen_marks(od: NDArray[np.float32], mpp: float) -> NDArray[np.bool_]:
    """Find ink.

    Parameters
    ----------
    od : (rows, columns, 3) optical density of the survey.
    mpp : its um per pixel.

    Returns
    -------
    (rows, columns) bool: blue, green or black ink, on glass or on tissue; red ink on glass and a little way
    into tissue: over haematoxylin it has the colour of a red chromogen.
    """
    smooth = ndimage.uniform_filter(od, (3, 3, 1), mode="nearest")
    strength = np.linalg.norm(smooth, axis=2)
    unit = smooth / np.maximum(strength, 1e-3)[..., None]
    red, green, blue = unit[..., 0], unit[..., 1], unit[..., 2]
    red_over_green, blue_over_green = red - green, blue - green
    # Haematoxylin of a cyan cast reaches 0.3 and -0.2, below this line.
    is_green = (red_over_green > 0.2) & (blue_over_green > 0.08 - 0.6 * red_over_green) & (strength > 0.3)
    is_blue = (red_over_green > 0.15) & (blue_over_green < -0.25) & (strength > 0.25)
    # AEC, the reddest chromogen, keeps 0.27 of red; eosin has less blue.
    is_red = (red < 0.16) & (blue_over_green > -0.28) & (strength > 0.4)
    # No stained tissue is that dark over the width of a stroke.
    is_black = (np.abs(blue_over_green) < 0.2) & (red_over_green > -0.35) & (red_over_green < 0.2)
    is_black &= strength > 1.05
    ink = np.zeros(strength.shape, bool)
    for colour in (is_green, is_blue, is_red, is_black):
        ink |= _opened(colour, _STROKE_UM / 2 / mpp)
    ink = without_small(ink, _MIN_INK_UM2 / mpp**2)
    if ink.any():
        # Where a stroke crosses dark tissue its colour is mixed: followed a little way from clear ink only.
        mixed = (red_over_green > -0.1) & (blue_over_green > -0.22) & (strength > 0.55)
        mixed |= (red < 0.22) & (blue_over_green > -0.32) & (strength > 0.4)
        mixed |= strength > 1.05
        steps = max(1, round(_FOLLOW_UM / mpp))
        ink = ndimage.binary_dilation(ink, np.ones((3, 3), bool), iterations=steps, mask=ink | mixed)
    return grown(ink, _BLEED_UM / mpp)


def out_of_focus(survey: Survey, tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find tissue whose finest detail is missing; empty where the survey cannot say (NaN sharpness)."""
    known = np.isfinite(survey.sharpness) & tissue
    if not known.any():
        return np.zeros(tissue.shape, bool)
    # Averaged over tissue only: glass has no detail to be sharp or not.
    width = max(3, round(80.0 / survey.mpp) | 1)
    weight = ndimage.uniform_filter(known.astype(np.float32), width, mode="nearest")
    ratio = ndimage.uniform_filter(
        np.where(known, survey.sharpness, 0).astype(np.float32), width, mode="nearest"
    )
    blurred = known & (ratio < _SHARPNESS_LIMIT * weight)
    blurred = _opened(blurred, 24.0 / survey.mpp)
    return without_small(blurred, _MIN_BLURRED_UM2 / survey.mpp**2)


def bubbles(od: NDArray[np.float32], mpp: float) -> NDArray[np.bool_]:
    """Find air bubbles: what a thin, dark, colourless, closed outline encloses, outline included.

    Only a complete outline that fills its bounding box as an ellipse does is taken for one.
    """
    mean = od.mean(axis=2)
    colourless = np.ptp(od, axis=2) < np.maximum(0.25 * mean, 0.03)
    rim = (mean > 0.25) & colourless
    rim = ndimage.binary_closing(np.pad(rim, 2), np.ones((3, 3), bool))[2:-2, 2:-2]
    found = np.zeros(rim.shape, bool)
    labels, _ = ndimage.label(rim, np.ones((3, 3), int))
    for index, window in enumerate(ndimage.find_objects(labels), start=1):
        ring = labels[window] == index
        if ring.size * mpp**2 < _MIN_BUBBLE_UM2:
            continue
        inside = np.asarray(ndimage.binary_fill_holes(ring))
        area = int(inside.sum())
        hollow = 1 - ring.sum() / area
        if area * mpp**2 < _MIN_BUBBLE_UM2 or hollow < 0.5:
            continue
        height, width = ring.shape
        # An ellipse fills pi/4 = 0.785 of its box; arms and straight structures do not.
        if 0.7 < area / (height * width) < 0.87 and 0.4 < height / width < 2.5:
            found[window] |= inside
    return found


def dark_border(pixels: NDArray[np.uint8], od: NDArray[np.float32], mpp: float) -> NDArray[np.bool_]:
    """Find what a scanner adds at the rim: near-black or evenly grey, and touching the picture's border."""
    mean = od.mean(axis=2)
    colourless = np.ptp(od, axis=2) < 0.2 * mean
    black = (pixels.max(axis=2) < 60) & (np.ptp(pixels, axis=2) < 25)
    grey = (mean > 0.05) & colourless
    candidate: NDArray[np.bool_] = black | grey
    labels, n = ndimage.label(candidate)
    if n == 0:
        return candidate
    touching = np.zeros(n + 1, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        touching[edge] = True
    touching[0] = False
    rim: NDArray[np.bool_] = touching[labels]
    return _opened(rim, 12.0 / mpp)


def without_small(mask: NDArray[np.bool_], min_px: float) -> NDArray[np.bool_]:
    """Return the mask without components (4-connected) of fewer pixels."""
    labels, n = ndimage.label(mask)
    if n == 0:
        return mask
    keep = np.bincount(labels.ravel()) >= min_px
    keep[0] = False
    out: NDArray[np.bool_] = keep[labels]
    return out


def grown(mask: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    """Return the mask grown by a radius."""
    if radius_px < 1 or not mask.any():
        return mask
    out: NDArray[np.bool_] = ndimage.distance_transform_edt(~mask) <= radius_px
    return out


def _opened(mask: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    """Return the mask without parts narrower than twice the radius; beyond the picture it goes on."""
    radius = int(radius_px)
    if radius < 1 or not mask.any():
        return mask
    pad = 2 * radius + 1
    padded = np.pad(mask, pad, mode="edge")
    core = ndimage.distance_transform_edt(padded) > radius
    if not core.any():
        return np.zeros_like(mask)
    opened = (ndimage.distance_transform_edt(~core) <= radius) & padded
    return np.ascontiguousarray(opened[pad:-pad, pad:-pad])
