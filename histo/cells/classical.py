"""Cells by thresholds and watersheds: the classical rule that published counts were made with.

The steps are those of QuPath's cell detection (Bankhead 2017, Sci Rep 7:16878): nuclei lie inside the zero
crossings of a Laplacian of Gaussian of a stain amount less its background, those that are too faint are
dropped, touching ones part where their distance transform narrows, and each grows by a margin to a cell. A
cell is positive where its nucleus has enough DAB. The parameters of a study are a `ClassicalRule`.

Written to give the same cells however a slide is cut, unlike the original: a background spreads no further
than `_SPREAD_RADII` radii, and a hole is filled up to a size. What is left is an aggregate whose nuclei do
not part over more than the halo, e.g. a stained vessel wall: where a tile's edge cuts it, so it may be cut.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import dilation, disk, erosion, local_maxima, reconstruction
from skimage.segmentation import expand_labels, watershed

from histo.cells.decode import REACH_PX
from histo.cells.detect import TileCells, check_tile, owned_cells
from histo.cells.instances import (
    Instances,
    fill_holes,
    largest_parts,
    no_instances,
    number_by_centroid,
)
from histo.config import CellsConfig
from histo.slide.tiles import Tile
from histo.stain.deconvolution import AMOUNT_RANGE, STAINS

# Spreading of the background beyond where it was found, in its radii. Without an end to it the rule finds
# 3 % fewer nuclei in a field of 0.25 mm2.
_SPREAD_RADII: Final = 4
# A Gaussian ends after this many sigmas.
_TRUNCATE: Final = 4.0
# Curvature below this is noise, not a nucleus.
_FAINTEST_PEAK: Final = 0.001
# A neck must be narrower than the nucleus by this much (pixels, in radius) for nuclei to part there.
_NECK_PX: Final = 0.5
# Blurring wider than this (pixels) moves outlines outwards; they are drawn in again.
_WIDE_BLUR_PX: Final = 1.5
# Many pixels are equally deep; which comes first then must not depend on the rest of the tile.
_TIE_BREAK: Final = 0.01
_SQUARE: Final = np.ones((3, 3), bool)


@dataclass(frozen=True)
class ClassicalRule:
    """Parameters of the classical rule; amounts are optical densities, lengths um, areas um2.

    name : in outputs.
    detection_weights : how much of each stain (nuclear, CD8, residual) is in the image that nuclei are
        looked for in. (1, 0, 0) is QuPath's "Hematoxylin OD"; the sums of the rows of the stain matrix are
        its "Optical density sum".
    background_radius_um : larger than a nucleus; 0 subtracts no background.
    max_background : nuclei near places with more background than this are dropped.
    sigma_um : of the Gaussian.
    threshold : mean of the detection image, less its background, that a nucleus must exceed.
    nucleus_area_um2 : smallest and largest.
    expansion_um : from the nucleus to the cell's outline, less where cells touch.
    positive_above : mean CD8 amount of the nucleus that a CD8+ cell exceeds.
    """

    name: str
    detection_weights: tuple[float, float, float]
    background_radius_um: float
    max_background: float
    sigma_um: float
    threshold: float
    nucleus_area_um2: tuple[float, float]
    expansion_um: float
    positive_above: float


# Kather 2018 (eLife 7:e36967), github.com/jnkather/immuneTopography, qupath_scripts/pancancer, the script for
# CD8 of 2018-01-04. For the darker staining of their second cohort (DACHS) the authors took 0.25 for 0.14.
KATHER2018: Final = ClassicalRule(
    name="kather2018",
    detection_weights=(1.0, 0.0, 0.0),
    background_radius_um=8.0,
    max_background=2.0,
    sigma_um=1.5,
    threshold=0.08,
    nucleus_area_um2=(10.0, 100.0),
    expansion_um=1.5,
    positive_above=0.14,
)


class ClassicalDetector:
    """Finds cells in tiles of stain space by a classical rule, on the CPU.

    The interface is that of `CellDetector`. The rule is meant for brightfield slides. It gives no
    probabilities: they are NaN.

    Parameters
    ----------
    rule : the parameters.
    config : the limits of a cell's area, the width of its ring and the tolerance of its outline; the other
        settings are the network's.
    """

    # The pixel size of the published rule (requestedPixelSizeMicrons).
    mpp: Final = 0.5
    multiple: Final = 1

    def __init__(self, rule: ClassicalRule, config: CellsConfig) -> None:
        self.rule = rule
        self.config = config
        self.device = "cpu"
        self.name = f"rule {rule.name}"
        self.sha256 = hashlib.sha256(json.dumps(asdict(rule), sort_keys=True).encode()).hexdigest()
        background = (1 + _SPREAD_RADII) * round(rule.background_radius_um / self.mpp)
        blur = round(_TRUNCATE * rule.sigma_um / self.mpp) + 1
        self.halo_px = background + blur + REACH_PX

    def detect(self, stain: NDArray[np.float32], tile: Tile) -> TileCells:
        """Find the cells that a tile owns.

        Parameters
        ----------
        stain : (3, H, W) stain amounts over the tile's read box.
        tile : on the grid at `mpp`.

        Raises
        ------
        ValueError : the box does not fit the array, or has too narrow a halo.
        """
        check_tile(stain, tile, halo_px=self.halo_px, multiple=self.multiple)
        found = self._instances(stain)
        return owned_cells(found, stain, tile, margin_px=0, mpp=self.mpp, config=self.config)

    def _instances(self, stain: NDArray[np.float32]) -> Instances:
        rule, mpp = self.rule, self.mpp
        nuclei = find_nuclei(stain, rule, mpp)
        labels: NDArray[np.int32] = expand_labels(nuclei, rule.expansion_um / mpp)  # type: ignore[no-untyped-call]
        limits_px = (self.config.min_area_um2 / mpp**2, self.config.max_area_um2 / mpp**2)
        cells = number_by_centroid(labels, limits_px)
        if len(cells.kept) == 0:
            return no_instances(labels > 0)
        positive = _means(stain[STAINS.index("cd8")], nuclei)[cells.kept] > rule.positive_above
        return Instances(
            cells.number[labels],
            labels > 0,
            cells.area_px,
            cells.row_sum,
            cells.column_sum,
            np.where(positive, 0, 1),
            np.full(len(cells.kept), np.nan),
        )


def find_nuclei(stain: NDArray[np.float32], rule: ClassicalRule, mpp: float) -> NDArray[np.int32]:
    """Find the nuclei of an image.

    Parameters
    ----------
    stain : (3, H, W) amounts.

    Returns
    -------
    (H, W) int32 labels; not every number need be in use.
    """
    sigma_px = rule.sigma_um / mpp
    image = np.tensordot(np.asarray(rule.detection_weights, np.float32), stain, axes=1)
    image, crowded = _less_background(image, rule, mpp)
    curvature = _curvature(image, sigma_px)
    inside = _bright_parts(image, curvature, crowded, rule.threshold)
    labels = _part_at_necks(inside, curvature)
    if sigma_px > _WIDE_BLUR_PX:
        # Of the rim, what is inside at a finer scale too.
        finer = _curvature(image, 1.0) > 0
        labels = np.where(ndimage.binary_erosion(labels > 0, _SQUARE) | finer, labels, 0)
    labels = fill_holes(largest_parts(labels))
    area = np.bincount(labels.ravel()) * mpp**2
    low, high = rule.nucleus_area_um2
    keep = (area >= low) & (area <= high) & (_means(image, labels) > rule.threshold)
    keep[0] = False
    return np.where(keep[labels], labels, 0).astype(np.int32)


def _less_background(
    image: NDArray[np.float32], rule: ClassicalRule, mpp: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Subtract the opening by reconstruction; return also where there is too much background."""
    radius = round(rule.background_radius_um / mpp)
    if radius == 0:
        return image, np.zeros(image.shape, bool)
    background: NDArray[np.float32] = erosion(image, disk(radius, decomposition="sequence"))  # type: ignore[no-untyped-call]
    crowded = background > rule.max_background
    if crowded.any():
        crowded = dilation(crowded, disk(2 * radius, decomposition="sequence"))  # type: ignore[no-untyped-call]
        background = np.where(crowded, np.float32(AMOUNT_RANGE[0]), background)
    for _ in range(_SPREAD_RADII * radius):
        background = np.minimum(_widened(_widened(background).T).T, image)
    return image - background, crowded


