"""Where the pixels of a TIFF lie: levels, planes, stored tiles, channels and pixel size."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import tifffile
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from numpy.typing import NDArray

from histo.errors import SlideError
from histo.slide.base import Level, SlideInfo
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

# Uncompressed pictures in one piece are read in strips of about this many bytes.
_STRIP_BYTES = 1 << 18
# Rows of a picture in one piece that are kept account of.
_MAX_SEGMENTS = 1 << 26

_MAX_DIRECTORIES = 1 << 16
# What OME-XML may count: tifffile makes lists of that length.
_MAX_PLANES = 1 << 20
_AGAIN = "Copy or export the file again"

_JPEG = {6, 7}
_JPEG_2000 = {33003, 33004, 33005, 34712}
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_Pages = Sequence[Any]
Alpha = Literal["none", "straight", "premultiplied"]


@dataclass(frozen=True)
class Plane:
    """One stored picture of a level: the offsets of its tiles or strips, and how to decode one.

    `offsets` and `byte_counts` are (sample planes, rows, columns) of tiles of `tile_px` (width, height).
    `samples` channels lie side by side in a tile; `decode` (None: raw pixels of `dtype`) takes (data, index).
    """

    path: Path
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]
    tile_px: tuple[int, int]
    size_px: tuple[int, int]
    samples: int
    dtype: np.dtype[Any]
    decode: Callable[..., Any] | None
    tables: bytes | None
    compression: int
    inverted: bool

    @property
    def channels(self) -> int:
        """Channels of this plane."""
        return self.samples * int(self.offsets.shape[0])


@dataclass(frozen=True)
class TiffLayout:
    """All that is needed to read a TIFF without parsing it again. `planes[level]` in channel order."""

    info: SlideInfo
    planes: tuple[tuple[Plane, ...], ...]
    # What the fourth sample of a colour picture is.
    alpha: Alpha

    @property
    def jpeg_rgb_tiles(self) -> bool:
        """Whether all levels are 8-bit RGB in complete JPEG tiles."""
        return self.info.kind == "brightfield" and all(
            plane.compression == 7 and bool(np.all(plane.byte_counts > 0))
            for level in self.planes
            for plane in level
        )


def read_layout(path: Path) -> TiffLayout:
    """Read the structure of a TIFF.

    Raises
    ------
    SlideError : not a TIFF, damaged, or of a kind that cannot be read without guessing.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            return _layout(path, tiff)
    except (SlideError, MemoryError):
        raise
    except Exception as error:  # tifffile raises a wide and changing set on damaged structure
        raise SlideError(
            f"its TIFF structure cannot be read ({error})",
            path=path,
            fix=_AGAIN,
        ) from error


def _layout(path: Path, tiff: tifffile.TiffFile) -> TiffLayout:
    _check_directories(path, tiff)
    if len(tiff.pages) == 0:
        raise SlideError("the TIFF holds no picture", path=path, fix=_AGAIN)
    if tiff.is_ome:
        _check_ome(path, tiff)
    series_index = 0
    if tiff.is_svs:
        pages, leading = _svs_levels(path, tiff), ""
    elif tiff.is_qpi:
        pages, leading = _qpi_levels(tiff), "C"
    else:
        series_index, pages, leading = _series_levels(path, tiff)
    return _build(path, tiff, pages, leading, series_index)


def _check_directories(path: Path, tiff: tifffile.TiffFile) -> None:
    """Refuse a TIFF whose directories lead back to an earlier one: tifffile follows long rings for ever."""
    form, file = tiff.tiff, tiff.filehandle
    seen: set[int] = set()
    file.seek(8 if form.is_bigtiff else 4)
    field = file.read(form.offsetsize)
    while len(field) == form.offsetsize:
        (offset,) = struct.unpack(form.offsetformat, field)
        if offset == 0 or offset >= file.size:
            return
        if offset in seen:
            raise SlideError("its directories lead back to each other", path=path, fix=_AGAIN)
        if len(seen) == _MAX_DIRECTORIES:
            raise SlideError(f"it has more than {_MAX_DIRECTORIES} pictures", path=path, fix=_AGAIN)
        seen.add(offset)
        file.seek(offset)
        count = file.read(form.tagnosize)
        if len(count) < form.tagnosize:
            return
        file.seek(offset + form.tagnosize + struct.unpack(form.tagnoformat, count)[0] * form.tagsize)
        field = file.read(form.offsetsize)


