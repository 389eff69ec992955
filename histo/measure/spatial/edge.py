"""Weights that make up for the neighbours that a point near the edge of the window cannot have."""

from __future__ import annotations

from math import pi

import numpy as np
from numpy.typing import NDArray

from histo.measure.spatial.window import PolygonWindow

# As in spatstat: a pair of which hardly any copy fits into the window must not outweigh all others.
_MAX_WEIGHT = 100.0
# Angles below this are rounding.
_TOUCH = 1e-9
# Circles times edges that are looked at at once.
_CROSSINGS_AT_ONCE = 1_000_000


def translation_weight(area_um2: float, overlap_um2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the translation weight of pairs: |W| / |W and W shifted by the pair's vector|, at most 100.

    Ohser and Stoyan 1981, Biom J 23:523.
    """
    with np.errstate(divide="ignore"):
        return np.minimum(area_um2 / overlap_um2, _MAX_WEIGHT)


def isotropic_weight(
    window: PolygonWindow, centre: NDArray[np.float64], radius_um: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the isotropic weight of pairs: 1 / share of the circle through the pair inside W, 1 to 100.

    Ripley 1977, J R Stat Soc B 39:172. The circle's arcs are exact for polygons with holes. Going round a
    circle, the angle inside the window is the sum of the angles where it leaves less those where it enters,
    up to whole turns; it enters where an edge (window on its left) runs outwards through the circle.

    Parameters
    ----------
    centre : (n, 2), in the window.
    radius_um : (n,), above 0; the other point of the pair lies on the circle, in the window.
    """
    weight = np.ones(len(centre))
    crossing = np.flatnonzero(radius_um > window.border_distance_um(centre))
    n_at_once = max(1, _CROSSINGS_AT_ONCE // len(window.edges[0]))
    for begin in range(0, len(crossing), n_at_once):
        rows = crossing[begin : begin + n_at_once]
        angle = _angle_inside(window, centre[rows], radius_um[rows])
        weight[rows] = np.clip(2 * pi / angle, 1, _MAX_WEIGHT)
    return weight


def _angle_inside(
    window: PolygonWindow, centre: NDArray[np.float64], radius_um: NDArray[np.float64]
) -> NDArray[np.float64]:
    start, end = window.edges
    along = end - start
    x, y = (start[:, k] - centre[:, k, None] for k in (0, 1))
    # Where start + share * along lies on the circle: a share**2 + 2 b share + c = 0.
    a = (along**2).sum(axis=1)
    b = x * along[:, 0] + y * along[:, 1]
    c = x**2 + y**2 - radius_um[:, None] ** 2
    discriminant = b**2 - a * c
    # Ends are told apart by their own distance: the two edges of a vertex agree on it to the last bit.
    starts_inside = c < 0
    ends_inside = sum((end[:, k] - centre[:, k, None]) ** 2 for k in (0, 1)) - radius_um[:, None] ** 2 < 0
    through = ~starts_inside & ~ends_inside & (discriminant > 0) & (b < 0) & (-b < a)
    angle = np.zeros(len(centre))
    crossed = np.zeros(len(centre), dtype=np.bool_)
    # An edge that runs into the circle is where the circle, going round, leaves the window.
    for sign, ends in ((-1, ~starts_inside & ends_inside), (1, starts_inside & ~ends_inside)):
        row, edge = np.nonzero(ends | through)
        root = np.sqrt(np.clip(discriminant[row, edge], 0, None))
        share = np.clip((sign * root - b[row, edge]) / a[edge], 0, 1)
        theta = np.arctan2(y[row, edge] + share * along[edge, 1], x[row, edge] + share * along[edge, 0])
        angle -= sign * np.bincount(row, theta, len(centre))
        crossed[row] = True
    angle %= 2 * pi
    # An edge that only touches the circle leaves nothing of two equal angles: the circle lies inside.
    return np.where(crossed & (angle > _TOUCH), angle, 2 * pi)