def _widened(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest of each pixel and its two neighbours along the first axis."""
    out = image.copy()
    np.maximum(out[1:], image[:-1], out=out[1:])
    np.maximum(out[:-1], image[1:], out=out[:-1])
    return out


def _curvature(image: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    """Return the negative Laplacian of Gaussian: above 0 inside what is bright."""
    smooth = ndimage.gaussian_filter(image, sigma_px, truncate=_TRUNCATE, mode="nearest")
    return -ndimage.laplace(smooth, mode="nearest")


def _bright_parts(
    image: NDArray[np.float32],
    curvature: NDArray[np.float32],
    crowded: NDArray[np.bool_],
    threshold: float,
) -> NDArray[np.bool_]:
    """Return the inside of the zero crossings, less the basins of peaks that are too faint or crowded."""
    peaks = (curvature == ndimage.maximum_filter(curvature, 3)) & (curvature > _FAINTEST_PEAK)
    basins: NDArray[Any] = watershed(  # type: ignore[no-untyped-call]
        -curvature, ndimage.label(peaks, _SQUARE)[0], mask=curvature > 0
    )
    basins = fill_holes(basins.astype(np.int32))
    good = _means(image, basins) > threshold
    good &= np.bincount(basins.ravel(), crowded.ravel(), len(good)) == 0
    good[0] = False
    # The watershed leaves no gaps, but hole filling and faint peaks do.
    grown = ndimage.binary_dilation(good[basins], _SQUARE) & (curvature >= 0)
    return fill_holes(grown.astype(np.int32)) > 0


def _part_at_necks(inside: NDArray[np.bool_], curvature: NDArray[np.float32]) -> NDArray[np.int32]:
    """Part what touches where it narrows: a watershed on the distance from the outside."""
    depth = ndimage.distance_transform_edt(inside)
    smoothed: NDArray[Any] = reconstruction(depth - _NECK_PX, depth)  # type: ignore[no-untyped-call]
    tops: NDArray[Any] = local_maxima(smoothed, allow_borders=True) & inside  # type: ignore[no-untyped-call]
    labels: NDArray[Any] = watershed(
        -(depth + _TIE_BREAK * curvature), ndimage.label(tops, _SQUARE)[0], mask=inside
    )  # type: ignore[no-untyped-call]
    return labels.astype(np.int32)


def _means(image: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the mean of an image over each label from 0; NaN where a number is not in use."""
    count = np.bincount(labels.ravel()).astype(np.float64)
    count[count == 0] = np.nan
    mean: NDArray[np.float64] = np.bincount(labels.ravel(), image.ravel()) / count
    return mean
