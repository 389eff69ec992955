"""LYSTO: how many CD3+ or CD8+ cells a patch holds (2024, IEEE JBHI 28:1161)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from histo.datasets.image import AnnotatedImage, Dataset, Item, Split
from histo.datasets.layout import pixel_size, require_root
from histo.errors import DatasetError

_NAME = "LYSTO"
_FIX = "Download it again from Zenodo record 3513571"


def lysto(root: Path, mpp: float | None = None) -> Dataset:
    """Find LYSTO: `training.h5` and `test.h5` (either may be missing).

    HDF5 datasets `x` (N, H, W, 3) uint8, `organ` (N,) and, for training, `y` (N,), the count. Nothing but the
    row of an item is read. The published counts cover stained cells only. `organ` names the source of a
    patch and is the group, within its file.

    Raises
    ------
    DatasetError : another layout, or no pixel size given.
    """
    require_root(root, _NAME)
    size = pixel_size(root, _NAME, mpp)
    parts: list[tuple[str, Split]] = [("training", "train"), ("test", "test")]
    present = [(root / f"{name}.h5", name, split) for name, split in parts if (root / f"{name}.h5").is_file()]
    if not present:
        raise DatasetError(
            f"not the layout of {_NAME}: neither training.h5 nor test.h5 in it", path=root, fix=_FIX
        )
    items = [item for path, name, split in present for item in _items(path, name, split, size)]
    return Dataset("lysto", items, "not stated in the files: see Zenodo record 3513571", None)


def _items(path: Path, name: str, split: Split, mpp: float) -> list[Item]:
    try:
        with h5py.File(path) as file:
            n, organs = _check(file, path, needs_count=split == "train"), file["organ"][:]
    except OSError as error:
        raise DatasetError(f"not a readable HDF5 file ({error})", path=path, fix=_FIX) from None
    # Test and training were taken apart by the publishers: an organ there is not the one here.
    return [
        Item(f"{name}/{row:05d}", f"{name}/{_text(organs[row])}", split, partial(_load, path, row, mpp))
        for row in range(n)
    ]


def _check(file: Any, path: Path, *, needs_count: bool) -> int:
    """Return the number of rows; raises DatasetError where the file is laid out otherwise."""
    needed = ("x", "organ", "y") if needs_count else ("x", "organ")
    missing = [key for key in needed if key not in file]
    if missing:
        raise DatasetError(f"no HDF5 dataset {' and '.join(missing)} in it", path=path, fix=_FIX)
    x = file["x"]
    if x.ndim != 4 or x.shape[3] != 3 or x.dtype != np.uint8:
        raise DatasetError(
            f"its x is {x.shape} {x.dtype}, not (N, height, width, 3) uint8", path=path, fix=_FIX
        )
    lengths = {key: len(file[key]) for key in ("x", "organ", "y") if key in file}
    if len(set(lengths.values())) > 1:
        raise DatasetError(f"its datasets differ in length: {lengths}", path=path, fix=_FIX)
    return int(x.shape[0])


def _load(path: Path, row: int, mpp: float) -> AnnotatedImage:
    try:
        with h5py.File(path) as file:
            pixels: NDArray[np.uint8] = file["x"][row]
            count = float(file["y"][row]) if "y" in file else None
    except (OSError, KeyError) as error:
        raise DatasetError(f"row {row} cannot be read ({error})", path=path, fix=_FIX) from None
    if count is not None and (count < 0 or count != int(count)):
        raise DatasetError(f"row {row} has the count {count:g}", path=path, fix=_FIX)
    return AnnotatedImage(
        kind="brightfield",
        pixels=pixels,
        mpp=mpp,
        n_cd8=None if count is None else int(count),
        background_known=False,
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
