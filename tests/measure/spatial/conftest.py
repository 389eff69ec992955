"""Windows and points of the tests of spatial statistics."""

from __future__ import annotations

import numpy as np
import pytest
from shapely.geometry import Polygon

from histo.measure.spatial.window import MaskWindow, PolygonWindow


@pytest.fixture(scope="session")
def holed() -> PolygonWindow:
    """A window of 300 x 240 um with two holes and a bay: much edge for its area."""
    outline = [(0, 0), (300, 0), (300, 240), (170, 240), (150, 170), (130, 240), (0, 240)]
    holes = [[(40, 40), (40, 120), (110, 120), (110, 40)], [(190, 60), (190, 150), (250, 150), (250, 60)]]
    return PolygonWindow.of(Polygon(outline, holes))


@pytest.fixture(scope="session")
def tissue() -> MaskWindow:
    """A mask of 60 x 80 pixels of 8 um with a hole and a ragged edge."""
    row, column = np.indices((60, 80))
    mask = (np.hypot(row - 30, (column - 40) * 0.8) < 28 + 2 * np.sin(column)) & ~(
        (abs(row - 25) < 6) & (abs(column - 50) < 9)
    )
    return MaskWindow(mask, 8.0)


@pytest.fixture(scope="session")
def strew():
    """Strew n points over a window, as chance would."""

    def points(window, n, rng):
        if isinstance(window, MaskWindow):
            row, column = np.nonzero(window.mask)
            at = rng.integers(0, len(row), n)
            return (np.stack([column[at], row[at]], axis=1) + rng.random((n, 2))) * window.mpp
        x0, y0, x1, y1 = window.polygon.bounds
        kept = np.empty((0, 2))
        while len(kept) < n:
            drawn = rng.uniform((x0, y0), (x1, y1), (2 * n, 2))
            kept = np.concatenate([kept, drawn[window.contains(drawn)]])
        return kept[:n]

    return points
