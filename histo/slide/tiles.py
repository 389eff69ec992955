"""The tile plan: which part of a slide is worked on at a time, and in which order.

A tile owns its core; its read box has a halo on top, so that whatever lies in the core is seen whole. Cores
do not overlap, hence nothing is merged afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from histo.slide.base import Slide
from histo.slide.geometry import Box

if TYPE_CHECKING:
    from histo.slide.tissue import Tissue

# Columns of cores that are worked down together: few, so that a decoded stored tile is still cached when the
# next row of cores needs it; more than one, so that halos to the side are not decoded twice either.
_BAND_CORES = 4


@dataclass(frozen=True)
class Tile:
    """A piece of work: boxes of whole pixels on the plan's grid.

    index : position in the plan.
    core : what the tile owns; may begin outside the slide and end just outside it.
    read : core and halo.
    """

    index: int
    core: Box
    read: Box


@dataclass(frozen=True)
class TilePlan:
    """Tiles over the assessed tissue of a slide, in reading order.

    mpp : um per pixel of the grid.
    core_px : (width, height) of cores; those at the right and bottom edge of the slide may be smaller.
    origin_px : (x, y) of the lattice of cores: cores start at origin + k * core size. Never positive.
    """

    mpp: float
    core_px: tuple[int, int]
    origin_px: tuple[int, int]
    tiles: tuple[Tile, ...]


def plan_tiles(
    slide: Slide,
    tissue: Tissue,
    *,
    mpp: float,
    tile_um: float,
    halo_px: int,
    multiple: int = 1,
    offset_um: tuple[float, float] = (0.0, 0.0),
) -> TilePlan:
    """Cover the assessed tissue with tiles.

    Parameters
    ----------
    slide : gives the stored tiles to snap to.
    tissue : cores that do not touch `tissue.assessed` (grown by one of its pixels) are left out.
    mpp : um per pixel of the grid that tiles are read on.
    tile_um : about how wide and high a core should be.
    halo_px : least margin around the core; rounded up to a multiple of `multiple`.
    multiple : all box edges are multiples of it (a network's stride).
    offset_um : (x, y) shift of the lattice; results must not depend on it.

    Returns
    -------
    A plan whose cores are disjoint and cover the assessed tissue; empty where there is none.
    """
    if multiple < 1 or halo_px < 0 or tile_um <= 0 or mpp <= 0:
        raise ValueError("mpp, tile_um and multiple must be positive, halo_px not negative")
    level = slide.info.levels[slide.level_for(mpp)]
    core_px = (
        _core_size(level.tile_px[0], slide.mpp[0] * level.downsample[0] / mpp, tile_um / mpp, multiple),
        _core_size(level.tile_px[1], slide.mpp[1] * level.downsample[1] / mpp, tile_um / mpp, multiple),
    )
    origin_px = (
        _origin(offset_um[0] / mpp, core_px[0], multiple),
        _origin(offset_um[1] / mpp, core_px[1], multiple),
    )
    columns, rows = slide.grid_size(mpp)
    right, bottom = ceil(columns / multiple) * multiple, ceil(rows / multiple) * multiple
    edges_x = np.arange(origin_px[0], columns + core_px[0], core_px[0])
    edges_y = np.arange(origin_px[1], rows + core_px[1], core_px[1])
    wanted = _touched(tissue.assessed, edges_x * (mpp / tissue.mpp), edges_y * (mpp / tissue.mpp))
    row, column = np.nonzero(wanted)
    order = np.lexsort((column, row, column // _BAND_CORES))
    halo = ceil(halo_px / multiple) * multiple
    tiles = []
    for index, (i, j) in enumerate(zip(row[order].tolist(), column[order].tolist(), strict=True)):
        x, y = int(edges_x[j]), int(edges_y[i])
        # The last cores end with the slide.
        core = Box(x, y, min(core_px[0], right - x), min(core_px[1], bottom - y))
        read = Box(core.x - halo, core.y - halo, core.width + 2 * halo, core.height + 2 * halo)
        tiles.append(Tile(index, core, read))
    return TilePlan(mpp, core_px, origin_px, tuple(tiles))


def _core_size(tile_px: int, scale: float, wanted: float, multiple: int) -> int:
    """Return a core edge in grid pixels, near `wanted`.

    `scale` is grid pixels per pixel of the stored level. Whole stored tiles where some number of them between
    half and one and a half of what is wanted makes a multiple of `multiple`; else the nearest multiple.
    """
    stored = tile_px * scale
    best: int | None = None
    if abs(stored - round(stored)) < 1e-6 and round(stored) >= 1:
        # Both conditions at once: steps of the least common multiple.
        step = round(stored) * multiple // gcd(round(stored), multiple)
        best = max(1, round(wanted / step)) * step
        if not 0.5 * wanted <= best <= 1.5 * wanted:
            best = None
    if best is None:
        best = max(1, round(wanted / multiple)) * multiple
    return best


def _origin(offset: float, core: int, multiple: int) -> int:
    """Return the lattice origin in (-core, 0], a multiple of `multiple`."""
    return -((-round(offset / multiple) * multiple) % core)


def _touched(
    mask: NDArray[np.bool_], edges_x: NDArray[np.floating[Any]], edges_y: NDArray[np.floating[Any]]
) -> NDArray[np.bool_]:
    """Return which cells of a lattice touch the mask grown by a pixel; edges in pixels of the mask."""
    grown = ndimage.binary_dilation(mask, np.ones((3, 3), bool))
    total = np.zeros((grown.shape[0] + 1, grown.shape[1] + 1), np.int64)
    total[1:, 1:] = grown.cumsum(0, dtype=np.int64).cumsum(1)
    low_x, high_x = _span(edges_x, grown.shape[1])
    low_y, high_y = _span(edges_y, grown.shape[0])
    count = (
        total[np.ix_(high_y, high_x)]
        - total[np.ix_(low_y, high_x)]
        - total[np.ix_(high_y, low_x)]
        + total[np.ix_(low_y, low_x)]
    )
    return count > 0


def _span(edges: NDArray[np.floating[Any]], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    low = np.clip(np.floor(edges[:-1] + 1e-6), 0, size).astype(np.int64)
    high = np.clip(np.ceil(edges[1:] - 1e-6), 0, size).astype(np.int64)
    return low, np.maximum(high, low)
