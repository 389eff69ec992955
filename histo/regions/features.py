"""What the tissue classifier sees of a place: nuclei and texture at several scales, and no CD8 staining.

Stain amounts are filtered at 2 um/px, rectified, averaged over cells of 8 um and smoothed over their
surroundings. Pixels stained for CD8 are filled from their neighbourhood first, so that tumour cannot become
"where there are few CD8+ cells".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float32]

FEATURE_MPP_UM: Final = 2.0
# Feature pixels per cell of the class raster, each way.
CELL_PX: Final = 4
CELL_UM: Final = FEATURE_MPP_UM * CELL_PX

# Standard deviations of the filters in um, and of the surroundings that their answers are averaged over.
_FILTERS_UM: Final = (2.0, 4.0)
_SURROUNDINGS_UM: Final = (16.0, 32.0)
# CD8 amount of a stained pixel: optical density (Kather's rule calls a nucleus at a mean of 0.14), or share
# of a bright cell's fluorescence.
STAINED: Final = 0.25
# What is stained is filled from its neighbourhood; where all of that is stained, from a wider one.
_FILL_UM: Final = (8.0, 32.0)
_TRUNCATE: Final = 3.0

_FILTER_NAMES: Final = ("smoothed", "gradient", "ridge", "blob", "laplacian")

# Cells that features reach to, besides those that smoothing of classes needs.
HALO_CELLS: Final = int(
    np.ceil(_TRUNCATE * (max(_FILL_UM) + max(_FILTERS_UM) + max(_SURROUNDINGS_UM)) / CELL_UM) + 2
)


def feature_names(channels: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the maps of `feature_maps`, in its order."""
    kinds = [f"{name} {sigma:g} um" for sigma in _FILTERS_UM for name in _FILTER_NAMES]
    kinds += ["spread", "coherence"]
    return tuple(
        f"{channel}: {kind}, over {width:g} um"
        for channel in channels
        for kind in kinds
        for width in _SURROUNDINGS_UM
    )


def feature_maps(amounts: Sequence[FloatArray], cd8: FloatArray) -> Iterator[FloatArray]:
    """Yield the features of a window one by one.

    Of each channel: smoothed value, gradient magnitude, the eigenvalues of the Hessian that bright ridges and
    bright blobs have, and the magnitude of the Laplacian at two scales; the spread of the smoothed value and
    the coherence of the structure tensor. All averaged over Gaussian surroundings of two widths, over what is
    not stained for CD8.

    Parameters
    ----------
    amounts : (H, W) at `FEATURE_MPP_UM`, one per channel, on a scale that all slides share. H and W are
        multiples of `CELL_PX`.
    cd8 : (H, W) amount of CD8 stain.

    Yields
    ------
    (H / CELL_PX, W / CELL_PX) float32, named by `feature_names`. Cells nearer than `HALO_CELLS` to the
    window's edge depend on where it lies.
    """
    stained = stained_for_cd8(cd8)
    weight = (~stained).astype(np.float32)
    for values in amounts:
        yield from _channel_maps(_filled(values, stained, weight), weight)


def stained_for_cd8(cd8: FloatArray) -> NDArray[np.bool_]:
    """Return which pixels belong to cells stained for CD8: the stain, nuclei that it rings, a pixel more."""
    stained = cd8 > STAINED
    # Padded, so that closing does not erode what touches the edge.
    closed = ndimage.binary_closing(np.pad(stained, 4), np.ones((5, 5), bool))[4:-4, 4:-4]
    return np.asarray(ndimage.binary_dilation(stained | closed, np.ones((3, 3), bool)), np.bool_)


def _filled(values: FloatArray, stained: NDArray[np.bool_], weight: FloatArray) -> FloatArray:
    """Replace stained pixels by the mean of their unstained neighbourhood (normalised convolution)."""
    unstained = values * weight
    near_um, wide_um = _FILL_UM
    trace = np.float32(1e-4)
    # The wide neighbourhood by cells: its filter would be long at full resolution.
    cells = _smooth(_pooled(unstained), wide_um / CELL_UM) / (
        _smooth(_pooled(weight), wide_um / CELL_UM) + trace
    )
    wide = cells.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)
    near = (_smooth(unstained, near_um / FEATURE_MPP_UM) + trace * wide) / (
        _smooth(weight, near_um / FEATURE_MPP_UM) + trace
    )
    return np.where(stained, near, values)


def _channel_maps(values: FloatArray, weight: FloatArray) -> Iterator[FloatArray]:
    # What was filled has no texture: it counts as little as it can.
    share = _pooled(weight)
    shares = {width: _smooth(share, width / CELL_UM) + np.float32(1e-3) for width in _SURROUNDINGS_UM}

    def around(pooled: FloatArray, width: float) -> FloatArray:
        """Average over unstained surroundings what was pooled with weights."""
        return _smooth(pooled, width / CELL_UM) / shares[width]

    for index, sigma_um in enumerate(_FILTERS_UM):
        smoothed = _smooth(values, sigma_um / FEATURE_MPP_UM)
        down, across = np.gradient(smoothed)
        if index == 0:
            mean, square, yy, xx, xy = (
                _pooled(np.asarray(product * weight, np.float32))
                for product in (
                    smoothed,
                    smoothed * smoothed,
                    down * down,
                    across * across,
                    down * across,
                )
            )
        second = np.array([1, -2, 1], np.float32)
        rows = ndimage.correlate1d(smoothed, second, axis=0, mode="nearest")
        columns = ndimage.correlate1d(smoothed, second, axis=1, mode="nearest")
        mixed = np.gradient(across, axis=0)
        half_trace = (rows + columns) / 2
        half_spread = np.sqrt((rows - columns) ** 2 / 4 + mixed * mixed)
        # A bright ridge curves down across, a bright blob every way.
        for response in (
            smoothed,
            np.hypot(down, across),
            np.maximum(half_spread - half_trace, 0),
            np.maximum(-half_spread - half_trace, 0),
            np.abs(rows + columns),
        ):
            pooled = _pooled(np.asarray(response * weight, np.float32))
            for width in _SURROUNDINGS_UM:
                yield around(pooled, width)
    for width in _SURROUNDINGS_UM:
        level = around(mean, width)
        yield np.sqrt(np.maximum(around(square, width) - level * level, 0))
    for width in _SURROUNDINGS_UM:
        a, b, c = (around(part, width) for part in (yy, xx, xy))
        yield np.sqrt((a - b) ** 2 + 4 * c * c) / (a + b + np.float32(1e-6))


def _smooth(values: FloatArray, sigma_px: float) -> FloatArray:
    return np.asarray(
        ndimage.gaussian_filter(values, sigma_px, mode="nearest", truncate=_TRUNCATE), np.float32
    )


def _pooled(values: FloatArray) -> FloatArray:
    """Average over cells."""
    # By slices: several times faster than a mean over two axes of blocks.
    rows = np.add.reduce([values[k::CELL_PX] for k in range(CELL_PX)])
    total = np.add.reduce([rows[:, k::CELL_PX] for k in range(CELL_PX)])
    return np.asarray(total / np.float32(CELL_PX**2), np.float32)
