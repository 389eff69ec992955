"""What makes a finished slide still valid: its content, the configuration, the detector, the annotations.

A slide that changes while it is read gives a mixture, which is no result of anything.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from histo import __version__
from histo.config import Config
from histo.errors import NoAnswerError, SlideChangedError, SlideError
from histo.slide.patience import answer

_BLOCK = 1 << 16
_SAMPLES = 64
# Of the files that are written for a slide: another one where a file is added that others build on.
_LAYOUT = 2


@dataclass(frozen=True)
class SlideContent:
    """What a slide holds, as `content_sha256` sees it, and size and time (ns) of each of its files, by path.

    The numbers of inodes are left out: some network file systems make them up as they go.
    """

    sha256: str
    files: tuple[tuple[str, int, int], ...]


def slide_content(path: Path) -> SlideContent:
    """Look at a slide.

    Raises
    ------
    SlideError : it cannot be read.
    """
    try:
        files = tuple(
            (str(file), stat.st_size, stat.st_mtime_ns) for file in _files(path) for stat in (file.stat(),)
        )
        return SlideContent(content_sha256(path), files)
    except OSError as error:
        raise SlideError(
            f"it cannot be read ({error.strerror or error})",
            path=path,
            fix="Check the disk and its permissions",
        ) from error


@contextmanager
def unchanged(path: Path, before: SlideContent, timeout_s: float | None = None) -> Iterator[None]:
    """Read a slide in this block, which was `before`.

    Parameters
    ----------
    timeout_s : seconds that a read may take; None or 0 for ever.

    Raises
    ------
    SlideChangedError : it is another one at the end, or gone; what the block says of it counts for nothing.
    """
    try:
        yield
    except NoAnswerError:
        raise
    except SlideError as error:
        _check_same(path, before, timeout_s, error)
        raise
    _check_same(path, before, timeout_s, None)


def _check_same(path: Path, before: SlideContent, timeout_s: float | None, cause: SlideError | None) -> None:
    if answer(partial(slide_content, path), timeout_s, path) != before:
        raise SlideChangedError(
            "it was changed while it was read",
            path=path,
            fix="Wait until it is copied or exported, and run the same command again",
        ) from cause


def slide_fingerprint(
    slide: str,
    config: Config,
    *,
    detector: str,
    annotations: Path | None,
    classifier_sha256: str | None,
    mpp: float | None,
) -> str:
    """Return a SHA-256 that changes whenever the slide's result could.

    Parameters
    ----------
    slide : SHA-256 of its content, see `slide_content`, or what a store says of a remote one.
    detector : name and SHA-256 of what finds the cells.
    classifier_sha256 : of the tissue classifier; None where none is configured.
    mpp : pixel size given by flag or manifest, in um; None where the metadata decides.
    """
    parts = {
        "version": __version__,
        "layout": _LAYOUT,
        "slide": slide,
        "config": config.fingerprint(),
        "detector": detector,
        "annotations": None if annotations is None else _file_sha256(annotations),
        "classifier": classifier_sha256,
        "mpp_um": mpp,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def content_sha256(path: Path) -> str:
    """Hash a slide by its size, its ends and evenly spaced blocks; whole slides take too long to read.

    A slide is a folder (OME-Zarr) or a file, whose companion folder (MRXS) is taken in too. A file of up to
    4 MiB is hashed whole. Files of a folder are hashed in the order of their names.
    """
    digest = hashlib.sha256()
    files = _files(path)
    for file in files:
        size = file.stat().st_size
        digest.update(os.fsencode(file.name) + f"\0{size}\0".encode())
        if len(files) > _SAMPLES and file != path:
            # A store of many small files: names, sizes and times stand for the content.
            digest.update(str(file.stat().st_mtime_ns).encode())
            continue
        with file.open("rb") as stream:
            if size <= _BLOCK * _SAMPLES:
                digest.update(stream.read())
                continue
            for sample in range(_SAMPLES):
                stream.seek((size - _BLOCK) * sample // (_SAMPLES - 1))
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else []
    folder = path.with_suffix("") if path.suffix.lower() == ".mrxs" else path
    if folder.is_dir():
        files += sorted(file for file in folder.rglob("*") if file.is_file())
    return files


def _file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
