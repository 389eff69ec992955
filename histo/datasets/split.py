"""Train, validation and test, patient by patient."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from histo.datasets.image import Item, Split
from histo.errors import DatasetError

_HELD_OUT: Final[tuple[Split, ...]] = ("test", "validation")

log = logging.getLogger(__name__)


def grouped_split(
    items: Sequence[Item], *, validation: float, test: float, seed: int
) -> dict[Split, tuple[Item, ...]]:
    """Divide items into train, validation and test so that no group lies in two of them.

    A published test or validation part stays what it is, whatever the share asked for; a part that was not
    published is taken from the rest (published training items and those of no part), whole groups at random.
    Where the publishers put a group in two parts, it belongs to test, else to validation; its other items are
    left out, and the log says how many.

    Parameters
    ----------
    validation, test : share of the rest that each should have, from 0, together less than 1. Groups are
        whole, so that a share is not met exactly; one above 0 gets one group at least.
    seed : the same seed gives the same split, whatever the order of the items.

    Returns
    -------
    By part, items in the order given; a part may be empty.

    Raises
    ------
    DatasetError : shares that leave nothing, or fewer groups than parts to fill.
    """
    shares: dict[Split, float] = {"test": test, "validation": validation}
    if not (test >= 0 and validation >= 0 and validation + test < 1):
        raise DatasetError(
            f"shares of validation {validation:g} and test {test:g} leave nothing to train on",
            fix="Give shares from 0 on that sum up to less than 1",
        )
    home: dict[str, Split] = {
        item.group: part for part in reversed(_HELD_OUT) for item in items if item.split == part
    }
    published = frozenset(home)
    rest = Counter(item.group for item in items if item.group not in home)
    to_fill: list[Split] = [part for part in _HELD_OUT if shares[part] > 0 and part not in set(home.values())]
    if to_fill and len(rest) <= len(to_fill):
        raise DatasetError(
            f"too few groups (patients) to take {' and '.join(to_fill)} from: {len(rest)}",
            fix=f"Give {' and '.join(to_fill)} a share of 0, or add patients",
        )
    rng = np.random.default_rng(seed)
    n_rest = rest.total()
    for place, part in enumerate(to_fill):
        free = {group: n for group, n in rest.items() if group not in home}
        at_most = len(free) - (len(to_fill) - place)
        home.update(dict.fromkeys(_choose(free, shares[part] * n_rest, at_most, rng), part))
    divided: dict[Split, list[Item]] = {"train": [], "validation": [], "test": []}
    for item in items:
        if item.group not in published or item.split == home[item.group]:
            divided[home.get(item.group, "train")].append(item)
    if left_out := len(items) - sum(map(len, divided.values())):
        log.warning("%d items left out: the published split has their patients in two parts", left_out)
    return {part: tuple(chosen) for part, chosen in divided.items()}


def _choose(sizes: Mapping[str, int], wanted: float, at_most: int, rng: np.random.Generator) -> list[str]:
    """Return groups in random order as long as they fit into the number of items wanted; one at least."""
    groups = sorted(sizes)
    order = [groups[i] for i in rng.permutation(len(groups))]
    chosen: list[str] = []
    total = 0
    for group in order:
        if len(chosen) < at_most and total + sizes[group] <= wanted:
            chosen.append(group)
            total += sizes[group]
    return chosen or [min(order, key=lambda group: sizes[group])]
