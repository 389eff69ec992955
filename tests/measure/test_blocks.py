"""Cells and areas by block, and what is said of tumour tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histo.measure.blocks import Blocks, blocks_of
from histo.measure.inflamed_tiles import inflamed_tile_share


@settings(deadline=None)
@given(seed=st.integers(0, 999), block_um=st.sampled_from([40.0, 100.0, 333.0, 5000.0]))
def test_nothing_is_lost_or_counted_twice(seed, block_um):
    rng = np.random.default_rng(seed)
    weight = rng.random((37, 53)) * (rng.random((37, 53)) < 0.7)
    row, column = np.nonzero(weight)
    pick = rng.integers(0, len(row), 500)
    x, y = ((axis[pick] + rng.random(500)) * 8.0 for axis in (column, row))
    blocks = blocks_of(x, y, weight, 8.0, block_um)
    assert blocks.n.sum() == 500
    assert blocks.area_mm2.sum() == pytest.approx(weight.sum() * 64e-6)
    assert (blocks.area_mm2 > 0).all()


def test_a_block_holds_its_own():
    weight = np.ones((100, 100))
    weight[:50, 50:] = 0  # 400 um squares: the right upper one is not tissue
    blocks = blocks_of(np.array([10.0, 20.0, 700.0]), np.array([10.0, 20.0, 700.0]), weight, 8.0, 400.0)
    assert blocks.n.tolist() == [2, 0, 1]
    assert blocks.area_mm2 == pytest.approx([0.16, 0.16, 0.16])


def test_no_area_has_no_block():
    assert len(blocks_of(np.empty(0), np.empty(0), np.zeros((5, 5)), 8.0, 100.0)) == 0


def test_share_of_inflamed_tiles():
    tiles = Blocks(n=np.array([400, 100, 0, 500, 90]), area_mm2=np.array([1.0, 1.0, 1.0, 0.1, 0.3]))
    found = inflamed_tile_share(tiles, 294.9, min_area_mm2=0.25, min_tiles=4, level=0.95)
    # The fourth is too small; the first and the last (300 per mm2) are above the cut-off.
    assert found.value == 0.5
    assert found.low < 0.5 < found.high
    few = inflamed_tile_share(tiles, 294.9, min_area_mm2=0.5, min_tiles=4, level=0.95)
    assert few.not_assessable.startswith("only 3 tiles")
