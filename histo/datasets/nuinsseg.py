"""NuInsSeg: H&E nuclei of 31 organs, liver among them (Mahbod 2024, doi 10.1038/s41597-024-03117-2)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from histo.datasets.arrays import annotated, read_labels, read_rgb
from histo.datasets.image import UNKNOWN, AnnotatedImage, Dataset, Item
from histo.datasets.layout import files, pixel_size, require, require_root
from histo.errors import DatasetError

_NAME = "NuInsSeg"
_IMAGES, _LABELS = "tissue images", "label masks modify"


def nuinsseg(root: Path, mpp: float | None = None) -> Dataset:
    """Find NuInsSeg: `<organ>/tissue images/*.png` and `<organ>/label masks modify/*.tif` of the same stem.

    H&E: all classes are UNKNOWN. The organ is the group.

    Raises
    ------
    DatasetError : another layout, or no pixel size given.
    """
    require_root(root, _NAME)
    size = pixel_size(root, _NAME, mpp)
    organs = sorted(path.parent for path in root.glob(f"*/{_IMAGES}") if path.is_dir())
    organs = organs or sorted(path.parent for path in root.glob(f"*/*/{_IMAGES}") if path.is_dir())
    if not organs:
        raise DatasetError(
            f"not the layout of {_NAME}: no folder <organ>/{_IMAGES}",
            path=root,
            fix="Give the folder that holds one folder for each organ",
        )
    items = [
        Item(
            f"{organ.name}/{image.stem}",
            organ.name,
            None,
            partial(_load, image, require(organ / _LABELS / f"{image.stem}.tif", _NAME), size),
        )
        for organ in organs
        for image in files(organ / _IMAGES, ".png", dataset=_NAME)
    ]
    return Dataset("nuinsseg", items, "CC BY 4.0", True)


def _load(image: Path, mask: Path, mpp: float) -> AnnotatedImage:
    pixels = read_rgb(image, mpp)
    return annotated("brightfield", pixels, mpp, read_labels(mask), UNKNOWN, background_known=True, path=mask)
