"""Label image to polygons, for all cells at once.

The border between a cell's pixels and the rest is a chain of pixel sides ("cracks"). The two pixels ahead of
a crack say which is next, and the middles of the cracks are the polygon. Middles instead of corners turn
stairs into slopes; the area becomes that of the pixels less half a pixel, whatever the shape.
"""

from __future__ import annotations

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
    polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, (ends, np.arange(n + 1)))
    if tolerance_um > 0:
        polygons = _simplified(polygons, tolerance_um)
    return np.asarray(polygons, object)


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


def _simplified(polygons: NDArray[np.object_], tolerance_um: float) -> NDArray[np.object_]:
    # Without topology checks it is many times faster; the few that it breaks stay as they were.
    simple = shapely.simplify(polygons, tolerance_um, preserve_topology=False)
    good = shapely.is_valid(simple) & ~shapely.is_empty(simple) & (shapely.get_type_id(simple) == 3)
    return np.where(good, simple, polygons)
