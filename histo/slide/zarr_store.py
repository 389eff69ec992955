"""Chunks of a Zarr array that would unpack to more than a chunk holds are refused before they are unpacked.

zarr and its codecs take whatever a packed chunk says of its size, or unpack until memory is full. Not looked
at are whole shards that are read at once, and codecs other than those below.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Self

from zarr.abc.store import ByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from histo.slide.levels import MAX_TILE_BYTES

_STEP: Final = 1 << 20
_METADATA: Final = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK: Final = 1 << 17
# A byte of deflate stands for up to 1,032, of bz2 and lzma for more.
_DEFLATE_RATIO: Final = 1032


_UNPACKERS: Final[dict[str, Callable[[], Any]]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "zlib": zlib.decompressobj,
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
}


class BoundedStore(WrapperStore[LocalStore]):
    """The files of one array, to be read.

    Parameters
    ----------
    store : the folder of the array.
    codecs : names of its codecs.
    chunk_bytes : that an unpacked chunk takes.
    """

    def __init__(self, store: LocalStore, codecs: Iterable[str], chunk_bytes: int) -> None:
        super().__init__(store)
        self._codecs = frozenset(codecs)
        self._chunk_bytes = chunk_bytes

    def _with_store(self, store: LocalStore) -> Self:
        return type(self)(store, self._codecs, self._chunk_bytes)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a file or a part of it; a chunk that is too large is a ValueError."""
        value = await super().get(key, prototype, byte_range)
        # The end of a shard says where its chunks are.
        is_chunk = not key.endswith(_METADATA) and not isinstance(byte_range, SuffixByteRequest)
        if value is not None and is_chunk and self._codecs:
            # Filters make a chunk of doubles from one of floats, and codecs add a few bytes.
            limit = 2 * self._chunk_bytes + _STEP
            await asyncio.to_thread(check_unpacked, value.to_bytes(), self._codecs, limit)
        return value


def bounded_store(path: Path, codecs: Iterable[str], chunk_bytes: int) -> BoundedStore:
    """Return the store of the array in a folder."""
    return BoundedStore(LocalStore(path, read_only=True), codecs, chunk_bytes)


def check_unpacked(data: bytes, codecs: frozenset[str], limit: int) -> None:
    """Raise ValueError where packed bytes stand for more than `limit`, as far as can be told without memory.

    Parameters
    ----------
    codecs : names of what may have packed them.
    """
    size = 0
    if "zstd" in codecs and data.startswith(_ZSTD_MAGIC):
        size = _zstd_size(data)
    elif "blosc" in codecs and len(data) >= 16 and int.from_bytes(data[12:16], "little") == len(data):
        size = int.from_bytes(data[4:8], "little")
    else:
        limit = max(limit, MAX_TILE_BYTES)
        for name in codecs & _UNPACKERS.keys():
            if name in ("bz2", "lzma") or len(data) * _DEFLATE_RATIO > limit:
                size = _unpacked_size(data, _UNPACKERS[name], limit)
    if size > limit:
        raise ValueError(f"it would unpack to {size} bytes or more, which no chunk of it holds")


def _unpacked_size(data: bytes, make: Callable[[], Any], limit: int) -> int:
    """Unpack piece by piece, keeping nothing; stop beyond `limit`, or where the data is damaged."""
    size, rest = 0, data
    try:
        while rest and size <= limit:
            unpacker = make()
            while size <= limit and not unpacker.eof:
                piece = unpacker.decompress(rest, _STEP)
                size += len(piece)
                rest = getattr(unpacker, "unconsumed_tail", b"")
                if not piece and not rest:
                    return size
            rest = unpacker.unused_data
    except (zlib.error, OSError, EOFError, lzma.LZMAError):
        pass
    return size


def _zstd_size(data: bytes) -> int:
    """Return what Zstandard frames state as their size, or their blocks hold at most (RFC 8878, 3.1.1)."""
    size = at = 0
    while data.startswith(_ZSTD_MAGIC, at) and at + 5 < len(data):
        descriptor = data[at + 4]
        single_segment = bool(descriptor & 0x20)
        n_size = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
        at += 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3]
        stated = int.from_bytes(data[at : at + n_size], "little") + (256 if n_size == 2 else 0)
        at += n_size
        in_blocks, last = 0, False
        while not last and at + 3 <= len(data):
            header = int.from_bytes(data[at : at + 3], "little")
            last, kind, n = bool(header & 1), header >> 1 & 3, header >> 3
            in_blocks += n if kind < 2 else _ZSTD_BLOCK
            at += 3 + (1 if kind == 1 else n)
        size += stated if n_size else in_blocks
        at += 4 if descriptor & 4 else 0
    return size
