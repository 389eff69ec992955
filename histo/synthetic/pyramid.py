"""Writing rendered slides as tiled pyramids, strip by strip."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

TILE_PX = 256
LEVEL_STEP = 4
# No level is made that is smaller than this.
_SMALLEST_PX = 256


def level_sizes(size_px: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (width, height) of each level, 4 times smaller each, level 0 first."""
    sizes = [size_px]
    while min(sizes[-1]) >= LEVEL_STEP * _SMALLEST_PX:
        sizes.append((sizes[-1][0] // LEVEL_STEP, sizes[-1][1] // LEVEL_STEP))
    return sizes


def encode_tiles(pixels: NDArray[np.uint8], quality: int) -> list[bytes]:
    """Compress (H, W, 3) RGB as JPEG tiles, row by row; incomplete ones repeat their edge."""
    height, width = pixels.shape[:2]
    pad = (-height % TILE_PX, -width % TILE_PX)
    if any(pad):
        pixels = np.pad(pixels, ((0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")

    def encoded(tile: NDArray[np.uint8]) -> bytes:
        return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), level=quality, subsampling="420"))

    return [
        encoded(pixels[y : y + TILE_PX, x : x + TILE_PX])
        for y in range(0, pixels.shape[0], TILE_PX)
        for x in range(0, pixels.shape[1], TILE_PX)
    ]


def reduced(pixels: NDArray[Any]) -> NDArray[Any]:
    """Average blocks of 4 x 4 pixels (rows, columns first); what is left over at the end is dropped."""
    rows, columns = pixels.shape[0] // LEVEL_STEP, pixels.shape[1] // LEVEL_STEP
    whole = pixels[: rows * LEVEL_STEP, : columns * LEVEL_STEP]
    blocks = whole.reshape(rows, LEVEL_STEP, columns, LEVEL_STEP, -1)
    # Sums of 16 uint16 fit 32 bits.
    total = blocks.sum(axis=1, dtype=np.uint32).sum(axis=2)
    mean: NDArray[Any] = ((total + LEVEL_STEP**2 // 2) // LEVEL_STEP**2).astype(pixels.dtype)
    return mean


@contextmanager
def _spool(shape: tuple[int, ...], dtype: type[np.generic], folder: Path) -> Iterator[NDArray[Any]]:
    """Give an array that lives on disk until the block ends."""
    with tempfile.TemporaryFile(dir=folder) as file:
        yield np.memmap(file, dtype, "w+", shape=shape)


def write_brightfield(
    path: Path,
    size_px: tuple[int, int],
    mpp: float,
    strips: Iterable[tuple[NDArray[np.uint8], list[bytes]]],
    quality: int,
) -> None:
    """Write a pyramidal TIFF of JPEG tiles that OpenSlide, QuPath and tifffile open with its pixel size.

    Parameters
    ----------
    size_px : level-0 (width, height). mpp : um per pixel.
    strips : from top to bottom, the pixels of 256 rows averaged by `reduced`, and their tiles as
        `encode_tiles` makes them.
    quality : of the JPEG tiles of the coarser levels.
    """
    sizes = level_sizes(size_px)
    bottom = sizes[1] if len(sizes) > 1 else (size_px[0] // LEVEL_STEP, size_px[1] // LEVEL_STEP)
    with (
        _spool((bottom[1], bottom[0], 3), np.uint8, path.parent) as level,
        tifffile.TiffWriter(path, bigtiff=size_px[0] * size_px[1] > 2**31) as tiff,
    ):

        def level0() -> Iterator[bytes]:
            row = 0
            for small, tiles in strips:
                level[row : row + len(small)] = small[: bottom[1] - row, : bottom[0]]
                row += len(small)
                yield from tiles

        def write(tiles: Iterator[bytes], size: tuple[int, int], index: int) -> None:
            per_cm = 1e4 / (mpp * LEVEL_STEP**index)
            tiff.write(
                tiles,
                shape=(size[1], size[0], 3),
                dtype=np.uint8,
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                tile=(TILE_PX, TILE_PX),
                subfiletype=int(index > 0),
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                metadata=None,
                description=f"histo rendered slide\n{mpp:g} um/px" if index == 0 else None,
                software=False,
            )

        write(level0(), size_px, 0)
        pixels: NDArray[np.uint8] = level
        for index, size in enumerate(sizes[1:], start=1):
            if index > 1:
                pixels = reduced(pixels)
            rows = (encode_tiles(pixels[y : y + TILE_PX], quality) for y in range(0, size[1], TILE_PX))
            write((tile for row in rows for tile in row), size, index)


def write_fluorescence(
    path: Path,
    size_px: tuple[int, int],
    mpp: float,
    channels: tuple[str, ...],
    strips: Iterable[NDArray[np.uint16]],
) -> None:
    """Write a pyramidal OME-TIFF, uint16, a plane a channel, deflate.

    Parameters
    ----------
    strips : from top to bottom (rows, width, channel); spooled to disk, for the file keeps channels apart.
    """
    sizes = level_sizes(size_px)
    n = len(channels)
    with (
        _spool((n, size_px[1], size_px[0]), np.uint16, path.parent) as planes,
        tifffile.TiffWriter(path, ome=True, bigtiff=n * size_px[0] * size_px[1] > 2**30) as tiff,
    ):
        row = 0
        for strip in strips:
            planes[:, row : row + len(strip)] = np.moveaxis(strip, -1, 0)
            row += len(strip)
        options: dict[str, Any] = {
            "photometric": "minisblack",
            "compression": "zlib",
            "tile": (TILE_PX, TILE_PX),
            "resolutionunit": "CENTIMETER",
        }
        metadata = {
            "axes": "CYX",
            "PhysicalSizeX": mpp,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": mpp,
            "PhysicalSizeYUnit": "µm",
            "Channel": {"Name": list(channels)},
        }
        per_cm = 1e4 / mpp
        tiff.write(planes, subifds=len(sizes) - 1, metadata=metadata, resolution=(per_cm, per_cm), **options)
        level: NDArray[np.uint16] = planes
        for index in range(1, len(sizes)):
            level = np.stack([reduced(plane)[..., 0] for plane in level])
            per_cm = 1e4 / (mpp * LEVEL_STEP**index)
            tiff.write(level, subfiletype=1, metadata=None, resolution=(per_cm, per_cm), **options)