def _check_ome(path: Path, tiff: tifffile.TiffFile) -> None:
    """Refuse OME-XML that defines entities, asks for files elsewhere, or counts more than there can be."""
    text = tiff.ome_metadata or ""
    if "<!ENTITY" in text:
        raise SlideError("its OME-XML defines entities", path=path, fix="Export the file again")
    root = _xml(text)
    if root is None:
        return  # tifffile does without
    for along in root.iter():
        if along.tag[:-1].endswith("Along") and "Start" in along.attrib:
            start, end, step = (float(along.get(name, "1")) for name in ("Start", "End", "Step"))
            if not abs(end - start) < abs(step) * _MAX_PLANES:
                raise SlideError("its OME-XML states too many planes", path=path, fix=_AGAIN)
    for pixels in _ome_children(root, "Pixels"):
        sizes = [int(pixels.get(f"Size{axis}", "1")) for axis in "CZT"]
        counts = [
            int(data.get(name, "0"))
            for data in _ome_children(pixels, "TiffData")
            for name in ("PlaneCount", "NumPlanes", "FirstC", "FirstZ", "FirstT")
        ]
        if prod(sizes) > _MAX_PLANES or max(counts, default=0) > _MAX_PLANES:
            raise SlideError("its OME-XML states too many planes", path=path, fix=_AGAIN)
    names = {uuid.get("FileName", "") for uuid in _ome_children(root, "UUID")}
    elsewhere = sorted(name for name in names if re.search(r"[/\\\x00]", name))
    if elsewhere:
        raise SlideError(
            f"its OME-XML asks for a file in another folder ({elsewhere[0]!r:.200})",
            path=path,
            fix="Keep the files of a set in one folder, and export it again",
        )


def _svs_levels(path: Path, tiff: tifffile.TiffFile) -> list[_Pages]:
    """Aperio: the tiled pages are the levels; thumbnail, label and macro are stored in strips."""
    tiled = [page for page in (page.aspage() for page in tiff.pages) if page.is_tiled]
    sizes = [(page.imagewidth, page.imagelength) for page in tiled]
    if len(set(sizes)) != len(sizes):
        raise SlideError("the slide holds several focal planes", path=path, fix="Export a single plane")
    if not tiled:
        raise SlideError("the slide holds no tiled picture", path=path, fix="Export the slide again")
    order = sorted(range(len(tiled)), key=lambda i: -sizes[i][0])
    return [[tiled[i]] for i in order]


def _qpi_levels(tiff: tifffile.TiffFile) -> list[_Pages]:
    """PerkinElmer/Akoya: a page for each channel and level, told apart by the ImageType of their XML."""
    groups: dict[tuple[int, int], list[Any]] = {}
    for page in (page.aspage() for page in tiff.pages):
        match = re.search(r"<ImageType>\s*(\w+)\s*</ImageType>", page.description)
        if match and match[1] in ("FullResolution", "ReducedResolution"):
            groups.setdefault((page.imagewidth, page.imagelength), []).append(page)
    levels: list[_Pages] = [groups[size] for size in sorted(groups, reverse=True)]
    return levels or [[tiff.pages.first]]


def _series_levels(path: Path, tiff: tifffile.TiffFile) -> tuple[int, list[_Pages], str]:
    series = tiff.series
    sizes = [dict(zip(s.axes, s.shape, strict=True)) for s in series]
    areas = [size.get("X", 0) * size.get("Y", 0) for size in sizes]
    index = areas.index(max(areas))
    main, size = series[index], sizes[index]
    leading = [axis for axis in main.axes if axis not in "YXS" and size[axis] > 1]
    for axis in leading:
        if axis in "TZ":
            what = {"T": "time points", "Z": "focal planes"}[axis]
            raise SlideError(f"the file holds {size[axis]} {what}", path=path, fix="Export a single one")
    stacked = [axis for axis in leading if axis != "C"]
    if len(leading) > 1:
        raise SlideError(
            f"the file has axes {main.axes} of {main.shape}: it is not clear which are channels",
            path=path,
            fix="Save it as OME-TIFF with axes CYX",
        )
    if stacked and tiff.is_ome:
        raise SlideError(f"the file has an axis {stacked[0]}", path=path, fix="Save it with axes CYX")
    return index, [_whole_pages(path, level) for level in main.levels], "C" if leading else ""


