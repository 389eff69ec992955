from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from histo.cells.network import CellNet
from histo.training.config import AugmentConfig
from histo.training.data import clean_amounts
from histo.training.evaluate import Found, find
from histo.training.fields import render_sample
from histo.training.picture import side_by_side
from histo.training.sample import Kind, Sample


def _drawn(kind: Kind) -> tuple[Sample, NDArray[np.float32], Found]:
    sample = render_sample((21, kind), size_px=320, mpp=0.5)
    (amounts,) = clean_amounts([sample], AugmentConfig(), 0)
    network = CellNet(4).eval()
    return sample, amounts, find(network, [sample], [amounts], mpp=0.5, centre_threshold=0.9)[0]


@pytest.mark.parametrize("kind", ["brightfield", "fluorescence"])
def test_true_outlines_are_left_and_found_ones_right(kind: Kind) -> None:
    sample, amounts, found = _drawn(kind)
    picture = side_by_side(sample, amounts, found)
    assert picture.shape == (640, 2 * 640 + 8, 3)
    assert picture.dtype == np.uint8
    colours = {1: (255, 0, 200), 2: (0, 150, 255)}
    assert sample.labels is not None
    for value, colour in colours.items():
        left, right = ((picture[:, part] == colour).all(axis=2) for part in (slice(640), slice(648, None)))
        # An untrained network finds nothing.
        assert not right.any()
        wanted = np.isin(sample.labels, np.flatnonzero(sample.classes == value) + 1)
        if not wanted.any():
            continue
        assert left.any()
        # Only on cells of that class, and all their outlines.
        assert wanted.repeat(2, axis=0).repeat(2, axis=1)[left].all()
        assert left.sum() > 0.2 * wanted.sum()


def test_found_cells_are_drawn_where_they_are() -> None:
    sample, amounts, found = _drawn("brightfield")
    labels = np.zeros_like(found.cells.labels)
    labels[120:130, 100:112] = 1
    table = found.cells.table.reindex(range(1))
    table["cell_class"] = "CD8+ cell"
    cells = replace(found.cells, table=table, labels=labels)
    right = side_by_side(sample, amounts, Found(cells, found.tile))[:, 648:]
    rows, columns = np.nonzero((right == (255, 0, 200)).all(axis=2))
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (240, 260, 200, 224)


def test_what_was_not_searched_is_dark() -> None:
    sample, amounts, found = _drawn("brightfield")
    picture = side_by_side(sample, amounts, found)
    np.testing.assert_array_equal(picture[0, 648:], (sample.pixels[0] // 2).repeat(2, axis=0))
    core = found.tile.core
    middle = 2 * (core.y + core.bottom) // 2, 648 + (core.x + core.right)
    np.testing.assert_array_equal(picture[middle], sample.pixels[middle[0] // 2, (middle[1] - 648) // 2])
