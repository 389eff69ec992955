"""What makes a finished slide still valid: its content, the configuration, the detector, the annotations."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from histo import __version__
from histo.config import Config

_BLOCK = 1 << 16
_SAMPLES = 64
# Of the files that are written for a slide: another one where a file is added that others build on.
_LAYOUT = 2


def slide_fingerprint(
    path: Path,
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
    path : the slide; a folder (OME-Zarr) or a file, whose companion folder (MRXS) is taken in too.
    detector : name and SHA-256 of what finds the cells.
    classifier_sha256 : of the tissue classifier; None where none is configured.
    mpp : pixel size given by flag or manifest, in um; None where the metadata decides.
    """
    parts = {
        "version": __version__,
        "layout": _LAYOUT,
        "slide": content_sha256(path),
        "config": config.fingerprint(),
        "detector": detector,
        "annotations": None if annotations is None else _file_sha256(annotations),
        "classifier": classifier_sha256,
        "mpp_um": mpp,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def content_sha256(path: Path) -> str:
    """Hash a slide by its size, its ends and evenly spaced blocks; whole slides take too long to read.

    A file of up to 4 MiB is hashed whole. Files of a folder are hashed in the order of their names.
    """
    digest = hashlib.sha256()
    files = [path] if path.is_file() else []
    folder = path.with_suffix("") if path.suffix.lower() == ".mrxs" else path
    if folder.is_dir():
        files += sorted(file for file in folder.rglob("*") if file.is_file())
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


def _file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
