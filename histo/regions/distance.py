"""Signed distance to the tumour border on the tissue grid."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from histo.regions.border import SignedDistance, segments
from histo.regions.raster import rasterise

_ROWS_AT_ONCE = 256


def distance_map(
    distance: SignedDistance, tissue: NDArray[np.bool_], mpp: float, within_um: float
) -> NDArray[np.float32]:
    """Return the signed distance of each tissue pixel's centre.

    A Euclidean distance transform from the pixels that the border crosses is right to within a pixel. Where
    it is below `within_um` the distance is taken from the geometry instead.

    Parameters
    ----------
    tissue : (rows, columns).
    mpp : um per pixel.

    Returns
    -------
    (rows, columns) um, negative inside the tumour body; NaN outside tissue.
    """
    pieces = shapely.linestrings(np.stack([distance.start, distance.start + distance.along], axis=1))
    start, end = segments(shapely.segmentize(pieces, mpp / 2))
    column, row = np.floor((start + end) / 2 / mpp).astype(np.int64).T
    off_border = np.ones(tissue.shape, dtype=np.bool_)
    off_border[np.clip(row, 0, tissue.shape[0] - 1), np.clip(column, 0, tissue.shape[1] - 1)] = False
    # Only the indices, and distances by blocks: the transform itself would hold several large copies.
    border_pixel = distance_transform_edt(off_border, return_distances=False, return_indices=True)
    signed = np.empty(tissue.shape, dtype=np.float32)
    for top in range(0, tissue.shape[0], _ROWS_AT_ONCE):
        part = slice(top, top + _ROWS_AT_ONCE)
        y_px, x_px = np.indices(tissue[part].shape)
        to_border = np.hypot(y_px + top - border_pixel[0, part], x_px - border_pixel[1, part]) * mpp
        near = tissue[part] & (to_border < within_um + mpp)
        y_um, x_um = ((index.astype(np.float64) + 0.5) * mpp for index in np.nonzero(near))
        to_border[near] = distance.unsigned(x_um, y_um + top * mpp)
        signed[part] = to_border
    signed[rasterise(distance.body, tissue.shape, mpp)] *= -1
    signed[~tissue] = np.nan
    return signed
