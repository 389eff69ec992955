"""The intensity of points by a Gaussian kernel, corrected for the edge of the window."""

from __future__ import annotations

from math import ceil, pi

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter
from shapely.affinity import translate

from histo.errors import PointsError
from histo.measure.spatial.points import as_points
from histo.measure.spatial.window import MaskWindow, Window, check_inside
from histo.regions.raster import pixels_under, rasterise

# Pixels a kernel's standard deviation: coarser ones would be seen in the result.
_PIXELS_PER_SIGMA = 16
# The kernel is cut off after so many standard deviations.
_REACH = 5.0


def kernel_intensity(points: ArrayLike, window: Window, *, sigma_um: float) -> NDArray[np.float64]:
    """Return the intensity at each point, the point itself left out, for inhomogeneous statistics.

    l(x_i) = sum over j other than i of k(x_i - x_j) / e(x_i), with k the Gaussian density and e(u) the share
    of the kernel round u inside the window (Diggle 1985, J R Stat Soc C 34:138, the uniform correction).
    Points and window are smoothed on a grid, of the mask or of sigma / 16 for a polygon, and read off at the
    pixel under each point.

    Parameters
    ----------
    points : (n, 2) um, in the window.
    sigma_um : standard deviation of the kernel.

    Returns
    -------
    (n,) points per um2; 0 for a point that has no others within 5 sigma, which K cannot use.

    Raises
    ------
    PointsError : points outside the window, or a kernel narrower than two pixels of the mask.
    """
    points = as_points(points)
    check_inside(points, window, "points")
    narrowest_um = 2 * window.mpp if isinstance(window, MaskWindow) else 0.0
    if not (np.isfinite(sigma_um) and sigma_um > narrowest_um):
        raise PointsError(
            f"a kernel with a standard deviation of {sigma_um} um",
            fix=f"Give one above {narrowest_um:g} um (two pixels of the mask, where there is one).",
        )
    mask, mpp, corner = _raster(window, sigma_um / _PIXELS_PER_SIGMA)
    # A point on the far edge counts in the last pixel.
    upper = np.array(mask.shape[::-1]) * mpp * (1 - 1e-12)
    x, y = np.clip(points - corner, 0, upper).T
    _, under = pixels_under(x, y, mask.shape, mpp)
    counts = np.zeros(mask.shape)
    np.add.at(counts, under, 1)
    sigma_px = sigma_um / mpp
    near = gaussian_filter(counts, sigma_px, mode="constant", truncate=_REACH)[under] / mpp**2
    share = gaussian_filter(mask.astype(np.float64), sigma_px, mode="constant", truncate=_REACH)[under]
    others = np.clip(near - 1 / (2 * pi * sigma_um**2), 0, None)
    return others / np.maximum(share, 1e-12)


def _raster(window: Window, mpp: float) -> tuple[NDArray[np.bool_], float, NDArray[np.float64]]:
    """Return a mask of the window, its pixel size, and where its corner lies."""
    if isinstance(window, MaskWindow):
        return window.mask, window.mpp, np.zeros(2)
    x0, y0, x1, y1 = window.polygon.bounds
    shape = (ceil((y1 - y0) / mpp), ceil((x1 - x0) / mpp))
    return rasterise(translate(window.polygon, -x0, -y0), shape, mpp), mpp, np.array([x0, y0])
