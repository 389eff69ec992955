"""Weights for the edge of the window, against the share of a circle by counting points on it."""

from __future__ import annotations

import numpy as np
import pytest

from histo.measure.spatial.edge import isotropic_weight, translation_weight
from histo.measure.spatial.window import PolygonWindow


def test_isotropic_is_one_over_the_share_of_the_circle_inside(holed, strew):
    rng = np.random.default_rng(0)
    x, t = strew(holed, 150, rng), strew(holed, 150, rng)
    radius = np.hypot(*(t - x).T)
    angle = (np.arange(20_000) + 0.5) * 2 * np.pi / 20_000
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    share = [holed.contains(at + r * circle).mean() for at, r in zip(x, radius, strict=True)]
    np.testing.assert_allclose(1 / isotropic_weight(holed, x, radius), np.maximum(share, 0.01), atol=5e-4)


SQUARE = PolygonWindow.rectangle(0, 0, 100, 100)


@pytest.mark.parametrize(
    ("centre", "radius", "weight"),
    [
        ((50, 50), 40, 1),
        ((50, 0), 30, 2),
        ((0, 0), 30, 4),
        ((0, 0), 100, 4),
        ((50, 30), 30, 1),
        ((50, 30), 30 * (1 + 1e-15), 1),
        ((50, 30), 30 * (1 + 1e-12), 1),
        ((50, 50), 50 * np.sqrt(2) * (1 - 1e-6), 100),
        # Through the corner (0, 0): 2 * 53.1 degrees lie beyond one side, 2 * 36.9 beyond the other.
        ((30, 40), 50, 2),
    ],
    ids=[
        "inside",
        "edge",
        "corner",
        "corner to corner",
        "touch",
        "just over",
        "over",
        "last corners",
        "vertex",
    ],
)
def test_isotropic_at_special_places(centre, radius, weight):
    found = isotropic_weight(SQUARE, np.array([centre], float), np.array([radius], float))
    assert found.item() == pytest.approx(weight, rel=1e-4)


def test_translation_is_bounded():
    np.testing.assert_allclose(translation_weight(8.0, np.array([8.0, 4.0, 0.01, 0.0])), [1, 2, 100, 100])