def _whole_pages(path: Path, series: Any) -> _Pages:
    pages = list(series.pages)
    if any(page is None for page in pages):
        raise SlideError("a page of the series is missing", path=path, fix="Copy the whole file set again")
    return pages


def _build(
    path: Path, tiff: tifffile.TiffFile, pages: list[_Pages], leading: str, series_index: int
) -> TiffLayout:
    first = pages[0][0].keyframe
    _check_page(path, tiff, first)
    stack = _stack_size(tiff, series_index, pages[0], first) if leading else 1
    size0 = (first.imagewidth, first.imagelength)
    if size0[0] < 1 or size0[1] < 1:
        raise SlideError("the picture has no pixels", path=path, fix=_AGAIN)
    stored = stack * len(pages[0]) * first.samplesperpixel
    if stored > MAX_CHANNELS:
        raise SlideError(f"it has {stored} channels", path=path, fix="Save those that are needed")
    levels: list[Level] = []
    planes: list[tuple[Plane, ...]] = []
    previous = (size0[0] + 1, size0[1] + 1)
    for group in pages:
        page = group[0].keyframe
        size = (page.imagewidth, page.imagelength)
        same = (page.dtype, page.samplesperpixel, len(group)) == (
            first.dtype,
            first.samplesperpixel,
            len(pages[0]),
        )
        # A reduced picture that is not one of the same channels is a thumbnail, not a level.
        if not same or min(size) < 1 or not (size[0] < previous[0] and size[1] <= previous[1]):
            continue
        made = tuple(_plane(path, tiff, one, first, copy) for one in group for copy in range(stack))
        planes.append(made)
        levels.append(Level(size, downsample(size0, size), made[0].tile_px))
        previous = size
    channels = sum(plane.channels for plane in planes[0])
    dtype = served_dtype(np.dtype(first.dtype))
    colour = (
        len(planes[0]) == 1
        and dtype == np.uint8
        and first.photometric in (_RGB, _YCBCR)
        and first.samplesperpixel in (3, 4)
    )
    names, colours = _channel_names(tiff, pages[0], channels, series_index)
    if not colour and is_rgb(names, colours, dtype):
        colour = True
    if colour or (first.photometric == _RGB and channels == 3):
        names = list(RGB)
    mpp, origin = _pixel_size(tiff, first, series_index, size0)
    properties = _properties(tiff, first)
    if origin:
        properties[MPP_ORIGIN] = origin
    info = SlideInfo(
        size_px=size0,
        mpp=mpp,
        channels=tuple(names),
        kind="brightfield" if colour else "fluorescence",
        dtype=dtype,
        levels=tuple(levels),
        backend="tifffile",
        decoder=_decoder(first),
        properties=properties,
    )
    alphas: dict[int, Alpha] = {1: "premultiplied", 2: "straight"}
    alpha = alphas.get(int(first.extrasamples[0]), "none") if colour and first.extrasamples else "none"
    return TiffLayout(info, tuple(planes), alpha)


def _check_page(path: Path, tiff: tifffile.TiffFile, page: Any) -> None:
    fix = "Export it as a tiled RGB or multi-channel OME-TIFF"
    if page.dtype is None or np.dtype(page.dtype).kind not in "buif":
        raise SlideError("its pixel type is not supported", path=path, fix=fix)
    if page.imagedepth > 1:
        raise SlideError(f"the file holds {page.imagedepth} focal planes", path=path, fix="Export one plane")
    photometric = int(page.photometric)
    composite = photometric == _PALETTE and tiff.is_imagej  # ImageJ stores its display colours so
    jpeg_colour = photometric == _YCBCR and int(page.compression) in _JPEG | _JPEG_2000
    if photometric not in (_MINISWHITE, _MINISBLACK, _RGB) and not composite and not jpeg_colour:
        raise SlideError(f"its colours ({page.photometric!s}) are not supported", path=path, fix=fix)
    if int(page.compression) != 1:
        try:
            tifffile.TIFF.DECOMPRESSORS[int(page.compression)]
        except KeyError:
            raise SlideError(
                f"its compression ({page.compression!s}) is not supported", path=path, fix=fix
            ) from None


def _stack_size(tiff: tifffile.TiffFile, series_index: int, group: _Pages, page: Any) -> int:
    """Return how many pictures one page stands for: ImageJ and others store a stack in one piece."""
    if tiff.is_qpi:
        return 1
    series = tiff.series[series_index]
    total = int(np.prod(series.shape)) // int(np.prod(page.shape))
    return total // len(group)


