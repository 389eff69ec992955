"""Block-bootstrap intervals: as Poisson's for independent cells, wider where cells cluster."""

from __future__ import annotations

import numpy as np
import pytest

from histo.errors import PointsError
from histo.measure.block_bootstrap import block_bootstrap_density
from histo.measure.density import poisson_density


def width(estimate):
    return estimate.high - estimate.low


def test_independent_cells_have_poissons_interval():
    rng = np.random.default_rng(0)
    areas = rng.uniform(0.05, 0.25, 400)
    ratios = []
    for seed in range(20):
        counts = rng.poisson(40 * areas)
        found = block_bootstrap_density(counts, areas, seed=seed, n_samples=1000)
        exact = poisson_density(int(counts.sum()), float(areas.sum()), 0.95)
        assert found.value == pytest.approx(exact.value)
        ratios.append(width(found) / width(exact))
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)


def test_it_covers_the_truth_where_cells_cluster_and_poisson_does_not():
    rng = np.random.default_rng(1)
    areas = np.full(100, 0.25)
    covered, poisson_covered = [], []
    for seed in range(120):
        counts = rng.poisson(100 * areas * rng.gamma(1.5, 1 / 1.5, 100))
        found = block_bootstrap_density(counts, areas, seed=seed, n_samples=400)
        exact = poisson_density(int(counts.sum()), 25.0, 0.95)
        covered.append(found.low <= 100 <= found.high)
        poisson_covered.append(exact.low <= 100 <= exact.high)
    assert np.mean(covered) > 0.87
    assert np.mean(poisson_covered) < 0.5


def test_the_same_seed_gives_the_same_interval():
    counts, areas = np.arange(20), np.ones(20)
    assert block_bootstrap_density(counts, areas) == block_bootstrap_density(counts, areas)
    assert block_bootstrap_density(counts, areas) != block_bootstrap_density(counts, areas, seed=1)


def test_blocks_alike():
    found = block_bootstrap_density(np.full(12, 3), np.full(12, 0.1))
    assert (found.low, found.value, found.high) == pytest.approx((30, 30, 30))
    assert found.low <= found.value <= found.high


def test_few_blocks():
    found = block_bootstrap_density([1] * 9 + [0], [1.0] * 9 + [0.0])
    assert found.value is None
    assert found.not_assessable == "only 9 blocks of tissue, 10 needed"


@pytest.mark.parametrize(
    ("counts", "areas", "what"),
    [
        ([1, 2], [1.0], "do not fit"),
        ([1, -2], [1.0, 1.0], "do not fit"),
        ([1, 2], [1.0, 0.0], "no area"),
    ],
)
def test_errors(counts, areas, what):
    with pytest.raises(PointsError, match=what):
        block_bootstrap_density(counts, areas)
