"""Names of folders."""

from __future__ import annotations

import re


def safe_name(name: str) -> str:
    """Return a name that any file system takes for a folder."""
    return re.sub(r"[^\w.()\[\], +=-]", "_", name).strip(". ") or "slide"
