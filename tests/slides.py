"""A slide held in memory, for tests of everything that reads slides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.errors import TileReadError
from histo.slide.base import Kind, Level, Slide, SlideInfo
from histo.slide.geometry import Box


class ArraySlide(Slide):
    """A slide whose pixels are an array (rows, columns, channels).

    Parameters
    ----------
    pixels : level 0; coarser levels are made by picking the mean of `downsamples` blocks.
    mpp : um per pixel, one number or (x, y).
    channels, kind : guessed from the pixels where not given (3 channels of uint8 are brightfield).
    tile_px : stored tile (width, height) of every level.
    broken : level-0 boxes whose pixels cannot be decoded.
    on_read : called with (level, box) for each read.
    """

    def __init__(
        self,
        pixels: NDArray[Any],
        mpp: float | tuple[float, float] = 0.5,
        *,
        channels: Sequence[str] | None = None,
        kind: Kind | None = None,
        tile_px: tuple[int, int] = (256, 256),
        downsamples: Sequence[int] = (1,),
        broken: Sequence[Box] = (),
        on_read: Callable[[int, Box], None] | None = None,
        name: str = "array.tif",
    ) -> None:
        height, width, n_channels = pixels.shape
        if kind is None:
            kind = "brightfield" if n_channels == 3 and pixels.dtype == np.uint8 else "fluorescence"
        if channels is None:
            brightfield = kind == "brightfield"
            channels = ("red", "green", "blue") if brightfield else [f"c{i}" for i in range(n_channels)]
        self.levels = [_shrink(pixels, factor) for factor in downsamples]
        info = SlideInfo(
            size_px=(width, height),
            mpp=None,
            channels=tuple(channels),
            kind=kind,
            dtype=pixels.dtype,
            levels=tuple(
                Level((level.shape[1], level.shape[0]), (float(f), float(f)), tile_px)
                for level, f in zip(self.levels, downsamples, strict=True)
            ),
            backend="array",
            decoder="array",
        )
        size = (mpp, mpp) if isinstance(mpp, int | float) else mpp
        super().__init__(Path(name), info, size, "flag")
        self.broken = tuple(broken)
        self.on_read = on_read
        self.n_pixels_read = 0
        self._lock = threading.Lock()

    def _open_handle(self) -> Any:
        return object()

    def _close_handle(self, handle: Any) -> None:
        pass

    def _read_level(self, handle: Any, level: int, box: Box) -> NDArray[Any]:
        with self._lock:
            self.n_pixels_read += box.width * box.height
        if self.on_read is not None:
            self.on_read(level, box)
        factor = self.info.levels[level].downsample[0]
        for bad in self.broken:
            scaled = Box(
                int(bad.x / factor), int(bad.y / factor), int(bad.width / factor), int(bad.height / factor)
            )
            common = box.intersect(scaled)
            if common.width and common.height:
                raise TileReadError("stored data cannot be decoded", path=self.path)
        return self.levels[level][box.y : box.bottom, box.x : box.right]


def _shrink(pixels: NDArray[Any], factor: int) -> NDArray[Any]:
    if factor == 1:
        return pixels
    height, width, n_channels = pixels.shape
    rows, columns = height // factor, width // factor
    blocks = pixels[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, n_channels)
    return blocks.mean(axis=(1, 3)).round().astype(pixels.dtype)
