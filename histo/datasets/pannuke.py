"""PanNuke: H&E nuclei of 19 tissues (Gamper 2020, arXiv 2003.10778)."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from histo.datasets.arrays import annotated, read_npy
from histo.datasets.image import OTHER_NUCLEUS, UNKNOWN, AnnotatedImage, Dataset, Item
from histo.datasets.layout import pixel_size, require_root
from histo.errors import DatasetError

_NAME = "PanNuke"
_MPP = 0.25
_FIX = "Unpack fold_1.zip, fold_2.zip and fold_3.zip here"
# Mask channels: neoplastic, inflammatory, connective, dead, epithelial; the sixth is background. An
# inflammatory or a dead cell may or may not be a CD8+ T cell.
_CLASSES = np.array([OTHER_NUCLEUS, UNKNOWN, OTHER_NUCLEUS, UNKNOWN, OTHER_NUCLEUS], np.uint8)
_FOLD = re.compile(r"fold[ _-]?(\d+)", re.IGNORECASE)


def pannuke(root: Path, mpp: float | None = None) -> Dataset:
    """Find PanNuke: an `images.npy` and a `masks.npy` for each fold, somewhere below a folder named after it.

    Arrays are memory-mapped: (N, 256, 256, 3) and (N, 256, 256, 6), one channel of instance ids for each
    class. H&E: inflammatory and dead cells are UNKNOWN, the others OTHER_NUCLEUS. The fold is the group.

    Raises
    ------
    DatasetError : another layout.
    """
    require_root(root, _NAME)
    size = pixel_size(root, _NAME, mpp, _MPP)
    images, masks = _by_fold(root, "images.npy"), _by_fold(root, "masks.npy")
    if not images:
        raise DatasetError(
            f"not the layout of {_NAME}: no images.npy below a folder named fold...", path=root, fix=_FIX
        )
    items = []
    for fold, path in images.items():
        if fold not in masks:
            raise DatasetError(f"not the layout of {_NAME}: no masks.npy of {fold}", path=root, fix=_FIX)
        n = _rows(path, masks[fold])
        items += [
            Item(f"{fold}/{row:05d}", fold, None, partial(_load, path, masks[fold], row, size))
            for row in range(n)
        ]
    return Dataset("pannuke", items, "CC BY-NC-SA 4.0", False)


def _by_fold(root: Path, name: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(root.rglob(name)):
        folds = _FOLD.findall("/".join(path.relative_to(root.parent).parts[:-1]))
        if not folds:
            continue
        fold = f"fold {int(folds[-1])}"
        if fold in found:
            raise DatasetError(
                f"{fold} is there twice: {found[fold]} and {path}", path=root, fix="Keep one of them"
            )
        found[fold] = path
    return found


def _rows(images: Path, masks: Path) -> int:
    x, y = read_npy(images, lazy=True), read_npy(masks, lazy=True)
    if x.ndim != 4 or x.shape[3] != 3:
        raise DatasetError(f"its array is {x.shape}, not (N, height, width, 3)", path=images, fix=_FIX)
    if y.shape != (*x.shape[:3], len(_CLASSES) + 1):
        raise DatasetError(
            f"its array is {y.shape}, not {(*x.shape[:3], len(_CLASSES) + 1)}", path=masks, fix=_FIX
        )
    return int(x.shape[0])


def _load(images: Path, masks: Path, row: int, mpp: float) -> AnnotatedImage:
    pixels = np.clip(read_npy(images, lazy=True)[row], 0, 255).astype(np.uint8)
    ids = np.asarray(read_npy(masks, lazy=True)[row, ..., : len(_CLASSES)])
    if not np.isfinite(ids).all():
        raise DatasetError(f"row {row} holds no ids", path=masks, fix=_FIX)
    # Ids are only known to be distinct within a channel.
    step = int(ids.max()) + 1
    own = np.where(ids > 0, ids + step * np.arange(len(_CLASSES)), 0).max(axis=2)
    classes = _CLASSES[np.unique(own[own > 0]).astype(np.int64) // step]
    return annotated("brightfield", pixels, mpp, own, classes, background_known=True, path=masks)