def _plane(path: Path, tiff: tifffile.TiffFile, page: Any, first: Any, copy: int) -> Plane:
    key = page.keyframe
    size = (int(key.imagewidth), int(key.imagelength))
    dtype = np.dtype(key.dtype)
    separate = key.planarconfig == 2 and key.samplesperpixel > 1
    planes = key.samplesperpixel if separate else 1
    samples = 1 if separate else key.samplesperpixel
    offsets = np.asarray(page.dataoffsets, dtype=np.int64)
    counts = np.asarray(page.databytecounts, dtype=np.int64)
    parent = page.parent.filehandle.path
    home = path if page.parent is tiff else Path(parent)
    inverted = int(key.photometric) == _MINISWHITE
    whole = key.is_final and offsets.size > 0 and bool(np.all(counts > 0))
    if whole and bool(np.all(offsets[:-1] + counts[:-1] == offsets[1:])):
        row_bytes = size[0] * samples * dtype.itemsize
        rows = max(1, min(size[1], _STRIP_BYTES // max(1, row_bytes)))
        if planes * size[1] // rows > _MAX_SEGMENTS:
            raise SlideError(f"{size[0]} x {size[1]} px is no picture", path=path, fix=_AGAIN)
        starts = np.arange(0, size[1], rows, dtype=np.int64)
        base = offsets[0] + (copy * planes + np.arange(planes, dtype=np.int64))[:, None] * size[1] * row_bytes
        lengths = np.broadcast_to(np.minimum(rows, size[1] - starts) * row_bytes, (planes, starts.size))
        order = page.parent.byteorder if dtype.itemsize > 1 else "="
        return Plane(
            path=home,
            offsets=(base + starts * row_bytes)[:, :, None],
            byte_counts=lengths[:, :, None],
            tile_px=(size[0], rows),
            size_px=size,
            samples=samples,
            dtype=dtype.newbyteorder(order),
            decode=None,
            tables=None,
            compression=1,
            inverted=inverted,
        )
    if copy:
        raise SlideError("its stack of pictures is damaged", path=path, fix=_AGAIN)
    if key.is_tiled:
        tile = (int(key.tilewidth), int(key.tilelength))
    else:
        tile = (size[0], int(min(key.rowsperstrip, size[1])))
    if min(tile) < 1:
        raise SlideError("it has tiles or strips without pixels", path=path, fix=_AGAIN)
    if tile[0] * tile[1] * samples * dtype.itemsize > MAX_TILE_BYTES:
        raise SlideError(
            "it is stored compressed in too large a piece", path=path, fix="Save it as a tiled TIFF"
        )
    grid = (planes, -(-size[1] // tile[1]), -(-size[0] // tile[0]))
    needed = int(np.prod(grid))
    if offsets.size < needed or counts.size < needed:
        raise SlideError(
            f"{needed} tiles or strips are needed and {min(offsets.size, counts.size)} are listed",
            path=path,
            fix=_AGAIN,
        )
    return Plane(
        path=home,
        offsets=offsets[:needed].reshape(grid),
        byte_counts=counts[:needed].reshape(grid),
        tile_px=tile,
        size_px=size,
        samples=samples,
        dtype=dtype,
        decode=page.decode,
        tables=page.jpegtables if page.jpegtables is not None else key.jpegtables,
        compression=int(key.compression),
        inverted=inverted,
    )


def _decoder(page: Any) -> str:
    name = getattr(page.compression, "name", str(int(page.compression))).lower()
    return "tifffile raw pixels" if name == "none" else f"tifffile+imagecodecs {name}"


# Channel names ----------------------------------------------------------------------------------------------


def _channel_names(
    tiff: tifffile.TiffFile, pages: _Pages, count: int, series_index: int
) -> tuple[list[str], list[tuple[int, int, int] | None]]:
    found: list[str] = []
    colours: list[tuple[int, int, int] | None] = [None] * count
    if tiff.is_qpi:
        found = [_qpi_name(page.aspage().description) for page in pages]
    elif tiff.is_ome:
        image = _ome_image(tiff, series_index)
        if image is not None:
            channels = list(_ome_children(image, "Channel"))
            if len(channels) == count:
                found = [(channel.get("Name") or channel.get("Fluor") or "").strip() for channel in channels]
                colours = [_ome_colour(channel.get("Color")) for channel in channels]
    elif tiff.is_imagej and tiff.imagej_metadata:
        labels = tiff.imagej_metadata.get("Labels") or []
        found = [str(label).strip() for label in labels][:count]
    if len(found) != count:
        found = [""] * count
    return distinct_names(found), colours


def _qpi_name(description: str) -> str:
    root = _xml(description)
    if root is None:
        return ""
    # A biomarker, where the operator named one, says more than the fluorophore; both are kept.
    name = (root.findtext("Name") or "").strip()
    marker = (root.findtext("Biomarker") or "").strip()
    return f"{marker} ({name})" if marker and name and marker != name else marker or name


def _xml(text: str) -> Element | None:
    # The declaration may claim an encoding (utf-16) that the already decoded text no longer has.
    body = re.sub(r"^\s*<\?xml[^>]*\?>", "", text).strip("\x00 \r\n\t\ufeff")
    try:
        root: Element = fromstring(body)
    except (ParseError, DefusedXmlException, ValueError):
        return None
    return root


def _ome_children(element: Element, name: str) -> list[Element]:
    return [child for child in element.iter() if child.tag.rpartition("}")[2] == name]


def _ome_image(tiff: tifffile.TiffFile, series_index: int) -> Element | None:
    root = _xml(tiff.ome_metadata or "")
    if root is None:
        return None
    images = _ome_children(root, "Image")
    size = dict(zip(tiff.series[series_index].axes, tiff.series[series_index].shape, strict=True))

    def fits(image: Element) -> bool:
        pixels = _ome_children(image, "Pixels")
        return bool(pixels) and (pixels[0].get("SizeX"), pixels[0].get("SizeY")) == (
            str(size.get("X", 1)),
            str(size.get("Y", 1)),
        )

    if series_index < len(images) and fits(images[series_index]):
        return images[series_index]
    fitting = [image for image in images if fits(image)]
    return fitting[0] if len(fitting) == 1 else None


def _ome_colour(text: str | None) -> tuple[int, int, int] | None:
    """OME writes a colour as a signed 32-bit integer, RGBA."""
    try:
        value = int(text or "") & 0xFFFFFFFF
    except ValueError:
        return None
    return value >> 24, (value >> 16) & 255, (value >> 8) & 255


# Pixel size -------------------------------------------------------------------------------------------------


def _pixel_size(
    tiff: tifffile.TiffFile, page: Any, series_index: int, size: tuple[int, int]
) -> tuple[tuple[float, float] | None, str]:
    if tiff.is_svs:
        match = re.search(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)", page.description)
        mpp = _positive(match[1]) if match else None
        return (None if mpp is None else (mpp, mpp)), "Aperio's MPP"
    if tiff.is_ome:
        image = _ome_image(tiff, series_index)
        pixels = _ome_children(image, "Pixels") if image is not None else []
        if pixels:
            both = _ome_length(pixels[0], "PhysicalSizeX"), _ome_length(pixels[0], "PhysicalSizeY")
            if both[0] is not None and both[1] is not None:
                return (both[0], both[1]), "OME PhysicalSize"
    if tiff.is_imagej:
        unit = um_per(str((tiff.imagej_metadata or {}).get("unit", "")))
        origin = "ImageJ's unit and resolution"
    else:
        unit = {2: 25_400.0, 3: 10_000.0, 4: 1_000.0, 5: 1.0}.get(int(page.resolutionunit))
        origin = "its TIFF resolution tag"
    x, y = _per_unit(page, 282), _per_unit(page, 283)
    if unit is None or x is None or y is None:
        return None, ""
    return (unit / x, unit / y), f"{origin} ({25_400.0 * x / unit:.4g} dots per inch)"


def _per_unit(page: Any, code: int) -> float | None:
    value = page.tags.valueof(code)
    if value is None:
        return None
    if isinstance(value, tuple):
        if len(value) != 2 or not value[1]:
            return None
        value = value[0] / value[1]
    return _positive(value)


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def _ome_length(pixels: Element, name: str) -> float | None:
    value = _positive(pixels.get(name))
    unit = um_per(pixels.get(f"{name}Unit", "µm"))
    return None if value is None or unit is None else value * unit


def _properties(tiff: tifffile.TiffFile, page: Any) -> dict[str, str]:
    names = ("ImageDescription", "Software", "Make", "Model", "DateTime")
    found = {f"tiff.{name}": str(page.tags.valueof(name) or "")[:4096] for name in names}
    found["tiff.flavour"] = ", ".join(sorted(tiff.flags))
    return {name: text for name, text in found.items() if text}
