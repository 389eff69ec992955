"""From the network's maps to instances.

A centre is a peak of the centre map. Each foreground pixel votes, by its offset, for the place where its
cell's centre should be, and joins the nearest peak to its vote; so cells that touch come apart along the line
where the votes part. Everything is local: nothing further than `REACH_PX` from a cell's centroid changes the
cell, and ties are resolved by position on the slide's grid, so that a cell comes out the same from every tile
that holds it whole.

No Python loop over pixels or cells.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from histo.cells.instances import (
    Instances,
    fill_holes,
    largest_parts,
    no_instances,
    number_by_centroid,
)
from histo.cells.maps import TileMaps

# A peak is the largest value within this many pixels of the centre map (twice the pixel size) to each side.
_PEAK_RADIUS: Final = 2
# A vote joins a peak within this distance (centre-map pixels).
_VOTE_RADIUS: Final = 4
# No cell reaches further from its peak than this (pixels); its centroid therefore lies within it too.
_MAX_RADIUS_PX: Final = 22
# What can change a cell lies within this distance of its centroid (pixels), beside the network's own reach.
REACH_PX: Final = 2 * _MAX_RADIUS_PX


def decode(
    maps: TileMaps, *, mpp: float, centre_threshold: float, area_um2: tuple[float, float]
) -> Instances:
    """Turn the maps of a tile into instances."""
    logit = float(np.log(centre_threshold / (1 - centre_threshold)))
    centre = maps.centre
    peaks = (centre == _largest_around(centre)) & (centre > logit)
    foreground = np.maximum(maps.classes[1], maps.classes[2]) > maps.classes[0]
    limits = (area_um2[0] / mpp**2, area_um2[1] / mpp**2)
    return _decode_one(peaks, foreground, maps.classes, maps.offsets, mpp=mpp, limits_px=limits)


def _largest_around(centre: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy.ndimage import maximum_filter

    return maximum_filter(centre, 2 * _PEAK_RADIUS + 1, mode="constant", cval=-np.inf)


def _decode_one(
    peaks: NDArray[np.bool_],
    foreground: NDArray[np.bool_],
    classes: NDArray[np.float32],
    offsets: NDArray[np.float32],
    *,
    mpp: float,
    limits_px: tuple[float, float],
) -> Instances:
    shape = foreground.shape
    peak_rows, peak_columns = _resolve_plateaus(peaks)
    inside = np.flatnonzero(foreground)
    if len(peak_rows) == 0 or len(inside) == 0:
        return no_instances(np.zeros(shape, bool))
    voted = np.zeros(shape, np.int32)
    rows, columns = np.divmod(inside, shape[1])
    votes = _at(offsets, rows, columns) / np.float32(mpp)
    voted.ravel()[inside] = _join_peaks(rows, columns, votes, shape, peak_rows, peak_columns)
    return _measure(fill_holes(largest_parts(voted)), voted > 0, classes, limits_px)


def _at(
    values: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float32]:
    return values[:, rows, columns]


def _resolve_plateaus(peaks: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Keep the first, in reading order, of (necessarily equal) peaks within reach of each other."""
    rows, columns = np.nonzero(peaks)
    if len(rows) < 2:
        return rows, columns
    pairs = cKDTree(np.column_stack([rows, columns])).query_pairs(
        _PEAK_RADIUS + 0.5, p=np.inf, output_type="ndarray"
    )
    # nonzero reads row by row, so the larger index is the later peak.
    keep = np.ones(len(rows), bool)
    keep[pairs.max(axis=1)] = False
    return rows[keep], columns[keep]


def _join_peaks(
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    votes: NDArray[np.float32],
    shape: tuple[int, int],
    peak_rows: NDArray[np.intp],
    peak_columns: NDArray[np.intp],
) -> NDArray[np.int32]:
    """Return, for each foreground pixel, 1 + the index of its peak, or 0. Votes are (x, y) in pixels."""
    nearest = _nearest_peak(peak_rows, peak_columns, (shape[0] // 2, shape[1] // 2))
    # From the pixel's centre by its offset, then to the centre map's pixel there.
    vote_columns = np.floor((columns + 0.5 + votes[0]) / 2).astype(np.intp)
    vote_rows = np.floor((rows + 0.5 + votes[1]) / 2).astype(np.intp)
    np.clip(vote_rows, 0, nearest.shape[0] - 1, out=vote_rows)
    np.clip(vote_columns, 0, nearest.shape[1] - 1, out=vote_columns)
    owner: NDArray[np.int32] = nearest[vote_rows, vote_columns]
    # A peak's centre in pixels is 2 i + 1; a pixel's i + 0.5.
    index = np.maximum(owner - 1, 0)
    far = (rows - 2 * peak_rows[index] - 0.5) ** 2 + (columns - 2 * peak_columns[index] - 0.5) ** 2
    owner[far > (_MAX_RADIUS_PX - 1) ** 2] = 0
    return owner


def _nearest_peak(
    rows: NDArray[np.intp], columns: NDArray[np.intp], shape: tuple[int, int]
) -> NDArray[np.int32]:
    """Return 1 + the index of the nearest peak within the vote radius of each centre-map pixel, or 0."""
    r = _VOTE_RADIUS
    dy, dx = np.mgrid[-r : r + 1, -r : r + 1].reshape(2, -1)
    near = dy**2 + dx**2 <= r**2
    dy, dx = dy[near], dx[near]
    # Written from far to near, so that the nearest peak is written last.
    order = np.lexsort((dx, dy, -(dy**2 + dx**2)))
    dy, dx = dy[order, None], dx[order, None]
    # A margin takes what falls outside.
    canvas = np.zeros((shape[0] + 2 * r, shape[1] + 2 * r), np.int32)
    index = np.broadcast_to(np.arange(1, len(rows) + 1, dtype=np.int32), (len(dy), len(rows)))
    canvas[rows + dy + r, columns + dx + r] = index
    inner: NDArray[np.int32] = canvas[r:-r, r:-r]
    return inner


def _measure(
    labels: NDArray[np.int32],
    occupied: NDArray[np.bool_],
    classes: NDArray[np.float32],
    limits_px: tuple[float, float],
) -> Instances:
    """Drop instances outside the area limits, number the rest and say what they are."""
    inside = np.flatnonzero(labels > 0)
    owner = labels.ravel()[inside]
    rows, columns = np.divmod(inside, labels.shape[1])
    cells = number_by_centroid(rows, columns, owner, limits_px)
    if len(cells.kept) == 0:
        return no_instances(occupied)
    out = np.zeros_like(labels)
    out.ravel()[inside] = cells.number[owner]

    logits = _at(classes, rows, columns)
    exponent = np.exp(logits - logits.max(axis=0))
    share = exponent[1:] / exponent.sum(axis=0)
    total = np.stack([np.bincount(owner, channel)[cells.kept] for channel in share], axis=1)
    cell_class = total.argmax(axis=1)
    probability = total[np.arange(len(total)), cell_class] / cells.area_px
    return Instances(out, occupied, cells.area_px, cells.row_sum, cells.column_sum, cell_class, probability)
