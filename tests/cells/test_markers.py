from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from script import load_script

from histo.cells.compartments import Compartments, compartments
from histo.cells.detect import TileCells
from histo.cells.markers import statistics, with_markers
from histo.cells.table import CELL_COLUMNS, cell_columns, marker_columns, markers_of
from histo.panel import COMPARTMENTS, STATISTICS
from histo.stain.panel import PanelTransform

PANEL = PanelTransform(
    unit="grey level",
    markers=("PD-1", "TOX"),
    channels=("Opal 570", "Opal 690"),
    planes=(1, 0),
    background=(10.0, 20.0),
    noise=(1.0, 1.0),
    weights=((1.0, 0.0), (0.0, 1.0)),
    upper_quantile=0.9,
)


def _square() -> tuple[NDArray[np.int32], Compartments]:
    labels = np.zeros((20, 24), np.int32)
    labels[5:12, 6:13], labels[6:12, 16:20] = 1, 2
    return labels, compartments(labels, labels > 0, half_ring_px=1)


def _tile(labels: NDArray[np.int32], parts: Compartments) -> TileCells:
    table = pd.DataFrame({"cell_id": np.arange(1, parts.n + 1, dtype=np.int32)})
    return TileCells(table, np.empty(parts.n, object), labels, parts)


def test_amounts_of_a_drawn_cell() -> None:
    labels, parts = _square()
    pixels = np.full((20, 24, 2), 10, np.uint16)
    pixels[..., 0] = 20
    pixels[6:11, 7:12, 1] = 110  # the inside of the first cell
    pixels[6:11, 7, 1] = 60
    table = with_markers(_tile(labels, parts), pixels, PANEL).table
    first = table.iloc[0]
    # 25 pixels inside, 5 of them darker; 24 + 28 in the ring.
    assert first["PD-1_nucleus_mean"] == pytest.approx(90)
    assert first["PD-1_nucleus_median"] == 100
    assert first["PD-1_ring_upper"] == 0
    assert first["PD-1_cell_mean"] == pytest.approx(90 * 25 / 77)
    assert (table.filter(like="TOX") == 0).all(axis=None)
    assert list(table.columns) == ["cell_id", *marker_columns(PANEL.markers)]
    assert set(table.dtypes[1:]) == {np.dtype(np.float32)}


def test_what_lies_below_the_background_is_negative() -> None:
    labels, parts = _square()
    table = with_markers(_tile(labels, parts), np.zeros((20, 24, 2), np.uint8), PANEL).table
    assert (table.filter(like="PD-1") == -10).all(axis=None)
    assert (table.filter(like="TOX") == -20).all(axis=None)


def test_a_compartment_without_pixels_has_no_amount() -> None:
    labels = np.zeros((8, 8), np.int32)
    labels[2:4, 1:7] = 1
    parts = compartments(labels, labels > 0, half_ring_px=1)
    found = statistics(np.ones(len(parts.owner), np.float32), parts, 0.95)
    assert np.isnan(found[0]).all()
    assert (found[1:] == 1).all()


def test_a_tile_without_cells_has_the_columns() -> None:
    labels = np.zeros((8, 8), np.int32)
    table = with_markers(
        _tile(labels, compartments(labels, labels > 0, half_ring_px=1)), np.zeros((8, 8, 2)), PANEL
    ).table
    assert list(table.columns) == ["cell_id", *marker_columns(PANEL.markers)]
    assert len(table) == 0


@settings(max_examples=50)
@given(
    arrays(np.int32, (10, 12), elements=st.integers(0, 3)),
    arrays(np.float32, (10, 12), elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, -0.0, 7.5])),
    st.integers(1, 3),
    st.floats(0.51, 0.99),
)
def test_agrees_with_numpy_cell_by_cell(
    labels: NDArray[np.int32], image: NDArray[np.float32], radius: int, quantile: float
) -> None:
    parts = compartments(labels, labels > 0, half_ring_px=radius)
    found = statistics(image[parts.rows, parts.columns], parts, quantile)
    assert found.shape == (3, 3, parts.n)
    for cell in range(parts.n):
        for place, which in enumerate((parts.nucleus, parts.ring, slice(None))):
            own = parts.owner[which] == cell + 1
            values = image[parts.rows[which][own], parts.columns[which][own]].astype(np.float64)
            if len(values) == 0:
                assert np.isnan(found[place, :, cell]).all()
                continue
            expected = values.mean(), np.median(values), np.quantile(values, quantile)
            np.testing.assert_allclose(found[place, :, cell], expected, rtol=1e-9, atol=1e-6)


@given(st.integers(0, 50), st.integers(0, 50))
def test_a_cell_is_the_same_wherever_it_lies(down: int, right: int) -> None:
    rng = np.random.default_rng(0)
    labels, parts = _square()
    image = rng.normal(0, 1000, labels.shape).astype(np.float32)
    moved = np.zeros((80, 90), np.int32)
    moved[down : down + 20, right : right + 24] = labels
    wide = np.zeros((80, 90), np.float32)
    wide[down : down + 20, right : right + 24] = image
    there = compartments(moved, moved > 0, half_ring_px=1)
    np.testing.assert_array_equal(
        statistics(image[parts.rows, parts.columns], parts, 0.95),
        statistics(wide[there.rows, there.columns], there, 0.95),
    )


def test_the_schema_follows_the_panel() -> None:
    columns = list(cell_columns(("PD-1", "TCF1")))
    assert columns[: len(CELL_COLUMNS)] == list(CELL_COLUMNS)
    assert len(columns) == len(CELL_COLUMNS) + 2 * len(COMPARTMENTS) * len(STATISTICS)
    assert columns[len(CELL_COLUMNS)] == "PD-1_nucleus_mean"
    assert markers_of(columns) == ("PD-1", "TCF1")
    assert markers_of([*CELL_COLUMNS, "geometry"]) == ()
    assert cell_columns(()) == CELL_COLUMNS


class TestAgainstInForm:
    """FIHC4 of akoyabio/phenoptr: the program's own table and maps."""

    def test_our_statistics_over_its_compartments(self, data_dir: Path) -> None:
        found = load_script("benchmarks/markers.py").on_inform_compartments(data_dir / "mif")
        assert len(found) == 5 * 4
        assert min(found.values()) >= 0.98

    def test_our_compartments_round_its_outlines(self, data_dir: Path) -> None:
        found = load_script("benchmarks/markers.py").on_inform_outlines(data_dir / "mif")
        assert len(found) == 5 * 3
        assert min(found.values()) >= 0.95
