from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slides import ArraySlide

from histo.slide.tiles import TilePlan, plan_tiles
from histo.slide.tissue import Tissue


def tissue_of(mask: np.ndarray, mpp: float = 8.0) -> Tissue:
    nothing = np.zeros_like(mask)
    return Tissue(mpp, mask, {}, mask, nothing, np.ones(mask.shape, np.float32), ())


def slide_of(width: int, height: int, mpp: float, tile_px: tuple[int, int] = (256, 256)) -> ArraySlide:
    # One byte of memory for any size.
    return ArraySlide(np.broadcast_to(np.uint8(0), (height, width, 3)), mpp, tile_px=tile_px)


def owned(plan: TilePlan, shape: tuple[int, int]) -> np.ndarray:
    count = np.zeros(shape, int)
    for tile in plan.tiles:
        core = tile.core
        count[max(0, core.y) : max(0, core.bottom), max(0, core.x) : max(0, core.right)] += 1
    return count


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(100, 3000), st.integers(100, 3000)),
    slide_mpp=st.sampled_from([0.25, 0.2527, 0.5, 1.0]),
    mpp=st.sampled_from([0.5, 0.25, 1.0]),
    tile_um=st.floats(70, 800),
    halo=st.integers(0, 70),
    multiple=st.sampled_from([1, 4, 8, 16]),
    offset=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
)
def test_cores_are_disjoint_cover_the_tissue_and_lie_in_their_reads(
    seed: int,
    size: tuple[int, int],
    slide_mpp: float,
    mpp: float,
    tile_um: float,
    halo: int,
    multiple: int,
    offset: tuple[float, float],
) -> None:
    slide = slide_of(*size, slide_mpp)
    columns, rows = slide.grid_size(8.0)
    mask = np.random.default_rng(seed).random((rows, columns)) < 0.02
    plan = plan_tiles(
        slide, tissue_of(mask), mpp=mpp, tile_um=tile_um, halo_px=halo, multiple=multiple, offset_um=offset
    )
    width, height = slide.grid_size(mpp)
    count = owned(plan, (height, width))
    assert count.max(initial=0) <= 1
    centre_y = ((np.arange(height) + 0.5) * mpp / 8).astype(int).clip(max=rows - 1)
    centre_x = ((np.arange(width) + 0.5) * mpp / 8).astype(int).clip(max=columns - 1)
    assert (count[mask[np.ix_(centre_y, centre_x)]] == 1).all()
    for index, tile in enumerate(plan.tiles):
        assert tile.index == index
        assert tile.core.width <= plan.core_px[0]
        assert tile.core.height <= plan.core_px[1]
        assert tile.read.intersect(tile.core) == tile.core
        assert min(tile.core.x - tile.read.x, tile.read.bottom - tile.core.bottom) >= halo
        for value in (*vars(tile.core).values(), *vars(tile.read).values()):
            assert value % multiple == 0


def test_cores_fall_on_stored_tiles_where_they_can() -> None:
    mask = np.ones((256, 256), bool)
    plan = plan_tiles(
        slide_of(8192, 8192, 0.25), tissue_of(mask), mpp=0.5, tile_um=500, halo_px=16, multiple=16
    )
    # A stored tile is 64 um, that is 128 grid pixels.
    assert plan.core_px == (1024, 1024)
    assert plan.origin_px == (0, 0)


def test_core_is_a_multiple_near_what_is_wanted_where_stored_tiles_do_not_fit() -> None:
    mask = np.ones((200, 200), bool)
    plan = plan_tiles(
        slide_of(6000, 6000, 0.2527, (240, 240)),
        tissue_of(mask),
        mpp=0.5,
        tile_um=512,
        halo_px=16,
        multiple=16,
    )
    assert plan.core_px == (1024, 1024)


def test_files_in_strips_are_cut_across() -> None:
    mask = np.ones((512, 512), bool)
    plan = plan_tiles(
        slide_of(8192, 8192, 0.5, (8192, 8)), tissue_of(mask), mpp=0.5, tile_um=512, halo_px=8, multiple=8
    )
    assert plan.core_px == (1024, 1024)


def test_only_tissue_is_tiled_and_no_tissue_is_no_tile() -> None:
    slide = slide_of(8192, 8192, 0.5)
    mask = np.zeros((512, 512), bool)
    assert plan_tiles(slide, tissue_of(mask), mpp=0.5, tile_um=512, halo_px=8).tiles == ()
    mask[100, 100] = True
    (tile,) = plan_tiles(slide, tissue_of(mask), mpp=0.5, tile_um=512, halo_px=8).tiles
    assert tile.core.x <= 1600 < tile.core.right
    mask[:] = False
    # On a core's edge: the neighbour may hold the other half of a cell.
    mask[100, 127] = True
    assert len(plan_tiles(slide, tissue_of(mask), mpp=0.5, tile_um=512, halo_px=8).tiles) == 2


def test_neighbouring_tiles_follow_each_other() -> None:
    mask = np.ones((1024, 1024), bool)
    plan = plan_tiles(slide_of(16384, 16384, 0.5), tissue_of(mask), mpp=0.5, tile_um=512, halo_px=16)
    assert len(plan.tiles) == 256
    position = {(tile.core.x, tile.core.y): tile.index for tile in plan.tiles}
    below = [abs(position[x, y + 1024] - i) for (x, y), i in position.items() if (x, y + 1024) in position]
    assert max(below) <= 4


@pytest.mark.parametrize("bad", [{"mpp": 0.0}, {"tile_um": -1.0}, {"halo_px": -1}, {"multiple": 0}])
def test_senseless_sizes_are_refused(bad: dict[str, float]) -> None:
    arguments = {"mpp": 0.5, "tile_um": 512.0, "halo_px": 8, "multiple": 8} | bad
    with pytest.raises(ValueError, match="must be positive"):
        plan_tiles(slide_of(100, 100, 0.5), tissue_of(np.ones((7, 7), bool)), **arguments)  # type: ignore[arg-type]
