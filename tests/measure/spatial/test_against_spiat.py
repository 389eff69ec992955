"""Golden values of SPIAT (Feng et al. 2023, Nat Commun 14:2697): its tests on its `defined_image`.

The values are those of SPIAT's own tests (tests/testthat), each within the tolerance it can be expected to
have; `AUC_of_cross_function` differs by 0.3 % because spatstat bins distances.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from histo.measure.spatial.cross_k import auc_difference, cross_k, crossing
from histo.measure.spatial.hotspots import moran_i
from histo.measure.spatial.mixing import entropy_bits, mixing_score, percentage_above
from histo.measure.spatial.nearest import (
    ann_index,
    distance_summary,
    nearest_neighbour,
    nearest_other,
    percentage_within,
)
from histo.measure.spatial.structure import STRUCTURES, share_in_structures, structure_of_cells
from histo.measure.spatial.window import PolygonWindow
from histo.regions.from_cells import region_of_cells


class Image:
    def __init__(self, cells):
        self.points = cells[["x", "y"]].to_numpy()
        self.kind = cells["Cell.Type"].to_numpy(str)
        self.window = PolygonWindow.rectangle(*self.points.min(axis=0), *self.points.max(axis=0))

    def __getitem__(self, kind):
        return self.points[self.kind == kind]


@pytest.fixture(scope="module")
def image(data_dir):
    return Image(pd.read_csv(data_dir / "tables" / "spiat_defined_image_cells.csv"))


def test_spiat_average_minimum_distance(image):
    assert nearest_other(image.points).mean() == pytest.approx(17.01336, abs=5e-5)


def test_spiat_average_nearest_neighbour_index(image):
    found = ann_index(image["Tumour"], image.window.area_um2)
    assert found.index == pytest.approx(0.7864656, abs=5e-8)
    assert found.p_one_sided == pytest.approx(7.11e-32, rel=1e-3)
    assert found.z < 0


def test_spiat_percentage_of_cells_within_radius(image):
    found = percentage_within(image.points, image.kind == "Tumour", image.kind == "Immune3", 100)
    assert found == pytest.approx(17.45713, abs=5e-5)


def test_spiat_mixing_score(image):
    found = mixing_score(image["Tumour"], image["Immune1"], 50)
    assert (found.n_reference_target_pairs, found.n_reference_reference_pairs) == (80, 2513)
    assert found.score == pytest.approx(0.03183446, abs=5e-9)
    assert found.normalised == pytest.approx(0.0385216, abs=5e-8)


def test_spiat_entropy(image):
    found = entropy_bits([len(image["Immune1"]), len(image["Immune2"])])
    assert found == pytest.approx(0.9294873, abs=5e-8)


@pytest.fixture(scope="module")
def tumour_to_immune3(image):
    radii = np.linspace(0, 100, 100)
    return cross_k(image["Tumour"], image["Immune3"], image.window, radii, correction="border")


def test_spiat_cross_k(tumour_to_immune3):
    np.testing.assert_allclose(
        tumour_to_immune3.r_um[9:12], [9.09090909090, 10.10101010101, 11.11111], rtol=1e-6
    )
    np.testing.assert_allclose(tumour_to_immune3.k_um2[9:12], [0, 7.75578194807, 77.5578194807], rtol=1e-10)
    np.testing.assert_allclose(
        tumour_to_immune3.theoretical_um2[9:12], [259.6357564950, 320.53797098151, 387.850944887], rtol=1e-10
    )


def test_spiat_auc_of_cross_function(tumour_to_immune3):
    k = tumour_to_immune3
    assert auc_difference(k.r_um, k.k_um2, k.theoretical_um2) == pytest.approx(0.051703, rel=5e-3)


def test_spiat_crossing_of_cross_k(tumour_to_immune3):
    assert crossing(tumour_to_immune3) == pytest.approx(0.5, abs=5e-3)


def test_spiat_minimum_distances_between_kinds(image):
    distance, index = nearest_neighbour(image["Immune1"], image["Tumour"])
    # Cells are numbered from 1 in the order of the table.
    reference, target = (np.flatnonzero(image.kind == kind) + 1 for kind in ("Immune1", "Tumour"))
    assert reference[:3].tolist() == [15, 25, 30]
    assert target[index[:3]].tolist() == [32, 27, 32]
    np.testing.assert_allclose(distance[:3], [17.18740, 44.79503, 78.52918], atol=5e-6)


def test_spiat_summary_of_pairwise_distances(image):
    found = distance_summary(image["Immune1"], image["Tumour"])
    assert found.mean_um == pytest.approx(1013.3697, abs=5e-5)
    assert found.min_um == pytest.approx(13.59204, abs=5e-6)
    assert found.max_um == pytest.approx(2708.343, abs=5e-4)
    assert found.median_um == pytest.approx(1004.6579, abs=5e-5)
    assert found.sd_um == pytest.approx(413.7815, abs=1e-4)


@pytest.fixture(scope="module")
def grid(image):
    """Entropy of tumour and Immune3 cells in 5 x 5 squares of the bounding box, the highest y first."""
    x0, y0, x1, y1 = image.window.polygon.bounds
    # SPIAT's squares are open on the low side: the cells that lie lowest and furthest left are in none.
    split = (image.points > (x0, y0)).all(axis=1)
    counts = []
    for kind in ("Tumour", "Immune3"):
        x, y = image.points[split & (image.kind == kind)].T
        counts.append(np.histogram2d(y, x, bins=5, range=((y0, y1), (x0, x1)))[0][::-1])
    return entropy_bits(np.stack(counts, axis=-1))


def test_spiat_gridded_entropy(grid):
    expected = [0.7793498, 0.9995910, 0.9612366, 0.9456603, 0.8812909]
    expected += [0.9915529, 0.7617327, 0.4586858, 0.9905577, 0.9798688]
    np.testing.assert_allclose(grid.ravel()[:10], expected, atol=5e-8)


def test_spiat_percentage_of_grids(grid):
    assert percentage_above(grid, 0.75) == 96


def test_spiat_global_moran(grid):
    # Within 600 um of a square of 400 um lie its eight neighbours.
    assert moran_i(grid, np.ones(grid.shape, bool)) == pytest.approx(-0.1152657, abs=5e-8)


@pytest.fixture(scope="module")
def structure(image):
    region = region_of_cells(image["Tumour"])
    return structure_of_cells(image.points, image.kind == "Tumour", region)


def test_spiat_tumour_border_and_structure(structure):
    # Cells 3776 to 3779, as SPIAT's test has them.
    assert structure[3775:3779].tolist() == [
        "internal_margin",
        "internal_margin",
        "border",
        "internal_margin",
    ]


def test_spiat_proportions_in_structure(image, structure):
    # To all 8 or 9 digits that are published; SPIAT's own test allows 1e-4.
    immune3 = share_in_structures(structure, image.kind == "Immune3")
    expected = {
        "infiltrated": 0.12576687,
        "internal_margin": 0.08071749,
        "external_margin": 0.681109185,
        "stromal": 0.04585841,
        "border": 0,
    }
    assert immune3 == pytest.approx(expected, abs=5e-9)
    immune1 = share_in_structures(structure, image.kind == "Immune1")
    assert immune1["external_margin"] == pytest.approx(0.001733102, abs=5e-10)
    assert immune1["stromal"] == pytest.approx(0.09658928, abs=5e-9)
    own = [np.mean(structure[image.kind == "Immune3"] == name) for name in STRUCTURES]
    np.testing.assert_allclose(own[:4], [0.06507937, 0.05714286, 0.623809524, 0.25396825], atol=5e-9)


def test_spiat_distances_to_the_tumour_border(image, structure):
    border = image.points[structure == "border"]
    distance, _ = nearest_neighbour(image.points, border)
    np.testing.assert_allclose(
        distance[3775:3779], [83.54843614991, 63.04062766628, 0, 29.59984593965], atol=1e-9
    )
    immune = np.isin(image.kind, ("Immune1", "Immune3"))
    inside = np.isin(structure, ("infiltrated", "internal_margin"))
    for place, expected in (
        (inside, (10.9322494547641, 192.409359800297, 86.200421492396, 88.2329866304885, 45.27413945602)),
        (~inside, (10.0238703579346, 971.56383420638, 195.106365999404, 101.951127102521, 194.685066632607)),
    ):
        d = distance[immune & place]
        found = (d.min(), d.max(), d.mean(), np.median(d), d.std(ddof=1))
        np.testing.assert_allclose(found, expected, rtol=1e-10)
