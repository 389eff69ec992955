"""Scoring a network on whole images whose cells are known."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from histo.cells.detect import CellDetector, TileCells
from histo.cells.network import CellNet, state_arrays
from histo.cells.table import CD8
from histo.cells.weights import Weights
from histo.config import CellsConfig
from histo.datasets.image import CD8_POSITIVE, UNKNOWN
from histo.evaluation.matching import Matching, match_centroids, pooled
from histo.evaluation.score import RADII_UM
from histo.slide.geometry import Box
from histo.slide.tiles import Tile
from histo.training.sample import RENDERED, Sample

# A found cell counts where its centroid lies this close to a true one.
MATCH_WITHIN_UM = RADII_UM[0]
_NOTHING = Matching(0, 0, 0)


class Score(NamedTuple):
    """Matching of CD8+ cells, other nuclei, and all cells whatever their class, pooled over images.

    An image adds to what is known of its cells, and to nothing else.

    counts : (found, true) CD8+ cells of each image of which only the count is known.
    """

    cd8: Matching
    other: Matching
    every: Matching
    cd8_by_field: tuple[Matching, ...]
    counts: tuple[tuple[int, int], ...] = ()


class Found(NamedTuple):
    """The cells found in an image, and the tile they were found in: its core is scored."""

    cells: TileCells
    tile: Tile


def score_fields(
    network: CellNet,
    samples: Sequence[Sample],
    amounts: Sequence[NDArray[np.float32]],
    *,
    mpp: float,
    centre_threshold: float,
) -> Score:
    """Find the cells of images and match them to the true ones; see `find` and `score`."""
    found = find(network, samples, amounts, mpp=mpp, centre_threshold=centre_threshold)
    return score(samples, found, mpp)


def find(
    network: CellNet,
    samples: Sequence[Sample],
    amounts: Sequence[NDArray[np.float32]],
    *,
    mpp: float,
    centre_threshold: float,
) -> list[Found]:
    """Find the cells of images.

    Of a rendered field only the part that is further from its edge than the halo is looked at: the rest is
    not seen as in a slide. A real image is seen whole, with nothing round it.

    Parameters
    ----------
    amounts : (3, H, W) stain amounts of each image.
    """
    detector = _detector(network, mpp, centre_threshold)
    rows = []
    for sample, stain in zip(samples, amounts, strict=True):
        if sample.source == RENDERED:
            tile, seen = inner_tile(stain, detector), stain
        else:
            tile, seen = _whole_tile(stain, detector)
        rows.append(Found(detector.detect(seen, tile), tile))
    return rows


def score(samples: Sequence[Sample], found: Sequence[Found], mpp: float) -> Score:
    """Match the cells found in images to the true ones."""
    rows = [_match(sample, *one, mpp) for sample, one in zip(samples, found, strict=True)]
    counts = [
        (int((one.cells.table["cell_class"] == CD8).sum()), sample.n_cd8)
        for sample, one in zip(samples, found, strict=True)
        if sample.n_cd8 is not None
    ]
    return Score(
        pooled(row[0] for row in rows),
        pooled(row[1] for row in rows),
        pooled(row[2] for row in rows),
        tuple(row[0] for row in rows),
        tuple(counts),
    )


# Candidates of a calibration.
THRESHOLDS = (0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
CD8_LOGITS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class Calibration:
    """What is settled after training.

    centre_threshold : probability that a centre must reach.
    cd8_logit : constant that is added to the logit of CD8+ cells.
    by_threshold, by_logit : the score at each candidate.
    """

    centre_threshold: float
    cd8_logit: float
    by_threshold: Mapping[float, Score]
    by_logit: Mapping[float, Score]


def calibrate(
    network: CellNet,
    samples: Sequence[Sample],
    amounts: Sequence[NDArray[np.float32]],
    *,
    mpp: float,
    thresholds: Sequence[float] = THRESHOLDS,
    logits: Sequence[float] = CD8_LOGITS,
) -> Calibration:
    """Settle the centre threshold and the balance of the classes on images not trained on.

    The threshold is the highest whose F1 for all cells is within 0.005 of the best: rendered cells are easy
    to find, and what a higher threshold does not cost here it spares on real tissue. The logit is that with
    the least count bias of CD8+ cells among those whose F1 for them is within 0.005 of the best.
    """

    def at(threshold: float, logit: float) -> Score:
        shifted = copy.deepcopy(network)
        shifted.shift_class(1, logit)
        return score_fields(shifted, samples, amounts, mpp=mpp, centre_threshold=threshold)

    by_threshold = {threshold: at(threshold, 0.0) for threshold in thresholds}
    best = max(np.nan_to_num(s.every.f1) for s in by_threshold.values())
    threshold = max(t for t, s in by_threshold.items() if np.nan_to_num(s.every.f1) >= best - 0.005)
    by_logit = {logit: at(threshold, logit) for logit in logits}
    best = max(np.nan_to_num(s.cd8.f1) for s in by_logit.values())
    near = [x for x, s in by_logit.items() if np.nan_to_num(s.cd8.f1) >= best - 0.005]
    # Where no bias is defined (no CD8+ cell in view), the classes stay as they were trained.
    logit = min(near, key=lambda x: (abs(np.nan_to_num(by_logit[x].cd8.count_bias)), abs(x)))
    return Calibration(threshold, logit, by_threshold, by_logit)


def inner_tile(stain: NDArray[np.float32], detector: CellDetector) -> Tile:
    """Return the tile that reads a whole field (..., H, W) and owns all but a halo."""
    height, width = stain.shape[-2:]
    halo = detector.halo_px
    return Tile(0, Box(halo, halo, width - 2 * halo, height - 2 * halo), Box(0, 0, width, height))


def _whole_tile(stain: NDArray[np.float32], detector: CellDetector) -> tuple[Tile, NDArray[np.float32]]:
    """Return the tile that owns a whole image (..., H, W), and the image with nothing round it to read."""
    height, width = stain.shape[-2:]
    halo, multiple = detector.halo_px, detector.multiple
    bottom, right = (-(-(size + halo) // multiple) * multiple for size in (height, width))
    seen = np.pad(stain, ((0, 0), (halo, bottom - height), (halo, right - width)))
    read = Box(-halo, -halo, seen.shape[-1], seen.shape[-2])
    return Tile(0, Box(0, 0, width, height), read), seen


def _detector(network: CellNet, mpp: float, centre_threshold: float) -> CellDetector:
    weights = Weights(state_arrays(network), network.width, mpp, centre_threshold, "in training")
    device = next(network.parameters()).device
    with torch.autocast(device.type, enabled=False):
        return CellDetector(weights, CellsConfig(), device=str(device))


def _match(sample: Sample, cells: TileCells, tile: Tile, mpp: float) -> tuple[Matching, Matching, Matching]:
    """Match CD8+ cells, other nuclei and all cells; nothing where it is not known where all of them are."""
    if sample.labels is None:
        return _NOTHING, _NOTHING, _NOTHING
    true = sample.centroids_um
    low = np.array([tile.core.x, tile.core.y]) * mpp
    high = np.array([tile.core.right, tile.core.bottom]) * mpp
    seen = ((true >= low) & (true < high)).all(axis=1)
    true, is_cd8 = true[seen], sample.classes[seen] == CD8_POSITIVE
    xy = cells.table[["x_um", "y_um"]].to_numpy()
    found_cd8 = (cells.table["cell_class"] == CD8).to_numpy(bool)

    def match(a: NDArray[np.float64], b: NDArray[np.float64]) -> Matching:
        return match_centroids(a, b, MATCH_WITHIN_UM)

    classified = not (sample.classes == UNKNOWN).any()
    return (
        match(xy[found_cd8], true[is_cd8]) if classified else _NOTHING,
        match(xy[~found_cd8], true[~is_cd8]) if classified and sample.background_known else _NOTHING,
        match(xy, true) if sample.background_known else _NOTHING,
    )
