"""Where there is tissue, and where it can be assessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from histo.config import TissueConfig
from histo.slide import quality
from histo.slide.background import dark_level, glass_level
from histo.slide.base import Kind
from histo.slide.survey import Survey

# Optical density of detail: cells show it even in the palest tissue, glass does not.
_DETAIL = 0.010
# Detail of noise: the ratio of scales is 4 (Survey.sharpness), cells have 2 or less.
_NOISE_RATIO = 2.5
_FAINT_OD = 0.03
# Without detail (out of focus, mucus) colour has to tell: mean density and spread over the three colours.
_PLAIN_OD = 0.06
_PLAIN_CHROMA = 0.04


@dataclass(frozen=True)
class Tissue:
    """Tissue on the survey's grid; all arrays have its (rows, columns).

    mpp : um per pixel.
    mask : bool, all tissue, spoilt parts included.
    artefacts : "pen", "out_of_focus", "bubble", as far as looked for: bool, wherever it was found.
    assessed : bool, the mask without the artefacts that the configuration excludes and without `unread`.
    unread : bool, stored data could not be decoded.
    coverage : float32, share of each pixel that lies on the slide.
    flags : (code, message) of what a reader of the results must know.
    """

    mpp: float
    mask: NDArray[np.bool_]
    artefacts: Mapping[str, NDArray[np.bool_]]
    assessed: NDArray[np.bool_]
    unread: NDArray[np.bool_]
    coverage: NDArray[np.float32]
    flags: tuple[tuple[str, str], ...]

    def area_mm2(self, mask: NDArray[np.bool_]) -> float:
        """Return the area of a mask (rows, columns) in mm2; a pixel partly off the slide counts in part."""
        return float(self.coverage[mask].sum(dtype=np.float64)) * self.mpp**2 / 1e6


def detect_tissue(survey: Survey, kind: Kind, config: TissueConfig) -> Tissue:
    """Find tissue and what spoils it.

    Thresholds are absolute (optical density; multiples of the background's noise), so that a picture that is
    all tissue or all glass is told for what it is.
    """
    artefacts: dict[str, NDArray[np.bool_]] = {}
    if kind == "brightfield":
        od = survey_od(survey)
        mask, artefacts["pen"], artefacts["bubble"] = _brightfield(survey, od, config)
    else:
        mask = _fluorescence(survey, config)
    artefacts["out_of_focus"] = quality.out_of_focus(survey, mask & ~artefacts.get("pen", np.False_))
    mask &= survey.coverage > 0
    excluded = np.zeros_like(mask)
    for name, exclude in (
        ("pen", config.exclude_pen),
        ("out_of_focus", config.exclude_out_of_focus),
        ("bubble", config.exclude_bubbles),
    ):
        if exclude and name in artefacts:
            excluded |= artefacts[name]
    assessed = mask & ~excluded & ~survey.unread
    unread = survey.unread & (survey.coverage > 0)
    tissue = Tissue(survey.mpp, mask, artefacts, assessed, unread, survey.coverage, ())
    return replace(tissue, flags=tuple(_flags(tissue, survey, config)))


def _flags(tissue: Tissue, survey: Survey, config: TissueConfig) -> list[tuple[str, str]]:
    area = tissue.area_mm2(tissue.mask)
    flags = []
    if area == 0:
        flags.append(("no_tissue", "no tissue was found"))
    if tissue.unread.any():
        flags.append(
            (
                "unread",
                f"{tissue.area_mm2(tissue.unread):.3g} mm2 of the slide could not be decoded and is left out",
            )
        )
    if np.isnan(survey.sharpness[~survey.unread]).all():
        flags.append(("focus_not_assessed", "the slide is too coarse to tell whether it is in focus"))
    for name, mask in tissue.artefacts.items():
        share = tissue.area_mm2(mask & tissue.mask) / area if area else 0.0
        if share > config.flag_excluded_fraction:
            code = f"{name}_area"
            flags.append((code, f"{name.replace('_', ' ')}: {share:.0%} of the tissue"))
    excluded = 1 - tissue.area_mm2(tissue.assessed) / area if area else 0.0
    if excluded > config.flag_excluded_fraction:
        flags.append(("excluded_area", f"{excluded:.0%} of the tissue is left out as spoilt or unreadable"))
    return flags


def survey_od(survey: Survey) -> NDArray[np.float32]:
    """Return the optical density (rows, columns, 3) of a brightfield survey against its glass.

    Without glass in the picture the brightest percentile of each colour stands in for it.
    """
    white = glass_level(survey)
    if white is None:
        white = np.percentile(survey.overview[survey.coverage > 0].reshape(-1, 3), 99, axis=0)
    levels = np.maximum(survey.overview.astype(np.float32), 1.0)
    return np.asarray(np.log10(np.maximum(white, 1.0)) - np.log10(levels), np.float32)


def _brightfield(
    survey: Survey, od: NDArray[np.float32], config: TissueConfig
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    mean = ndimage.gaussian_filter(od.mean(axis=2), 0.7, mode="nearest")
    chroma = ndimage.gaussian_filter(np.ptp(od, axis=2), 0.7, mode="nearest")
    detailed = survey.contrast > _DETAIL
    faint = detailed & ~(survey.sharpness > _NOISE_RATIO)
    # Detail is measured in a window and reaches past the tissue's edge by half of it.
    tissue = ndimage.binary_erosion(faint, np.ones((5, 5), bool), border_value=1)
    tissue |= detailed & (mean > _FAINT_OD)
    tissue |= (mean > _PLAIN_OD) & (chroma > np.maximum(_PLAIN_CHROMA, 0.2 * mean))
    tissue &= ~quality.dark_border(survey.overview, od, survey.mpp) & ~survey.unread
    ink = quality.pen_marks(od, survey.mpp)
    air = quality.bubbles(od, survey.mpp) & ~ink
    # Ink on glass is no tissue, ink on tissue is; its surroundings tell.
    mask = _tidy(tissue & ~ink, survey, config)
    if ink.any():
        width = round(400.0 / survey.mpp) | 1
        clear = ndimage.uniform_filter((~ink).astype(np.float32), width, mode="nearest")
        share = ndimage.uniform_filter((mask & ~ink).astype(np.float32), width, mode="nearest")
        mask = (mask & ~ink) | (ink & (share > 0.5 * np.maximum(clear, 0.02)))
    return mask, ink, air


def _fluorescence(survey: Survey, config: TissueConfig) -> NDArray[np.bool_]:
    """Tissue: where a channel stands out from its background, or there is detail that is not noise."""
    on_slide = (survey.coverage > 0.5) & ~survey.unread
    brightest = np.zeros(survey.overview.shape[:2], np.float32)
    for channel in np.moveaxis(survey.overview, 2, 0):
        values = ndimage.gaussian_filter(channel.astype(np.float32), 1.0, mode="nearest")
        background, noise = dark_level(values[on_slide])
        span = float(np.percentile(values[on_slide], 99.9)) - background
        step = 2.0 if np.issubdtype(channel.dtype, np.integer) else 1e-12
        brightest = np.maximum(brightest, (values - background) / max(6 * noise, 0.2 * span, step))
    tissue = brightest > 1
    # Noise is white: four times more energy at half the scale. Cells are not.
    strongest = float(np.percentile(survey.contrast[on_slide], 99))
    tissue |= (survey.sharpness < 2.0) & (survey.contrast > 0.05 * strongest) & (strongest > 0)
    return _tidy(tissue & on_slide, survey, config)


def _tidy(tissue: NDArray[np.bool_], survey: Survey, config: TissueConfig) -> NDArray[np.bool_]:
    radius = max(1, round(16.0 / survey.mpp))
    disc = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius + 0.3
    # Mirrored, so that tissue at the picture's border is treated as tissue that goes on.
    padded = np.pad(tissue, 2 * radius, mode="symmetric")
    closed = ndimage.binary_closing(padded, disc)[2 * radius : -2 * radius, 2 * radius : -2 * radius]
    px_um2 = survey.mpp**2
    # A crop smaller than the smallest piece of tissue may still be all tissue.
    min_px = min(config.min_area_um2 / px_um2, 0.5 * closed.size)
    kept = quality.without_small(closed, min_px)
    return ~quality.without_small(~kept, config.min_hole_area_um2 / px_um2)
