"""Drawn cells of known place and class, and a detector simple enough to know what it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from histo.cells.compartments import compartments
from histo.cells.detect import TileCells
from histo.cells.table import CD8, OTHER
from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, AnnotatedImage
from histo.slide.tiles import Tile

MPP = 0.5


def drawn(
    size_px: tuple[int, int], cells: Sequence[tuple[float, float, bool]], *, mpp: float = MPP
) -> AnnotatedImage:
    """Discs of 4 um radius at (x, y) um on a white ground: brown for CD8+ ones, blue for others."""
    width, height = size_px
    rows, columns = np.mgrid[:height, :width]
    pixels = np.full((height, width, 3), 240, np.uint8)
    labels = np.zeros((height, width), np.int32)
    for number, (x, y, positive) in enumerate(cells, start=1):
        disc = np.hypot((columns + 0.5) * mpp - x, (rows + 0.5) * mpp - y) < 4
        labels[disc] = number
        pixels[disc] = (110, 60, 30) if positive else (90, 90, 160)
    kinds = [CD8_POSITIVE if positive else OTHER_NUCLEUS for *_, positive in cells]
    return AnnotatedImage("brightfield", pixels, mpp, labels=labels, classes=np.array(kinds, np.uint8))


class Threshold:
    """Connected dark pixels are cells; brown ones are CD8+."""

    name, sha256 = "threshold", "0"
    device = "cpu"
    mpp, halo_px, multiple = MPP, 40, 8

    def __init__(self) -> None:
        self.tiles: list[Tile] = []

    def detect(self, stain: NDArray[np.float32], tile: Tile) -> TileCells:
        self.tiles.append(tile)
        assert stain.shape[1:] == (tile.read.height, tile.read.width)
        parts, n = ndimage.label(stain[0] + stain[1] > 0.15)
        index = np.arange(1, n + 1)
        y, x = np.array(ndimage.center_of_mass(parts > 0, parts, index)).reshape(-1, 2).T
        core = tile.core
        left, top = core.x - tile.read.x, core.y - tile.read.y
        own = (np.rint(x) >= left) & (np.rint(x) < left + core.width)
        own &= (np.rint(y) >= top) & (np.rint(y) < top + core.height)
        number = np.concatenate([[0], np.where(own, np.cumsum(own), 0)]).astype(np.int32)
        brown = ndimage.mean(stain[1] - stain[0], parts, index) > 0
        table = pd.DataFrame(
            {
                "x_um": (x[own] + tile.read.x + 0.5) * MPP,
                "y_um": (y[own] + tile.read.y + 0.5) * MPP,
                "cell_class": np.where(np.asarray(brown)[own], CD8, OTHER).astype(object),
            }
        )
        labels = number[parts]
        return TileCells(table, np.empty(0, object), labels, compartments(labels, labels > 0, half_ring_px=1))


@pytest.fixture(scope="session")
def draw_image() -> Callable[..., AnnotatedImage]:
    return drawn


@pytest.fixture
def threshold_detector() -> Threshold:
    return Threshold()
