"""OME-Zarr 0.4 (Zarr v2) and 0.5 (Zarr v3) images in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from histo.errors import SlideError, TileReadError
from histo.slide.base import Level, Slide, SlideInfo
from histo.slide.geometry import Box
from histo.slide.levels import (
    MAX_CHANNELS,
    MAX_TILE_BYTES,
    RGB,
    distinct_names,
    downsample,
    is_rgb,
    served_dtype,
)
from histo.slide.pixel_size import MPP_ORIGIN, um_per
from histo.slide.zarr_store import bounded_store

_FIX = "Write it as an OME-Zarr 0.4 or 0.5 image"
_MAX_LEVELS = 64


class ZarrSlide(Slide):
    """An OME-Zarr image."""

    def _open_handle(self) -> _Arrays:
        return _arrays(self.path, _image(self.path))

    def _close_handle(self, handle: _Arrays) -> None:
        handle.arrays.clear()

    def _read_level(self, handle: _Arrays, level: int, box: Box) -> NDArray[Any]:
        spans = {"y": slice(box.y, box.bottom), "x": slice(box.x, box.right), "c": slice(None)}
        selection = tuple(spans.get(axis, 0) for axis in handle.axes)
        try:
            pixels = np.asarray(handle.arrays[level][selection])
        except MemoryError:
            raise
        except Exception as error:  # every codec has its own
            raise TileReadError(
                f"a chunk of level {level} at x {box.x} to {box.right}, y {box.y} to {box.bottom}"
                f" cannot be read ({error})",
                path=self.path,
                fix="Copy or write the file again; the rest of it can still be read",
            ) from error
        kept = [axis for axis in handle.axes if axis in spans]
        if "c" not in kept:
            pixels = pixels[..., None]
            kept.append("c")
        order = [kept.index(axis) for axis in "yxc"]
        return np.ascontiguousarray(pixels.transpose(order), dtype=self.info.dtype)


class _Arrays:
    """The levels' arrays and the names of their axes."""

    def __init__(self, arrays: list[Any], axes: tuple[str, ...]) -> None:
        self.arrays = arrays
        self.axes = axes


def is_ome_zarr(path: Path) -> bool:
    """Tell whether a folder is an OME-Zarr image, from its metadata files alone."""
    try:
        found = _attributes(path)
    except (OSError, ValueError, RecursionError, SlideError):
        return False
    return "multiscales" in found or "bioformats2raw.layout" in found


def inspect(path: Path) -> SlideInfo:
    """Return what an OME-Zarr image states of itself.

    Raises
    ------
    SlideError : not an OME-Zarr image, damaged, or with several planes or time points.
    """
    try:
        return _inspect(path)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # Metadata of any shape: something else stands where a list or a number belongs.
        raise SlideError(f"its OME-Zarr metadata is damaged ({error!r:.200})", path=path, fix=_FIX) from error


