"""The TIFF family, read tile by tile: OME-TIFF, qptiff, ImageJ, inForm, plain TIFF, and tiled-JPEG SVS.

tifffile finds the stored tiles, its codecs decode the ones that a read needs, and nothing else is touched.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.errors import TileReadError
from histo.slide.base import MppSource, Slide, SlideInfo
from histo.slide.geometry import Box
from histo.slide.jpeg import damage_2000, missing_blocks, structural_damage
from histo.slide.levels import MAX_TILE_BYTES, over_background
from histo.slide.tiff_layout import Plane, TiffLayout, read_layout
from histo.slide.tile_cache import TileCache

_JPEG = (6, 7)
_JPEG_2000 = (33003, 33004, 33005, 34712)
_DAMAGED = "Copy or export the file again; the rest of it can still be read"


class TiffSlide(Slide):
    """A TIFF whose tiles or strips are decoded one by one."""

    def __init__(self, path: Path, info: SlideInfo, mpp: tuple[float, float], mpp_source: MppSource) -> None:
        super().__init__(path, info, mpp, mpp_source)
        self._reset()

    def _reset(self) -> None:
        self._layout: TiffLayout | None = None
        self._cache = TileCache()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # The decoders of the layout, the cache and the lock are made anew where the slide arrives.
        gone = ("_layout", "_cache", "_lock")
        return {name: value for name, value in super().__getstate__().items() if name not in gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset()

    def _get_layout(self) -> TiffLayout:
        with self._lock:
            if self._layout is None:
                self._layout = read_layout(self.path)
            return self._layout

    def _open_handle(self) -> _Files:
        self._get_layout()
        return _Files()

    def _close_handle(self, handle: _Files) -> None:
        handle.close()

    def _read_level(self, handle: _Files, level: int, box: Box) -> NDArray[Any]:
        layout = self._get_layout()
        planes = layout.planes[level]
        fill = 255 if self.kind == "brightfield" else 0
        channels = sum(plane.channels for plane in planes)
        out = np.empty((box.height, box.width, channels), dtype=self.info.dtype)
        first = 0
        for number, plane in enumerate(planes):
            for part in range(plane.offsets.shape[0]):
                target = out[..., first : first + plane.samples]
                self._read_plane(handle, (level, number, part), plane, box, target, fill)
                first += plane.samples
        if channels == len(self.channels):
            return out
        return _without_alpha(out, layout.alpha)

    def _read_plane(
        self, files: _Files, key: tuple[int, int, int], plane: Plane, box: Box, out: NDArray[Any], fill: int
    ) -> None:
        width, height = plane.tile_px
        for row in range(box.y // height, -(-box.bottom // height)):
            for column in range(box.x // width, -(-box.right // width)):
                part = Box(column * width, row * height, width, height).intersect(box)
                target = out[part.y - box.y : part.bottom - box.y, part.x - box.x : part.right - box.x]
                index = (key[2], row, column)
                if plane.byte_counts[index] == 0 or plane.offsets[index] == 0:
                    target[:] = fill  # a sparse tile was never written: nothing was there
                    continue
                tile = self._cache.get((*key, row, column), partial(self._decode, files, plane, index))
                top, left = part.y - row * height, part.x - column * width
                pixels = tile[top : top + part.height, left : left + part.width]
                if pixels.shape[:2] != target.shape[:2]:
                    raise self._damage(index, "it is smaller than the file says")
                target[:] = pixels

    def _decode(self, files: _Files, plane: Plane, index: tuple[int, int, int]) -> NDArray[Any]:
        """Read and decode one tile: (height, width, samples)."""
        count = int(plane.byte_counts[index])
        if count > MAX_TILE_BYTES:
            raise self._damage(index, f"it is said to have {count} bytes")
        try:
            data = files.read(plane.path, int(plane.offsets[index]), count)
        except OSError as error:
            raise self._damage(index, f"it cannot be read from disk ({error})") from error
        if len(data) < count:
            raise self._damage(index, "the file ends before it")
        if plane.decode is None:
            pixels = np.frombuffer(data, dtype=plane.dtype).reshape(-1, plane.tile_px[0], plane.samples)
        else:
            pixels = self._decompress(plane, data, index)
        if plane.inverted:
            pixels = np.invert(pixels) if pixels.dtype.kind in "bu" else -pixels
        return np.ascontiguousarray(pixels, dtype=self.info.dtype)

    def _decompress(self, plane: Plane, data: bytes, index: tuple[int, int, int]) -> NDArray[Any]:
        assert plane.decode is not None
        decode = plane.decode
        number = int(np.ravel_multi_index(index, plane.offsets.shape))
        # JPEG must be checked by hand: libjpeg fills what is missing and does not complain.
        damage = None
        if plane.compression in _JPEG:
            damage = structural_damage(data)
        elif plane.compression in _JPEG_2000:
            damage = damage_2000(data)
        if damage is not None:
            raise self._damage(index, damage)

        def run(stream: bytes) -> NDArray[Any]:
            kwargs = {"jpegtables": plane.tables} if plane.tables is not None else {}
            pixels, _, _ = decode(stream, number, **kwargs)
            tile: NDArray[Any] = np.asarray(pixels)[0]
            return tile

        try:
            pixels = run(data)
            short = plane.compression in _JPEG and missing_blocks(data, pixels, run)
        except MemoryError:
            raise
        except Exception as error:  # every codec has its own
            raise self._damage(index, str(error) or type(error).__name__) from error
        if short:
            raise self._damage(index, "its JPEG data ends before the picture does")
        return pixels

    def _damage(self, index: tuple[int, int, int], why: str) -> TileReadError:
        return TileReadError(
            f"the stored tile in row {index[1]}, column {index[2]} is damaged: {why}",
            path=self.path,
            fix=_DAMAGED,
        )


class _Files:
    """One thread's open files: the TIFF itself, and the others of a multi-file OME-TIFF."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}

    def read(self, path: Path, offset: int, count: int) -> bytes:
        descriptor = self._open.get(path)
        if descriptor is None:
            descriptor = self._open[path] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        if offset + count > os.fstat(descriptor).st_size:
            return b""  # before memory is asked for what cannot be there
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, count)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()


def _without_alpha(pixels: NDArray[Any], alpha: str) -> NDArray[Any]:
    """Turn 4 samples to red, green, blue on white."""
    if alpha == "straight":
        return over_background(pixels, (255, 255, 255))
    colour = np.ascontiguousarray(pixels[..., :3])
    if alpha == "premultiplied":
        # Straight alpha over white adds exactly the white that shows through.
        shown: NDArray[Any] = np.minimum(255, colour.astype(np.uint16) + (255 - pixels[..., 3:]))
        return shown.astype(np.uint8)
    return colour


def inspect(path: Path) -> TiffLayout:
    """Return what is known of a TIFF; raises SlideError where it cannot be read."""
    return read_layout(path)
