"""Drawn cells and maps that say exactly what was drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from histo.cells.maps import TileMaps
from histo.cells.network import CellNet, state_arrays
from histo.cells.weights import Weights


def _discs(size: int, n: int, seed: int = 0, radius: tuple[float, float] = (6, 10)) -> NDArray[np.int32]:
    """Touching, hardly overlapping discs, numbered from 1; each whole and connected."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.int32)
    number = 0
    for _ in range(n):
        x, y = rng.uniform(12, size - 12, 2)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < rng.uniform(*radius) ** 2
        if (labels[disc] > 0).any():
            continue
        number += 1
        labels[disc] = number
    return labels


def _maps(labels: NDArray[np.int32], is_cd8: NDArray[np.bool_], mpp: float = 0.5) -> TileMaps:
    """Logits of +-6 for the true class, a Gaussian peak at the true centre, and the true offsets."""
    n = len(is_cd8)
    rows, columns = np.indices(labels.shape)
    area = np.bincount(labels.ravel(), minlength=n + 1)
    row = np.bincount(labels.ravel(), rows.ravel(), n + 1) / np.maximum(area, 1)
    column = np.bincount(labels.ravel(), columns.ravel(), n + 1) / np.maximum(area, 1)
    inside = labels > 0
    offsets = np.stack([column[labels] - columns, row[labels] - rows]) * mpp * inside
    kind = np.concatenate([[0], np.where(is_cd8, 1, 2)])[labels]
    classes = np.where(kind == np.arange(3)[:, None, None], 6.0, -6.0)
    nearness = np.exp(-(offsets**2).sum(axis=0) / 2.0) * inside
    height, width = labels.shape
    centre = nearness.reshape(height // 2, 2, width // 2, 2).max(axis=(1, 3))
    centre_logit = np.log(np.clip(centre, 1e-4, 1 - 1e-4) / (1 - np.clip(centre, 1e-4, 1 - 1e-4)))
    return TileMaps(*(each.astype(np.float32) for each in (classes, centre_logit, offsets)))


@pytest.fixture(scope="session")
def draw_discs() -> Callable[..., NDArray[np.int32]]:
    return _discs


@pytest.fixture(scope="session")
def true_maps() -> Callable[..., TileMaps]:
    return _maps


@pytest.fixture(scope="session")
def random_weights() -> Weights:
    """An untrained network, with normalisation statistics that are not the identity."""
    torch.manual_seed(0)
    network = CellNet(8)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return Weights(state_arrays(network), 8, 0.5, 0.4, "random", training={"test": {"f1": None}})
