"""NuClick-IHC: stained lymphocytes of the LYON19 regions, outlined (Koohbanani 2020, Med Image Anal)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from histo.datasets.arrays import annotated, read_npy, read_rgb
from histo.datasets.image import CD8_POSITIVE, AnnotatedImage, Dataset, Item, Split
from histo.datasets.layout import files, folder, pixel_size, require

_NAME = "NuClick-IHC"
_SPLITS: Final[dict[str, Split]] = {"Train": "train", "Validation": "validation"}


def nuclick(root: Path, mpp: float | None = None) -> Dataset:
    """Find NuClick-IHC: `IHC_nuclick/IHC/{images,masks}/{Train,Validation}/ROI_<n>_<k>.{png,npy}`.

    Every lymphocyte stained for CD3 or CD8 has an instance and is CD8_POSITIVE; other nuclei are not
    annotated. ROI_<n>_1 and ROI_<n>_2 are crops of one region of interest, which is the group.

    Raises
    ------
    DatasetError : another layout, or no pixel size given.
    """
    ihc = folder(root, "IHC_nuclick", "IHC", dataset=_NAME)
    size = pixel_size(root, _NAME, mpp)
    items = []
    for name, split in _SPLITS.items():
        for image in files(folder(ihc, "images", name, dataset=_NAME), ".png", dataset=_NAME):
            mask = require(ihc / "masks" / name / f"{image.stem}.npy", _NAME)
            # ROI_<n>_<k>: the region, then which of its crops.
            group = image.stem.rsplit("_", 1)[0]
            items.append(Item(image.stem, group, split, partial(_load, image, mask, size)))
    return Dataset("nuclick", items, "Warwick TIA: citation required, no licence named", None)


def _load(image: Path, mask: Path, mpp: float) -> AnnotatedImage:
    pixels = read_rgb(image, mpp)
    return annotated(
        "brightfield", pixels, mpp, read_npy(mask), CD8_POSITIVE, background_known=False, path=mask
    )
