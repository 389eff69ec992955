"""What the network should answer, from the true instances of a field."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Offsets are kept in steps of 0.1 um in a byte: +-12.7 um, beyond the largest cell.
_OFFSET_STEP_UM = 0.1
# Spread of the peak that marks a centre: wide enough to find, narrower than half the distance of two cells.
_CENTRE_SIGMA_UM = 1.2


class PackedTargets(NamedTuple):
    """Targets of a field, packed into bytes so that many fields stay in memory.

    classes : (H, W) uint8, 0 background, 1 CD8+ cell, 2 other nucleus.
    offsets : (2, H, W) int8, (x, y) to the centroid of the pixel's cell in steps of 0.1 um; 0 in background.
    centre : (H/2, W/2) uint8, 255 at a cell's centre.
    """

    classes: NDArray[np.uint8]
    offsets: NDArray[np.int8]
    centre: NDArray[np.uint8]


class Targets(NamedTuple):
    """Targets of a batch, in the layout of `Maps`.

    classes : (N, H, W) int64. centre : (N, 1, H/2, W/2), 0-1. offsets : (N, 2, H, W) um.
    inside : (N, 1, H, W) bool, True in cells.
    """

    classes: Tensor
    centre: Tensor
    offsets: Tensor
    inside: Tensor


def pack_targets(labels: NDArray[np.integer[Any]], is_cd8: NDArray[np.bool_], mpp: float) -> PackedTargets:
    """Compute the targets of a field.

    Parameters
    ----------
    labels : (H, W), 0 for background, else 1 ... n; even height and width.
    is_cd8 : (n,) for label i at index i - 1.
    mpp : um per pixel.
    """
    height, width = labels.shape
    n = len(is_cd8)
    kind = np.concatenate([[0], np.where(is_cd8, 1, 2)]).astype(np.uint8)
    pixels = np.flatnonzero(labels)
    owner = labels.ravel()[pixels]
    rows, columns = np.divmod(pixels, width)
    area = np.maximum(np.bincount(owner, minlength=n + 1), 1)
    centre_row = np.bincount(owner, rows, minlength=n + 1) / area
    centre_column = np.bincount(owner, columns, minlength=n + 1) / area
    dx = (centre_column[owner] - columns) * mpp
    dy = (centre_row[owner] - rows) * mpp

    offsets = np.zeros((2, height * width), np.int8)
    offsets[:, pixels] = np.clip(np.rint(np.stack([dx, dy]) / _OFFSET_STEP_UM), -127, 127)
    nearness = np.zeros(height * width, np.uint8)
    nearness[pixels] = np.rint(255 * np.exp(-(dx**2 + dy**2) / (2 * _CENTRE_SIGMA_UM**2)))
    centre = nearness.reshape(height // 2, 2, width // 2, 2).max(axis=(1, 3))
    return PackedTargets(kind[labels], offsets.reshape(2, height, width), centre)


def unpack_targets(packed: PackedTargets, device: torch.device | str = "cpu") -> Targets:
    """Return the targets of a batch of packed fields, stacked along a first axis."""
    classes = torch.as_tensor(packed.classes, device=device).long()
    offsets = torch.as_tensor(packed.offsets, device=device).float() * _OFFSET_STEP_UM
    centre = torch.as_tensor(packed.centre, device=device).float()[:, None] / 255
    return Targets(classes, centre, offsets, (classes > 0)[:, None])
