"""The cells of a slide in memory, in the order of where they lie, and what corrections make of them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from histo.cells.table import CD8, CELL_CLASSES, OTHER
from histo.regions.place import REGION_NAMES, ZONE_NAMES, Regions, place_cells
from histo.results.cells_parquet import GEOMETRY, iter_cells
from histo.review.actions import AddCell, Correction, DeleteCells, SetClass

# Outlines are given out by squares of this edge, points by squares of 8 x 8 of them.
TILE_UM: Final = 512.0
TILES_PER_BLOCK: Final = 8
BLOCK_UM: Final = TILE_UM * TILES_PER_BLOCK
# Vertices are kept to within this, from the cell's centroid.
VERTEX_UM: Final = 1 / 64
UNKNOWN: Final = 255
# Positive markers of a cell are bits of one byte.
MAX_MARKERS: Final = 8

_COLUMNS = (
    "cell_id",
    "x_um",
    "y_um",
    "cell_class",
    "probability",
    "in_tissue",
    "region",
    "zone",
    "signed_distance_um",
    GEOMETRY,
)


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a result, sorted by block and tile; about 120 bytes each.

    cell_id : int32. x_um, y_um : float64 centroids. is_cd8, in_tissue : bool.
    probability : uint8, 0 to 254 for 0 to 1 of the class that was called, `UNKNOWN` where there is none.
    region, zone : uint8, places in `REGION_NAMES` and `ZONE_NAMES`. signed_distance_um : float32.
    markers : by marker, float32 intensities in the column of its gate.
    key : int64, sorted: the number of a cell's tile. columns : how many blocks lie side by side.
    first_vertex : int64 (n + 1,), where a cell's outline begins in `vertices`, int16 (m, 2) steps of
        `VERTEX_UM` from its centroid.
    by_id : places of the cells in the order of their ids.
    """

    cell_id: NDArray[np.int32]
    x_um: NDArray[np.float64]
    y_um: NDArray[np.float64]
    is_cd8: NDArray[np.bool_]
    probability: NDArray[np.uint8]
    in_tissue: NDArray[np.bool_]
    region: NDArray[np.uint8]
    zone: NDArray[np.uint8]
    signed_distance_um: NDArray[np.float32]
    markers: Mapping[str, NDArray[np.float32]]
    key: NDArray[np.int64]
    columns: int
    first_vertex: NDArray[np.int64]
    vertices: NDArray[np.int16]
    by_id: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.cell_id)

    def at(self, ids: Iterable[int]) -> NDArray[np.intp]:
        """Return the places of cells by their ids; an id that is not there has none."""
        wanted = np.asarray(list(ids), np.int64)
        ordered = self.cell_id[self.by_id]
        place = np.searchsorted(ordered, wanted)
        found = place < len(ordered)
        found[found] = ordered[place[found]] == wanted[found]
        return self.by_id[place[found]]

    def in_tile(self, column: int, row: int) -> slice:
        """Return which cells lie in a tile; none where there is no such tile."""
        if not 0 <= column < self.columns * TILES_PER_BLOCK:
            return slice(0, 0)
        return self._with_keys(_key(column, row, self.columns), 1)

    def in_block(self, column: int, row: int) -> slice:
        """Return which cells lie in a block; none where there is no such block."""
        if not 0 <= column < self.columns:
            return slice(0, 0)
        first = _key(column * TILES_PER_BLOCK, row * TILES_PER_BLOCK, self.columns)
        return self._with_keys(first, TILES_PER_BLOCK**2)

    def _with_keys(self, first: int, n: int) -> slice:
        low, high = np.searchsorted(self.key, [first, first + n])
        return slice(int(low), int(high))


