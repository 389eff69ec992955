"""Cells of a slide as points."""

from __future__ import annotations

import numpy as np
from made_up import make_cells

from histo.measure.points import PointCollector
from histo.regions.place import REGION_NAMES, ZONE_NAMES


def collect(cells, step):
    collector = PointCollector()
    for start in range(0, len(cells), step):
        collector.add(cells[start : start + step])
    return collector.points()


def test_cells_in_tissue_are_kept_as_they_are():
    cells, _ = make_cells(500, seed=3)
    points = collect(cells, 77)
    kept = cells[cells["in_tissue"]]
    assert len(points) == len(kept)
    np.testing.assert_array_equal(points.x_um, kept["x_um"])
    assert [REGION_NAMES[code] for code in points.region] == kept["region"].tolist()
    assert [ZONE_NAMES[code] for code in points.zone] == kept["zone"].tolist()
    assert points.is_cd8.sum() == (kept["cell_class"] == "CD8+ cell").sum()


def test_pieces_of_any_size_give_the_same_points():
    cells, _ = make_cells(300, seed=4)
    one, many = collect(cells, 300), collect(cells, 11)
    for name in vars(one):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))


def test_no_cells():
    points = PointCollector().points()
    assert len(points) == 0
    assert points.zone.dtype == np.uint8
