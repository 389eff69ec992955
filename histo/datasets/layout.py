"""Files and folders of a published layout, and the pixel size that goes with them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from histo.errors import DatasetError
from histo.slide.pixel_size import MAX_MPP, MIN_MPP, believable

# How deep an archive's own folders may nest under the root that the user gives.
_MAX_DEPTH = 3


def folder(root: Path, *parts: str, dataset: str) -> Path:
    """Return a folder of the layout, at the root or below the folders that archives unpack to.

    `root` itself may be any folder of `parts`: "BCData", or what holds it.

    Raises
    ------
    DatasetError : it is not there; says which one was expected.
    """
    require_root(root, dataset)
    relative = Path(*parts)
    for skipped in range(len(parts) + 1):
        # The root's own name must be the one skipped, so that nothing else is taken for it.
        if skipped and root.name != parts[skipped - 1]:
            continue
        if (found := root.joinpath(*parts[skipped:])).is_dir():
            return found
    deeper = [path for path in _below(root, _MAX_DEPTH) if (path / relative).is_dir()]
    if len(deeper) > 1:
        raise DatasetError(
            f"{dataset}: more than one folder {relative} below it",
            path=root,
            fix=f"Give one of them: {', '.join(str(path) for path in sorted(deeper)[:3])}",
        )
    if not deeper:
        raise DatasetError(
            f"not the layout of {dataset}: no folder {relative.as_posix()}",
            path=root,
            fix="Give the folder that the published archive unpacks to",
        )
    return deeper[0] / relative


def require_root(root: Path, dataset: str) -> None:
    """Raise DatasetError where the root is no folder."""
    if not root.is_dir():
        raise DatasetError(
            f"no such folder for {dataset}", path=root, fix="Give the folder that the dataset was unpacked to"
        )


def files(where: Path, *suffixes: str, dataset: str) -> list[Path]:
    """Return the files of a folder with one of the suffixes, by name.

    Raises
    ------
    DatasetError : there is none.
    """
    # Archives made on macOS hold a hidden "._x.png" beside each x.png.
    shown = (path for path in where.iterdir() if path.is_file() and not path.name.startswith("."))
    found = sorted(path for path in shown if path.suffix.lower() in suffixes)
    if not found:
        raise DatasetError(
            f"not the layout of {dataset}: no {' or '.join(suffixes)} file in it",
            path=where,
            fix="Unpack the published archive again",
        )
    return found


def require(path: Path, dataset: str, fix: str = "Unpack the published archive again") -> Path:
    """Return a file of the layout; raises DatasetError where it is missing."""
    if not path.is_file():
        raise DatasetError(f"not the layout of {dataset}: this file is missing", path=path, fix=fix)
    return path


def pixel_size(
    root: Path, dataset: str, given: float | None, published: float | None = None, *, hint: str = ""
) -> float:
    """Return the um per pixel: as given, else as published.

    Raises
    ------
    DatasetError : neither, or one outside 0.05 to 5 um. It is never guessed.
    """
    size = published if given is None else given
    if size is None:
        raise DatasetError(
            f"{dataset} does not state the pixel size of its images{f' ({hint})' if hint else ''}",
            path=root,
            fix="Give mpp, their um per pixel",
        )
    if not believable(size):
        raise DatasetError(
            f"mpp {size:g} is not the pixel size of a microscope ({MIN_MPP:g} to {MAX_MPP:g} um)",
            path=root,
            fix="Give mpp in um per pixel",
        )
    return float(size)


def _below(root: Path, depth: int) -> Iterable[Path]:
    if depth == 0:
        return
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield path
            yield from _below(path, depth - 1)
