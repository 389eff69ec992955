"""Agreement with R's spatstat on a rectangle, a polygon and a polygon with holes.

Points and values come from `make_spatstat_values.R`; the versions that made them are in
`spatstat_versions.csv`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shapely.geometry import Polygon

from histo.measure.spatial.cross_g import cross_g, kaplan_meier_mean
from histo.measure.spatial.cross_k import cross_k
from histo.measure.spatial.intensity import kernel_intensity
from histo.measure.spatial.nearest import ann_index, nearest_neighbour, nearest_other
from histo.measure.spatial.window import PolygonWindow

FOLDER = Path(__file__).parent
WINDOWS = ("rectangle", "polygon", "holes")
CORRECTIONS = ("border", "translation", "isotropic")


class Golden:
    def __init__(self, name):
        rings = pd.read_csv(FOLDER / "spatstat_windows.csv").query("window == @name")
        outline, *holes = [ring[["x_um", "y_um"]].to_numpy() for _, ring in rings.groupby("ring")]
        self.window = PolygonWindow.of(Polygon(outline, holes))
        points = pd.read_csv(FOLDER / "spatstat_points.csv").query("window == @name")
        x, t = (points[points["kind"] == kind] for kind in "xt")
        self.x, self.t = (kind[["x_um", "y_um"]].to_numpy() for kind in (x, t))
        self.intensity_x, self.intensity_t = (kind["intensity_per_um2"].to_numpy() for kind in (x, t))
        self.values = pd.read_csv(FOLDER / "spatstat_values.csv").query("window == @name")

    def curve(self, statistic, correction):
        rows = self.values.query("statistic == @statistic and correction == @correction")
        assert len(rows) > 0
        return rows["r_um"].to_numpy(), rows["value"].to_numpy()

    def value(self, statistic, correction):
        return self.curve(statistic, correction)[1].item()


@pytest.fixture(params=WINDOWS, scope="module")
def golden(request):
    return Golden(request.param)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_spatstat_cross_k(golden, correction):
    r, expected = golden.curve("K", correction)
    found = cross_k(golden.x, golden.t, golden.window, r, correction=correction)
    np.testing.assert_allclose(found.k_um2, expected, rtol=1e-6)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_spatstat_inhomogeneous_cross_k(golden, correction):
    r, expected = golden.curve("K_inhom", correction)
    found = cross_k(
        golden.x,
        golden.t,
        golden.window,
        r,
        correction=correction,
        intensity_x_per_um2=golden.intensity_x,
        intensity_t_per_um2=golden.intensity_t,
    )
    np.testing.assert_allclose(found.k_um2, expected, rtol=1e-6)


def test_spatstat_cross_l(golden):
    r, expected = golden.curve("L", "isotropic")
    found = cross_k(golden.x, golden.t, golden.window, r, correction="isotropic")
    np.testing.assert_allclose(found.l_um, expected, rtol=1e-6)


@pytest.mark.parametrize("estimator", ["border", "kaplan_meier", "theoretical"])
def test_spatstat_cross_g(golden, estimator):
    r, expected = golden.curve("G", estimator)
    found = cross_g(golden.x, golden.t, golden.window, r)
    np.testing.assert_allclose(getattr(found, estimator), expected, rtol=1e-6)


def test_spatstat_nearest_neighbour(golden):
    distance, _ = nearest_neighbour(golden.x, golden.t)
    assert distance.mean() == pytest.approx(golden.value("nearest", "mean"), rel=1e-9)


def test_spatstat_clark_evans(golden):
    found = ann_index(golden.t, golden.window.area_um2)
    assert found.index == pytest.approx(golden.value("clark_evans", "none"), rel=1e-9)
    corrected = kaplan_meier_mean(nearest_other(golden.t), golden.window.border_distance_um(golden.t))
    assert corrected / found.expected_um == pytest.approx(golden.value("clark_evans", "cdf"), rel=1e-6)


def test_spatstat_window(golden):
    assert golden.window.area_um2 == pytest.approx(golden.value("area", "um2"), rel=1e-9)
    distance = golden.window.border_distance_um(golden.x)
    assert distance.sum() == pytest.approx(golden.value("border_distance", "sum"), rel=1e-9)


def test_spatstat_kernel_intensity():
    golden = Golden("rectangle")
    found = kernel_intensity(golden.t, golden.window, sigma_um=120)
    # Ours is smoothed on a grid, so that it stays quick for a million points.
    assert found.mean() == pytest.approx(golden.value("intensity", "uniform"), rel=2e-3)
    assert found.std(ddof=1) == pytest.approx(golden.value("intensity_sd", "uniform"), rel=1e-2)
