"""Cross-G: against its definitions, unbiased where the window has holes, and its error paths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histo.errors import PointsError
from histo.measure.spatial.cross_g import auc_um, cross_g, kaplan_meier, kaplan_meier_mean, reduced_sample
from histo.measure.spatial.window import PolygonWindow

R = np.array([0.0, 4.0, 8.0, 12.0])


@pytest.mark.parametrize("estimator", ["border", "kaplan_meier"])
def test_no_interaction_gives_the_theory_in_a_window_with_holes(holed, strew, estimator):
    rng = np.random.default_rng(1)
    found = [cross_g(strew(holed, 60, rng), strew(holed, 90, rng), holed, R) for _ in range(300)]
    curves = np.array([getattr(g, estimator) for g in found])
    error = curves.std(axis=0) / np.sqrt(len(curves))
    # As many T each time, so the chance of none within r is binomial.
    expected = 1 - (1 - np.pi * R**2 / holed.area_um2) ** 90
    assert (np.abs(curves.mean(axis=0) - expected)[1:] < 3.5 * error[1:]).all()
    np.testing.assert_allclose(found[0].theoretical, expected, atol=0.01)
    assert curves[:, 0].tolist() == [0] * len(curves)


@given(
    distance=arrays(np.float64, 12, elements=st.integers(1, 12)),
    border=arrays(np.float64, 12, elements=st.integers(1, 12)),
)
def test_estimators_by_their_definitions(distance, border):
    r = np.arange(0.0, 14)
    with np.errstate(invalid="ignore"):
        expected = [((distance <= at) & (border >= at)).sum() / (border >= at).sum() for at in r]
    np.testing.assert_allclose(reduced_sample(distance, border, r), expected)
    seen = np.minimum(distance, border)
    left = 1.0
    for k, at in enumerate(r):
        at_risk = (seen >= at).sum()
        left *= 1 - ((distance == at) & (distance <= border)).sum() / at_risk if at_risk else 1
        assert kaplan_meier(distance, border, r)[k] == pytest.approx(1 - left)


def test_without_an_edge_both_are_the_share_of_points():
    distance, far = np.array([1.0, 3.0, 3.0, 7.0]), np.full(4, 100.0)
    r = np.array([0.0, 1.0, 2.0, 3.0, 10.0])
    for estimator in (reduced_sample, kaplan_meier):
        np.testing.assert_allclose(estimator(distance, far, r), [0, 0.25, 0.25, 0.75, 1])
    assert kaplan_meier_mean(distance, far) == pytest.approx(3.5)


def test_no_neighbour_before_the_edge():
    far, near = np.full(3, 9.0), np.ones(3)
    assert kaplan_meier(far, near, np.array([0.0, 5.0])).tolist() == [0, 0]
    assert np.isnan(kaplan_meier_mean(far, near))


class TestAuc:
    def test_of_a_line(self):
        assert auc_um([0, 10, 20], [0, 0.5, 1.0]) == pytest.approx(10)

    def test_ends_between_distances(self):
        assert auc_um([0, 15, 30], [0, 0.5, 1.0], 20) == pytest.approx(20 * 20 / 30 / 2)

    @pytest.mark.parametrize("r", [[1, 30], [0, 15]])
    def test_too_short(self, r):
        with pytest.raises(PointsError, match="no area from 0 to 20 um"):
            auc_um(r, [0, 1])


@pytest.mark.parametrize(
    ("x", "t", "what"),
    [([], [(1, 1)], "no points of X"), ([(1, 1)], [], "no points of T"), ([(9, 9)], [(1, 1)], "outside")],
)
def test_errors(x, t, what):
    with pytest.raises(PointsError, match=what):
        cross_g(x, t, PolygonWindow.rectangle(0, 0, 5, 5), R)
