"""Mixing: pairs, shared squares, entropy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histo.errors import PointsError
from histo.measure.spatial.mixing import (
    entropy_bits,
    mixing_score,
    morisita_horn,
    percentage_above,
    square_areas_mm2,
    square_counts,
)
from histo.measure.spatial.window import MaskWindow

counts = arrays(np.int64, (3, 4), elements=st.integers(0, 50))


class TestMixingScore:
    def test_counts_each_pair_once(self):
        found = mixing_score([[0, 0], [5, 0], [100, 0]], [[0, 5], [200, 0]], 10)
        assert (found.n_reference_target_pairs, found.n_reference_reference_pairs) == (2, 1)
        assert found.score == 2
        assert found.normalised == 2 * 2 / 2 / 2

    def test_of_kinds_that_chance_mixes_is_1(self):
        rng = np.random.default_rng(0)
        found = mixing_score(rng.uniform(0, 500, (2000, 2)), rng.uniform(0, 500, (1000, 2)), 20)
        assert found.normalised == pytest.approx(1, abs=0.02)

    def test_no_neighbours(self):
        assert mixing_score([[0, 0], [90, 0]], [[0, 1]], 10).score is None
        assert mixing_score([], [[0, 1]], 10).normalised is None
        assert mixing_score([[0, 0], [1, 0]], [], 10).normalised is None


class TestMorisitaHorn:
    @given(x=counts, t=counts)
    def test_lies_between_0_and_1_and_mirrors(self, x, t):
        index = morisita_horn(x, t)
        if x.sum() == 0 or t.sum() == 0:
            assert np.isnan(index)
            return
        assert -1e-12 <= index <= 1 + 1e-12
        assert index == pytest.approx(morisita_horn(t, x))
        assert index == pytest.approx(morisita_horn(3 * x, t))
        # Squares that hold neither, as those without tissue, do not matter.
        assert index == pytest.approx(morisita_horn(np.append(x, [0, 0]), np.append(t, [0, 0])))

    def test_of_equal_and_of_separate_kinds(self):
        assert morisita_horn([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
        assert morisita_horn([1, 0, 3], [0, 4, 0]) == 0

    def test_by_hand(self):
        # p = (3/4, 1/4), q = (1/2, 1/2): 2 * 1/2 / (10/16 + 1/2).
        assert morisita_horn([3, 1], [5, 5]) == pytest.approx(8 / 9)


class TestEntropy:
    def test_by_hand(self):
        found = entropy_bits([[1, 1], [3, 1], [7, 0], [0, 0]])
        np.testing.assert_allclose(found, [1, 2 - 0.75 * np.log2(3), 0, 0])

    @given(counts)
    def test_is_at_most_that_of_equal_numbers(self, n):
        entropy = entropy_bits(n)
        assert entropy.shape == (3,)
        assert (entropy >= 0).all()
        assert (entropy <= 2 + 1e-12).all()

    def test_percentage_reaches_the_threshold(self):
        assert percentage_above([0.0, 0.75, 1.0], 0.75) == pytest.approx(200 / 3)
        assert np.isnan(percentage_above([], 0.75))


class TestSquares:
    def test_hold_all_points_and_all_tissue(self, tissue, strew):
        points = strew(tissue, 1000, np.random.default_rng(0))
        n, area = square_counts(points, tissue, 100), square_areas_mm2(tissue, 100)
        assert n.sum() == 1000
        assert area.sum() == pytest.approx(tissue.area_um2 / 1e6)
        assert (n[area == 0] == 0).all()
        assert n.shape == area.shape == (5, 7)
        # Row 2, column 3.
        inside = (np.floor(points / 100) == (3, 2)).all(axis=1)
        assert n[2, 3] == inside.sum()

    def test_refused(self, tissue):
        with pytest.raises(PointsError, match="larger squares"):
            square_counts([], tissue, 4)
        with pytest.raises(PointsError, match="1 of 1 points lie outside"):
            square_counts([[-5, 0]], tissue, 100)
        with pytest.raises(PointsError, match="larger squares"):
            square_areas_mm2(MaskWindow(np.ones((2, 2), bool), 8.0), np.nan)
