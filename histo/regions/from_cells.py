"""The tumour region from the positions of tumour cells alone, where nobody has drawn it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import Delaunay, cKDTree
from shapely.geometry import MultiPolygon, Polygon

from histo.regions.shapes import as_multipolygon, repair

Array = NDArray[np.float64]

# Smaller groups of tumour cells are no region of their own: SPIAT's default (`n_to_exclude`).
FEWEST_CORNERS = 10
# Corners nearer to each other than this share of alpha are one.
_SAME_POINT = 1e-7
_SAME_ANGLE = 1e-9


@dataclass(frozen=True)
class CellRegion:
    """A region that cells span.

    polygons_um : with holes; straight between its corners.
    is_border : (n,) which of the cells are corners of it.
    alpha_um : radius of the disc that rolled round the cells.
    """

    polygons_um: MultiPolygon
    is_border: NDArray[np.bool_]
    alpha_um: float


@dataclass(frozen=True)
class _Arcs:
    """Arcs of discs: from `start` to `end` (indices of points), the region on the left."""

    centre: Array
    start: NDArray[np.intp]
    end: NDArray[np.intp]


def spiat_alpha_um(n_cells: int) -> float:
    """Return the radius, 60 to 90 um, that SPIAT's `identify_bordering_cells` takes for so many cells."""
    if n_cells < 200:
        return 60.0
    return 90.0 if n_cells > 5000 else (n_cells - 300) / 160 + 60


