"""The tumour border: where the tumour's outline meets other tissue, and how far points are from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import grey_opening
from scipy.spatial import cKDTree
from shapely.geometry import MultiLineString, MultiPolygon, Polygon
from shapely.geometry.polygon import orient

from histo.regions.raster import rasterise
from histo.regions.shapes import as_multipolygon

# A border is kept to within this, and cut into pieces that are searched by their middles.
_TOLERANCE_UM = 0.25
_PIECE_UM = 4.0
# Fewer points than this are not worth more than one thread.
_MANY_POINTS = 50_000
# A hole with more than this share of annotated host tissue is an outside of the tumour.
_HOST_SHARE = 0.5


def tumour_body(tumour: MultiPolygon, host: MultiPolygon, gap_um: float) -> MultiPolygon:
    """Return what the border goes round: the tumour with its gaps and holes filled.

    Neighbouring tumour outlines that leave a gap narrower than `gap_um` are joined. Holes (lumina, islands of
    stroma, necrosis) are filled, for the invasive margin is the outer edge of a tumour; a hole that is mostly
    annotated as host tissue stays, for there the tumour has an outer edge.
    """
    return _body(tumour, host, gap_um, _HOST_SHARE)


def host_body(host: MultiPolygon, tumour: MultiPolygon, gap_um: float) -> MultiPolygon:
    """Return host tissue with its gaps and holes filled, but for holes that hold tumour.

    Portal tracts and vessels that are not drawn as host are holes of it; a nodule and its rim is where host
    tissue ends.
    """
    return _body(host, tumour, gap_um, 0.0)


def _body(area: MultiPolygon, other: MultiPolygon, gap_um: float, share: float) -> MultiPolygon:
    """Join what is closer than a gap, and fill holes that hold no more than a share of the other tissue."""
    if area.is_empty:
        return MultiPolygon()
    # Mitred, so that a corner comes back as it was; the union keeps tips that the mitre limit cut off.
    grown = area.buffer(gap_um / 2, join_style="mitre")
    joined = as_multipolygon(shapely.union_all([grown.buffer(-gap_um / 2, join_style="mitre"), area]))
    filled = [Polygon(part.exterior, _kept_holes(part, other, share)) for part in joined.geoms]
    return as_multipolygon(shapely.union_all(filled))


def _kept_holes(part: Polygon, other: MultiPolygon, share: float) -> list[shapely.LinearRing]:
    if other.is_empty:
        return []
    holes = [Polygon(ring) for ring in part.interiors]
    return [hole.exterior for hole in holes if hole.intersection(other).area > share * hole.area]


def tumour_border(
    body: MultiPolygon, tissue: NDArray[np.bool_], mpp: float, within_um: float
) -> MultiLineString:
    """Return the stretches of the tumour's outline that have other tissue outside.

    Where the tumour ends at glass, at the edge of the image or at tissue that is not assessed, its outline is
    no invasive margin. A stretch counts where other tissue lies within `within_um` straight outwards. A rim
    of tissue thinner than that, between the outline and the glass, is taken for an outline drawn a little too
    far inside and does not count; a gap in the border no longer than that is closed.

    Parameters
    ----------
    body : see `tumour_body`; um in the slide's frame.
    tissue : (rows, columns), tissue that counts.
    mpp : um per pixel of `tissue`.
    """
    if body.is_empty:
        return MultiLineString()
    other = (tissue & ~rasterise(body, tissue.shape, mpp)).view(np.uint8)
    size = 2 * int(within_um / mpp / 2) + 1
    # Constant 0: the edge of the image is an edge of the tissue.
    other = grey_opening(other, size=(size, size), mode="constant", cval=0)
    lines: list[NDArray[np.float64]] = []
    for ring in shapely.get_rings([orient(part) for part in body.geoms]):
        start, end = segments(shapely.segmentize([ring], mpp / 2))
        borders = _meets(start, end, other.view(np.bool_), mpp, within_um)
        borders = _bridge(borders, np.linalg.norm(end - start, axis=1), within_um)
        lines.append(np.stack([start[borders], end[borders]], axis=1))
    pieces: Any = shapely.linestrings(np.concatenate(lines))
    parts = shapely.get_parts(shapely.line_merge(shapely.multilinestrings(pieces)))
    # Without the points that the segments left on straight stretches.
    parts = shapely.simplify(parts, 0.0, preserve_topology=False)
    return MultiLineString([part for part in parts if not part.is_empty])


def _meets(
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    other: NDArray[np.bool_],
    mpp: float,
    within_um: float,
) -> NDArray[np.bool_]:
    """Return which segments of an oriented ring have other tissue straight outwards of their middle."""
    along = end - start
    # Oriented rings turn from x towards y and have the tumour on their left: outside is to the right.
    outwards = np.stack([along[:, 1], -along[:, 0]], axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
    middle = (start + end) / 2
    meets = np.zeros(len(middle), dtype=np.bool_)
    for step in np.arange(mpp / 2, within_um + mpp / 4, mpp / 2):
        column, row = np.floor((middle + step * outwards) / mpp).astype(np.int64).T
        inside = (row >= 0) & (row < other.shape[0]) & (column >= 0) & (column < other.shape[1])
        meets[inside] |= other[row[inside], column[inside]]
    return meets


def _bridge(borders: NDArray[np.bool_], length_um: NDArray[np.float64], gap_um: float) -> NDArray[np.bool_]:
    """Close gaps of at most `gap_um` between border segments of a ring: ragged outlines, cracks in tissue."""
    if not borders.any():
        return borders
    # From a border segment on, so that no gap runs over the ring's end.
    first = int(np.argmax(borders))
    turned = np.roll(borders, -first)
    run = np.cumsum(np.concatenate([[False], turned[1:] != turned[:-1]]))
    short = np.bincount(run, np.roll(length_um, -first)) <= gap_um
    return np.roll(turned | short[run], first)


@dataclass(frozen=True, eq=False)
class SignedDistance:
    """Signed distance to a tumour border, fast for many points.

    The border is cut into pieces of at most 4 um. For each point the two pieces with the nearest middles are
    found by a k-d tree, and the distance to the nearer of them is taken. That is the exact distance for all
    but about 1 point in 1000, near ragged stretches, and never more than half a piece too long. The sign is
    that of the tumour body.
    """

    body: MultiPolygon
    tree: cKDTree
    start: NDArray[np.float64]
    along: NDArray[np.float64]

    @classmethod
    def of(cls, border: MultiLineString, body: MultiPolygon) -> SignedDistance:
        """Prepare a border that is not empty, and the tumour body that it belongs to."""
        lines = shapely.segmentize(shapely.simplify(shapely.get_parts(border), _TOLERANCE_UM), _PIECE_UM)
        start, end = segments(lines)
        shapely.prepare(body)
        return cls(body, cKDTree((start + end) / 2, leafsize=64), start, end - start)

    def __call__(self, x_um: NDArray[np.float64], y_um: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance of each point in um, negative inside the tumour body."""
        distance = self.unsigned(x_um, y_um)
        return np.where(shapely.intersects_xy(self.body, x_um, y_um), -distance, distance)

    def unsigned(self, x_um: NDArray[np.float64], y_um: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance of each point in um, whichever side it is on."""
        points = np.stack([x_um, y_um], axis=1)
        n_pieces = min(2, len(self.start))
        workers = -1 if len(points) > _MANY_POINTS else 1
        _, found = self.tree.query(points, k=n_pieces, workers=workers)
        nearest = np.reshape(found, (len(points), n_pieces))
        from_start = points[:, None] - self.start[nearest]
        along = self.along[nearest]
        share = (from_start * along).sum(axis=2) / (along**2).sum(axis=2)
        foot = from_start - np.clip(share, 0, 1)[..., None] * along
        distance: NDArray[np.float64] = np.sqrt((foot**2).sum(axis=2).min(axis=1))
        return distance


def segments(lines: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return start and end, each (n, 2), of all segments of an array of lines that have a length."""
    points, line = shapely.get_coordinates(lines, return_index=True)
    whole = (line[:-1] == line[1:]) & (points[:-1] != points[1:]).any(axis=1)
    return points[:-1][whole], points[1:][whole]
