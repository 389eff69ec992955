"""The cells that a detector finds in an annotated image, as inference would."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from histo.cells.build import Detector
from histo.cells.table import CD8
from histo.config import BrightfieldStain, FluorescenceStain
from histo.datasets.image import AnnotatedImage
from histo.evaluation.stain import prepare
from histo.slide.resample import nearest_labels
from histo.slide.tiles import Tile, plan_tiles

# Cores of this size bound memory; results do not depend on it.
_TILE_UM = 512.0


@dataclass(frozen=True)
class Found:
    """Cells found in an image.

    labels : (H, W) int32 on the image's own pixels, 0 background, 1 ... n; a cell
        smaller than a pixel may have none.
    points_um : (n, 2) float64 centroids x, y from the image's corner.
    is_cd8 : (n,) bool.
    assessed : share of the image that tissue detection would have assessed.
    """

    labels: NDArray[np.int32]
    points_um: NDArray[np.float64]
    is_cd8: NDArray[np.bool_]
    assessed: float


def find_cells(
    image: AnnotatedImage,
    detector: Detector,
    config: BrightfieldStain | FluorescenceStain | None = None,
    *,
    name: str = "image",
) -> Found:
    """Find the cells of an image.

    The whole image is searched: whether tissue detection would have looked there is told, not applied.

    Parameters
    ----------
    image : any annotated image.
    detector : finds cells in stain space.
    config : staining protocol of brightfield images; None for the default.
    name : what errors call it.
    """
    prepared = prepare(image, config, name=name)
    tissue = prepared.tissue
    everywhere = replace(tissue, assessed=np.ones_like(tissue.assessed))
    mpp = detector.mpp
    plan = plan_tiles(
        prepared.slide,
        everywhere,
        mpp=mpp,
        tile_um=_TILE_UM,
        halo_px=detector.halo_px,
        multiple=detector.multiple,
    )
    columns, rows = prepared.slide.grid_size(mpp)
    canvas = np.zeros((rows, columns), np.int32)
    points, is_cd8, n = [np.empty((0, 2))], [np.empty(0, bool)], 0
    for tile in plan.tiles:
        cells = detector.detect(prepared.amounts(tile.read, mpp), tile)
        _paste(canvas, cells.labels, tile, n)
        points.append(cells.table[["x_um", "y_um"]].to_numpy(np.float64))
        is_cd8.append((cells.table["cell_class"] == CD8).to_numpy(bool))
        n += len(cells.table)
    xy, positive = np.concatenate(points), np.concatenate(is_cd8)
    # The grid may reach past the image by part of a pixel.
    inside = ((xy >= 0) & (xy < np.array(prepared.slide.size_um))).all(axis=1)
    number = np.concatenate([[0], np.where(inside, np.cumsum(inside), 0)]).astype(np.int32)
    height, width = image.pixels.shape[:2]
    labels = number[nearest_labels(canvas, mpp, (height, width), image.mpp)]
    area = tissue.area_mm2(np.ones_like(tissue.assessed))
    assessed = tissue.area_mm2(tissue.assessed) / area
    return Found(labels, xy[inside], positive[inside], assessed)


def _paste(canvas: NDArray[np.int32], labels: NDArray[np.int32], tile: Tile, before: int) -> None:
    """Write a tile's cells, numbered on from `before`, on the canvas where no cell is yet."""
    top, left = max(tile.read.y, 0), max(tile.read.x, 0)
    bottom, right = min(tile.read.bottom, canvas.shape[0]), min(tile.read.right, canvas.shape[1])
    part = labels[top - tile.read.y : bottom - tile.read.y, left - tile.read.x : right - tile.read.x]
    there = canvas[top:bottom, left:right]
    free = (part > 0) & (there == 0)
    there[free] = part[free] + before
