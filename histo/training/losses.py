"""Losses on the network's maps."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from histo.cells.network import N_CLASSES, Maps
from histo.training.config import LossConfig
from histo.training.targets import Targets


def losses(maps: Maps, targets: Targets, config: LossConfig) -> dict[str, Tensor]:
    """Return each weighted loss by name, and their sum as "total".

    Parameters
    ----------
    maps : float32 maps of a batch.
    targets : of the same batch.
    """
    parts = {
        "cross_entropy": config.cross_entropy * F.cross_entropy(maps.classes, targets.classes),
        "dice": config.dice * soft_dice(maps.classes, targets.classes),
        "centre": config.centre * quality_focal(maps.centre, targets.centre),
        "offsets": config.offsets * offset_loss(maps.offsets, targets.offsets, targets.inside),
    }
    return {**parts, "total": sum(parts.values(), start=maps.classes.new_zeros(()))}


def soft_dice(logits: Tensor, classes: Tensor) -> Tensor:
    """Return 1 minus the mean Dice overlap of the cell classes over the batch (Milletari 2016, squared)."""
    probability = logits.softmax(dim=1)[:, 1:]
    truth = F.one_hot(classes, N_CLASSES).movedim(-1, 1)[:, 1:].to(probability.dtype)
    both = (probability * truth).sum(dim=(0, 2, 3))
    each = (probability.square() + truth).sum(dim=(0, 2, 3))
    return 1 - ((2 * both + 1) / (each + 1)).mean()


def quality_focal(logits: Tensor, quality: Tensor) -> Tensor:
    """Return the quality focal loss (Li 2020, Generalized Focal Loss, eq. 4, beta 2) per true quality."""
    weight = (logits.sigmoid() - quality).square()
    loss = F.binary_cross_entropy_with_logits(logits, quality, reduction="none") * weight
    return loss.sum() / quality.sum().clamp_min(1)


def offset_loss(offsets: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
    """Return the smooth L1 distance (bend at 0.5 um) of the offsets, mean over pixels of cells."""
    loss = F.smooth_l1_loss(offsets, truth, reduction="none", beta=0.5) * inside
    return loss.sum() / (2 * inside.sum()).clamp_min(1)
