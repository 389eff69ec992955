"""LYON19: the test regions of the lymphocyte challenge (Swiderska-Chadaj 2019, MedIA 58:101547)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from histo.datasets.arrays import read_rgb
from histo.datasets.image import AnnotatedImage, Dataset, Item
from histo.datasets.layout import files, pixel_size, require_root

_NAME = "LYON19"


def lyon19(root: Path, mpp: float | None = None) -> Dataset:
    """Find LYON19: a folder of PNGs, CD3 or CD8 H-DAB. Images only: the truth was never released.

    Raises
    ------
    DatasetError : another layout, or no pixel size given.
    """
    require_root(root, _NAME)
    size = pixel_size(root, _NAME, mpp)
    items = [
        Item(path.stem, path.stem, "test", partial(_load, path, size))
        for path in files(root, ".png", dataset=_NAME)
    ]
    return Dataset("lyon19", items, "not stated in the files: see lyon19.grand-challenge.org", None)


def _load(path: Path, mpp: float) -> AnnotatedImage:
    return AnnotatedImage("brightfield", read_rgb(path, mpp), mpp, background_known=False)