def _inspect(path: Path) -> SlideInfo:
    image = _image(path)
    stored = _arrays(path, image)
    multiscale = _multiscale(path, image)
    axes, first = stored.axes, stored.arrays[0]
    for array in stored.arrays:
        _check_array(path, array)
    for axis, length in zip(axes, first.shape, strict=True):
        if axis not in "yxc" and length > 1:
            raise SlideError(
                f"the image has {length} planes along {axis}", path=path, fix="Save a single one"
            )
    ix, iy = axes.index("x"), axes.index("y")
    size0 = (int(first.shape[ix]), int(first.shape[iy]))
    scales = _scales(multiscale, len(axes))
    levels = []
    for array, scale in zip(stored.arrays, scales, strict=True):
        size = (int(array.shape[ix]), int(array.shape[iy]))
        factor = downsample(size0, size)
        if scale is not None and scales[0] is not None:
            stated = (scale[ix] / scales[0][ix], scale[iy] / scales[0][iy])
            # The stated scale holds where it fits the sizes to within a pixel.
            if all(abs(n * f - n0) <= f for n, f, n0 in zip(size, stated, size0, strict=True)):
                factor = stated
        levels.append(Level(size, factor, (int(array.chunks[ix]), int(array.chunks[iy]))))
    mpp = _mpp(multiscale, scales[0], ix, iy)
    count = int(first.shape[axes.index("c")]) if "c" in axes else 1
    if count > MAX_CHANNELS:
        raise SlideError(f"it has {count} channels", path=path, fix="Save those that are needed")
    names, colours = _channels(_attributes(image), count)
    dtype = served_dtype(np.dtype(first.dtype))
    colour = is_rgb(names, colours, dtype)
    return SlideInfo(
        size_px=size0,
        mpp=mpp,
        channels=RGB if colour else tuple(distinct_names(names)),
        kind="brightfield" if colour else "fluorescence",
        dtype=dtype,
        levels=tuple(levels),
        backend="zarr",
        decoder=f"zarr {zarr.__version__}",
        properties={
            "ome-zarr.version": str(multiscale.get("version") or _attributes(image).get("version", "")),
            MPP_ORIGIN: "its OME-Zarr scale",
        },
    )


def _check_array(path: Path, array: Any) -> None:
    """Refuse what is no picture, what memory cannot hold, and codecs that could run code."""
    if array.dtype.kind not in "buif" or min(array.shape, default=0) < 1:
        raise SlideError(f"a level is no picture: {array.shape} of {array.dtype}", path=path, fix=_FIX)
    # What is decoded at once is a chunk, of a shard a chunk in it.
    if prod(array.chunks) * array.dtype.itemsize > MAX_TILE_BYTES:
        raise SlideError(f"its chunks {array.chunks} are too large", path=path, fix="Write smaller chunks")
    # "pickle" runs what it finds; the others of this list make objects, never pixels.
    strange = sorted(_codecs(array) & {"pickle", "json2", "msgpack2", "vlen-bytes", "vlen-utf8"})
    if strange:
        raise SlideError(f"its codec {strange[0]} is refused", path=path, fix=_FIX)


def _codecs(array: Any) -> set[str]:
    """Return the names of an array's codecs, those inside shards too."""
    stored = array.metadata.to_dict()
    waiting = [*(stored.get("codecs") or ()), *(stored.get("filters") or ()), stored.get("compressor")]
    names = set()
    while waiting:
        codec = waiting.pop()
        if codec is not None:
            names.add(str(codec.get("name", codec.get("id"))).removeprefix("numcodecs."))
            waiting += (codec.get("configuration") or {}).get("codecs") or ()
    return names


def _bounded(path: Path) -> Any:
    """Open an array whose chunks cannot unpack to more than memory holds."""
    array: Any = zarr.open_array(store=str(path), mode="r")
    chunk_bytes = prod(array.chunks) * array.dtype.itemsize
    return zarr.open_array(store=bounded_store(path, _codecs(array), chunk_bytes), mode="r")


def _attributes(path: Path) -> Mapping[str, Any]:
    """Return the OME metadata of a Zarr group: under "ome" in Zarr v3 (0.5), at the top in v2 (0.4)."""
    v3, v2 = path / "zarr.json", path / ".zattrs"
    if v3.is_file():
        attributes = json.loads(v3.read_text(encoding="utf-8")).get("attributes", {})
        found = attributes.get("ome", attributes)
    elif v2.is_file():
        found = json.loads(v2.read_text(encoding="utf-8"))
    else:
        raise SlideError("the folder is not an OME-Zarr image", path=path, fix=_FIX)
    if not isinstance(found, dict):
        raise SlideError("its OME-Zarr metadata is damaged", path=path, fix=_FIX)
    return found


