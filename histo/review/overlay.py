"""Cells of a tile as bytes that the page draws: outlines close up, points from afar.

All little-endian. Outlines: uint32 n, uint32 m; then per cell int32 id, float32 x and y in um from the
tile's corner, uint8 class, probability, zone, flags, positive markers, number of vertices; then m pairs of
int16, steps of 1/64 um from the cell's centroid. Points: uint32 n; per cell uint16 x and y in 1/65536 of the
block's edge, and the same five bytes. Each field is one array after the other, so that the page can take them
as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from histo.review.cells import BLOCK_UM, TILE_UM, UNKNOWN, Added, Cells, Corrected

IN_TISSUE: Final = 1
DELETED: Final = 2
CHANGED: Final = 4
ADDED: Final = 8
_POINT_STEPS = 65_536 / BLOCK_UM


def outline_tile(
    cells: Cells, corrected: Corrected, column: int, row: int, gates: Mapping[str, float]
) -> bytes:
    """Return the cells whose centroid lies in a tile, deleted ones too, with their outlines.

    Parameters
    ----------
    gates : marker to threshold.
    """
    part = cells.in_tile(column, row)
    new = _added_in(corrected, column, row, TILE_UM)
    first = cells.first_vertex[part.start : part.stop + 1]
    n_vertices = np.concatenate([np.minimum(np.diff(first), 255), np.zeros(len(new), np.int64)])
    vertices = cells.vertices[first[0] : first[-1]]
    if (np.diff(first) > 255).any():
        cut = [cells.vertices[a : a + min(b - a, 255)] for a, b in pairwise(first)]
        vertices = np.concatenate(cut)
    x_um = _with(cells.x_um[part] - column * TILE_UM, [cell.x_um - column * TILE_UM for _, cell in new])
    y_um = _with(cells.y_um[part] - row * TILE_UM, [cell.y_um - row * TILE_UM for _, cell in new])
    ids = _with(cells.cell_id[part], [cell.cell_id for _, cell in new])
    head = np.array([len(ids), len(vertices)], "<u4")
    return b"".join(
        (
            head.tobytes(),
            ids.astype("<i4").tobytes(),
            x_um.astype("<f4").tobytes(),
            y_um.astype("<f4").tobytes(),
            _bytes_of(cells, corrected, part, new, gates),
            n_vertices.astype(np.uint8).tobytes(),
            vertices.astype("<i2").tobytes(),
        )
    )


def point_block(
    cells: Cells, corrected: Corrected, column: int, row: int, gates: Mapping[str, float]
) -> bytes:
    """Return the cells whose centroid lies in a block, deleted ones too, as points."""
    part = cells.in_block(column, row)
    new = _added_in(corrected, column, row, BLOCK_UM)
    x = _with(cells.x_um[part], [cell.x_um for _, cell in new]) - column * BLOCK_UM
    y = _with(cells.y_um[part], [cell.y_um for _, cell in new]) - row * BLOCK_UM
    return b"".join(
        (
            np.array([len(x)], "<u4").tobytes(),
            np.clip(x * _POINT_STEPS, 0, 65_535).astype("<u2").tobytes(),
            np.clip(y * _POINT_STEPS, 0, 65_535).astype("<u2").tobytes(),
            _bytes_of(cells, corrected, part, new, gates),
        )
    )


def _bytes_of(
    cells: Cells,
    corrected: Corrected,
    part: slice,
    new: list[tuple[int, Added]],
    gates: Mapping[str, float],
) -> bytes:
    """Return class (1: CD8+), probability, zone, flags and positive markers, each an array of bytes."""
    after = [len(cells) + place for place, _ in new]
    flags = corrected.in_tissue[part] * IN_TISSUE
    flags = flags + ~corrected.kept[part] * DELETED + corrected.changed[part] * CHANGED
    positive = np.zeros(part.stop - part.start, np.uint8)
    for bit, (marker, threshold) in enumerate(gates.items()):
        positive |= (cells.markers[marker][part] > threshold).astype(np.uint8) << bit
    return b"".join(
        values.astype(np.uint8).tobytes()
        for values in (
            _with(corrected.is_cd8[part], [cell.is_cd8 for _, cell in new]),
            _with(cells.probability[part], [UNKNOWN] * len(new)),
            np.concatenate([corrected.zone[part], corrected.zone[after]]),
            np.concatenate([flags, corrected.in_tissue[after] * IN_TISSUE + ADDED]),
            _with(positive, [0] * len(new)),
        )
    )


def _added_in(corrected: Corrected, column: int, row: int, edge_um: float) -> list[tuple[int, Added]]:
    return [
        (place, cell)
        for place, cell in enumerate(corrected.added)
        if (cell.x_um // edge_um, cell.y_um // edge_um) == (column, row)
    ]


def _with(values: NDArray[Any], more: list[float] | list[int] | list[bool]) -> NDArray[Any]:
    return np.concatenate([values, np.asarray(more, values.dtype)])
