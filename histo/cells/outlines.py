"""Label image to polygons, for all cells at once.

The border between a cell's pixels and the rest is a chain of pixel sides ("cracks"). The two pixels ahead of
a crack say which is next, and the middles of the cracks are the polygon. Middles instead of corners turn
stairs into slopes; the area becomes that of the pixels less half a pixel, whatever the shape.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray

from histo.compiled import compiled

# Walking with the cell on the right: along the top side eastwards, the right side southwards, the bottom side
# westwards, the left side northwards. For each: the step ahead and the step to the left, as (rows, columns).
_AHEAD: Final = ((0, 1), (1, 0), (0, -1), (-1, 0))
_LEFT: Final = ((-1, 0), (0, 1), (1, 0), (0, -1))
# The middle of each side from the pixel's corner, (x, y).
_MIDDLE: Final = ((0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5))


def outlines(
    labels: NDArray[np.integer[Any]],
    *,
    mpp: float,
    origin_px: tuple[int, int] = (0, 0),
    tolerance_um: float = 0.0,
) -> NDArray[np.object_]:
    """Return the outer outline of every label.

    Parameters
    ----------
    labels : (H, W), 0 for none, else 1 ... n, every number in use. Each label is one part, connected by
        sides; holes are not drawn.
    mpp : um per pixel.
    origin_px : (x, y) of `labels[0, 0]` on the grid.
    tolerance_um : of simplification (Douglas-Peucker; where the ring starts, an outline may move by up to
        twice this); 0 for none.

    Returns
    -------
    (n,) shapely polygons in um from the grid's origin, valid and not empty; label i at index i - 1.

    Raises
    ------
    ValueError : a number between 1 and n is not in use.
    """
    n = int(labels.max(initial=0))
    if n == 0:
        return np.empty(0, object)
    # A frame of 0 around spares every test for the image's edge.
    framed = np.zeros((labels.shape[0] + 2, labels.shape[1] + 2), np.int32)
    framed[1:-1, 1:-1] = labels
    first, n_cracks = _first_pixels(framed, n)
    if (first[1:, 0] == 0).any():
        raise ValueError("labels must be numbered 1 ... n without a gap")
    middles, ends = _walk(framed, first, n_cracks)
    xy = (middles + origin_px) * mpp
    if tolerance_um == 0:
        return _polygons(xy, ends)
    simple, simple_ends, collapsed = _simplify(xy, ends, tolerance_um)
    polygons = _polygons(simple, simple_ends)
    broken = np.flatnonzero(collapsed | ~shapely.is_valid(polygons))
    if len(broken) > 0:
        exact = _polygons(xy, ends)[broken]
        polygons[broken] = _mended(exact, tolerance_um)
    return polygons


def _polygons(xy: NDArray[np.float64], ends: NDArray[np.int64]) -> NDArray[np.object_]:
    """Return the polygons of closed rings that lie in one array; the first entry of `ends` is 0."""
    bounds = (ends, np.arange(len(ends)))
    return np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, bounds), object)


@compiled
def _first_pixels(framed: NDArray[np.int32], n: int) -> tuple[NDArray[np.int64], int]:
    """Return (n + 1, 2) row and column of the first pixel of each label, and the number of all cracks."""
    height, width = framed.shape
    first = np.zeros((n + 1, 2), np.int64)
    n_cracks = 0
    for row in range(1, height - 1):
        for column in range(1, width - 1):
            label = framed[row, column]
            if label == 0:
                continue
            if first[label, 0] == 0:
                first[label, 0], first[label, 1] = row, column
            for dy, dx in _LEFT:
                n_cracks += framed[row + dy, column + dx] != label
    return first, n_cracks


@compiled
def _walk(
    framed: NDArray[np.int32], first: NDArray[np.int64], n_cracks: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the (x, y) of the middles of all cracks along each outline, and where each outline ends.

    An outline begins with the crack after the first, the top of the label's first pixel, and ends there too.
    """
    n = len(first) - 1
    middles = np.empty((n_cracks + n, 2))
    ends = np.zeros(n + 1, np.int64)
    i = 0
    for label in range(1, n + 1):
        row, column, side = first[label, 0], first[label, 1], 0
        while True:
            y, x = row + _AHEAD[side][0], column + _AHEAD[side][1]
            if framed[y, x] != label:
                # Ahead on the right is not ours: turn right, on the same pixel.
                side = (side + 1) % 4
            else:
                row, column = y, x
                y, x = row + _LEFT[side][0], column + _LEFT[side][1]
                if framed[y, x] == label:
                    # Ahead on the left is ours too: turn left.
                    row, column, side = y, x, (side + 3) % 4
            middles[i, 0], middles[i, 1] = column - 1 + _MIDDLE[side][0], row - 1 + _MIDDLE[side][1]
            i += 1
            if side == 0 and row == first[label, 0] and column == first[label, 1]:
                break
        middles[i] = middles[ends[label - 1]]
        i += 1
        ends[label] = i
    return middles[:i].copy(), ends


