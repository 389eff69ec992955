"""How well found outlines agree with true ones: panoptic quality, aggregated Jaccard index, Dice.

All of it comes from one table of how many pixels each found cell shares with each true one, and from areas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histo.datasets.arrays import centroids_um as centroids_of_every_label_um
from histo.evaluation.assignment import assign

Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Overlaps:
    """Which found cells overlap which true ones; cells are known by their place in `found_ids` or `true_ids`.

    found_ids, true_ids : (n,) and (m,) the labels of the images, ascending.
    found_px, true_px : (n,) and (m,) areas in pixels.
    found, true, shared_px : (k,) the pairs that overlap, and by how many pixels.
    """

    found_ids: NDArray[np.int64]
    true_ids: NDArray[np.int64]
    found_px: NDArray[np.int64]
    true_px: NDArray[np.int64]
    found: NDArray[np.int64]
    true: NDArray[np.int64]
    shared_px: NDArray[np.int64]

    @property
    def iou(self) -> NDArray[np.float64]:
        """(k,) intersection over union of each pair."""
        union = self.found_px[self.found] + self.true_px[self.true] - self.shared_px
        return np.asarray(self.shared_px / union, np.float64)

    def between(self, found: Mask, true: Mask) -> Overlaps:
        """Keep some found cells, (n,) bool, and some true ones, (m,) bool; the rest becomes background."""
        new_found, new_true = np.cumsum(found) - 1, np.cumsum(true) - 1
        kept = found[self.found] & true[self.true]
        return Overlaps(
            self.found_ids[found],
            self.true_ids[true],
            self.found_px[found],
            self.true_px[true],
            new_found[self.found[kept]],
            new_true[self.true[kept]],
            self.shared_px[kept],
        )


def overlaps(found: Labels, true: Labels) -> Overlaps:
    """Make the table of overlaps of two label images (H, W), 0 background.

    Raises
    ------
    ValueError : the images differ in shape, or hold a negative label.
    """
    if found.shape != true.shape:
        raise ValueError(f"label images differ in shape: {found.shape} and {true.shape}")
    found_ids, found_px, found_place = _areas(found)
    true_ids, true_px, true_place = _areas(true)
    both = (found.ravel() > 0) & (true.ravel() > 0)
    key = found_place[found.ravel()[both]] * max(len(true_ids), 1) + true_place[true.ravel()[both]]
    pairs, shared = np.unique(key, return_counts=True)
    first, second = np.divmod(pairs, max(len(true_ids), 1))
    return Overlaps(found_ids, true_ids, found_px, true_px, first, second, shared.astype(np.int64))


class Agreement(NamedTuple):
    """Sums that the measures of segmentation are made of; they add up over images (`pooled_agreement`).

    iou_sum : over the pairs of an IoU above one half, of which there are `true_positives`.
    aji_intersection, aji_union : pixels, as the aggregated Jaccard index pairs them; `aji_plus` one to one.
    dice_shared, dice_total : pixels that both call cell, and the sum of what each calls cell.
    """

    iou_sum: float
    true_positives: int
    false_positives: int
    false_negatives: int
    aji_intersection: int
    aji_union: int
    aji_plus_intersection: int
    aji_plus_union: int
    dice_shared: int
    dice_total: int

    @property
    def rq(self) -> float:
        """Recognition quality: F1 of pairs with an IoU above one half. NaN where there is no cell at all."""
        return _ratio(self.true_positives, self._half_sum)

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of those pairs. NaN where there is none."""
        return _ratio(self.iou_sum, self.true_positives)

    @property
    def pq(self) -> float:
        """Panoptic quality, RQ times SQ (Kirillov 2019, CVPR, 9404-9413); NaN where there is no cell."""
        return _ratio(self.iou_sum, self._half_sum)

    @property
    def aji(self) -> float:
        """Aggregated Jaccard index (Kumar 2017, IEEE TMI 36:1550-1560). NaN where there is no cell at all."""
        return _ratio(self.aji_intersection, self.aji_union)

    @property
    def aji_plus(self) -> float:
        """AJI with pairs one to one, of the greatest total IoU (Graham 2019, MedIA 58:101563)."""
        return _ratio(self.aji_plus_intersection, self.aji_plus_union)

    @property
    def dice(self) -> float:
        """Dice of the pixels, whatever cell they belong to. NaN where there is no cell at all."""
        return _ratio(2 * self.dice_shared, self.dice_total)

    @property
    def _half_sum(self) -> float:
        return self.true_positives + (self.false_positives + self.false_negatives) / 2


