"""The tiles of an unfinished slide that are done, on disk: a run that is stopped goes on from there.

A file a tile, written under another name first and closed by a checksum: one that a crash left half written
is no file, and its tile is done again. What is read back is what was written, to the bit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import shapely

from histo.cells.detect import TileCells
from histo.errors import TileReadError
from histo.results.atomic import part_path, unwritable
from histo.slide.tiles import Tile, TilePlan

_PREFIX: Final = ".tiles-"
_CODEC: Final = "lz4"
_CHECKSUM: Final = 4
_LABELS: Final = b"labels"
_SHAPE: Final = b"shape"


class TileJournal:
    """Keeps the cells of tiles in a folder beside the slide's results.

    Parameters
    ----------
    folder : of the slide's results.
    fingerprint : see `slide_fingerprint`: cells of another slide or configuration are not taken.
    plan : tiles of another plan are not taken either.
    after_s : tiles that are done earlier, in seconds from now, are not kept: they are soon done again.
    """

    def __init__(self, folder: Path, fingerprint: str, plan: TilePlan, *, after_s: float = 0.0) -> None:
        self._keeps_from = time.monotonic() + after_s
        cut = [plan.mpp, plan.core_px, plan.origin_px, [[*vars(tile.read).values()] for tile in plan.tiles]]
        key = hashlib.sha256(json.dumps([fingerprint, cut]).encode()).hexdigest()[:16]
        self._folder = folder / f"{_PREFIX}{key}"
        for other in folder.glob(f"{_PREFIX}*"):
            if other != self._folder:
                shutil.rmtree(other, ignore_errors=True)
        self.kept = frozenset(
            tile.index for tile in plan.tiles if self._path(tile).exists() and self.read(tile) is not None
        )

    def _path(self, tile: Tile) -> Path:
        return self._folder / f"{tile.index}.arrow"

    def keep(self, tile: Tile, cells: TileCells) -> None:
        """Write the cells of a tile, whole or not at all, once it is time to.

        Several threads may do so for different tiles.

        Raises
        ------
        ResultsError : they cannot be written.
        """
        if time.monotonic() < self._keeps_from:
            return
        table = pa.Table.from_pandas(cells.table, preserve_index=False)
        table = table.append_column("outline", pa.array(shapely.to_wkb(cells.outlines), pa.binary()))
        labels = pa.compress(cells.labels, codec=_CODEC, asbytes=True)
        told = {_LABELS: labels, _SHAPE: json.dumps(cells.labels.shape).encode()}
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=_CODEC)
        schema = table.schema.with_metadata({**(table.schema.metadata or {}), **told})
        with pa.ipc.new_file(sink, schema, options=options) as writer:
            writer.write_table(table.cast(schema))
        content = sink.getvalue()
        path = self._path(tile)
        try:
            self._folder.mkdir(exist_ok=True)
            part = part_path(path)
            with part.open("wb") as file:
                file.write(content)
                file.write(zlib.crc32(content).to_bytes(_CHECKSUM, "big"))
            part.replace(path)
        except OSError as error:
            raise unwritable(path, error) from error

    def read(self, tile: Tile) -> TileCells | None:
        """Return the cells of a tile that was kept; None where it was not, or where its file is not whole."""
        try:
            content = self._path(tile).read_bytes()
        except OSError:
            return None
        body, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
        if zlib.crc32(body).to_bytes(_CHECKSUM, "big") != checksum:
            return None
        with pa.ipc.open_file(body) as file:
            table = file.read_all()
        told: Mapping[bytes, bytes] = table.schema.metadata
        shape = tuple(json.loads(told[_SHAPE]))
        size = int(np.prod(shape)) * np.dtype(np.int32).itemsize
        labels = np.frombuffer(
            pa.decompress(told[_LABELS], size, codec=_CODEC, asbytes=True), np.int32
        ).reshape(shape)
        outlines = shapely.from_wkb(table["outline"].to_numpy())
        frame = table.drop_columns(["outline"]).to_pandas()
        return TileCells(frame, np.asarray(outlines, object), labels)

    def in_order(
        self, plan: TilePlan, done_now: Iterator[tuple[Tile, TileCells | TileReadError]]
    ) -> Iterator[tuple[Tile, TileCells | TileReadError]]:
        """Yield every tile of a plan in its order: those kept from an earlier run, and those done now.

        Parameters
        ----------
        done_now : the tiles that are not in `kept`, in the order of the plan; a tile may come in pieces.
        """
        pieces = groupby(done_now, key=lambda found: found[0].index)
        for tile in plan.tiles:
            if tile.index in self.kept:
                cells = self.read(tile)
                # Seen whole a moment ago.
                assert cells is not None
                yield tile, cells
            else:
                yield from next(pieces)[1]


def remove_journals(folder: Path) -> None:
    """Remove what is kept beside a slide's results: it is finished."""
    for journal in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(journal, ignore_errors=True)