def read_cells_in_place(
    path: Path, size_um: tuple[float, float], markers: Mapping[str, str] | None = None
) -> Cells:
    """Read a `cells.parquet`, piece by piece.

    Parameters
    ----------
    size_um : (width, height) of the slide.
    markers : marker to the column that its gate is for; at most `MAX_MARKERS`.

    Raises
    ------
    ResultsError : the file cannot be read, or has no such column.
    """
    markers = dict(markers or {})
    block_columns, block_rows = (max(1, int(np.ceil(size / BLOCK_UM))) for size in size_um)
    pieces: list[dict[str, NDArray[Any]]] = []
    for table in iter_cells(path, [*_COLUMNS, *dict.fromkeys(markers.values())]):
        piece = {
            "cell_id": table["cell_id"].to_numpy(np.int32),
            "x_um": table["x_um"].to_numpy(np.float64),
            "y_um": table["y_um"].to_numpy(np.float64),
            "is_cd8": (table["cell_class"] == CD8).to_numpy(bool),
            "probability": _byte(table["probability"].to_numpy(np.float32)),
            "in_tissue": table["in_tissue"].to_numpy(bool),
            "region": _codes(table["region"], REGION_NAMES),
            "zone": _codes(table["zone"], ZONE_NAMES),
            "signed_distance_um": table["signed_distance_um"].to_numpy(np.float32),
        }
        for column in dict.fromkeys(markers.values()):
            piece[column] = table[column].to_numpy(np.float32)
        outlines = table[GEOMETRY].to_numpy()
        xy, cell = shapely.get_coordinates(shapely.get_exterior_ring(outlines), return_index=True)
        steps = (xy - np.column_stack([piece["x_um"], piece["y_um"]])[cell]) / VERTEX_UM
        piece["vertices"] = np.clip(np.rint(steps), -32768, 32767).astype(np.int16)
        piece["n_vertices"] = np.bincount(cell, minlength=len(table)).astype(np.int64)
        pieces.append(piece)
    whole = {name: np.concatenate([piece.pop(name) for piece in pieces]) for name in list(pieces[0])}
    vertices, n_vertices = whole.pop("vertices"), whole.pop("n_vertices")
    key = _key(
        np.clip(whole["x_um"] // TILE_UM, 0, block_columns * TILES_PER_BLOCK - 1).astype(np.int64),
        np.clip(whole["y_um"] // TILE_UM, 0, block_rows * TILES_PER_BLOCK - 1).astype(np.int64),
        block_columns,
    )
    order = np.argsort(key, kind="stable")
    first = np.concatenate([[0], np.cumsum(n_vertices)])
    moved = np.concatenate([[0], np.cumsum(n_vertices[order])])
    # Where each vertex of the sorted cells comes from: a large array, hence no wider than need be.
    index = np.int32 if moved[-1] < 2**31 else np.int64
    source = np.repeat((first[order] - moved[:-1]).astype(index), n_vertices[order])
    source += np.arange(moved[-1], dtype=index)
    columns = {column: whole.pop(column)[order] for column in dict.fromkeys(markers.values())}
    ordered = {name: values[order] for name, values in whole.items()}
    cells = Cells(
        **ordered,
        markers={name: columns[column] for name, column in markers.items()},
        key=key[order],
        columns=block_columns,
        first_vertex=moved,
        vertices=vertices[source],
        by_id=np.argsort(ordered["cell_id"], kind="stable"),
    )
    del whole, ordered, columns, source, vertices
    return_freed_memory()
    return cells


@dataclass(frozen=True)
class Added:
    """A cell that a reviewer added; its id is the negative number of the entry."""

    cell_id: int
    x_um: float
    y_um: float
    is_cd8: bool


@dataclass(frozen=True, eq=False)
class Corrected:
    """Cells with corrections: arrays in the order of `Cells`, and what was added.

    kept, is_cd8, changed : bool; `changed`: whether a reviewer gave the class.
    in_tissue, region, zone, signed_distance_um : as in `Cells`, and of the added cells after them.
    """

    kept: NDArray[np.bool_]
    is_cd8: NDArray[np.bool_]
    changed: NDArray[np.bool_]
    added: tuple[Added, ...]
    in_tissue: NDArray[np.bool_]
    region: NDArray[np.uint8]
    zone: NDArray[np.uint8]
    signed_distance_um: NDArray[np.float32]


def correct(
    cells: Cells, corrections: Sequence[tuple[int, Correction]], regions: Regions, *, redrawn: bool
) -> Corrected:
    """Apply corrections to cells.

    Parameters
    ----------
    corrections : number of the entry and what it does, in their order.
    regions : those of the slide, with what was drawn. redrawn : whether anything was.
    """
    kept = np.ones(len(cells), bool)
    changed = np.zeros(len(cells), bool)
    is_cd8 = cells.is_cd8.copy()
    added: dict[int, Added] = {}
    for number, action in corrections:
        if isinstance(action, AddCell):
            added[-number] = Added(-number, action.x_um, action.y_um, action.cell_class == CD8)
        elif isinstance(action, DeleteCells):
            kept[cells.at(action.cells)] = False
            for cell_id in action.cells:
                added.pop(cell_id, None)
        elif isinstance(action, SetClass):
            at, to_cd8 = cells.at(action.cells), action.cell_class == CD8
            is_cd8[at] = to_cd8
            changed[at] = cells.is_cd8[at] != to_cd8
            for cell_id in added.keys() & set(action.cells):
                before = added[cell_id]
                added[cell_id] = Added(cell_id, before.x_um, before.y_um, to_cd8)
    new = tuple(added.values())
    x_um = np.array([cell.x_um for cell in new], np.float64)
    y_um = np.array([cell.y_um for cell in new], np.float64)
    if redrawn:
        x_um, y_um = np.concatenate([cells.x_um, x_um]), np.concatenate([cells.y_um, y_um])
    place = place_cells(regions, x_um, y_um)
    placed: dict[str, Any] = {
        "in_tissue": place.in_tissue,
        "region": _codes(place.region, REGION_NAMES),
        "zone": _codes(place.zone, ZONE_NAMES),
        "signed_distance_um": place.signed_distance_um.astype(np.float32),
    }
    if not redrawn:
        placed = {name: np.concatenate([getattr(cells, name), values]) for name, values in placed.items()}
    return Corrected(kept, is_cd8, changed, new, **placed)


def frame_of(cells: Cells, corrected: Corrected) -> pd.DataFrame:
    """Return the cells that are left, in the order of their ids, added ones last: what measures take."""
    at = cells.by_id[corrected.kept[cells.by_id]]
    n_new = len(corrected.added)
    both = np.concatenate([at, len(cells) + np.arange(n_new)]).astype(np.intp)
    is_cd8 = np.concatenate([corrected.is_cd8, np.array([cell.is_cd8 for cell in corrected.added], bool)])[
        both
    ]
    x_new = np.array([cell.x_um for cell in corrected.added], np.float64)
    y_new = np.array([cell.y_um for cell in corrected.added], np.float64)
    return pd.DataFrame(
        {
            "x_um": np.concatenate([cells.x_um[at], x_new]),
            "y_um": np.concatenate([cells.y_um[at], y_new]),
            "cell_class": np.array([OTHER, CD8], object)[is_cd8.astype(np.intp)],
            "in_tissue": corrected.in_tissue[both],
            "region": np.array(REGION_NAMES, object)[corrected.region[both]],
            "zone": np.array(ZONE_NAMES, object)[corrected.zone[both]],
            "signed_distance_um": corrected.signed_distance_um[both],
        }
    )


def class_name(is_cd8: bool) -> str:
    """Return the name of a cell's class."""
    return CELL_CLASSES[0] if is_cd8 else CELL_CLASSES[1]


def return_freed_memory() -> None:
    """Give back to the system what reading took and freed: several times what is kept of it."""
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return


def _key(column: Any, row: Any, block_columns: int) -> Any:
    """Number tiles so that those of a block follow each other."""
    block = row // TILES_PER_BLOCK * block_columns + column // TILES_PER_BLOCK
    within = row % TILES_PER_BLOCK * TILES_PER_BLOCK + column % TILES_PER_BLOCK
    return block * TILES_PER_BLOCK**2 + within


def _byte(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    share = np.rint(np.clip(np.nan_to_num(probability), 0, 1) * (UNKNOWN - 1))
    return np.where(np.isnan(probability), UNKNOWN, share).astype(np.uint8)


def _codes(names: Any, known: tuple[str, ...]) -> NDArray[np.uint8]:
    return pd.Categorical(names, categories=list(known)).codes.astype(np.uint8)
