"""Points of spatial statistics: checks, and pairs of neighbours in pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from histo.errors import PointsError

# Pairs that are held at once; each takes 24 bytes, and several times that while it is worked on.
_PAIRS_AT_ONCE = 2_000_000
_ROWS_AT_FIRST = 2_000


def as_points(points: ArrayLike, what: str = "points") -> NDArray[np.float64]:
    """Return points as a float64 (n, 2) array of x, y in um.

    Raises
    ------
    PointsError : not pairs of finite numbers.
    """
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return np.empty((0, 2))
    if array.ndim != 2 or array.shape[1] != 2:
        raise PointsError(
            f"{what} have the shape {array.shape}", fix="Give an array (n, 2) of x and y in um."
        )
    n_bad = int((~np.isfinite(array)).any(axis=1).sum())
    if n_bad:
        raise PointsError(
            f"{n_bad} of {len(array)} {what} have a coordinate that is not a finite number",
            fix="Drop these points first.",
        )
    return array


def as_radii(r_um: ArrayLike) -> NDArray[np.float64]:
    """Return distances as a float64 (k,) array.

    Raises
    ------
    PointsError : none, or not increasing from 0 or more.
    """
    radii = np.atleast_1d(np.asarray(r_um, dtype=np.float64))
    if (
        radii.ndim != 1
        or len(radii) == 0
        or not np.isfinite(radii).all()
        or radii[0] < 0
        or (np.diff(radii) <= 0).any()
    ):
        raise PointsError(
            "distances r_um must be one list of increasing, finite numbers from 0 on",
            fix="Sort them and drop what occurs twice.",
        )
    return radii


def pairs_within(
    x: NDArray[np.float64], t: NDArray[np.float64], reach_um: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Yield all pairs of a point of x and a point of t that are at most `reach_um` apart, piece by piece.

    Memory does not grow with the number of pairs: pieces are cut between points of x, and their size follows
    from the pairs that the last piece had.

    Yields
    ------
    Index into x, index into t, distance in um: three arrays of one length.
    """
    if len(x) == 0 or len(t) == 0:
        return
    tree = cKDTree(t)
    # Neighbours together: the trees of the pieces stay small.
    order = np.lexsort((x[:, 0], np.floor(x[:, 1] / max(4 * reach_um, 1e-9))))
    begin, n_rows = 0, _ROWS_AT_FIRST
    while begin < len(x):
        rows = order[begin : begin + n_rows]
        found = cKDTree(x[rows]).sparse_distance_matrix(tree, reach_um, output_type="ndarray")
        yield rows[found["i"]], found["j"].astype(np.int64), found["v"]
        begin += n_rows
        n_rows = int(np.clip(n_rows * _PAIRS_AT_ONCE / max(len(found), 1), 1, 4 * n_rows))