def _image(path: Path) -> Path:
    """Return the folder of the image: the path itself, or series 0 of what bioformats2raw wrote."""
    try:
        found = _attributes(path)
    except (OSError, ValueError, RecursionError) as error:
        raise SlideError(f"its OME-Zarr metadata cannot be read ({error})", path=path, fix=_FIX) from error
    if "multiscales" in found:
        return path
    if "bioformats2raw.layout" in found:
        series = sorted(child.name for child in path.iterdir() if child.name.isdigit())
        if "0" in series:
            return path / "0"
    raise SlideError("the folder is not an OME-Zarr image", path=path, fix=_FIX)


def _multiscale(path: Path, image: Path) -> Mapping[str, Any]:
    try:
        found = _attributes(image)["multiscales"][0]
        axes = [axis["name"] if isinstance(axis, dict) else axis for axis in found["axes"]]
        paths = [dataset["path"] for dataset in found["datasets"]]
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        raise SlideError(f"its OME-Zarr metadata is damaged ({error!r})", path=path, fix=_FIX) from error
    if not paths or len(set(axes)) != len(axes) or not {"x", "y"} <= set(axes):
        raise SlideError("its OME-Zarr metadata names no x and y axes or no level", path=path, fix=_FIX)
    if len(paths) > _MAX_LEVELS or not all(isinstance(name, str) and _inside(name) for name in paths):
        raise SlideError("its levels are not folders within it", path=path, fix=_FIX)
    return dict(found) | {"axis_names": axes, "paths": paths}


def _inside(name: str) -> bool:
    return bool(name) and not name.startswith(("/", "\\")) and ".." not in re.split(r"[/\\]", name)


def _arrays(path: Path, image: Path) -> _Arrays:
    multiscale = _multiscale(path, image)
    axes = tuple(multiscale["axis_names"])
    try:
        arrays = [_bounded(image / name) for name in multiscale["paths"]]
    except MemoryError:
        raise
    except Exception as error:  # zarr raises a wide and changing set on damaged metadata
        raise SlideError(f"a level cannot be opened ({error})", path=path, fix=_FIX) from error
    if any(array.ndim != len(axes) for array in arrays):
        raise SlideError("its levels do not have the axes that its metadata names", path=path, fix=_FIX)
    return _Arrays(arrays, axes)


def _scales(multiscale: Mapping[str, Any], ndim: int) -> list[list[float] | None]:
    def scale_of(transforms: Any) -> list[float] | None:
        for transform in transforms or ():
            if transform.get("type") == "scale" and len(transform.get("scale", ())) == ndim:
                return [float(value) for value in transform["scale"]]
        return None

    common = scale_of(multiscale.get("coordinateTransformations")) or [1.0] * ndim
    found = [scale_of(dataset.get("coordinateTransformations")) for dataset in multiscale["datasets"]]
    return [None if s is None else [a * b for a, b in zip(s, common, strict=True)] for s in found]


def _mpp(
    multiscale: Mapping[str, Any], scale: list[float] | None, ix: int, iy: int
) -> tuple[float, float] | None:
    if scale is None:
        return None
    units = [axis.get("unit") if isinstance(axis, dict) else None for axis in multiscale["axes"]]
    x, y = um_per(units[ix] or ""), um_per(units[iy] or "")
    if x is None or y is None:
        return None
    return scale[ix] * x, scale[iy] * y


def _channels(
    attributes: Mapping[str, Any], count: int
) -> tuple[list[str], list[tuple[int, int, int] | None]]:
    omero = attributes.get("omero")
    found = omero.get("channels", []) if isinstance(omero, dict) else []
    if len(found) != count:
        return [""] * count, [None] * count
    names = [str(channel.get("label") or "").strip() for channel in found]
    colours: list[tuple[int, int, int] | None] = []
    for channel in found:
        try:
            red, green, blue = bytes.fromhex(str(channel.get("color", "")))
            colours.append((red, green, blue))
        except ValueError:
            colours.append(None)
    return names, colours
