"""Label image to polygons, for all cells at once.

The border between a cell's pixels and the rest is a chain of pixel sides ("cracks"). Every crack finds its
successor from the two pixels ahead of it, pointer jumping (list ranking: Wyllie 1979) numbers the cracks
along each chain in a few array operations, and the middles of the cracks are the polygon. Middles instead of
corners turn stairs into slopes; the area becomes that of the pixels less half a pixel, whatever the shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

# Walking with the cell on the right: along the top side eastwards, the right side southwards, the bottom side
# westwards, the left side northwards. For each: the step ahead and the step to the left, as (rows, columns).
_AHEAD = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
_LEFT = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
# The middle of each side from the pixel's corner, (x, y).
_MIDDLE = np.array([(0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5)])


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
    width = framed.shape[1]
    flat = framed.ravel()
    # Only pixels with a side that is bare have cracks.
    middle_of = framed[1:-1, 1:-1]
    at_edge = np.zeros(framed.shape, bool)
    for beside in (framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:]):
        at_edge[1:-1, 1:-1] |= beside != middle_of
    at_edge &= framed > 0
    inside = np.flatnonzero(at_edge)
    value = flat[inside]
    left = _LEFT @ np.array([width, 1])
    ahead = _AHEAD @ np.array([width, 1])

    # All cracks, by pixel and then side: the first of a label is the top of its first pixel in reading order.
    bare = np.stack([flat[inside + step] != value for step in left], axis=1)
    which, side = np.nonzero(bare)
    pixel, label = inside[which], value[which]
    index = np.full((len(inside), 4), -1, np.int64)
    index[which, side] = np.arange(len(which))
    row_of = np.zeros(len(flat), np.int64)
    row_of[inside] = np.arange(len(inside))

    # Ahead on the right is not ours: turn right, on the same pixel. Else ahead on the left: straight or left.
    front = pixel + ahead[side]
    corner = front + left[side]
    turn_right = flat[front] != label
    straight = flat[corner] != label
    next_pixel = np.where(turn_right, pixel, np.where(straight, front, corner))
    next_side = np.where(turn_right, (side + 1) % 4, np.where(straight, side, (side + 3) % 4))
    successor = index[row_of[next_pixel], next_side]

    present, first = np.unique(label, return_index=True)
    if len(present) != n:
        raise ValueError("labels must be numbered 1 ... n without a gap")
    rank = _steps_to(successor, first, int(np.bincount(label).max()))
    outer = np.flatnonzero(rank >= 0)
    order = outer[np.lexsort((-rank[outer], label[outer]))]
    # The crack with the most steps to go follows the first; the first itself (0 steps) closes the ring.
    middle = np.column_stack([pixel[order] % width - 1, pixel[order] // width - 1]) + _MIDDLE[side[order]]
    xy = (middle + origin_px) * mpp
    # A ring ends where it began.
    ends = np.cumsum(np.bincount(label[order], minlength=n + 1)[1:])
    starts = np.concatenate([[0], ends[:-1]])
    closed = np.insert(xy, ends, xy[starts], axis=0)
    ring_bounds = np.concatenate([[0], ends + np.arange(1, n + 1)])
    polygons = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, closed, (ring_bounds, np.arange(n + 1))
    )
    if tolerance_um > 0:
        polygons = _simplified(polygons, tolerance_um)
    return np.asarray(polygons, object)


def _steps_to(successor: NDArray[np.int64], ends: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    """Return how many steps each crack is from the end of its chain; -1 where its chain has none (a hole)."""
    jump = successor.copy()
    jump[ends] = ends
    steps = np.ones(len(jump), np.int64)
    steps[ends] = 0
    at_end = np.zeros(len(jump), bool)
    at_end[ends] = True
    # Each round doubles the reach.
    for _ in range(longest.bit_length()):
        steps += steps[jump]
        jump = jump[jump]
    return np.where(at_end[jump], steps, -1)


def _simplified(polygons: NDArray[np.object_], tolerance_um: float) -> NDArray[np.object_]:
    # Without topology checks it is many times faster; the few that it breaks stay as they were.
    simple = shapely.simplify(polygons, tolerance_um, preserve_topology=False)
    good = shapely.is_valid(simple) & ~shapely.is_empty(simple) & (shapely.get_type_id(simple) == 3)
    return np.where(good, simple, polygons)
