"""Stamping: what a pixel shows does not depend on the window it is painted in."""

from __future__ import annotations

import numpy as np
import pytest

from histo.slide.geometry import Box
from histo.synthetic import population
from histo.synthetic.noise import noise
from histo.synthetic.stamp import concatenate, stamp


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 120, (2, 90)).astype(np.float32)
    round_cells = np.zeros(30, np.float32)
    return concatenate(
        [
            population.tumour_cells(rng, x[:40], y[:40]),
            population.hepatocytes(rng, x[40:50], y[40:50]),
            population.lymphocytes(rng, x[50:60], y[50:60]),
            population.cd8_cells(rng, x[60:], y[60:], squeezed=round_cells, along=round_cells),
            *population.vessels_along(rng, x[:3], y[:3], round_cells[:3], 0.6),
        ]
    )


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_windows_join_without_a_seam(cells, mpp):
    size = int(120 / mpp)
    whole = stamp(cells, Box(0, 0, size, size), mpp)
    for box in (Box(0, 0, 100, 70), Box(100, 33, 77, 120), Box(150, 150, 90, 90)):
        part = stamp(cells, box, mpp)
        window = np.s_[box.y : box.bottom, box.x : box.right]
        np.testing.assert_array_equal(part.owner, whole.owner[window])
        np.testing.assert_allclose(part.nuclear, whole.nuclear[window], atol=1e-6)
        np.testing.assert_allclose(part.brown, whole.brown[window], atol=1e-5)
        np.testing.assert_allclose(part.cytoplasm, whole.cytoplasm[window], atol=1e-6)


def test_each_cell_owns_its_centre_unless_a_neighbour_is_deeper():
    rng = np.random.default_rng(2)
    x = np.array([20.2, 26.9, 60.0], np.float32)
    y = np.array([20.0, 20.0, 40.0], np.float32)
    zeros = np.zeros(3, np.float32)
    pair = population.cd8_cells(rng, x, y, squeezed=zeros, along=zeros)
    layers = stamp(pair, Box(0, 0, 160, 120), 0.5)
    assert [layers.owner[int(b / 0.5), int(a / 0.5)] for a, b in zip(x, y, strict=True)] == [0, 1, 2]
    # The seam of two touching cells lies between their centres.
    row = layers.owner[40]
    assert set(row[41:53]) <= {0, 1, -1}
    assert np.all(np.diff(row[41:53][row[41:53] >= 0]) >= 0)


def test_touching_rings_add_to_a_darker_seam():
    zeros = np.zeros(2, np.float32)
    y = np.array([20.0, 20.0], np.float32)

    def seam(distance_um):
        x = np.array([20.0, 20.0 + distance_um], np.float32)
        cells = population.cd8_cells(np.random.default_rng(5), x, y, squeezed=zeros, along=zeros)
        return stamp(cells, Box(0, 0, 120, 80), 0.5).brown.max()

    assert seam(7.0) > seam(30.0)


def test_nothing_in_reach_is_empty(cells):
    layers = stamp(cells, Box(5000, 5000, 32, 32), 0.5)
    assert (layers.owner == -1).all()
    assert not layers.nuclear.any()
    assert not layers.brown.any()


def test_noise_depends_on_position_only():
    whole = noise(Box(-40, 900, 300, 300), 2.0, (17, 5))
    part = noise(Box(30, 1000, 60, 90), 2.0, (17, 5))
    np.testing.assert_array_equal(part, whole[100:190, 70:130])
    assert abs(noise(Box(0, 0, 1024, 1024), 2.0).std() - 1) < 0.01
