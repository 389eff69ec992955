"""Tumour from a channel that stains it: keratin, say, in fluorescence or as a third chromogen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry import MultiPolygon

from histo.config import RegionName
from histo.regions.classify import mask_to_polygons
from histo.slide.background import dark_level
from histo.slide.base import Slide
from histo.slide.quality import without_small
from histo.slide.survey import Survey
from histo.slide.tissue import Tissue
from histo.stain.deconvolution import STAINS
from histo.stain.space import BrightfieldTransform, StainTransform, find_channel

FloatArray = NDArray[np.float32]

_SMOOTHING_UM: Final = 8.0
# Strands of stroma up to this wide lie inside the tumour; pieces smaller than this are no tumour.
_JOINED_UM: Final = 100.0
_MIN_AREA_UM2: Final = 20_000.0
_MIN_STROMA_UM2: Final = 2_000.0

# Two kinds of tissue: means at least 2 standard deviations apart (Ashman 1994, AJ 108:2348), at least twice
# as bright, a valley between them in the data itself, and neither all but absent.
_SEPARATION: Final = 2.0
_RATIO: Final = 2.0
_VALLEY: Final = 0.8
_MIN_SHARE: Final = 0.01
_FIT_PX: Final = 50_000


@dataclass(frozen=True)
class ChannelTumour:
    """Tumour found in a channel.

    polygons_um : tumour, and the stroma in it; empty where there is none.
    threshold : in the channel's own unit; None where there is none.
    reason : why there is no tumour; None where there is.
    """

    polygons_um: dict[RegionName, MultiPolygon]
    threshold: float | None
    reason: str | None


def channel_amount(slide: Slide, survey: Survey, stain: StainTransform, name: str) -> FloatArray:
    """Return the amount of a tumour marker on the survey's grid (rows, columns).

    Grey levels of the channel for fluorescence, optical density of the residual stain for brightfield.

    Raises
    ------
    ChannelError : the slide has no such channel; those it has are listed.
    """
    if isinstance(stain, BrightfieldTransform):
        amounts = stain(survey.overview)[STAINS.index("residual")]
    else:
        amounts = survey.overview[..., find_channel(slide, name)].astype(np.float32)
    return np.asarray(
        ndimage.gaussian_filter(amounts, _SMOOTHING_UM / survey.mpp, mode="nearest"), np.float32
    )


def tumour_in_channel(amount: FloatArray, tissue: Tissue, threshold: float | None) -> ChannelTumour:
    """Find tumour as the tissue that a marker stains.

    Parameters
    ----------
    amount : (rows, columns) on the tissue's grid, see `channel_amount`.
    threshold : what is above it is stained; None takes it from the slide (`two_kinds`), and finds no tumour
        where the slide does not show two kinds of tissue.
    """
    values = amount[tissue.assessed]
    if len(values) == 0:
        return ChannelTumour({}, None, "there is no assessed tissue")
    if threshold is None:
        threshold, reason = two_kinds(values)
        if threshold is None:
            return ChannelTumour({}, None, reason)
    stained = tissue.assessed & (amount > threshold)
    px_um2 = tissue.mpp**2
    radius = max(1, round(_JOINED_UM / 2 / tissue.mpp))
    # Mirrored: what runs out of the picture goes on.
    padded = np.pad(stained, 2 * radius, mode="symmetric")
    dilated = ndimage.distance_transform_edt(~padded) <= radius
    closed = ndimage.distance_transform_edt(dilated) > radius
    joined = closed[2 * radius : -2 * radius, 2 * radius : -2 * radius]
    tumour = without_small(joined & tissue.assessed, _MIN_AREA_UM2 / px_um2)
    if not tumour.any():
        return ChannelTumour({}, threshold, f"no tissue of {_MIN_AREA_UM2:g} um2 is above {threshold:.4g}")
    stroma = without_small(tumour & ~stained, _MIN_STROMA_UM2 / px_um2)
    regions: dict[RegionName, MultiPolygon] = {"tumour": mask_to_polygons(tumour, tissue.mpp)}
    if stroma.any():
        regions["stroma"] = mask_to_polygons(stroma, tissue.mpp)
    return ChannelTumour(regions, threshold, None)


def two_kinds(values: FloatArray) -> tuple[float | None, str | None]:
    """Return the level between unstained and stained tissue, or None and why there is none.

    A mixture of two normal distributions is fitted to the logarithm of what exceeds the background. It must
    show two kinds of tissue: well apart, a valley of the data between them, both of some size. Else all
    tissue may be tumour, or none, and half of it must not be called so.

    Parameters
    ----------
    values : (n,) amounts of all assessed tissue.
    """
    # Imported where it is needed: most runs fit nothing, and it costs half a second and 50 MB.
    from sklearn.mixture import GaussianMixture

    background, noise = dark_level(values)
    step = max(1, len(values) // _FIT_PX)
    shift = max(3 * noise, 1e-3 * float(np.ptp(values)), 1e-9)
    sample = np.log2(np.maximum(values[::step].astype(np.float64) - background, 0) + shift)
    if len(sample) < 100 or float(np.ptp(sample)) < 1e-6:
        return None, "the tissue is stained evenly"
    mixture = GaussianMixture(2, random_state=0, reg_covar=1e-4)
    mixture.fit(sample[:, None])
    order = np.argsort(mixture.means_[:, 0])
    mean, share = mixture.means_[order, 0], mixture.weights_[order]
    deviation = np.sqrt(mixture.covariances_[order, 0, 0])
    apart = float((mean[1] - mean[0]) / np.sqrt((deviation**2).mean()))
    levels = np.linspace(sample.min(), sample.max(), 129)
    counts = np.histogram(sample, levels)[0].astype(np.float64)
    density = ndimage.gaussian_filter1d(counts, 2.0)
    middle = (levels[1:] + levels[:-1]) / 2
    low, high = np.searchsorted(middle, mean)
    between = density[low : high + 1]
    valley = low + int(between.argmin()) if len(between) else low
    peak = min(density[: valley + 1].max(initial=0), density[valley:].max(initial=0))
    wide = mean[1] - mean[0] >= np.log2(_RATIO)
    clear = density[valley] <= _VALLEY * peak
    if apart < _SEPARATION or not wide or not clear or share.min() < _MIN_SHARE:
        return None, "its amounts show one kind of tissue, not two: all of it may be tumour, or none"
    return float(2 ** middle[valley] - shift + background), None
