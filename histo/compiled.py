"""Loops over pixels and cells that are compiled when they are first called."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def _make_room_for_cache() -> None:
    """Keep compiled code in a temporary folder where neither the package's nor the user's takes it."""
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    for folder in (Path(__file__).parent, Path.home()):
        if os.access(folder, os.W_OK):
            return
    os.environ["NUMBA_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"histo-compiled-{os.getuid()}")


_make_room_for_cache()
import numba  # noqa: E402 - reads the folder of its cache when imported


def compiled(function: F) -> F:
    """Compile a function of arrays and numbers; it runs without the interpreter's lock.

    Results are those of the source, operation by operation: nothing is reordered or contracted.
    """
    return cast(F, numba.njit(nogil=True, cache=True)(function))
