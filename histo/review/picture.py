"""Pictures of a slide for the page: DeepZoom tiles, thumbnails, a cell with its stains apart, maps."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, log2
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image

from histo.errors import ReviewError, TileReadError
from histo.measure.summary import SlideSummary
from histo.slide import Box, Slide
from histo.slide.tile_cache import TileCache
from histo.stain.names import STAINS

TILE_PX: Final = 512
_QUALITY = 85
_CROP_UM: Final = 48.0
_CROP_PX: Final = 192
_THUMBNAIL_PX: Final = 360
_UNREAD_GREY = 200
_PATCHES = 5
_PATCH_PX = 192
_CHANNEL = re.compile(r"(\d{1,2}):([0-9a-fA-F]{6}):(-?\d{1,9}(?:\.\d{1,6})?):(-?\d{1,9}(?:\.\d{1,6})?)")
_MAX_CHANNELS = 16


@dataclass(frozen=True)
class Channel:
    """How a channel of fluorescence is shown: place, colour, grey levels of black and of full colour."""

    index: int
    colour: tuple[int, int, int]
    low: float
    high: float


def parse_channels(text: str, n_channels: int) -> tuple[Channel, ...]:
    """Read "INDEX:RRGGBB:LOW:HIGH", comma-separated; raises ReviewError for anything else."""
    channels: list[Channel] = []
    for part in text.split(",") if text else ():
        match = _CHANNEL.fullmatch(part)
        if match is None or int(match[1]) >= n_channels or len(channels) >= _MAX_CHANNELS:
            raise ReviewError(f"not a channel of this slide: {part[:40]!r}")
        red, green, blue = bytes.fromhex(match[2])
        channels.append(Channel(int(match[1]), (red, green, blue), float(match[3]), float(match[4])))
    return tuple(channels)


def compose(pixels: NDArray[Any], channels: Sequence[Channel]) -> NDArray[np.uint8]:
    """Add up channels (rows, columns, channels) to red, green, blue."""
    rgb = np.zeros((*pixels.shape[:2], 3), np.float32)
    for channel in channels:
        span = max(channel.high - channel.low, 1e-6)
        share = np.clip((pixels[..., channel.index].astype(np.float32) - channel.low) / span, 0, 1)
        rgb += share[..., None] * np.array(channel.colour, np.float32)
    return np.clip(rgb, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Pyramid:
    """A slide as a DeepZoom image: square pixels of `mpp` um at the finest level, tiles without overlap."""

    size_px: tuple[int, int]
    mpp: float

    @classmethod
    def of(cls, slide: Slide) -> Pyramid:
        """Return the pyramid whose finest level is the slide's own."""
        mpp = min(slide.mpp)
        return cls(slide.grid_size(mpp), mpp)

    @property
    def max_level(self) -> int:
        """Number of the finest level; level 0 is one pixel."""
        return ceil(log2(max(self.size_px)))

    def tile(self, level: int, column: int, row: int) -> tuple[Box, float]:
        """Return box and um per pixel of a tile; raises ReviewError where there is none."""
        if not 0 <= level <= self.max_level:
            raise ReviewError("no such level")
        scale = 2 ** (self.max_level - level)
        width, height = (ceil(size / scale) for size in self.size_px)
        x, y = column * TILE_PX, row * TILE_PX
        if not (0 <= x < width and 0 <= y < height):
            raise ReviewError("no such tile")
        return Box(x, y, min(TILE_PX, width - x), min(TILE_PX, height - y)), self.mpp * scale


class TilePictures:
    """Encoded tiles of all slides, the least recently used dropped first."""

    def __init__(self, max_bytes: int = 96 << 20) -> None:
        self._cache = TileCache(max_bytes)

    def tile(
        self, key: str, slide: Slide, level: int, column: int, row: int, channels: tuple[Channel, ...]
    ) -> bytes:
        """Return a tile as JPEG; a part of the slide that cannot be decoded is grey."""
        box, mpp = Pyramid.of(slide).tile(level, column, row)

        def encode() -> NDArray[np.uint8]:
            try:
                pixels = slide.read(box, mpp)
                rgb = pixels if slide.kind == "brightfield" else compose(pixels, channels)
            except TileReadError:
                rgb = np.full((box.height, box.width, 3), _UNREAD_GREY, np.uint8)
            return np.frombuffer(jpeg(rgb), np.uint8).copy()

        return self._cache.get((key, level, column, row, channels), encode).tobytes()


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """Encode (rows, columns, 3)."""
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(rgb), level=_QUALITY))


