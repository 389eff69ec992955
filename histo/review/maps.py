"""Maps of a whole slide as pictures to lay over it: red, green, blue and opacity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from histo.regions.place import ZONE_NAMES, Regions
from histo.results.maps import ZONE_COLOURS

_MAX_PX: Final = 4096
_NOT_ASSESSED: Final = (90, 90, 90, 255)


def map_step(shape: tuple[int, ...]) -> int:
    """Return which pixels of a large map are shown: every one, every second ..."""
    return max(1, -(-max(shape) // _MAX_PX))


def zones_map(regions: Regions) -> NDArray[np.uint8]:
    """Return the zones in their colours: (rows, columns, 4); transparent in none."""
    return _coloured(regions.zone_map, ZONE_NAMES, ZONE_COLOURS)


def excluded_map(tissue: NDArray[np.bool_], regions: Regions) -> NDArray[np.uint8]:
    """Return the tissue that is not assessed in grey: (rows, columns, 4)."""
    rgba = np.zeros((*tissue.shape, 4), np.uint8)
    rgba[tissue & ~regions.assessed] = _NOT_ASSESSED
    return rgba


def heat_map(per_mm2: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour a density from dark violet to yellow, up to its 99th percentile; transparent where it is NaN."""
    import matplotlib

    known = ~np.isnan(per_mm2)
    top = float(np.percentile(per_mm2[known], 99)) if known.any() else 1.0
    share = np.where(known, per_mm2, 0) / max(top, 1e-6)
    rgba = (matplotlib.colormaps["inferno"](np.clip(share, 0, 1)) * 255).astype(np.uint8)
    rgba[~known] = 0
    return rgba


def _coloured(
    codes: NDArray[np.uint8], names: Sequence[str], colours: Mapping[str, tuple[int, int, int]]
) -> NDArray[np.uint8]:
    table = np.zeros((len(names), 4), np.uint8)
    for code, name in enumerate(names):
        if name:
            table[code] = (*colours.get(name, (100, 100, 100)), 255)
    return table[codes]
