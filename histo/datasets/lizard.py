"""Lizard: H&E nuclei of the colon (Graham 2021, ICCV workshops, arXiv 2108.11195)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import loadmat

from histo.datasets.arrays import annotated, number, read_rgb
from histo.datasets.image import OTHER_NUCLEUS, UNKNOWN, AnnotatedImage, Dataset, Item, Split
from histo.datasets.layout import files, folder, pixel_size, require
from histo.errors import DatasetError

_NAME = "Lizard"
_SPLITS: Final[dict[int, Split]] = {1: "train", 2: "validation", 3: "test"}
# 1 neutrophil, 2 epithelial, 3 lymphocyte (CD8+ or not), 4 plasma, 5 eosinophil, 6 connective.
_CLASSES = np.array([UNKNOWN] + 2 * [OTHER_NUCLEUS] + [UNKNOWN] + 3 * [OTHER_NUCLEUS], np.uint8)
_FIX = "Unpack the published archives again"


def lizard(root: Path, mpp: float | None = None) -> Dataset:
    """Find Lizard: `Lizard_Images1|2/*.png`, `Lizard_Labels/Labels/<stem>.mat`, `Lizard_Labels/info.csv`.

    H&E: lymphocytes are UNKNOWN, all others OTHER_NUCLEUS. `info.csv` gives the split. Patients are not told:
    the image is the group, and the published split is to be used.

    Raises
    ------
    DatasetError : another layout, or no pixel size given.
    """
    labels = folder(root, "Lizard_Labels", dataset=_NAME)
    size = pixel_size(root, _NAME, mpp, hint="20x")
    splits = _splits(require(labels / "info.csv", _NAME))
    items = []
    for name in ("Lizard_Images1", "Lizard_Images2"):
        for image in files(folder(root, name, dataset=_NAME), ".png", dataset=_NAME):
            mat = require(labels / "Labels" / f"{image.stem}.mat", _NAME)
            if image.stem not in splits:
                raise DatasetError(f"no line for {image.stem}", path=labels / "info.csv", fix=_FIX)
            load = partial(_load, image, mat, size)
            items.append(Item(image.stem, image.stem, splits[image.stem], load))
    return Dataset("lizard", items, "CC BY-NC-SA 4.0, research only", False)


def _splits(path: Path) -> dict[str, Split]:
    try:
        table = pd.read_csv(path)
        return {str(name): _SPLITS[int(part)] for name, part in zip(table.Filename, table.Split, strict=True)}
    except (OSError, ValueError, KeyError, AttributeError, pd.errors.ParserError) as error:
        raise DatasetError(
            f"not a table with columns Filename and Split (1, 2 or 3) ({error!r})", path=path, fix=_FIX
        ) from None


def _load(image: Path, mat: Path, mpp: float) -> AnnotatedImage:
    pixels = read_rgb(image, mpp)
    content = _read_mat(mat)
    labels, ids = number(content["inst_map"], mat)
    classes = _CLASSES[_class_of(ids, content, mat)]
    return annotated("brightfield", pixels, mpp, labels, classes, background_known=True, path=mat)


def _read_mat(path: Path) -> dict[str, NDArray[Any]]:
    try:
        content = loadmat(path, variable_names=["inst_map", "class", "id"])
    except Exception as error:  # scipy raises a wide set on damaged files
        raise DatasetError(f"not a readable .mat file ({error})", path=path, fix=_FIX) from None
    missing = [key for key in ("inst_map", "class") if key not in content]
    if missing:
        raise DatasetError(f"no {' and '.join(missing)} in it", path=path, fix=_FIX)
    return {key: np.asarray(content[key]) for key in ("inst_map", "class", "id") if key in content}


def _class_of(ids: NDArray[np.int64], content: dict[str, NDArray[Any]], path: Path) -> NDArray[np.int64]:
    """Return the published class of each instance id."""
    classes = content["class"].ravel().astype(np.int64)
    # Rows are in the order of `id` where a file has it, else in ascending order of the ids.
    listed = content["id"].ravel().astype(np.int64) if "id" in content else ids
    if len(classes) != len(listed) or not np.isin(ids, listed).all():
        raise DatasetError(
            f"{len(classes)} classes for {len(ids)} instances, and no list of ids that tells which is which",
            path=path,
            fix=_FIX,
        )
    if classes.size and (classes.min() < 1 or classes.max() >= len(_CLASSES)):
        raise DatasetError("its classes are not 1 to 6", path=path, fix=_FIX)
    order = np.argsort(listed)
    found: NDArray[np.int64] = classes[order[np.searchsorted(listed[order], ids)]]
    return found
