"""BCData: Ki67-positive and negative tumour cells of the breast, as points (MICCAI 2020)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray

from histo.datasets.arrays import read_rgb
from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, AnnotatedImage, Dataset, Item, Split
from histo.datasets.layout import files, folder, pixel_size, require
from histo.errors import DatasetError

_NAME = "BCData"
_SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")
_CLASSES: Final = (("positive", CD8_POSITIVE), ("negative", OTHER_NUCLEUS))


def bcdata(root: Path, mpp: float | None = None) -> Dataset:
    """Find BCData: `BCData/images/<split>/<i>.png`, `BCData/annotations/<split>/{positive,negative}/<i>.h5`.

    Ki67-positive tumour cells are CD8_POSITIVE, negative ones OTHER_NUCLEUS; cells that are no tumour cells
    are not annotated. Coordinates are x, y in pixels. Patients are not told: the image is the group, and the
    published split is to be used.

    Raises
    ------
    DatasetError : another layout, or no pixel size given.
    """
    images = folder(root, "BCData", "images", dataset=_NAME)
    size = pixel_size(root, _NAME, mpp, hint="40x")
    items = []
    for split in _SPLITS:
        for image in files(folder(images, split, dataset=_NAME), ".png", dataset=_NAME):
            points = images.parent / "annotations" / split
            paths = tuple(require(points / name / f"{image.stem}.h5", _NAME) for name, _ in _CLASSES)
            unique = f"{split}/{image.stem}"
            items.append(Item(unique, unique, split, partial(_load, image, paths, size)))
    return Dataset("bcdata", items, "research use", False)


def _load(image: Path, paths: tuple[Path, ...], mpp: float) -> AnnotatedImage:
    pixels = read_rgb(image, mpp)
    found = [_points(path, pixels.shape[1], pixels.shape[0]) for path in paths]
    return AnnotatedImage(
        kind="brightfield",
        pixels=pixels,
        mpp=mpp,
        points_um=np.concatenate(found) * mpp,
        classes=np.repeat([np.uint8(code) for _, code in _CLASSES], [len(points) for points in found]),
        background_known=False,
    )


def _points(path: Path, width: int, height: int) -> NDArray[np.float64]:
    """Return (n, 2) x, y in px from the image's corner: the middle of the pixels that the file names."""
    fix = "Unpack the published archive again"
    try:
        with h5py.File(path) as file:
            xy = np.asarray(file["coordinates"][:], dtype=np.float64)
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(f"no readable coordinates in it ({error})", path=path, fix=fix) from None
    if xy.size == 0:
        return np.empty((0, 2))
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise DatasetError(f"its coordinates are {xy.shape}, not (n, 2)", path=path, fix=fix)
    # Also what a file with rows and columns swapped would show, on an image that is not square.
    if not ((xy >= 0) & (xy < (width, height))).all():
        raise DatasetError(f"a point lies outside the image ({width} x {height} px)", path=path, fix=fix)
    return xy + 0.5