def region_of_cells(
    points_um: ArrayLike, *, alpha_um: float | None = None, fewest_corners: int = FEWEST_CORNERS
) -> CellRegion:
    """Return the region that tumour cells span, by their alpha hull.

    The alpha hull is what no open disc of radius alpha without a cell in it can reach: a hull that follows
    bays (Edelsbrunner, Kirkpatrick and Seidel 1983, IEEE Trans Inf Theory 29:551). Its border runs along arcs
    of discs that touch two cells (Pateiro-Lopez and Rodriguez-Casal 2010, J Stat Softw 34(5), R's alphahull).
    As in SPIAT (Feng et al. 2023, Nat Commun 14:2697) the arcs are replaced by straight lines between their
    ends: cells, or where two discs cut each other. SPIAT counts what lies in a hole as inside; here it is
    outside.

    Parameters
    ----------
    points_um : (n, 2) positions of tumour cells, um.
    alpha_um : above 0: gaps up to twice as wide are bridged. None: SPIAT's choice by the number of cells.
    fewest_corners : outlines, and holes, with this many corners or fewer are left out.

    Raises
    ------
    ValueError : points are not finite pairs, or alpha is not above 0.
    """
    points = np.asarray(points_um, np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("some positions are missing or infinite")
    distinct, own = np.unique(points, axis=0, return_inverse=True)
    alpha = spiat_alpha_um(len(distinct)) if alpha_um is None else alpha_um
    if not alpha > 0:
        raise ValueError("alpha must be above 0")
    nothing = CellRegion(MultiPolygon(), np.zeros(len(points), bool), alpha)
    if len(distinct) < 3 or np.linalg.matrix_rank(distinct - distinct.mean(axis=0)) < 2:
        return nothing
    arcs = _touching_discs(distinct, alpha)
    rings = [ring for ring in _rings(*_corners(distinct, arcs, alpha), alpha) if len(ring) > fewest_corners]
    if not rings:
        return nothing
    # The region lies on the left: outlines run anticlockwise, holes clockwise.
    outlines = [repair(Polygon(ring)) for ring in rings if shapely.is_ccw(shapely.LinearRing(ring))]
    holes = [repair(Polygon(ring)) for ring in rings if not shapely.is_ccw(shapely.LinearRing(ring))]
    region = shapely.difference(shapely.union_all(outlines), shapely.union_all(holes))
    corners = np.concatenate(rings)
    is_corner = np.asarray(cKDTree(corners).query(distinct)[0]) <= _SAME_POINT * alpha
    return CellRegion(as_multipolygon(region), is_corner[own.ravel()], alpha)


def _touching_discs(points: Array, alpha: float) -> _Arcs:
    """Return the arcs, between two cells, of the empty discs of radius alpha that touch both."""
    triangles = Delaunay(points).simplices
    # Anticlockwise, so that each triangle lies to the left of its edges.
    a, b, c = (points[triangles[:, k]] for k in range(3))
    turned = _cross(b - a, c - a) < 0
    triangles[turned] = triangles[turned][:, ::-1]
    p, q, apex = (triangles[:, [k % 3, (k + 1) % 3, (k + 2) % 3]].T.ravel() for k in range(3))
    # The centre of the circle round a triangle lies so far left of the middle of p q: |pq| / 2 * cot(angle).
    to_p, to_q = points[p] - points[apex], points[q] - points[apex]
    half = np.hypot(*(points[q] - points[p]).T) / 2
    with np.errstate(divide="ignore"):
        limit = half * (to_p * to_q).sum(axis=1) / np.abs(_cross(to_p, to_q))
    # An edge has a triangle on either side, or, on the convex hull, on one.
    key = np.minimum(p, q) * np.int64(len(points)) + np.maximum(p, q)
    forward = p < q
    keys, index = np.unique(key, return_inverse=True)
    left, right = np.full(len(keys), np.inf), np.full(len(keys), -np.inf)
    left[index[forward]] = limit[forward]
    right[index[~forward]] = -limit[~forward]
    first, second = keys // len(points), keys % len(points)
    edge = points[second] - points[first]
    length = np.hypot(*edge.T)
    away = np.sqrt(np.maximum(alpha**2 - length**2 / 4, 0))
    found = []
    for side in (1.0, -1.0):
        # Centres of empty circles through both cells lie between those of the two triangles.
        at = side * away
        some = (length < 2 * alpha) & (right <= at) & (at <= left)
        normal = np.stack([-edge[some, 1], edge[some, 0]], axis=1) / length[some, None]
        centre = (points[first[some]] + points[second[some]]) / 2 + at[some, None] * normal
        ends = (second[some], first[some]) if side > 0 else (first[some], second[some])
        found.append((centre, *ends))
    centre, start, end = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _Arcs(centre, start, end)


def _corners(points: Array, arcs: _Arcs, alpha: float) -> tuple[Array, Array]:
    """Return start and end, (k, 2) each, of what is left of the arcs outside of all other discs."""
    if len(arcs.start) == 0:
        return np.empty((0, 2)), np.empty((0, 2))
    tree = cKDTree(arcs.centre)
    starts, ends = [], []
    for i, near in enumerate(tree.query_ball_point(arcs.centre, 2 * alpha)):
        centre, first, last = arcs.centre[i], points[arcs.start[i]], points[arcs.end[i]]
        begin = np.arctan2(*(first - centre)[::-1])
        # Clockwise from the start; the disc is on the right.
        width = (begin - np.arctan2(*(last - centre)[::-1])) % (2 * np.pi)
        others = arcs.centre[near] - centre
        distance = np.hypot(*others.T)
        others, distance = others[distance > _SAME_POINT * alpha], distance[distance > _SAME_POINT * alpha]
        reach = np.arccos(np.minimum(distance / (2 * alpha), 1))
        middle = begin - np.arctan2(others[:, 1], others[:, 0]) - width / 2
        middle = (middle + np.pi) % (2 * np.pi) - np.pi + width / 2
        covered = np.stack([middle - reach, middle + reach], axis=1)
        for low, high in _gaps(covered, width):
            place = begin - np.array([low, high])
            at = centre + alpha * np.stack([np.cos(place), np.sin(place)], axis=1)
            starts.append(first if low == 0 else at[0])
            ends.append(last if high == width else at[1])
    return np.array(starts).reshape(-1, 2), np.array(ends).reshape(-1, 2)


def _gaps(covered: Array, width: float) -> list[tuple[float, float]]:
    """Return what of the range from 0 to `width` none of the intervals covers."""
    gaps, at = [], 0.0
    for low, high in covered[np.argsort(covered[:, 0])]:
        if high <= _SAME_ANGLE or low >= width - _SAME_ANGLE:
            continue
        if low > at + _SAME_ANGLE:
            gaps.append((at, float(low)))
        at = max(at, float(high))
    if at < width - _SAME_ANGLE:
        gaps.append((at, width))
    return gaps


def _rings(starts: Array, ends: Array, alpha: float) -> list[Array]:
    """Chain pieces into closed rings, (m, 2) corners each; what does not close is left out."""
    n = len(starts)
    if n == 0:
        return []
    both = np.concatenate([starts, ends])
    pairs = cKDTree(both).query_pairs(_SAME_POINT * alpha, output_type="ndarray")
    same = coo_array((np.ones(len(pairs)), pairs.T), shape=(2 * n, 2 * n))
    label = connected_components(same, directed=False)[1]
    leaving: dict[int, list[int]] = {}
    for piece in range(n):
        leaving.setdefault(int(label[piece]), []).append(piece)
    rings = []
    for first in range(n):
        if first not in leaving[int(label[first])]:
            continue
        ring, at = [], int(label[first])
        while leaving.get(at):
            piece = leaving[at].pop()
            ring.append(starts[piece])
            at = int(label[n + piece])
            if at == label[first]:
                break
        if at == label[first] and len(ring) >= 3:
            rings.append(np.array(ring))
    return rings


def _cross(a: Array, b: Array) -> Array:
    product: Array = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    return product
