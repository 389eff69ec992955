from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo.measure.density_map import DensityMap


def test_cells_count_in_the_square_that_holds_them() -> None:
    density = DensityMap((250.0, 130.0), 100.0)
    assert density.shape == (2, 3)
    density.add(np.array([0.0, 99.9, 100.0, 249.0]), np.array([0.0, 0.0, 100.0, 129.0]))
    density.add(np.array([50.0]), np.array([50.0]))
    np.testing.assert_array_equal(density.counts, [[3, 0, 0], [0, 1, 1]])


def test_density_is_count_over_tissue_and_nan_without() -> None:
    density = DensityMap((200.0, 100.0), 100.0)
    density.add(np.array([10.0, 20.0, 110.0]), np.array([10.0, 20.0, 10.0]))
    per_mm2 = density.per_mm2(np.array([[0.005, 0.0]]))
    assert per_mm2.dtype == np.float32
    np.testing.assert_allclose(per_mm2, [[400.0, np.nan]])


def test_no_cell_on_the_edge_is_lost() -> None:
    density = DensityMap((200.0, 100.0), 100.0)
    density.add(np.array([200.0, 200.4, -0.2]), np.array([100.0, 50.0, 50.0]))
    np.testing.assert_array_equal(density.counts, [[1, 2]])


@given(
    st.lists(st.tuples(st.floats(0, 999.9), st.floats(0, 499.9)), max_size=50),
    st.floats(7, 400),
    st.integers(0, 50),
)
def test_the_order_and_batches_do_not_matter(
    places: list[tuple[float, float]], cell_um: float, cut: int
) -> None:
    x, y = np.array(places, float).reshape(-1, 2).T
    whole, parts = DensityMap((1000.0, 500.0), cell_um), DensityMap((1000.0, 500.0), cell_um)
    whole.add(x, y)
    parts.add(x[cut:], y[cut:])
    parts.add(x[:cut], y[:cut])
    np.testing.assert_array_equal(whole.counts, parts.counts)
    assert whole.counts.sum() == len(places)


@given(st.floats(1, 20), st.floats(20, 300))
def test_area_is_shared_out_without_loss(mpp: float, cell_um: float) -> None:
    share = np.random.default_rng(0).random((37, 53))
    density = DensityMap((53 * mpp, 37 * mpp), cell_um)
    area = density.area_on(share, mpp)
    assert area.shape == density.shape
    assert area.sum() == pytest.approx(share.sum() * mpp**2 / 1e6)
    assert area.max() <= cell_um**2 / 1e6 * (1 + 1e-6)


def test_what_does_not_fit_is_refused() -> None:
    density = DensityMap((200.0, 100.0), 100.0)
    with pytest.raises(ValueError, match="finite"):
        density.add(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(ValueError, match="shape"):
        density.per_mm2(np.ones((5, 5)))
    with pytest.raises(ValueError, match="cell_um"):
        DensityMap((1.0, 1.0), 0.0)