def agreement(
    table: Overlaps, found_counts: Mask | None = None, true_counts: Mask | None = None
) -> Agreement:
    """Compare found with true cells.

    Parameters
    ----------
    table : of the two label images.
    found_counts, true_counts : (n,) and (m,) bool, which cells are scored; None for all. A cell that is not
        may still be the partner of one that is: with an unscored margin, nobody is punished for a cell that
        lies across its border. A pair is scored with its true cell. Dice is that of the whole table.
    """
    found_counts = np.ones(len(table.found_px), bool) if found_counts is None else found_counts
    true_counts = np.ones(len(table.true_px), bool) if true_counts is None else true_counts
    iou = table.iou
    # Above one half, a cell can have but one partner.
    paired = iou > 0.5
    found_free, true_free = np.ones(len(found_counts), bool), np.ones(len(true_counts), bool)
    found_free[table.found[paired]] = False
    true_free[table.true[paired]] = False
    scored = paired & true_counts[table.true]

    # Every true cell takes the found one of the greatest IoU, whether another took it already or not.
    order = np.lexsort((table.found, -iou, table.true))
    _, first = np.unique(table.true[order], return_index=True)
    best = order[first]
    one_to_one = assign(table.true, table.found, -iou, (len(true_counts), len(found_counts)), unmatched=0.0)
    shared, union = _jaccard(table, best, found_counts, true_counts)
    shared_plus, union_plus = _jaccard(table, one_to_one, found_counts, true_counts)
    return Agreement(
        iou_sum=float(iou[scored].sum()),
        true_positives=int(scored.sum()),
        false_positives=int((found_free & found_counts).sum()),
        false_negatives=int((true_free & true_counts).sum()),
        aji_intersection=shared,
        aji_union=union,
        aji_plus_intersection=shared_plus,
        aji_plus_union=union_plus,
        dice_shared=int(table.shared_px.sum()),
        dice_total=int(table.found_px.sum() + table.true_px.sum()),
    )


def pooled_agreement(agreements: Iterable[Agreement]) -> Agreement:
    """Add up the sums of several images."""
    rows = list(agreements)
    if not rows:
        return Agreement(0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    iou_sum, *counts = (sum(column) for column in zip(*rows, strict=True))
    return Agreement(float(iou_sum), *(int(count) for count in counts))


def centroids_um(labels: Labels, mpp: float) -> NDArray[np.float64]:
    """Return the centroids (n, 2) x, y in um of the labels in use, ascending."""
    every = centroids_of_every_label_um(labels, int(labels.max(initial=0)), mpp)
    return every[~np.isnan(every[:, 0])]


def inside_margin(points_um: NDArray[np.float64], size_um: NDArray[np.float64], edge_um: float) -> Mask:
    """Tell which points (n, 2) lie at least `edge_um` inside an image of size (width, height)."""
    return np.asarray(((points_um >= edge_um) & (points_um <= size_um - edge_um)).all(axis=1))


def _areas(labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels in use, their areas, and the place of each possible label among them."""
    if labels.size and int(labels.min()) < 0:
        raise ValueError("a label image holds a negative label")
    px = np.bincount(labels.ravel().astype(np.int64), minlength=1)
    px[0] = 0
    ids = np.flatnonzero(px)
    place = np.cumsum(px > 0) - 1
    return ids.astype(np.int64), px[ids].astype(np.int64), place.astype(np.int64)


def _jaccard(
    table: Overlaps, pairs: NDArray[np.int64], found_counts: Mask, true_counts: Mask
) -> tuple[int, int]:
    """Add up intersections and unions of pairs, and what of the found and the true has no partner."""
    taken = np.zeros(len(found_counts), bool)
    taken[table.found[pairs]] = True
    scored = pairs[true_counts[table.true[pairs]]]
    lonely = true_counts.copy()
    lonely[table.true[scored]] = False
    shared = int(table.shared_px[scored].sum())
    union = int((table.found_px[table.found[scored]] + table.true_px[table.true[scored]]).sum()) - shared
    union += int(table.true_px[lonely].sum() + table.found_px[found_counts & ~taken].sum())
    return shared, union


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
