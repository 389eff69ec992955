"""Tiles, correlation, enrichment and matching."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import spearmanr

from histo.measure.summary import Estimate
from histo.sections.codensity import MATCHED, block_ids, codensities, correlation, enrichment
from histo.sections.config import SectionsConfig
from histo.sections.error import LocalError
from histo.sections.matching import matched_fraction

NOT_MATCHED = Estimate.missing(MATCHED, "not restained")
OPTIONS = {"level": 0.95, "n_samples": 200}


def made_tiles(seed: int, n_side: int = 24, coupling: float = 1.0) -> pd.DataFrame:
    """Return a square of tiles whose marker is Poisson, with half of the CD8 density or without regard."""
    rng = np.random.default_rng(seed)
    row, column = (index.ravel() for index in np.indices((n_side, n_side)))
    lively = np.exp(np.sin(row / 3) + np.cos(column / 4)) * 4
    cd8 = rng.poisson(lively)
    return pd.DataFrame(
        {
            "x_um": column * 100.0 + 50,
            "y_um": row * 100.0 + 50,
            "area_mm2": 0.01,
            "zone": np.where(column < n_side // 2, "core", ""),
            "n_cd8": cd8,
            "n_marker": rng.poisson(coupling * lively / 2 + (1 - coupling) * lively.mean() / 2),
            "n_bright": 0,
            "used": True,
        }
    )


def test_correlation_is_scipys_and_its_interval_holds_it() -> None:
    tiles = made_tiles(1)
    cd8, marker = tiles["n_cd8"].to_numpy(float), tiles["n_marker"].to_numpy(float)
    blocks = block_ids(tiles["x_um"].to_numpy(), tiles["y_um"].to_numpy(), 500.0)
    assert len(np.unique(blocks)) == 25
    found = correlation(cd8, marker, blocks, ranks=True, **OPTIONS)
    assert found.value == pytest.approx(spearmanr(cd8, marker).statistic)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    plain = correlation(cd8, marker, blocks, ranks=False, **OPTIONS)
    assert plain.value == pytest.approx(np.corrcoef(cd8, marker)[0, 1])


def test_enrichment_is_1_without_regard_to_cd8_and_above_with() -> None:
    values = {}
    for coupling in (0.0, 1.0):
        tiles = made_tiles(2, coupling=coupling)
        found = enrichment(
            tiles["n_cd8"].to_numpy(),
            tiles["n_marker"].to_numpy(),
            tiles["area_mm2"].to_numpy(),
            block_ids(tiles["x_um"].to_numpy(), tiles["y_um"].to_numpy(), 500.0),
            rich_fraction=0.25,
            **OPTIONS,
        )
        assert found.low is not None
        assert found.high is not None
        values[coupling] = found
    assert values[0.0].low < 1 < values[0.0].high  # type: ignore[operator]
    assert values[1.0].low > 1.5  # type: ignore[operator]


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_tiles_of_a_zone_add_up_to_those_of_the_whole(seed: int) -> None:
    tiles = made_tiles(seed, n_side=8)
    tiles["used"] = np.random.default_rng(seed).random(len(tiles)) < 0.8
    config = SectionsConfig(bootstrap_samples=100)
    whole, core = codensities(tiles, config, has_bright="no gate", matched=NOT_MATCHED)
    used = tiles[tiles["used"]]
    assert (whole.zone, core.zone) == ("all", "core")
    assert whole.n_cd8 == used["n_cd8"].sum()
    assert core.n_marker == used.loc[used["zone"] == "core", "n_marker"].sum()
    assert whole.area_mm2 == pytest.approx(0.01 * len(used))
    assert whole.bright_density.not_assessable == "no gate"
    assert whole.n_bright is None


def test_too_few_tiles_give_reasons_not_numbers() -> None:
    tiles = made_tiles(3, n_side=4)
    (whole, *_) = codensities(tiles, SectionsConfig(), has_bright=None, matched=NOT_MATCHED)
    assert whole.spearman.not_assessable == "only 16 tiles, 20 needed"
    assert whole.marker_density.value is not None
    tiles = made_tiles(3)
    tiles["n_marker"] = 0
    (whole, *_) = codensities(tiles, SectionsConfig(), has_bright=None, matched=NOT_MATCHED)
    assert whole.spearman.not_assessable == "one of the two is alike on all tiles"
    assert whole.enrichment.not_assessable == "no cell of the marker"


def test_matching_is_1_for_the_same_cells_and_0_by_chance() -> None:
    rng = np.random.default_rng(4)
    cd8 = rng.uniform(0, 3000, (900, 2))
    same = matched_fraction(cd8, cd8 + rng.normal(0, 0.5, cd8.shape), 5.0)
    other = matched_fraction(cd8, rng.uniform(0, 3000, (900, 2)), 5.0)
    half = matched_fraction(cd8, cd8[::2], 5.0)
    assert same.value == pytest.approx(1.0, abs=0.01)
    assert other.value == pytest.approx(0.0, abs=0.02)
    assert half.value == pytest.approx(0.5, abs=0.03)
    assert matched_fraction(np.empty((0, 2)), cd8, 5.0).not_assessable == "no CD8+ cells"


def test_small_tiles_are_for_restained_sections_only() -> None:
    with pytest.raises(ValidationError, match="do not hold the same cells"):
        SectionsConfig(tile_um=50)
    assert SectionsConfig(tile_um=50, restained=True).tile_um == 50
    with pytest.raises(ValidationError, match="must lie above"):
        SectionsConfig(gates={"PD-1": 0.4}, bright_gates={"PD-1": 0.3})


def test_error_of_a_place_is_that_of_the_nearest_window() -> None:
    places = np.array([100.0, 200.0])
    error = LocalError(places, places, places, places, np.array([5.0, np.nan]), np.array([True, False]))
    found = error.at(np.array([[90.0, 90.0], [210.0, 210.0], [900.0, 900.0]]))
    assert found[0] == 5
    assert np.isnan(found[1:]).all()
