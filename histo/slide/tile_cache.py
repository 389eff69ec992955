"""A cache of decoded tiles that never grows past its budget."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from numpy.typing import NDArray

DEFAULT_BYTES = 64 * 1024 * 1024


class TileCache:
    """Decoded tiles, the least recently used dropped first. Shared by the threads of one slide.

    The budget counts bytes of pixels. The newest tile is kept even where it alone is above the budget: a file
    stored as one strip would otherwise be decoded anew for every read.
    """

    def __init__(self, max_bytes: int = DEFAULT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tiles: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def get(self, key: Hashable, decode: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return the tile of `key`, decoded by the caller's thread where it is not held.

        Decoding runs outside the lock, so that threads decode side by side. The tile is read-only. An error
        of `decode` is passed on and nothing is kept.
        """
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
                return tile
        tile = decode()
        tile.flags.writeable = False
        with self._lock:
            old = self._tiles.pop(key, None)
            if old is not None:
                self._bytes -= old.nbytes
            self._tiles[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > self._max_bytes and len(self._tiles) > 1:
                self._bytes -= self._tiles.popitem(last=False)[1].nbytes
        return tile
