"""Losses on the network's maps.

Where not everything is known, a loss counts what is known and nothing else:

- class: the probability of all classes that a pixel may belong to, taken together, should be 1 (learning from
  partial labels: Cour 2011, J Mach Learn Res 12:1501-1536). A cell of unknown class should be a cell; a pixel
  where only CD8+ cells were annotated should not be CD8+.
- centre: where other nuclei may lie that nobody annotated, a centre is wrong only as far as it claims a CD8+
  cell. So its loss is weighted by the network's own probability of CD8+ there, as a constant: no gradient
  rewards doubt about the class.
- count: the centre map, weighted by the probability of CD8+, holds as many peaks as there are cells.

Pixels outside the image have no part in any of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from histo.cells.layers import N_CLASSES
from histo.cells.network import Maps
from histo.training.config import LossConfig
from histo.training.targets import NO_CENTRE, UNANNOTATED, Targets, peak_mass


def losses(maps: Maps, targets: Targets, config: LossConfig, *, mpp: float) -> dict[str, Tensor]:
    """Return each weighted loss by name, and their sum as "total".

    Parameters
    ----------
    maps : float32 maps of a batch.
    targets : of the same batch.
    mpp : um per pixel.
    """
    parts = _whole(maps, targets) if targets.known is None else _partial(maps, targets, targets.known, mpp)
    weighted = {name: getattr(config, name) * value for name, value in parts.items()}
    return {**weighted, "total": sum(weighted.values(), start=maps.classes.new_zeros(()))}


def _whole(maps: Maps, targets: Targets) -> dict[str, Tensor]:
    return {
        "cross_entropy": F.cross_entropy(maps.classes, targets.classes),
        "dice": soft_dice(maps.classes, targets.classes),
        "centre": quality_focal(maps.centre, targets.centre),
        "offsets": offset_loss(maps.offsets, targets.offsets, targets.inside),
    }


def _partial(maps: Maps, targets: Targets, known: Tensor, mpp: float) -> dict[str, Tensor]:
    allowed = allowed_classes(known)
    cd8 = F.avg_pool2d(maps.classes.softmax(dim=1)[:, 1:2], 2)
    parts = {
        "cross_entropy": set_cross_entropy(maps.classes, allowed),
        "dice": soft_dice(maps.classes, targets.classes, allowed),
        "centre": quality_focal(maps.centre, targets.centre, centre_weight(known, cd8.detach())),
        "offsets": offset_loss(maps.offsets, targets.offsets, targets.inside),
    }
    if targets.n_cd8 is not None:
        within = 1 - F.max_pool2d((known == 0).to(cd8.dtype)[:, None], 2)
        parts["count"] = count_loss(maps.centre, cd8, within, targets.n_cd8, peak_mass(mpp))
    return parts


def allowed_classes(known: Tensor) -> Tensor:
    """Return which classes each pixel may belong to, (N, 3, H, W) bool; none outside the image."""
    bits = torch.tensor([1, 2, 4], dtype=known.dtype, device=known.device)
    return (known[:, None] & bits[:, None, None]) > 0


def set_cross_entropy(logits: Tensor, allowed: Tensor) -> Tensor:
    """Return -log of the probability of all allowed classes together, mean over pixels that exclude any."""
    counts = allowed.any(dim=1) & ~allowed.all(dim=1)
    # Where nothing is excluded the loss is 0; all classes are allowed there, lest a logarithm of 0 comes up.
    shut = ~(allowed | ~counts[:, None])
    log_share = logits.log_softmax(dim=1).masked_fill(shut, torch.finfo(logits.dtype).min).logsumexp(dim=1)
    return -torch.where(counts, log_share, 0.0).sum() / counts.sum().clamp_min(1)


def soft_dice(logits: Tensor, classes: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Return 1 minus the mean Dice overlap of the cell classes over the batch (Milletari 2016, squared).

    A class counts at the pixels that certainly have it or certainly do not.
    """
    probability = logits.softmax(dim=1)[:, 1:]
    truth = F.one_hot(classes, N_CLASSES).movedim(-1, 1)[:, 1:].to(probability.dtype)
    if allowed is not None:
        within = allowed.any(dim=1, keepdim=True)
        only = allowed & (allowed.sum(dim=1, keepdim=True) == 1)
        settled = ((only | ~allowed) & within)[:, 1:]
        probability, truth = torch.where(settled, probability, 0.0), truth * settled
    both = (probability * truth).sum(dim=(0, 2, 3))
    each = (probability.square() + truth).sum(dim=(0, 2, 3))
    return 1 - ((2 * both + 1) / (each + 1)).mean()


def centre_weight(known: Tensor, cd8: Tensor) -> Tensor:
    """Return how much each pixel of the centre map counts, (N, 1, H/2, W/2), 0-1.

    Parameters
    ----------
    known : (N, H, W) uint8, see `PackedTargets`.
    cd8 : (N, 1, H/2, W/2) probability of CD8+, without gradient.
    """
    nothing = ((known == 0) | (known & NO_CENTRE > 0)).to(cd8.dtype)[:, None]
    annotated = (known & UNANNOTATED == 0).to(cd8.dtype)[:, None]
    somewhere_nothing, somewhere_annotated = F.max_pool2d(nothing, 2) > 0, F.max_pool2d(annotated, 2) > 0
    weight = torch.where(somewhere_annotated, torch.ones_like(cd8), cd8)
    return torch.where(somewhere_nothing, torch.zeros_like(cd8), weight)


def quality_focal(logits: Tensor, quality: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return the quality focal loss (Li 2020, Generalized Focal Loss, eq. 4, beta 2) per true quality.

    `counts`: how much each pixel counts, 0-1; None: all do.
    """
    weight = (logits.sigmoid() - quality).square()
    loss = F.binary_cross_entropy_with_logits(logits, quality, reduction="none") * weight
    if counts is not None:
        loss, quality = loss * counts, quality * counts
    return loss.sum() / quality.sum().clamp_min(1)


def offset_loss(offsets: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
    """Return the smooth L1 distance (bend at 0.5 um) of the offsets, mean over pixels of cells."""
    loss = F.smooth_l1_loss(offsets, truth, reduction="none", beta=0.5) * inside
    return loss.sum() / (2 * inside.sum()).clamp_min(1)


def count_loss(centre: Tensor, cd8: Tensor, within: Tensor, count: Tensor, mass: float) -> Tensor:
    """Return the smooth L1 distance of log(1 + count), over the batch.

    The expected count of an image is the sum of the centre map times the probability of CD8+, over the sum
    that one cell has. The logarithm makes 1 for 2 as bad as 10 for 20, about. Images without a count add 0.

    Parameters
    ----------
    centre : (N, 1, H/2, W/2) logits. cd8 : the same, probability. within : the same, 1 in the image, else 0.
    count : (N,) CD8+ cells; NaN where it is not known.
    mass : sum of the centre map over one true cell.
    """
    expected = (centre.sigmoid() * cd8 * within).sum(dim=(1, 2, 3)) / mass
    counted = ~count.isnan()
    wanted = torch.where(counted, count, 0.0)
    loss = F.smooth_l1_loss(expected.log1p(), wanted.log1p(), reduction="none", beta=0.5)
    return torch.where(counted, loss, 0.0).sum() / len(count)