def png(rgba: NDArray[np.uint8]) -> bytes:
    """Encode (rows, columns, 4)."""
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def default_channels(maps: Path, n_channels: int) -> tuple[Channel, ...]:
    """Return how a run's `maps.zarr` says that the channels of a fluorescence slide should be shown."""
    try:
        attributes: Any = zarr.open_group(str(maps), mode="r").attrs.asdict()
        told = attributes["ome"]["omero"]["channels"]
        return tuple(
            Channel(
                place,
                (int(one["color"][0:2], 16), int(one["color"][2:4], 16), int(one["color"][4:6], 16)),
                float(one["window"]["start"]),
                float(one["window"]["end"]),
            )
            for place, one in enumerate(told[:n_channels])
        )
    except (OSError, KeyError, ValueError, TypeError, zarr.errors.NodeNotFoundError):
        raise ReviewError(
            "the overview of the slide cannot be read", path=maps, fix="Run infer again"
        ) from None


def close_up_channels(slide: Slide, maps: Path) -> tuple[Channel, ...]:
    """Return how channels should be shown close up: an overview averages away the signal of single cells.

    Black is the lower quartile and full colour the 99.9th percentile of patches all over the slide.
    """
    channels = default_channels(maps, len(slide.channels))
    mpp = min(slide.mpp)
    columns, rows = slide.grid_size(mpp)
    patches = []
    for y in np.linspace(0.1, 0.9, _PATCHES) * rows:
        for x in np.linspace(0.1, 0.9, _PATCHES) * columns:
            try:
                patches.append(
                    slide.read(Box(int(x), int(y), _PATCH_PX, _PATCH_PX), mpp).reshape(-1, len(channels))
                )
            except TileReadError:
                continue
    if not patches:
        return channels
    low, high = np.percentile(np.concatenate(patches), [25, 99.9], axis=0)
    return tuple(
        replace(channel, low=float(low[k]), high=max(float(high[k]), float(low[k]) + 1e-3))
        for k, channel in enumerate(channels)
    )


def thumbnail(maps: Path, kind: str) -> bytes:
    """Return a small picture of a slide as JPEG, from the overview in its `maps.zarr`.

    Raises
    ------
    ReviewError : there is none.
    """
    try:
        group = zarr.open_group(str(maps), mode="r")
        levels: list[Any] = [group[name] for name in sorted(group.array_keys(), key=int)]
        fits = [level for level in levels if max(level.shape[1:]) <= 2 * _THUMBNAIL_PX]
        pixels = np.moveaxis(np.asarray((fits or levels[-1:])[0]), 0, -1)
    except (OSError, KeyError, ValueError, IndexError, TypeError, zarr.errors.NodeNotFoundError):
        raise ReviewError(
            "the overview of the slide cannot be read", path=maps, fix="Run infer again"
        ) from None
    channels = () if kind == "brightfield" else default_channels(maps, pixels.shape[-1])
    rgb = pixels[..., :3] if kind == "brightfield" else compose(pixels, channels[:3])
    picture = Image.fromarray(np.ascontiguousarray(rgb.astype(np.uint8)))
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    return jpeg(np.asarray(picture))


def planes_of(slide: Slide, summary: SlideSummary) -> list[str]:
    """Return what `crop` can show of a slide: the image, and each stain or channel alone."""
    if slide.kind != "brightfield":
        return ["image", *slide.channels]
    return ["image"] if summary.stain.vectors is None else ["image", "nuclear", "CD8", "residual"]


def crop(
    slide: Slide,
    summary: SlideSummary,
    x_um: float,
    y_um: float,
    plane: int,
    channels: tuple[Channel, ...],
) -> bytes:
    """Return the surroundings of a place as JPEG: `plane` is a place in `planes_of`."""
    if not 0 <= plane < len(planes_of(slide, summary)):
        raise ReviewError("no such plane")
    mpp = _CROP_UM / _CROP_PX
    half = _CROP_PX // 2
    box = Box(round(x_um / mpp) - half, round(y_um / mpp) - half, _CROP_PX, _CROP_PX)
    pixels = slide.read(box, mpp)
    if slide.kind != "brightfield":
        shown = (
            channels
            if plane == 0
            else tuple(
                Channel(c.index, (255, 255, 255), c.low, c.high) for c in channels if c.index == plane - 1
            )
        )
        return jpeg(compose(pixels, shown))
    stain = summary.stain
    if plane == 0 or stain.vectors is None or stain.white_point is None:
        return jpeg(pixels)
    # As histo.stain.deconvolution, without the half GB that torch takes.
    white = np.array(stain.white_point)
    vectors = np.array([stain.vectors[name] for name in STAINS])
    od = -np.log10(np.maximum(pixels, 1) / np.maximum(white, 1))
    amount = np.maximum((od @ np.linalg.inv(vectors))[..., plane - 1], 0)
    light = 10.0 ** (-amount[..., None] * vectors[plane - 1]) * white
    return jpeg(np.clip(light, 0, 255).astype(np.uint8))
