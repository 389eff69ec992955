"""Hot spots and autocorrelation, against esda on the same grid of tissue."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import norm

from histo.errors import PointsError
from histo.measure.spatial.hotspots import colocalisation, hot_spots, moran_i


@pytest.fixture(scope="module")
def grid():
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, 50.0, (14, 18))
    values[3:6, 4:8] += 400
    in_tissue = rng.random((14, 18)) < 0.85
    return values, in_tissue


def neighbours(in_tissue):
    """Weights of esda: tissue squares that touch, diagonals too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from libpysal.weights import W

    number = {tuple(at): k for k, at in enumerate(np.argwhere(in_tissue))}
    around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    lists = {
        k: [number[row + i, column + j] for i, j in around if (row + i, column + j) in number]
        for (row, column), k in number.items()
    }
    return W(lists, silence_warnings=True)


def test_esda_getis_ord(grid):
    from esda import G_Local

    values, in_tissue = grid
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = G_Local(values[in_tissue], neighbours(in_tissue), transform="B", star=True, permutations=0)
    found = hot_spots(values, in_tissue)
    np.testing.assert_allclose(found.z[in_tissue], theirs.Zs, rtol=1e-9)
    assert np.isnan(found.z[~in_tissue]).all()
    assert not found.hot[~in_tissue].any()


def test_esda_moran(grid):
    from esda import Moran

    values, in_tissue = grid
    theirs = Moran(values[in_tissue], neighbours(in_tissue), transformation="b", permutations=0)
    assert moran_i(values, in_tissue) == pytest.approx(theirs.I, rel=1e-9)


def test_false_discovery_rate_by_benjamini_and_hochberg(grid):
    values, in_tissue = grid
    found = hot_spots(values, in_tissue, level=0.01)
    p = np.sort(norm.sf(found.z[in_tissue]))
    passed = np.flatnonzero(p <= 0.01 * np.arange(1, len(p) + 1) / len(p))
    assert found.hot.sum() == passed[-1] + 1
    assert found.hot[4, 5]
    assert not found.hot[10:].any()


def test_noise_has_hardly_any_hot_spots():
    rng = np.random.default_rng(1)
    everywhere = np.ones((20, 20), bool)
    with_any = [hot_spots(rng.normal(size=(20, 20)), everywhere).hot.any() for _ in range(100)]
    assert np.mean(with_any) < 0.15


@pytest.mark.parametrize(
    ("values", "in_tissue"),
    [
        (np.full((4, 4), 0.1), np.ones((4, 4), bool)),
        (np.arange(9.0).reshape(3, 3), np.eye(3) > 2),
        (np.arange(4.0).reshape(2, 2), np.ones((2, 2), bool)),
        (np.arange(4.0).reshape(2, 2), np.array([[True, False], [False, False]])),
    ],
    ids=["constant", "no tissue", "all are neighbours", "one square"],
)
def test_nothing_to_see(values, in_tissue):
    found = hot_spots(values, in_tissue)
    assert not found.hot.any()
    assert (found.z[in_tissue] == 0).all()


@pytest.mark.parametrize("in_tissue", [np.zeros((3, 3), bool), np.eye(3) > 2])
def test_no_moran_without_tissue(in_tissue):
    assert np.isnan(moran_i(np.ones((3, 3)), in_tissue))


def test_no_moran_where_nothing_varies_or_touches():
    assert np.isnan(moran_i(np.ones((3, 3)), np.ones((3, 3), bool)))
    apart = np.zeros((3, 3), bool)
    apart[0, 0] = apart[2, 2] = True
    assert np.isnan(moran_i(np.arange(9.0).reshape(3, 3), apart))


def test_what_lies_outside_tissue_is_not_looked_at(grid):
    values, in_tissue = grid
    other = np.where(in_tissue, values, np.nan)
    np.testing.assert_array_equal(hot_spots(other, in_tissue).z, hot_spots(values, in_tissue).z)
    assert moran_i(other, in_tissue) == moran_i(values, in_tissue)


def test_colocalisation_weighs_by_area():
    hot_x, hot_t = np.array([[True, False, True]]), np.array([[True, True, False]])
    area = np.array([[0.3, 0.1, 0.5]])
    assert colocalisation(hot_x, hot_t, area) == pytest.approx(0.75)
    assert colocalisation(hot_x, np.zeros((1, 3), bool), area) is None


def test_errors():
    with pytest.raises(PointsError, match="one shape"):
        hot_spots(np.ones((2, 2)), np.ones((2, 3), bool))
    with pytest.raises(PointsError, match="1 squares"):
        moran_i(np.array([[np.nan, 1.0]]), np.ones((1, 2), bool))
