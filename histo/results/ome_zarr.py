"""Multiscale images in OME-Zarr 0.5: metadata and pyramids.

Coordinates are those of the slide's frame: um from the top-left corner of level 0. OME-Zarr takes an index
for the centre of its pixel, so pixel 0 of an array at `mpp` um stands at `mpp / 2`: that is every array's
translation, and it lays arrays of different pixel sizes exactly over each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

VERSION: Final = "0.5"
# Levels are added until the longer side fits.
TOP_LEVEL_PX: Final = 512

Shape = tuple[int, int]


def level_shapes(shape: Shape, *, max_levels: int = 64) -> list[Shape]:
    """Return (rows, columns) of every level; each is half the one before, rounded up."""
    shapes = [shape]
    while max(shapes[-1]) > TOP_LEVEL_PX and len(shapes) < max_levels:
        shapes.append((ceil(shapes[-1][0] / 2), ceil(shapes[-1][1] / 2)))
    return shapes


def subsample(values: NDArray[Any], level: int) -> NDArray[Any]:
    """Take the value nearest to the centre of each pixel of a coarser level; the last two axes are y, x.

    Always from level 0: subsampling a subsampled level again would drift off the centre.
    """
    if level == 0:
        return values
    step = 2**level
    rows, columns = (ceil(n / step) for n in values.shape[-2:])
    i = np.minimum(np.arange(rows) * step + step // 2, values.shape[-2] - 1)
    j = np.minimum(np.arange(columns) * step + step // 2, values.shape[-1] - 1)
    picked: NDArray[Any] = values[..., i[:, None], j]
    return picked


def halve(values: NDArray[Any]) -> NDArray[Any]:
    """Average blocks of 2 x 2 pixels of the last two axes; an odd last row or column counts twice."""
    rows, columns = values.shape[-2:]
    pad = [(0, 0)] * (values.ndim - 2) + [(0, rows % 2), (0, columns % 2)]
    padded = np.pad(values, pad, mode="edge").astype(np.float64)
    blocks = padded.reshape(*values.shape[:-2], ceil(rows / 2), 2, ceil(columns / 2), 2)
    mean = blocks.mean(axis=(-3, -1))
    if np.issubdtype(values.dtype, np.integer):
        mean = np.rint(mean)
    halved: NDArray[Any] = mean.astype(values.dtype)
    return halved


def create_level(
    group: Path, level: int, shape: Sequence[int], dtype: Any, *, chunk_px: int, fill_value: float = 0
) -> zarr.Array[Any]:
    """Create the array of one level. Chunks that hold nothing but the fill value are not stored."""
    axes = ("c", "y", "x")[-len(shape) :]
    chunks = (1,) * (len(shape) - 2) + (chunk_px, chunk_px)
    return zarr.create_array(
        store=str(group),
        name=str(level),
        shape=tuple(shape),
        chunks=chunks,
        dtype=dtype,
        fill_value=fill_value,
        dimension_names=axes,
        compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")],
        config={"write_empty_chunks": False},
        overwrite=True,
    )


def write_group(group: Path, attributes: dict[str, Any], *, own: dict[str, Any] | None = None) -> None:
    """Write a group's metadata: `attributes` are OME's, `own` stand beside them under "histo"."""
    zarr.create_group(
        store=str(group),
        attributes={"ome": {"version": VERSION, **attributes}} | ({"histo": own} if own else {}),
        overwrite=False,
    )


def multiscale(name: str, axes: str, mpp: float, n_levels: int, method: str) -> dict[str, Any]:
    """Return one entry of "multiscales".

    Parameters
    ----------
    name : of the image.
    axes : "yx" or "cyx".
    mpp : um per pixel of level 0.
    n_levels : how many levels there are.
    method : how the coarser ones were made.
    """
    n_other = len(axes) - 2
    datasets = []
    for level in range(n_levels):
        size = mpp * 2**level
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0] * n_other + [size, size]},
                    {"type": "translation", "translation": [0.0] * n_other + [size / 2, size / 2]},
                ],
            }
        )
    return {
        "name": name,
        "axes": [
            {"name": axis, "type": "channel"}
            if axis == "c"
            else {"name": axis, "type": "space", "unit": "micrometer"}
            for axis in axes
        ],
        "datasets": datasets,
        "type": method,
    }
