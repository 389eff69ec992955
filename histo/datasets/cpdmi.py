"""CPDMI_2023: hand-outlined cells in multiplex fluorescence, Vectra part (Synapse syn27624812)."""

from __future__ import annotations

import logging
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from histo.datasets.arrays import annotated
from histo.datasets.image import UNKNOWN, AnnotatedImage, Dataset, Item
from histo.datasets.layout import pixel_size, require_root
from histo.errors import DatasetError
from histo.slide.pixel_size import believable

_NAME = "CPDMI_2023 Vectra"
_FIX = "Download it again from Synapse syn50863072"
_CORRUPT = "P13-10002(45819.10401)2250,500"
_CHANNEL = re.compile(r"^\s*Name #0*(\d+)\s*=\s*(.+?)\s*$", re.MULTILINE)
_RESOLUTION = re.compile(r"^\s*XResolution\s*=\s*([0-9.eE+-]+)", re.MULTILINE)
_OFFSET = re.compile(r"\)\s*(\d+)\s*,\s*(\d+)\s*$")
_CD8 = re.compile(r"(?<![a-z0-9])cd[ -]?8a?(?![a-z0-9])", re.IGNORECASE)
_AUTOFLUORESCENCE = re.compile(r"auto ?fluorescence|(?<![a-z])af(?![a-z])", re.IGNORECASE)

log = logging.getLogger(__name__)


def cpdmi(root: Path, mpp: float | None = None) -> Dataset:
    """Find the Vectra part of CPDMI_2023: `<case>/<ROI(x.y)x,y>/` with a TIFF and a mask of whole cells.

    The mask (`*Crop_Cell_Mask_Png*`) may cover a part of the image (`*Crop_Cell_Tif*` or `*Crop_Tif*`) only;
    the last two numbers of the folder's name say where it begins. Channel names and pixel size come from the
    TIFF. Cells are not typed: all classes are UNKNOWN. Fields without a mask of whole cells, and the one that
    is known to be damaged, are left out. The case is the group.

    Raises
    ------
    DatasetError : another layout.
    """
    require_root(root, _NAME)
    given = None if mpp is None else pixel_size(root, _NAME, mpp)
    base = next((path for path in (root / "CPDMI_2023" / "Vectra", root / "Vectra") if path.is_dir()), root)
    items, without_mask = [], 0
    for field in sorted(path for path in base.glob("*/*") if path.is_dir()):
        if field.name == _CORRUPT:
            log.warning("%s: known to be damaged, left out", field)
            continue
        masks = sorted(field.glob("*Crop_Cell_Mask_Png*"))
        images = sorted(field.glob("*Crop_Cell_Tif*")) + sorted(field.glob("*Crop_Tif*"))
        if not masks or not images:
            without_mask += 1
            continue
        load = partial(_load, images[0], masks[0], given)
        items.append(Item(f"{field.parent.name}/{field.name}", field.parent.name, None, load))
    if not items:
        raise DatasetError(
            f"not the layout of {_NAME}: no <case>/<field>/*Crop_Cell_Mask_Png* with a *Crop_Tif* beside it",
            path=root,
            fix="Give the folder that holds one folder for each case",
        )
    if without_mask:
        log.warning("%s: %d fields without a mask of whole cells, left out", base, without_mask)
    return Dataset("cpdmi", items, "CC BY 4.0", True)


def _load(image: Path, mask: Path, given: float | None) -> AnnotatedImage:
    channels, info = _read_tiff(image)
    names = _channel_names(info, len(channels), image)
    inside = _read_mask(mask)
    rows, columns = _window(channels.shape[1:], inside.shape, mask)
    empty = np.zeros(inside.shape, channels.dtype)
    picked = [_find(names, pattern) for pattern in (re.compile("dapi", re.I), _CD8, _AUTOFLUORESCENCE)]
    if picked[0] is None:
        raise DatasetError(
            f"no DAPI channel among {', '.join(names)}", path=image, fix="Leave this field out"
        )
    pixels = np.stack([empty if i is None else channels[i, rows, columns] for i in picked], axis=2)
    pixels = pixels.astype(np.uint16 if pixels.dtype in (np.uint8, np.uint16) else np.float32)
    # Outlines that touch at corners are apart: 4-connected, not 8.
    labels = ndimage.label(inside)[0]
    size = _mpp(info, image) if given is None else given
    return annotated("fluorescence", pixels, size, labels, UNKNOWN, background_known=True, path=mask)


def _read_tiff(path: Path) -> tuple[NDArray[Any], str]:
    """Return (channels, H, W) and the text that the microscope's software left in ImageJ's `Info`."""
    try:
        with tifffile.TiffFile(path) as tiff:
            pixels, info = tiff.series[0].asarray(), str((tiff.imagej_metadata or {}).get("Info", ""))
    except Exception as error:  # tifffile raises a wide and changing set on damaged files
        raise DatasetError(f"not a readable TIFF ({error})", path=path, fix=_FIX) from None
    if pixels.ndim != 3:
        raise DatasetError(f"its pixels are {pixels.shape}, not (channel, row, column)", path=path, fix=_FIX)
    return pixels, info


def _read_mask(path: Path) -> NDArray[np.bool_]:
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            values = np.asarray(picture.convert("RGB") if picture.mode in ("P", "RGBA", "LA") else picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"not a readable PNG ({error})", path=path, fix=_FIX) from None
    inside: NDArray[np.bool_] = np.logical_or.reduce(np.atleast_3d(values > 0), axis=2)
    return inside


def _window(image: tuple[int, ...], mask: tuple[int, ...], path: Path) -> tuple[slice, slice]:
    """Return the rows and columns of the image that the mask covers."""
    if image == mask:
        return slice(0, mask[0]), slice(0, mask[1])
    offset = _OFFSET.search(path.parent.name)
    x, y = (int(offset[1]), int(offset[2])) if offset else (-1, -1)
    if offset is None or y + mask[0] > image[0] or x + mask[1] > image[1]:
        raise DatasetError(
            f"its mask ({mask[1]} x {mask[0]} px) is no part of the image ({image[1]} x {image[0]} px) "
            "that its folder's name tells",
            path=path,
            fix="Leave this field out",
        )
    return slice(y, y + mask[0]), slice(x, x + mask[1])


def _channel_names(info: str, n: int, path: Path) -> list[str]:
    # Other instruments' sections may carry names of their own.
    section = info.partition("MetaDataPhotometricInterpretation = Monochrome")[2] or info
    section = section.partition("NewSubfileType = 0")[0]
    found = {int(number): name for number, name in _CHANNEL.findall(section)}
    if len(found) != n:
        raise DatasetError(
            f"it has {n} channels and names {len(found)}: {', '.join(found.values())}", path=path, fix=_FIX
        )
    return [found[number] for number in sorted(found)]


def _find(names: list[str], pattern: re.Pattern[str]) -> int | None:
    return next((index for index, name in enumerate(names) if pattern.search(name)), None)


def _mpp(info: str, path: Path) -> float:
    """Return the um per pixel from XResolution, which counts pixels per centimetre."""
    match = _RESOLUTION.search(info)
    per_cm = float(match[1]) if match else 0.0
    size = 1e4 / per_cm if per_cm > 0 else 0.0
    if not believable(size):
        raise DatasetError("its metadata state no believable pixel size", path=path, fix="Give mpp")
    return size
