"""Scoring a network on whole fields whose cells are known."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from histo.cells.detect import CellDetector, TileCells
from histo.cells.network import CellNet
from histo.cells.table import CD8
from histo.cells.weights import Weights
from histo.config import CellsConfig
from histo.slide.geometry import Box
from histo.slide.tiles import Tile
from histo.training.data import Sample
from histo.training.metrics import Matching, match_centroids, pooled

# A found cell counts where its centroid lies this close to a true one (Graham 2019 and the field's habit at
# 0.25-0.5 um/px: about half a lymphocyte).
MATCH_WITHIN_UM = 4.0


class Score(NamedTuple):
    """Matching of CD8+ cells, other nuclei, and all cells whatever their class, pooled over fields."""

    cd8: Matching
    other: Matching
    every: Matching
    cd8_by_field: tuple[Matching, ...]


def score_fields(
    network: CellNet,
    samples: Sequence[Sample],
    amounts: Sequence[Tensor],
    *,
    mpp: float,
    centre_threshold: float,
) -> Score:
    """Find the cells of fields and match them to the true ones.

    Only the part of a field that is further from its edge than the halo is scored: the rest is not seen as
    in a slide.

    Parameters
    ----------
    amounts : (3, H, W) stain amounts of each field.
    """
    detector = _detector(network, mpp, centre_threshold)
    rows = []
    for sample, stain in zip(samples, amounts, strict=True):
        tile = inner_tile(stain, detector)
        found = detector.detect(stain[None], [tile])[0]
        rows.append(_match(found, sample, tile, mpp))
    return Score(
        pooled(row[0] for row in rows),
        pooled(row[1] for row in rows),
        pooled(row[2] for row in rows),
        tuple(row[0] for row in rows),
    )


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
    amounts: Sequence[Tensor],
    *,
    mpp: float,
    thresholds: Sequence[float] = (0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6),
    logits: Sequence[float] = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0),
) -> Calibration:
    """Settle the centre threshold and the balance of the classes on fields not trained on.

    The threshold is the highest whose F1 for all cells is within 0.005 of the best: rendered cells are easy
    to find, and what a higher threshold does not cost here it spares on real tissue. The logit is that with
    the least count bias of CD8+ cells among those whose F1 for them is within 0.005 of the best.
    """

    def score(threshold: float, logit: float) -> Score:
        shifted = copy.deepcopy(network)
        shifted.shift_class(1, logit)
        return score_fields(shifted, samples, amounts, mpp=mpp, centre_threshold=threshold)

    by_threshold = {threshold: score(threshold, 0.0) for threshold in thresholds}
    best = max(np.nan_to_num(s.every.f1) for s in by_threshold.values())
    threshold = max(t for t, s in by_threshold.items() if np.nan_to_num(s.every.f1) >= best - 0.005)
    by_logit = {logit: score(threshold, logit) for logit in logits}
    best = max(np.nan_to_num(s.cd8.f1) for s in by_logit.values())
    near = [x for x, s in by_logit.items() if np.nan_to_num(s.cd8.f1) >= best - 0.005]
    # Where no bias is defined (no CD8+ cell in view), the classes stay as they were trained.
    logit = min(near, key=lambda x: (abs(np.nan_to_num(by_logit[x].cd8.count_bias)), abs(x)))
    return Calibration(threshold, logit, by_threshold, by_logit)


def inner_tile(stain: Tensor, detector: CellDetector) -> Tile:
    """Return the tile that reads a whole field (..., H, W) and owns all but a halo."""
    height, width = stain.shape[-2:]
    halo = detector.halo_px
    return Tile(0, Box(halo, halo, width - 2 * halo, height - 2 * halo), Box(0, 0, width, height))


def _detector(network: CellNet, mpp: float, centre_threshold: float) -> CellDetector:
    state = {name: tensor.detach().cpu().float() for name, tensor in network.state_dict().items()}
    weights = Weights(state, network.width, mpp, centre_threshold, "in training")
    device = next(network.parameters()).device
    with torch.autocast(device.type, enabled=False):
        return CellDetector(weights, CellsConfig(), device=device)


def _match(found: TileCells, sample: Sample, tile: Tile, mpp: float) -> tuple[Matching, Matching, Matching]:
    field = sample.field
    true = np.column_stack([field.x_um, field.y_um]).astype(np.float64)
    low = np.array([tile.core.x, tile.core.y]) * mpp
    high = np.array([tile.core.right, tile.core.bottom]) * mpp
    seen = ((true >= low) & (true < high)).all(axis=1)
    true, is_cd8 = true[seen], field.is_cd8[seen]
    xy = found.table[["x_um", "y_um"]].to_numpy()
    found_cd8 = (found.table["cell_class"] == CD8).to_numpy(bool)

    def match(a: np.ndarray, b: np.ndarray) -> Matching:
        return match_centroids(a, b, MATCH_WITHIN_UM)

    return (
        match(xy[found_cd8], true[is_cd8]),
        match(xy[~found_cd8], true[~is_cd8]),
        match(xy, true),
    )
