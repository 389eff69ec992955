"""Vendor formats through OpenSlide: SVS, NDPI, MRXS, SCN, BIF, VMS, CZI, DICOM."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray

from histo.errors import SlideError, TileReadError
from histo.slide.base import Level, Slide, SlideInfo
from histo.slide.geometry import Box
from histo.slide.levels import MAX_TILE_BYTES, RGB, downsample, over_background
from histo.slide.pixel_size import MPP_ORIGIN

CACHE_BYTES = 96 * 1024 * 1024
# Side of the fixed blocks in which levels with a fractional downsample are read.
_BLOCK_PX = 1024
_AGAIN = "Export the slide again"
_caches: dict[int, Any] = {}


class OpenSlideSlide(Slide):
    """A slide that OpenSlide reads. One handle a thread, one tile cache a process."""

    def _open_handle(self) -> Any:
        return _open(self.path)

    def _close_handle(self, handle: Any) -> None:
        handle.close()

    def _read_level(self, handle: Any, level: int, box: Box) -> NDArray[Any]:
        factor = float(handle.level_downsamples[level])
        try:
            if abs(factor - round(factor)) < 1e-6:
                return _read_box(handle, self.info, level, box, round(factor))
            return _read_blocks(handle, self.info, level, box, factor)
        except openslide.OpenSlideError as error:
            # After an error OpenSlide refuses everything on this handle: the next read opens a new one.
            self.close()
            raise TileReadError(
                f"level {level} cannot be decoded at x {box.x} to {box.right}, y {box.y} to {box.bottom}"
                f" ({error})",
                path=self.path,
                fix="Copy or export the file again; the rest of it can still be read",
            ) from error


def inspect(path: Path) -> SlideInfo:
    """Return what OpenSlide knows of a file.

    Raises
    ------
    SlideError : OpenSlide cannot open it, or it states bounds outside its picture.
    """
    handle = _open(path)
    try:
        return _info(path, handle)
    except (openslide.OpenSlideError, ArithmeticError, ValueError) as error:
        # Bytes that are no text, levels without pixels, tiles without a number for their size.
        raise SlideError(f"its metadata is damaged ({error})", path=path, fix=_AGAIN) from error
    finally:
        handle.close()


def _info(path: Path, handle: Any) -> SlideInfo:
    properties: Mapping[str, str] = dict(handle.properties)
    full = handle.dimensions
    frame = _bounds(path, properties, full)
    sizes = handle.level_dimensions
    levels: list[Level] = []
    for index, (size, factor) in enumerate(zip(sizes, handle.level_downsamples, strict=True)):
        scale = downsample(full, size) if index else (1.0, 1.0)
        if frame != Box(0, 0, *full):
            # Bounds cut a level at its own whole pixels; OpenSlide's factor tells where they lie.
            size = (max(1, -int(-frame.width // factor)), max(1, -int(-frame.height // factor)))
        tile = (
            int(properties.get(f"openslide.level[{index}].tile-width", 256)),
            int(properties.get(f"openslide.level[{index}].tile-height", 256)),
        )
        if tile[0] * tile[1] * 4 > MAX_TILE_BYTES:
            # OpenSlide ends the whole process where it gets no memory for one.
            raise SlideError(f"its tiles of {tile[0]} x {tile[1]} px are too large", path=path, fix=_AGAIN)
        levels.append(Level((int(size[0]), int(size[1])), scale, tile))
    mpp = _mpp(properties)
    extra = {MPP_ORIGIN: f"its {properties.get('openslide.vendor', '')} metadata"} if mpp else {}
    return SlideInfo(
        size_px=(frame.width, frame.height),
        mpp=mpp,
        channels=RGB,
        kind="brightfield",
        dtype=np.dtype(np.uint8),
        levels=tuple(levels),
        backend="openslide",
        decoder=f"openslide {openslide.__library_version__} {properties.get('openslide.vendor', '')}".strip(),
        origin_px=(frame.x, frame.y),
        properties={**properties, **extra},
    )


def _open(path: Path) -> Any:
    try:
        handle = openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise SlideError(
            f"OpenSlide cannot open it ({error})",
            path=path,
            fix="Copy it again with all its companion files, or export it as OME-TIFF",
        ) from error
    process = os.getpid()
    if process not in _caches:
        _caches.clear()
        _caches[process] = openslide.OpenSlideCache(CACHE_BYTES)
    handle.set_cache(_caches[process])
    return handle


def _bounds(path: Path, properties: Mapping[str, str], full: tuple[int, int]) -> Box:
    names = ("bounds-x", "bounds-y", "bounds-width", "bounds-height")
    values = [properties.get(f"openslide.{name}") for name in names]
    whole = Box(0, 0, int(full[0]), int(full[1]))
    if any(value is None for value in values):
        return whole
    try:
        box = Box(*(int(float(value or "")) for value in values)).intersect(whole)
    except ValueError:
        box = Box(0, 0, 0, 0)
    if box.width == 0 or box.height == 0:
        raise SlideError(
            f"its bounds ({', '.join(str(value) for value in values)}) lie outside its picture",
            path=path,
            fix=_AGAIN,
        )
    return box


def _mpp(properties: Mapping[str, str]) -> tuple[float, float] | None:
    try:
        return float(properties["openslide.mpp-x"]), float(properties["openslide.mpp-y"])
    except (KeyError, ValueError):
        return None


def _background(properties: Mapping[str, str]) -> tuple[int, int, int]:
    text = properties.get("openslide.background-color", "ffffff")
    try:
        red, green, blue = bytes.fromhex(text)
    except ValueError:
        return 255, 255, 255
    return red, green, blue


def _read_box(handle: Any, info: SlideInfo, level: int, box: Box, factor: int) -> NDArray[np.uint8]:
    x, y = info.origin_px
    location = (x + box.x * factor, y + box.y * factor)
    image = handle.read_region(location, level, (box.width, box.height))
    return over_background(np.asarray(image), _background(info.properties))


def _read_blocks(handle: Any, info: SlideInfo, level: int, box: Box, factor: float) -> NDArray[np.uint8]:
    """Read a level whose pixels do not start on whole level-0 pixels.

    OpenSlide takes level-0 positions only and shifts by the rest. Blocks at fixed places have a fixed shift
    (at most half a level-0 pixel), so a pixel does not depend on the box it was read with.
    """
    out = np.empty((box.height, box.width, 3), dtype=np.uint8)
    width, height = info.levels[level].size_px
    for top in range(box.y // _BLOCK_PX * _BLOCK_PX, box.bottom, _BLOCK_PX):
        for left in range(box.x // _BLOCK_PX * _BLOCK_PX, box.right, _BLOCK_PX):
            block = Box(left, top, _BLOCK_PX, _BLOCK_PX).intersect(Box(0, 0, width, height))
            part = block.intersect(box)
            corner = (round(left * factor), round(top * factor))
            location = (info.origin_px[0] + corner[0], info.origin_px[1] + corner[1])
            # From the block's corner to the part's end: the start must be the block's, the end need not.
            size = (part.right - left, part.bottom - top)
            pixels = np.asarray(handle.read_region(location, level, size))
            pixels = pixels[part.y - top :, part.x - left :]
            out[part.y - box.y : part.bottom - box.y, part.x - box.x : part.right - box.x] = over_background(
                pixels, _background(info.properties)
            )
    return out
