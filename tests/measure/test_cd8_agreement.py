from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from histo.cells.table import CD8, OTHER
from histo.measure.cd8_agreement import RingIntensities, best_cut
from histo.measure.summary import Cd8Agreement


def _agreement(cd8: list[float], other: list[float], in_tissue: bool = True) -> Cd8Agreement:
    rings = RingIntensities()
    cells = pd.DataFrame(
        {
            "cell_class": [CD8] * len(cd8) + [OTHER] * len(other),
            "cd8_ring_mean": np.array([*cd8, *other], np.float32),
            "in_tissue": in_tissue,
        }
    )
    # In pieces, as they come from tiles.
    for start in range(0, len(cells), 7):
        rings.add(cells.iloc[start : start + 7])
    return rings.agreement(unit="share of full scale", level=0.95)


def test_classes_that_intensity_separates_agree() -> None:
    found = _agreement([0.8] * 30, [0.2] * 100)
    assert (found.n_cd8, found.n_other) == (30, 100)
    assert found.cut.value == pytest.approx(0.5, abs=0.01)
    assert (found.cd8_below.value, found.other_above.value) == (0, 0)
    assert found.cd8_below.high is not None
    assert found.cd8_below.high > 0.05


def test_calls_against_intensity_are_counted() -> None:
    found = _agreement([0.8] * 30 + [0.1] * 10, [0.2] * 90 + [0.9] * 10)
    assert found.cd8_below.value == pytest.approx(0.25)
    assert found.other_above.value == pytest.approx(0.1)


def test_with_few_cells_of_a_class_there_is_no_number() -> None:
    found = _agreement([0.8] * 19, [0.2] * 100)
    assert found.cut.value is None
    assert found.cut.not_assessable == "19 CD8+ cells and 100 others, 20 of each needed"
    assert _agreement([0.8] * 30, [0.2] * 100, in_tissue=False).n_cd8 == 0


def test_cells_without_a_ring_are_left_out() -> None:
    found = _agreement([0.8] * 30 + [float("nan")], [0.2] * 30)
    assert found.n_cd8 == 30


@given(arrays(np.int64, (2, 12), elements=st.integers(0, 5)))
def test_no_other_cut_separates_better(counts: NDArray[np.int64]) -> None:
    counts[:, 0] += 1
    shares = counts / counts.sum(axis=1, keepdims=True)
    gains = [shares[0, edge:].sum() + shares[1, :edge].sum() for edge in range(13)]
    assert gains[best_cut(counts)] == pytest.approx(max(gains))
