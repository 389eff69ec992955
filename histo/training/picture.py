"""Pictures of what a network finds in an image, beside what is true."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from histo.cells.table import CD8
from histo.datasets.image import CD8_POSITIVE, UNKNOWN
from histo.training.evaluate import Found
from histo.training.sample import Sample

# By class: other nucleus, CD8+ cell, unknown.
_COLOURS: Final = np.array([[0, 150, 255], [255, 0, 200], [255, 225, 0]], np.uint8)
# Fluorescence: nuclear, CD8, autofluorescence, each at full scale.
_LIGHT: Final = np.array([[40, 90, 255], [255, 230, 0], [0, 110, 0]], np.float32)
_ENLARGED: Final = 2
_GAP_PX: Final = 8


def side_by_side(sample: Sample, amounts: NDArray[np.float32], found: Found) -> NDArray[np.uint8]:
    """Return a picture of an image twice, twice as large: left with true outlines, right with found ones.

    CD8+ cells are magenta, other nuclei blue, cells of unknown class yellow; cells of which only the place is
    known are discs. Where only a count is known, the left is the image. What was not searched is dark.

    Parameters
    ----------
    amounts : (3, H, W) stain amounts of the image.

    Returns
    -------
    (2 H, 4 W + gap, 3) uint8.
    """
    picture = sample.pixels
    if sample.kind == "fluorescence":
        light = np.clip(np.moveaxis(amounts, 0, -1), 0, 1) @ _LIGHT
        picture = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    height, width = picture.shape[:2]
    colour_of_true = np.zeros(len(sample.classes), np.int64)
    colour_of_true[sample.classes == CD8_POSITIVE], colour_of_true[sample.classes == UNKNOWN] = 1, 2
    colour_of_found = (found.cells.table["cell_class"] == CD8).to_numpy().astype(np.int64)
    top, left = -found.tile.read.y, -found.tile.read.x
    found_labels = found.cells.labels[top : top + height, left : left + width]
    core = found.tile.core
    searched = np.zeros((height, width, 1), bool)
    searched[core.y : core.bottom, core.x : core.right] = True
    panels = [
        _outlined(picture, sample.labels, colour_of_true),
        _outlined(np.where(searched, picture, picture // 2), found_labels, colour_of_found),
    ]
    gap = np.full((_ENLARGED * height, _GAP_PX, 3), 255, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def _outlined(
    picture: NDArray[Any], labels: NDArray[Any] | None, colour: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Enlarge a picture and draw the inner edge of each label on it; `colour` is an index for each label."""
    large: NDArray[np.uint8] = picture.repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)
    if labels is None:
        return large
    fine = np.pad(labels.astype(np.int64).repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1), 1)
    middle = fine[1:-1, 1:-1]
    edge = np.zeros(middle.shape, bool)
    for beside in (fine[:-2, 1:-1], fine[2:, 1:-1], fine[1:-1, :-2], fine[1:-1, 2:]):
        edge |= beside != middle
    edge &= middle > 0
    large[edge] = _COLOURS[colour[middle[edge] - 1]]
    return large
