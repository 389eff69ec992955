"""TissueNet 1.1: whole cells and nuclei in multiplex fluorescence (doi 10.1038/s41587-021-01094-0)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from histo.datasets.arrays import annotated, map_npz, read_npy, read_table
from histo.datasets.image import UNKNOWN, AnnotatedImage, Dataset, Item, Split
from histo.datasets.layout import pixel_size, require_root
from histo.errors import DatasetError
from histo.slide.pixel_size import believable

_NAME = "TissueNet"
_PARTS: Final[dict[str, Split]] = {"train": "train", "val": "validation", "test": "test"}
_NUCLEAR, _WHOLE_CELL, _MPP_COLUMN = 0, 0, 2
_FIX = "Download it again from datasets.deepcell.org"


def tissuenet(root: Path, mpp: float | None = None) -> Dataset:
    """Find TissueNet: `tissuenet_v1.1_{train,val,test}.npz`, or folders that these were unpacked to.

    `X` (N, H, W, 2): nuclear, membrane; `y` (N, H, W, 2): whole cell, nucleus; `meta`: a table whose first
    row is its header, so that image i is described by row i + 1, with the um per pixel in its third column.
    Instances are whole cells. There is no CD8 channel: it is 0, and all classes are UNKNOWN. The experiment
    within a part is the group; the publishers divided experiments between the parts.

    Raises
    ------
    DatasetError : another layout, or an .npz that is compressed.
    """
    require_root(root, _NAME)
    given = None if mpp is None else pixel_size(root, _NAME, mpp)
    items = [
        item
        for part in _PARTS
        for base in (root, root / "tissuenet_v1.1")
        for item in _part(base, part, given)
    ]
    if not items:
        raise DatasetError(
            f"not the layout of {_NAME}: no tissuenet_v1.1_train.npz, _val.npz or _test.npz",
            path=root,
            fix="Give the folder that holds them",
        )
    return Dataset("tissuenet", items, "modified Apache 2.0, non-commercial", False)


def _part(base: Path, part: str, given: float | None) -> list[Item]:
    source = base / f"tissuenet_v1.1_{part}"
    if not source.is_dir():
        source = source.with_name(f"{source.name}.npz")
        if not source.is_file():
            return []
    x, y, meta = _array(source, "X"), _array(source, "y"), read_table(source, "meta")
    if x.ndim != 4 or x.shape[3] != 2 or y.shape != x.shape:
        raise DatasetError(f"X {x.shape} and y {y.shape} are not (N, H, W, 2)", path=source, fix=_FIX)
    if meta.ndim != 2 or len(meta) != len(x) + 1 or meta.shape[1] <= _MPP_COLUMN:
        raise DatasetError(
            f"meta {meta.shape} is not a header and one row for each of {len(x)} images",
            path=source,
            fix=_FIX,
        )
    header = [str(name).strip().lower() for name in meta[0]]
    column = header.index("experiment") if "experiment" in header else 0
    return [
        Item(
            f"{part}/{row:05d}",
            f"{part}/{meta[row + 1, column]}",
            _PARTS[part],
            partial(_load, source, row, _mpp(meta[row + 1, _MPP_COLUMN], source, row, given)),
        )
        for row in range(len(x))
    ]


def _mpp(stated: Any, source: Path, row: int, given: float | None) -> float:
    if given is not None:
        return given
    try:
        size = float(stated)
    except (TypeError, ValueError):
        size = 0.0
    if not believable(size):
        raise DatasetError(f"meta gives image {row} the pixel size {stated!r}", path=source, fix="Give mpp")
    return size


def _array(source: Path, name: str) -> NDArray[Any]:
    return read_npy(source / f"{name}.npy", lazy=True) if source.is_dir() else map_npz(source, name)


def _load(source: Path, row: int, mpp: float) -> AnnotatedImage:
    nuclear = np.asarray(_array(source, "X")[row, ..., _NUCLEAR], np.float32)
    raw = np.asarray(_array(source, "y")[row, ..., _WHOLE_CELL])
    pixels = np.stack([nuclear, np.zeros_like(nuclear), np.zeros_like(nuclear)], axis=2)
    return annotated("fluorescence", pixels, mpp, raw, UNKNOWN, background_known=True, path=source)
