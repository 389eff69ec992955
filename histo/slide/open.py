"""Open a slide with the backend that fits it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import openslide

from histo.errors import SlideError
from histo.slide import image_backend, openslide_backend, tiff_backend, zarr_backend
from histo.slide.base import Slide, SlideInfo
from histo.slide.image_backend import ImageSlide
from histo.slide.openslide_backend import OpenSlideSlide
from histo.slide.patience import answer
from histo.slide.pixel_size import check_area, settle_mpp
from histo.slide.tiff_backend import TiffSlide
from histo.slide.zarr_backend import ZarrSlide

_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_PNG, _JPEG = b"\x89PNG", b"\xff\xd8\xff"
_KNOWN = (
    "Give a file in a slide format: SVS, NDPI, MRXS, SCN, BIF, VMS, CZI, DICOM, TIFF, OME-Zarr, PNG, JPEG"
)
_COPY = "Copy or export the file again"


def open_slide(
    path: Path | str,
    *,
    mpp: float | None = None,
    manifest_mpp: float | None = None,
    timeout_s: float | None = None,
) -> Slide:
    """Open a slide, whatever its format.

    The backend is chosen by content. Stored JPEG tiles of Aperio and plain TIFF files are decoded directly
    (the same pixels as OpenSlide's, several times faster); other vendor formats go through OpenSlide. Which
    library and decoder serve is in `Slide.info`.

    Parameters
    ----------
    path : a slide file, or the folder of an OME-Zarr image.
    mpp : pixel size of level 0 in um, as the user gives it; before all else.
    manifest_mpp : pixel size of level 0 in um from a manifest; before the file's own.
    timeout_s : seconds that a read may take before it counts as hung; None or 0 for ever.

    Raises
    ------
    SlideError : missing, empty, damaged or of no known format; or its file system does not answer.
    PixelSizeError : no pixel size, or one outside 0.05 to 5 um (it is never guessed); or a picture that would
        be larger than any glass slide.
    """
    path = Path(path)
    kind, info = answer(partial(_inspect, path), timeout_s, path)
    size, source = settle_mpp(path, info, mpp=mpp, manifest_mpp=manifest_mpp)
    check_area(path, info, size)
    slide = kind(path, info, size, source)
    slide.limit_reads(timeout_s)
    return slide


def _inspect(path: Path) -> tuple[type[Slide], SlideInfo]:
    """Return the class that serves a file, and what it knows of it."""
    if path.is_dir():
        if zarr_backend.is_ome_zarr(path):
            return ZarrSlide, zarr_backend.inspect(path)
        raise SlideError("it is a folder, not a slide", path=path, fix="Give the slide file inside it")
    try:
        with path.open("rb") as file:
            magic = file.read(16)
    except FileNotFoundError:
        raise SlideError("no such file", path=path, fix="Check the path") from None
    except OSError as error:
        raise SlideError(f"it cannot be read ({error})", path=path, fix="Check its permissions") from error
    if not magic:
        raise SlideError("the file is empty", path=path, fix=_COPY)
    vendor = _vendor(path)
    if magic.startswith(_TIFF):
        return _inspect_tiff(path, vendor)
    if vendor is not None:
        return OpenSlideSlide, openslide_backend.inspect(path)
    if magic.startswith((_PNG, _JPEG)):
        return ImageSlide, image_backend.inspect(path)
    if not any(magic):
        raise SlideError("it starts with zeros: the file is damaged or incomplete", path=path, fix=_COPY)
    raise SlideError("its content is of no known slide format", path=path, fix=_KNOWN)


def _inspect_tiff(path: Path, vendor: str | None) -> tuple[type[Slide], SlideInfo]:
    if vendor not in (None, "generic-tiff", "aperio"):
        return OpenSlideSlide, openslide_backend.inspect(path)
    try:
        layout = tiff_backend.inspect(path)
    except SlideError:
        # OpenSlide may know what tifffile does not; where it does not either, its word is the vendor's.
        if vendor is None:
            raise
        return OpenSlideSlide, openslide_backend.inspect(path)
    # Aperio's JPEG 2000 colours and missing tiles follow Aperio's own rules, which OpenSlide keeps.
    if vendor == "aperio" and layout.info.kind == "brightfield" and not layout.jpeg_rgb_tiles:
        return OpenSlideSlide, openslide_backend.inspect(path)
    return TiffSlide, layout.info


def _vendor(path: Path) -> str | None:
    try:
        vendor: str | None = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None
    return vendor
