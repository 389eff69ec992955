"""The contract that every slide keeps.

One frame serves the whole package. Its origin is the top-left corner of the slide's level-0 image (where a
file declares bounds, of the bounds: the frame that QuPath shows). Positions are um from there. A *grid at
mpp* divides it into square pixels of `mpp` um: grid pixel (column j, row i) covers [j*mpp, (j+1)*mpp) x
[i*mpp, (i+1)*mpp) um. Reads name whole pixels of such a grid, so a pixel's value never depends on the box it
was read with.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from histo.slide.geometry import Box
from histo.slide.patience import Patience
from histo.slide.resample import area_average, source_span

# Source pixels that one read holds at a time.
_MAX_SOURCE_PX = 1 << 25
Kind = Literal["brightfield", "fluorescence"]
MppSource = Literal["flag", "manifest", "metadata"]


@dataclass(frozen=True)
class Level:
    """One stored resolution.

    `downsample` is (x, y) relative to level 0, `tile_px` the stored tile (width, height), or the whole width
    and some rows where the file is stored in strips or untiled.
    """

    size_px: tuple[int, int]
    downsample: tuple[float, float]
    tile_px: tuple[int, int]


@dataclass(frozen=True)
class SlideInfo:
    """What a backend knows of a file once it has been opened.

    size_px : level-0 width and height.
    mpp : level-0 pixel size (x, y) in um as the file states it; None where it does not. Not judged here.
    channels : channel names; ("red", "green", "blue") for brightfield.
    kind : brightfield (8-bit RGB) or fluorescence (everything else).
    dtype : pixel type that `read` returns: uint8, uint16 or float32.
    levels : from fine to coarse, level 0 first.
    backend : which library reads it; `decoder` which code decodes its tiles (both are recorded in outputs).
    origin_px : where the frame's origin lies in the file's own level-0 image (non-zero where bounds are set).
    properties : the vendor's metadata, as strings.
    """

    size_px: tuple[int, int]
    mpp: tuple[float, float] | None
    channels: tuple[str, ...]
    kind: Kind
    dtype: np.dtype[Any]
    levels: tuple[Level, ...]
    backend: str
    decoder: str
    origin_px: tuple[int, int] = (0, 0)
    properties: Mapping[str, str] = field(default_factory=dict)


class Slide(ABC):
    """A whole-slide image that is read by physical scale.

    Safe to share between threads (each gets its own handle), picklable (the handle is dropped and reopened),
    usable as a context manager. Never carry an open one across a fork.

    Made by `histo.slide.open_slide`, which settles the pixel size.
    """

    def __init__(self, path: Path, info: SlideInfo, mpp: tuple[float, float], mpp_source: MppSource) -> None:
        self.path = path
        self.info = info
        self.mpp = mpp
        self.mpp_source: MppSource = mpp_source
        self._local = threading.local()
        self._patience: Patience | None = None

    def limit_reads(self, seconds: float | None) -> None:
        """Let a read take at most so many seconds; None or 0 for as long as it takes, as at first."""
        self._patience = Patience(seconds) if seconds else None

    # What a backend gives -----------------------------------------------------------------------------------

    @abstractmethod
    def _open_handle(self) -> Any:
        """Open the file for the calling thread."""

    @abstractmethod
    def _close_handle(self, handle: Any) -> None:
        """Close what `_open_handle` opened."""

    @abstractmethod
    def _read_level(self, handle: Any, level: int, box: Box) -> NDArray[Any]:
        """Read a box of pixels of one level: (height, width, channels).

        The box lies inside the level. Raises TileReadError where stored data cannot be decoded: never returns
        made-up pixels.
        """

    # What everyone uses -------------------------------------------------------------------------------------

    @property
    def size_px(self) -> tuple[int, int]:
        """Level-0 (width, height)."""
        return self.info.size_px

    @property
    def size_um(self) -> tuple[float, float]:
        """(width, height) in um."""
        return self.size_px[0] * self.mpp[0], self.size_px[1] * self.mpp[1]

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names, in the order of the last axis of `read`."""
        return self.info.channels

    @property
    def kind(self) -> Kind:
        """Brightfield or fluorescence."""
        return self.info.kind

    def grid_size(self, mpp: float) -> tuple[int, int]:
        """(columns, rows) of the grid at `mpp` that cover the slide; the last may reach past its edge."""
        width_um, height_um = self.size_um
        return max(1, int(np.ceil(width_um / mpp - 1e-6))), max(1, int(np.ceil(height_um / mpp - 1e-6)))

    def level_for(self, mpp: float) -> int:
        """Return the coarsest stored level that is not coarser than `mpp`, or 0 where all are coarser."""
        best = 0
        for index, level in enumerate(self.info.levels):
            # 1 % slack: a "0.5 um" level is often stored as 0.5004 um.
            if max(self.mpp[0] * level.downsample[0], self.mpp[1] * level.downsample[1]) <= mpp * 1.01:
                best = index
        return best

    def read(self, box: Box, mpp: float) -> NDArray[Any]:
        """Read a box of the grid at `mpp` um.

        The nearest finer level is averaged by area (bilinear where the slide itself is coarser than `mpp`).

        Parameters
        ----------
        box : whole pixels of the grid at `mpp`; may reach outside the slide.
        mpp : um per pixel wanted.

        Returns
        -------
        (height, width, channels) in the slide's dtype. Outside the slide: white for brightfield, 0 for
        fluorescence.

        Raises
        ------
        TileReadError : stored data under the box cannot be decoded, or not within the time of `limit_reads`.
        NoAnswerError : the file system does not answer.
        """
        if self._patience is None:
            return self._read(box, mpp)
        return self._patience.read(partial(self._read, box, mpp), self.path)

    def _read(self, box: Box, mpp: float) -> NDArray[Any]:
        index = self.level_for(mpp)
        level = self.info.levels[index]
        # A coarse read of a file without coarse levels: in halves, so that memory stays bounded.
        needed = box.width * box.height * (mpp / self.mpp[0]) * (mpp / self.mpp[1])
        needed /= level.downsample[0] * level.downsample[1]
        if needed > _MAX_SOURCE_PX and box.height > 1:
            half = box.height // 2
            upper = self._read(Box(box.x, box.y, box.width, half), mpp)
            lower = self._read(Box(box.x, box.y + half, box.width, box.height - half), mpp)
            return np.concatenate([upper, lower])
        # Level pixels per grid pixel.
        scale_x = mpp / (self.mpp[0] * level.downsample[0])
        scale_y = mpp / (self.mpp[1] * level.downsample[1])
        x0, x1 = source_span(box.x, box.width, scale_x)
        y0, y1 = source_span(box.y, box.height, scale_y)
        wanted = Box(x0, y0, x1 - x0, y1 - y0)
        inside = wanted.intersect(Box(0, 0, *level.size_px))
        fill = 255 if self.kind == "brightfield" else 0
        shape = (wanted.height, wanted.width, len(self.channels))
        if inside.width == 0 or inside.height == 0:
            return np.full((box.height, box.width, len(self.channels)), fill, self.info.dtype)
        pixels = self._read_level(self._handle(), index, inside)
        if inside != wanted:
            padded = np.full(shape, fill, self.info.dtype)
            top, left = inside.y - wanted.y, inside.x - wanted.x
            padded[top : top + inside.height, left : left + inside.width] = pixels
            pixels = padded
        return area_average(pixels, box, (scale_x, scale_y), (wanted.x, wanted.y))

    def close(self) -> None:
        """Close the calling thread's handle; a later read opens a new one."""
        if self._patience is not None:
            self._patience.close(self._close)
        self._close()

    def _close(self) -> None:
        handle = getattr(self._local, "handle", None)
        if handle is not None:
            self._local.handle = None
            self._close_handle(handle)

    def _handle(self) -> Any:
        handle = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._local.handle = self._open_handle()
        return handle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_local"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    def __repr__(self) -> str:
        width, height = self.size_px
        return f"<{type(self).__name__} {self.path.name} {width}x{height} px, {self.mpp[0]:.4g} um/px>"
