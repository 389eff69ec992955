"""Names of folders."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from histo.run.remote import RemoteSlide

# Two of them, and what tells equal ones apart, make the name of a pair: a file system takes 255 bytes.
_MAX_BYTES = 100
# Names of devices on Windows, with any extension; and endings of the files that lie beside the folders.
_RESERVED = re.compile(
    r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.(csv|html|json|lock|log|parquet)", re.IGNORECASE
)


def safe_name(name: str) -> str:
    """Return a name that any file system takes for a folder; the same for the same name."""
    kept = re.sub(r"[^\w.()\[\], +=-]", "_", unicodedata.normalize("NFC", name)).strip(". ") or "slide"
    if len(kept.encode()) > _MAX_BYTES:
        end = f"-{_digest(name)[:8]}"
        kept = kept.encode()[: _MAX_BYTES - len(end)].decode(errors="ignore").strip(". ") + end
    return f"_{kept}" if _RESERVED.fullmatch(kept) else kept


def slide_ids(slides: Sequence[Path | RemoteSlide]) -> list[str]:
    """Name each slide's results folder: its file name without extensions, made safe and unique.

    Slides of the same name in different folders get a short hash of their path or address; so do names that
    some file systems do not tell apart (by case, or by how an accent is encoded).
    """
    places = [slide.address if isinstance(slide, RemoteSlide) else str(slide.resolve()) for slide in slides]
    stems = [re.sub(r"(\.ome)?\.[A-Za-z0-9]+$", "", slide.name, flags=re.IGNORECASE) for slide in slides]
    names = [safe_name(stem) for stem in stems]
    ids = names
    # A slide may be called what the short hash makes of another.
    for digits in (8, 64):
        count = Counter(map(_folded, ids))
        ids = [
            slide_id if count[_folded(slide_id)] == 1 else f"{name}-{_digest(place)[:digits]}"
            for slide_id, name, place in zip(ids, names, places, strict=True)
        ]
    return ids


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()
