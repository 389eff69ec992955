"""The label map of all cells of a slide: an int32 pyramid that is written tile by tile."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from histo.results.atomic import unwritable
from histo.results.ome_zarr import Shape, create_level, level_shapes, multiscale, write_group
from histo.slide.geometry import Box

# Chunks held in memory, 4 MB each: four tiles abreast with what reaches over their edges touch about 20.
_CHUNKS_HELD: Final = 16

Chunk = NDArray[np.int32]


class LabelMapWriter:
    """Paint cells into an image-label group, in any order, from one thread.

    Pixels of 0 leave what is there, so a cell may reach over the edge of its tile into neighbours that were
    written before or come after. Where two cells claim a pixel, the higher id has it, whatever the order.
    Only chunks that hold a cell are stored. At most 16 chunks are in memory.

    Parameters
    ----------
    path : folder of the group.
    shape : (rows, columns) of the slide's grid at `mpp`.
    mpp : um per pixel.
    chunk_px : chunk edge, a power of two.
    """

    def __init__(self, path: Path, shape: Shape, mpp: float, chunk_px: int = 1024) -> None:
        if chunk_px < 1 or chunk_px & (chunk_px - 1):
            raise ValueError("chunk_px must be a power of two")
        self._path = path
        self._chunk_px = chunk_px
        self._grid = Box(0, 0, shape[1], shape[0])
        # A pixel of a coarser level must lie within one chunk of the finest.
        shapes = level_shapes(shape, max_levels=chunk_px.bit_length())
        self._held: OrderedDict[tuple[int, int], Chunk] = OrderedDict()
        self._stored: set[tuple[int, int]] = set()
        try:
            write_group(
                path,
                {
                    "multiscales": [multiscale("cells", "yx", mpp, len(shapes), "nearest")],
                    "image-label": {"colors": [], "source": {"image": "../../"}},
                },
                own={"quantity": "cell_id of the cell table; 0: no cell"},
            )
            self._levels = [
                create_level(path, level, level_shape, np.int32, chunk_px=chunk_px)
                for level, level_shape in enumerate(shapes)
            ]
        except OSError as error:
            raise unwritable(path, error) from error

    def write(self, box: Box, labels: NDArray[np.integer[Any]]) -> None:
        """Paint the cells of a box.

        Parameters
        ----------
        box : on the grid at `mpp`; parts outside the slide are cut.
        labels : (box.height, box.width), cell ids; 0 leaves the map as it is.

        Raises
        ------
        ValueError : the shape is not that of the box.
        ResultsError : a chunk cannot be stored.
        """
        if labels.shape != (box.height, box.width):
            raise ValueError(f"labels of shape {labels.shape} for a box of {box.height} x {box.width}")
        inside = box.intersect(self._grid)
        if not inside.width or not inside.height:
            return
        size = self._chunk_px
        for row in range(inside.y // size, (inside.bottom - 1) // size + 1):
            for column in range(inside.x // size, (inside.right - 1) // size + 1):
                part = inside.intersect(Box(column * size, row * size, size, size))
                piece = labels[part.y - box.y : part.bottom - box.y, part.x - box.x : part.right - box.x]
                if not piece.any():
                    continue
                top, left = part.y - row * size, part.x - column * size
                target = self._chunk(row, column)[top : top + part.height, left : left + part.width]
                np.maximum(target, piece, out=target, casting="same_kind")

    def close(self) -> None:
        """Store what is held and build the coarser levels, a few chunks at a time."""
        while self._held:
            self._store_oldest()
        if len(self._levels) > 1:
            top = len(self._levels) - 1
            rows, columns = self._n_chunks(top)
            for row in range(rows):
                for column in range(columns):
                    self._build(top, row, column)

    def _chunk(self, row: int, column: int) -> Chunk:
        """Return a whole chunk, to be painted into."""
        key = row, column
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        while len(self._held) >= _CHUNKS_HELD:
            self._store_oldest()
        chunk = np.zeros((self._chunk_px, self._chunk_px), np.int32)
        if key in self._stored:
            stored = self._read(row, column)
            chunk[: stored.shape[0], : stored.shape[1]] = stored
        self._held[key] = chunk
        return chunk

    def _store_oldest(self) -> None:
        (row, column), chunk = self._held.popitem(last=False)
        self._write(0, row, column, chunk)
        self._stored.add((row, column))

    def _build(self, level: int, row: int, column: int) -> list[Chunk] | None:
        """Build a chunk of a coarser level from the four below it.

        Returns what the still coarser levels need of its area, finest first; None where it holds no cell.
        The finest level is read once, and each level is sampled from it: the pixel nearest to the centre.
        """
        if level == 0:
            if (row, column) not in self._stored:
                return None
            stored = self._read(row, column)
            missing = [(0, self._chunk_px - n) for n in stored.shape]
            chunk = np.pad(stored, missing, mode="edge") if any(m[1] for m in missing) else stored
            steps = [2**k for k in range(1, len(self._levels))]
            # Copies: views would keep every chunk alive.
            return [chunk[step // 2 :: step, step // 2 :: step].copy() for step in steps]
        quarters = [self._build(level - 1, 2 * row + i, 2 * column + j) for i in (0, 1) for j in (0, 1)]
        some = next((quarter for quarter in quarters if quarter is not None), None)
        if some is None:
            return None
        merged = []
        for k, like in enumerate(some):
            parts = [np.zeros_like(like) if quarter is None else quarter[k] for quarter in quarters]
            merged.append(np.block([parts[:2], parts[2:]]))
        self._write(level, row, column, merged[0])
        return merged[1:]

    def _n_chunks(self, level: int) -> Shape:
        rows, columns = self._levels[level].shape
        return -(-rows // self._chunk_px), -(-columns // self._chunk_px)

    def _read(self, row: int, column: int) -> Chunk:
        stored = np.asarray(self._levels[0][self._slices(row, column)])
        return stored.astype(np.int32, copy=False)

    def _write(self, level: int, row: int, column: int, chunk: Chunk) -> None:
        array = self._levels[level]
        rows, columns = array.shape
        height, width = rows - row * self._chunk_px, columns - column * self._chunk_px
        try:
            array[self._slices(row, column)] = chunk[:height, :width]
        except OSError as error:
            raise unwritable(self._path, error) from error

    def _slices(self, row: int, column: int) -> tuple[slice, slice]:
        size = self._chunk_px
        return slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size)
