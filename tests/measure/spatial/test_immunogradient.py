"""The Immunogradient on a tumour with a straight edge, where its parts are known."""

from __future__ import annotations

import numpy as np
import pytest

from histo.errors import PointsError
from histo.measure.spatial.immunogradient import immunogradient
from histo.measure.spatial.window import MaskWindow

SHAPE, MPP = (300, 400), 8.0
# Tumour on the right of 1600 um, all across.
TUMOUR = np.zeros(SHAPE, bool)
TUMOUR[:, 200:] = True


@pytest.fixture(scope="module")
def window():
    return MaskWindow(np.ones(SHAPE, bool), MPP)


def with_density(left, right, rng):
    """Strew points per mm2 outside the tumour and in it."""
    density = np.where(TUMOUR, right, left).astype(float)
    rows, columns = np.nonzero(np.ones(SHAPE, bool))
    n = rng.poisson(density.ravel() * MPP**2 / 1e6)
    at = np.stack([np.repeat(columns, n), np.repeat(rows, n)], axis=1)
    return (at + rng.random(at.shape)) * MPP


def test_even_density(window):
    points = with_density(500, 500, np.random.default_rng(0))
    found = immunogradient(points, window, TUMOUR)
    assert found.rank.tolist() == list(range(-4, 5))
    # A rank is a row of hexagons along the edge, 2,400 um long: each is 130 um high every 97.5 um.
    assert ((found.n_hexagons >= 22) & (found.n_hexagons <= 27)).all()
    np.testing.assert_allclose(found.area_mm2 / found.n_hexagons, 1.5 * np.sqrt(3) * 65**2 / 1e6, rtol=0.03)
    np.testing.assert_allclose(found.density_per_mm2, 500, rtol=0.25)
    assert found.centre_of_mass == pytest.approx(0, abs=0.2)
    assert found.immunodrop == pytest.approx(1, abs=0.15)


def test_excluded_and_infiltrated(window):
    rng = np.random.default_rng(1)
    excluded = immunogradient(with_density(1000, 100, rng), window, TUMOUR)
    assert excluded.centre_of_mass < -1
    assert excluded.immunodrop == pytest.approx(10, rel=0.3)
    infiltrated = immunogradient(with_density(100, 1000, rng), window, TUMOUR)
    assert infiltrated.centre_of_mass > 1
    # The first hexagons outside hold a strip of tumour, since up to half of one may be.
    assert 0.1 < infiltrated.immunodrop < 0.4


def test_ranks_lie_where_they_say(window):
    # Cells in the tumour, 230 to 300 um from its edge: two hexagons of 113 um in.
    points = np.stack([np.linspace(1830, 1900, 500), np.linspace(10, 2390, 500)], axis=1)
    found = immunogradient(points, window, TUMOUR)
    assert found.n_cells[found.rank == 2].sum() > 300
    assert found.n_cells[found.rank < 1].sum() == 0
    assert found.centre_of_mass == pytest.approx(2, abs=0.5)


def test_turned_by_a_quarter_it_is_nearly_the_same():
    rng = np.random.default_rng(2)
    points = with_density(800, 200, rng)
    one = immunogradient(points, MaskWindow(np.ones(SHAPE, bool), MPP), TUMOUR)
    other = immunogradient(points[:, ::-1], MaskWindow(np.ones(SHAPE[::-1], bool), MPP), TUMOUR.T)
    assert other.centre_of_mass == pytest.approx(one.centre_of_mass, abs=0.35)


def test_without_tumour_there_is_no_edge(window):
    found = immunogradient([], window, np.zeros(SHAPE, bool))
    assert found.n_hexagons.sum() == 0
    assert found.centre_of_mass is None
    assert found.immunodrop is None


def test_tumour_at_glass_has_no_edge_there():
    mask = np.zeros(SHAPE, bool)
    mask[:, 200:] = True
    found = immunogradient([], MaskWindow(mask, MPP), TUMOUR)
    assert found.n_hexagons.sum() == 0


def test_without_cells_there_is_nothing_to_divide_by(window):
    found = immunogradient([], window, TUMOUR)
    assert (found.density_per_mm2 == 0).all()
    assert found.centre_of_mass is None
    assert found.immunodrop is None


def test_errors(window):
    with pytest.raises(PointsError, match="one grid"):
        immunogradient([], window, TUMOUR[:10])
    with pytest.raises(PointsError, match="outside"):
        immunogradient([[-1, 0]], window, TUMOUR)
