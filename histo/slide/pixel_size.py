"""Pixel size: units of length to um, and which of flag, manifest and metadata holds."""

from __future__ import annotations

from math import isfinite
from pathlib import Path

from histo.errors import PixelSizeError
from histo.slide.base import MppSource, SlideInfo

MIN_MPP, MAX_MPP = 0.05, 5.0
# The largest glass slides are 8 x 6 inches.
MAX_AREA_MM2 = 40_000.0
_FIX = "Give the pixel size of the scan in um with --mpp (0.25 for a 40x scan, 0.5 for 20x, as a rule)"

# Where a backend notes in `SlideInfo.properties` what `SlideInfo.mpp` was read from.
MPP_ORIGIN = "histo.pixel-size-from"

_UM = {
    "um": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    "\\u00b5m": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "å": 1e-4,
    "angstrom": 1e-4,
    "mm": 1e3,
    "millimeter": 1e3,
    "millimetre": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "centimetre": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "metre": 1e6,
    "inch": 25_400.0,
    "in": 25_400.0,
}


def um_per(unit: str) -> float | None:
    """Return how many um a unit of length has; None for one that is no known length ("pixel", "")."""
    return _UM.get(unit.strip().lower())


def believable(mpp: float) -> bool:
    """Tell whether a pixel size can be one of a microscope slide: 0.05 to 5 um."""
    return isfinite(mpp) and MIN_MPP <= mpp <= MAX_MPP


def settle_mpp(
    path: Path, info: SlideInfo, *, mpp: float | None, manifest_mpp: float | None
) -> tuple[tuple[float, float], MppSource]:
    """Return the level-0 pixel size (x, y) in um and where it is from: flag, then manifest, then metadata.

    Raises
    ------
    PixelSizeError : there is none, or the one that holds lies outside 0.05 to 5 um.
    """
    if mpp is not None:
        if not believable(mpp):
            raise PixelSizeError(f"--mpp {mpp:g} is not a pixel size of {_RANGE}", path=path, fix=_FIX)
        return (mpp, mpp), "flag"
    if manifest_mpp is not None:
        if not believable(manifest_mpp):
            raise PixelSizeError(
                f"the manifest's pixel size {manifest_mpp:g} is not one of {_RANGE}",
                path=path,
                fix="Correct it in the manifest, or give --mpp",
            )
        return (manifest_mpp, manifest_mpp), "manifest"
    if info.mpp is None:
        raise PixelSizeError("the file states no pixel size", path=path, fix=_FIX)
    if not all(believable(value) for value in info.mpp):
        x, y = info.mpp
        stated = f"{x:.6g} um" if x == y else f"{x:.6g} x {y:.6g} um"
        origin = info.properties.get(MPP_ORIGIN, "its metadata")
        raise PixelSizeError(
            f"the pixel size {stated} from {origin} is not one of {_RANGE}", path=path, fix=_FIX
        )
    return info.mpp, "metadata"


def check_area(path: Path, info: SlideInfo, mpp: tuple[float, float]) -> None:
    """Raise PixelSizeError for a picture that is larger than any glass slide."""
    width, height = (size * size_um / 1000 for size, size_um in zip(info.size_px, mpp, strict=True))
    if width * height > MAX_AREA_MM2:
        raise PixelSizeError(
            f"{info.size_px[0]} x {info.size_px[1]} px of {mpp[0]:g} x {mpp[1]:g} um are {width:.0f} x "
            f"{height:.0f} mm: no slide is that large",
            path=path,
            fix=f"Check the file, or: {_FIX[0].lower()}{_FIX[1:]}",
        )


_RANGE = f"a slide ({MIN_MPP:g} to {MAX_MPP:g} um)"
