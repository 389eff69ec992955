"""DeepLIIF: Ki67 IHC with co-registered multiplex IF (2022, doi 10.1038/s42256-022-00471-x)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from histo.datasets.arrays import annotated, number, read_rgb
from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, AnnotatedImage, Dataset, Item, Split
from histo.datasets.layout import files, pixel_size, require_root
from histo.errors import DatasetError

_NAME = "DeepLIIF"
_PANELS = ("IHC", "Hematoxylin", "DAPI", "Lap2", "Marker", "Seg")
# The published archives: folder, part, and half the width in px of the drawn boundary.
_ARCHIVES: Final[tuple[tuple[str, Split, int], ...]] = (
    ("DeepLIIF_Training_Set", "train", 2),
    ("DeepLIIF_Validation_Set", "validation", 2),
    ("DeepLIIF_Testing_Set", "test", 2),
    ("BC-DeepLIIF_Training_Set", "train", 3),
    ("BC-DeepLIIF_Validation_Set", "validation", 3),
)


def deepliif(root: Path, mpp: float | None = None) -> Dataset:
    """Find DeepLIIF: folders named as its archives, of PNGs with six square panels side by side.

    The last panel draws positive nuclei red, negative blue, and a green boundary round each. Ki67-positive
    nuclei are CD8_POSITIVE, the others OTHER_NUCLEUS. Patients are not told: the image is the group, and the
    published split is to be used.

    Raises
    ------
    DatasetError : another layout, or no pixel size given.
    """
    require_root(root, _NAME)
    size = pixel_size(root, _NAME, mpp)
    items = []
    for name, split, half_boundary_px in _ARCHIVES:
        where = root if root.name == name else root / name
        if not where.is_dir():
            continue
        for path in files(where, ".png", dataset=_NAME):
            unique = f"{name}/{path.stem}"
            items.append(Item(unique, unique, split, partial(_load, path, size, half_boundary_px)))
    if not items:
        raise DatasetError(
            f"not the layout of {_NAME}: none of the folders {', '.join(a[0] for a in _ARCHIVES)} in it",
            path=root,
            fix="Unpack the published archives here, each to a folder of its name",
        )
    return Dataset("deepliif", items, "CC BY 4.0", True)


def _load(path: Path, mpp: float, half_boundary_px: int) -> AnnotatedImage:
    panels = read_rgb(path, mpp)
    height, width = panels.shape[:2]
    if width != height * len(_PANELS):
        raise DatasetError(
            f"its image is {width} x {height} px, not {len(_PANELS)} square panels ({', '.join(_PANELS)})",
            path=path,
            fix="Unpack the published archive again",
        )
    ihc, seg = panels[:, :height], panels[:, -height:]
    raw, positive = nuclei_of(seg, half_boundary_px)
    labels, ids = number(raw, path)
    classes = np.where(positive[ids - 1], CD8_POSITIVE, OTHER_NUCLEUS).astype(np.uint8)
    return annotated(
        "brightfield",
        np.ascontiguousarray(ihc),
        mpp,
        labels,
        classes,
        background_known=True,
        path=path,
    )


def nuclei_of(seg: NDArray[np.uint8], half_boundary_px: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Recover nuclei from the colours of a segmentation panel.

    Interiors (red positive, blue negative) are apart; from them each nucleus grows over the green boundary
    and is then cut back to the boundary's middle. What is lost in that is no nucleus but a speck that image
    compression left.

    Parameters
    ----------
    seg : (H, W, 3) uint8.
    half_boundary_px : half the width of the drawn boundary.

    Returns
    -------
    (H, W) int32 labels, with gaps, and for each label from 1 on whether it is positive.
    """
    red, green, blue = (seg[..., i] > 127 for i in range(3))
    interior = red | blue
    seeds, n = ndimage.label(interior, structure=np.ones((3, 3)))
    grown = watershed(seg[..., 1], markers=seeds, mask=interior | green)  # type: ignore[no-untyped-call]
    labels: NDArray[np.int32] = grown.astype(np.int32)
    n_red = np.bincount(seeds[red], minlength=n + 1)
    n_blue = np.bincount(seeds[blue], minlength=n + 1)
    cross = ndimage.generate_binary_structure(2, 1)
    for _ in range(half_boundary_px):
        low = ndimage.minimum_filter(labels, footprint=cross, mode="nearest")
        high = ndimage.maximum_filter(labels, footprint=cross, mode="nearest")
        labels[low != high] = 0
    return labels, (n_red >= n_blue)[1:]
