"""LyNSeC: lymphoma nuclei, IHC (CD3, Ki67, ERG) and H&E (Naji 2024, doi 10.1016/j.compbiomed.2024.107978)."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np

from histo.datasets.arrays import annotated, majority, number, read_npy
from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, UNKNOWN, AnnotatedImage, Dataset, Item
from histo.datasets.layout import files, folder, pixel_size
from histo.errors import DatasetError

_NAME = "LyNSeC"
_MPP = 0.25
_LICENCE = "CC BY 4.0"
# Of the published class map (Zenodo record 8065174): 1 marker-negative, 2 marker-positive.
_IHC_CLASSES = np.array([UNKNOWN, OTHER_NUCLEUS, CD8_POSITIVE], np.uint8)
# Tumour and other: either may be a lymphocyte, and nothing is stained for CD8.
_HE_CLASSES = np.array([UNKNOWN, UNKNOWN, UNKNOWN], np.uint8)

log = logging.getLogger(__name__)


def lynsec(root: Path, mpp: float | None = None) -> Dataset:
    """Find the IHC part of LyNSeC: `lynsec 1/<i>_l1.npy`, (512, 512, 5).

    Channels: red, green, blue, instance, class. Marker-positive nuclei (CD3, Ki67 or ERG) are CD8_POSITIVE,
    the others OTHER_NUCLEUS. Four cases that the files do not tell apart: all is one group.

    Raises
    ------
    DatasetError : another layout.
    """
    return _part(root, mpp, "lynsec 1", "lynsec", _IHC_CLASSES)


def lynsec_he(root: Path, mpp: float | None = None) -> Dataset:
    """Find the usable H&E part of LyNSeC: `lynsec 3/<i>_l3.npy`, laid out as `lynsec 1`.

    Whether a lymphocyte is CD8+ is not known: all classes are UNKNOWN. Patients are not told: one group.

    Raises
    ------
    DatasetError : another layout.
    """
    return _part(root, mpp, "lynsec 3", "lynsec_he", _HE_CLASSES)


def _part(root: Path, mpp: float | None, name: str, dataset: str, classes: np.ndarray) -> Dataset:
    where = folder(root, name, dataset=_NAME)
    if (where.parent / "lynsec 2").is_dir():
        log.warning(
            "%s: labels that do not fit the images (a known defect), left out", where.parent / "lynsec 2"
        )
    size = pixel_size(root, _NAME, mpp, _MPP)
    items = [
        Item(path.stem, name, None, partial(_load, path, size, classes))
        for path in files(where, ".npy", dataset=_NAME)
    ]
    return Dataset(dataset, items, _LICENCE, True)


def _load(path: Path, mpp: float, classes: np.ndarray) -> AnnotatedImage:
    array = read_npy(path)
    if array.ndim != 3 or array.shape[2] != 5:
        raise DatasetError(
            f"its array is {array.shape}, not (height, width, 5): red, green, blue, instance, class",
            path=path,
            fix="Unpack the published archive again",
        )
    labels, ids = number(array[..., 3], path)
    kinds = array[..., 4].astype(np.int64)
    if kinds.min() < 0 or kinds.max() >= len(classes):
        raise DatasetError(
            f"its class map holds {kinds.min()} to {kinds.max()}, not 0 to 2",
            path=path,
            fix="Unpack the published archive again",
        )
    found = classes[majority(labels, len(ids), kinds, len(classes))]
    pixels = np.ascontiguousarray(array[..., :3]).astype(np.uint8)
    return annotated("brightfield", pixels, mpp, labels, found, background_known=True, path=path)