@compiled
def _simplify(
    xy: NDArray[np.float64], ends: NDArray[np.int64], tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Simplify closed rings (Douglas and Peucker 1973, Cartographica 10:112), digit for digit as GEOS does.

    From the first point to the first again; where the rest allows, that point itself is left out at last.
    Returns the rings and their ends, and which collapsed: these are as they were.
    """
    out = np.empty_like(xy)
    out_ends = np.zeros_like(ends)
    collapsed = np.zeros(len(ends) - 1, np.bool_)
    use = np.ones(len(xy), np.bool_)
    pending = np.empty((len(xy) + 1, 2), np.int64)
    used = 0
    for ring in range(len(ends) - 1):
        pending[0, 0], pending[0, 1] = ends[ring], ends[ring + 1] - 1
        n_pending = 1
        while n_pending > 0:
            n_pending -= 1
            first, last = pending[n_pending]
            if last - first < 2:
                continue
            furthest, distance = first, -1.0
            for i in range(first + 1, last):
                d = _distance(xy[i], xy[first], xy[last])
                if d > distance:
                    furthest, distance = i, d
            if distance <= tolerance:
                use[first + 1 : last] = False
            else:
                pending[n_pending, 0], pending[n_pending, 1] = first, furthest
                pending[n_pending + 1, 0], pending[n_pending + 1, 1] = furthest, last
                n_pending += 2
        begin = used
        for i in range(ends[ring], ends[ring + 1]):
            if use[i]:
                out[used] = xy[i]
                used += 1
        if used - begin > 3 and _distance(out[begin], out[begin + 1], out[used - 2]) <= tolerance:
            out[begin : used - 1] = out[begin + 1 : used].copy()
            used -= 1
            out[used - 1] = out[begin]
        if used - begin < 4:
            collapsed[ring] = True
            used = begin + ends[ring + 1] - ends[ring]
            out[begin:used] = xy[ends[ring] : ends[ring + 1]]
        out_ends[ring + 1] = used
    return out[:used].copy(), out_ends, collapsed


@compiled
def _distance(point: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the distance of a point from the segment from a to b."""
    along, across = b[0] - a[0], b[1] - a[1]
    length2 = along * along + across * across
    forward = (point[0] - a[0]) * along + (point[1] - a[1]) * across
    # Also where a and b are one point.
    if forward <= 0:
        return sqrt((point[0] - a[0]) * (point[0] - a[0]) + (point[1] - a[1]) * (point[1] - a[1]))
    if forward >= length2:
        return sqrt((point[0] - b[0]) * (point[0] - b[0]) + (point[1] - b[1]) * (point[1] - b[1]))
    share = ((a[1] - point[1]) * along - (a[0] - point[0]) * across) / length2
    return float(abs(share) * sqrt(length2))


def _mended(polygons: NDArray[np.object_], tolerance_um: float) -> NDArray[np.object_]:
    """Simplify polygons whose simplified ring crosses itself or collapses: GEOS knows a way for most.

    The others stay as they are.
    """
    simple = shapely.simplify(polygons, tolerance_um, preserve_topology=False)
    good = shapely.is_valid(simple) & ~shapely.is_empty(simple) & (shapely.get_type_id(simple) == 3)
    return np.where(good, simple, polygons)
