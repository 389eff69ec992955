"""Find the slides in files and folders that a user names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from histo.errors import SlideError
from histo.slide.zarr_backend import is_ome_zarr

SUFFIXES = frozenset(
    {".svs", ".svslide", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".czi", ".dcm"}
    | {".tif", ".tiff", ".qptiff", ".png", ".jpg", ".jpeg"}
)
# A folder with one of these holds what histo wrote for a slide.
_SLIDE_RESULTS = ("maps.zarr", "cells.parquet", "summary.json")
_RUN_RESULTS = "run.json"


def find_slides(inputs: Sequence[Path | str]) -> list[Path]:
    """List the slides of files and folders.

    Files and OME-Zarr images are taken as given. Other folders are searched to any depth: hidden files,
    results folders of histo, and the companions of MRXS and VMS slides are passed over; of a DICOM series
    spread over several files the first is listed.

    Returns
    -------
    Paths without repeats, in the order of `inputs`, within a folder sorted by path. Empty where a folder
    holds no slide.

    Raises
    ------
    SlideError : an input does not exist.
    """
    found: list[Path] = []
    seen: set[object] = set()
    for given in map(Path, inputs):
        if not given.exists():
            raise SlideError("no such file or folder", path=given, fix="Check the path")
        searched = given.is_dir() and not is_ome_zarr(given)
        for path in _search(given, given, set()) if searched else [given]:
            keys: set[object] = {path.resolve()}
            series = _dicom_series(path) if path.suffix.lower() == ".dcm" else None
            if series is not None:
                keys.add(series)
            if not keys & seen:
                found.append(path)
            seen |= keys
    return found


def slide_parts(path: Path) -> list[Path]:
    """List what a slide is read from: itself; a folder of MRXS, the pictures of VMS, the series of DICOM."""
    suffix = path.suffix.lower()
    beside: list[Path] = []
    if suffix == ".mrxs":
        beside = [path.with_suffix("")]
    elif suffix in (".vms", ".vmu"):
        names = _companions(path.parent, [path.name])
        beside = [file for file in sorted(path.parent.iterdir()) if file.name.lower() in names]
    elif suffix == ".dcm" and (series := _dicom_series(path)) is not None:
        files = sorted(file for file in path.parent.iterdir() if file.suffix.lower() == ".dcm")
        beside = [file for file in files if file != path and _dicom_series(file) == series]
    return [path, *beside]


def _search(folder: Path, top: Path, visited: set[Path]) -> Iterator[Path]:
    """Yield the slides below a folder, sorted. `visited` folders are not entered again through a link."""
    real = folder.resolve()
    if real in visited:
        return
    visited.add(real)
    try:
        names = sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise SlideError(
            f"the folder cannot be read ({error})", path=folder, fix="Check its permissions"
        ) from error
    # A folder of slides may itself be the results folder of a run: then its slides count, not what is below.
    if any(name in names for name in _SLIDE_RESULTS) or (_RUN_RESULTS in names and folder != top):
        return
    companions = _companions(folder, names)
    for name in names:
        path = folder / name
        if name.lower() in companions:
            continue
        if path.is_dir():
            if is_ome_zarr(path):
                yield path
            elif path.suffix.lower() != ".zarr":
                yield from _search(path, top, visited)
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            yield path


def _companions(folder: Path, names: Sequence[str]) -> set[str]:
    """Return the names, in lower case, of what belongs to an MRXS or VMS slide beside it."""
    found: set[str] = set()
    for name in names:
        suffix = Path(name).suffix.lower()
        if suffix == ".mrxs":
            found.add(Path(name).stem.lower())
        elif suffix in (".vms", ".vmu"):
            # A VMS file is an INI text whose values name the pictures that make up the slide.
            try:
                lines = (folder / name).read_text(encoding="latin-1").splitlines()
            except OSError:
                continue
            found |= {line.partition("=")[2].strip().lower() for line in lines if "=" in line}
    return found - {""}


# DICOM ------------------------------------------------------------------------------------------------------

_SERIES_INSTANCE_UID = (0x0020, 0x000E)
_LONG_LENGTH = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_UNDEFINED = 0xFFFFFFFF
_HEADER_BYTES = 1 << 20


def _dicom_series(path: Path) -> str | None:
    """Return the SeriesInstanceUID of a DICOM file, or None where it has none that can be read.

    Walks the data elements of the file (DICOM PS3.5, explicit VR little endian, which whole-slide images have
    to use) up to (0020,000E), so that neither a vendor's reader nor the pixels are touched.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_HEADER_BYTES)
    except OSError:
        return None
    if data[128:132] != b"DICM":
        return None
    position = 132
    depth = 0
    while position + 8 <= len(data):
        group = int.from_bytes(data[position : position + 2], "little")
        element = int.from_bytes(data[position + 2 : position + 4], "little")
        if group == 0xFFFE:  # items and delimiters of a sequence of undefined length carry no VR
            length = int.from_bytes(data[position + 4 : position + 8], "little")
            depth += {0xE000: length == _UNDEFINED, 0xE00D: -1, 0xE0DD: -1}.get(element, 0)
            position += 8 + (0 if length == _UNDEFINED or element != 0xE000 else length)
            continue
        vr = data[position + 4 : position + 6]
        if vr in _LONG_LENGTH:
            length, start = int.from_bytes(data[position + 8 : position + 12], "little"), position + 12
        else:
            length, start = int.from_bytes(data[position + 6 : position + 8], "little"), position + 8
        if depth == 0 and (group, element) == _SERIES_INSTANCE_UID:
            return data[start : start + length].decode("ascii", "replace").strip("\x00 ")
        if depth == 0 and (group, element) > _SERIES_INSTANCE_UID:
            return None
        if length == _UNDEFINED:
            depth += 1
            length = 0
        position = start + length
    return None
