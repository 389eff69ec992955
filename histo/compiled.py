"""Loops over pixels, compiled (numba) on their first call and kept on disk for later runs.

Compiled functions hold no lock of the interpreter: several threads run them at once. They calculate as numpy
does: nothing is reordered or fused, so results do not depend on the processor.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba
from numba.core import config
from numba.core.caching import FunctionCache

_P = ParamSpec("_P")
_R = TypeVar("_R")


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile a function for the types of the arguments that it is first called with.

    It may use numbers, tuples, arrays, and compiled functions of its own module: a change to another module
    would not be noticed by the copy kept on disk. That lies beside the module, else in the user's cache, else
    in a temporary folder for this process and those it starts; `NUMBA_CACHE_DIR` sets another place.
    """
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    cache = _cache_of(function)
    if cache is not None:
        dispatcher._cache = cache
    return dispatcher  # type: ignore[no-any-return]


class _Cache(FunctionCache):
    """A cache that is not missed where it cannot be read or written: on a full disk, after a crash."""

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return super().load_overload(*arguments)  # type: ignore[no-untyped-call]
        except Exception:  # whatever is wrong with a file from the disk: compile anew
            return None

    def save_overload(self, *arguments: Any) -> None:
        try:
            super().save_overload(*arguments)  # type: ignore[no-untyped-call]
        except OSError:
            return


def _cache_of(function: Callable[..., Any]) -> _Cache | None:
    try:
        return _Cache(function)  # type: ignore[no-untyped-call]
    except RuntimeError:  # neither the place of the module nor the user's cache can be written
        pass
    try:
        folder = tempfile.mkdtemp(prefix="histo-compiled-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["NUMBA_CACHE_DIR"] = folder
        config.reload_config()
        return _Cache(function)  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError):
        return None
