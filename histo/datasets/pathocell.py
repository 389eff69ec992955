"""PathoCell (PhenoCell): CODEX of colorectal cancer with typed cells (Schuerch 2020; arXiv 2507.03532)."""

from __future__ import annotations

import logging
import re
from functools import partial
from pathlib import Path
from typing import Final

import h5py
import numpy as np
import pandas as pd

from histo.datasets.arrays import annotated, majority, number
from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, UNKNOWN, AnnotatedImage, Dataset, Item, Split
from histo.datasets.layout import folder, pixel_size, require
from histo.errors import DatasetError

_NAME = "PathoCell"
_SPLIT_FILE = Path("data/phenocell/splits/phenocell_dataset_split.csv")
_SPLITS: Final[dict[str, Split]] = {"train": "train", "valid": "validation", "test": "test"}
_N_CHANNELS, _HOECHST, _CD8 = 58, 33, 3
_FIX = "Download it again from the Hugging Face dataset Kainmueller-Lab/phenobench"
# The 30 fine classes. CD8+ or not is not known of 6 CD3+ T, 14 NK, 19, 20 and 27 immune cells, 28 undefined.
_DIRT, _CD8_T, _N_CLASSES = 17, 13, 30
_CLASSES = np.full(_N_CLASSES, OTHER_NUCLEUS, np.uint8)
_CLASSES[[0, 6, 14, 19, 20, 27, 28]] = UNKNOWN
_CLASSES[_CD8_T] = CD8_POSITIVE

log = logging.getLogger(__name__)


def pathocell(root: Path, mpp: float | None = None) -> Dataset:
    """Find PathoCell: `pathocell_hdf/<sample>` and `data/phenocell/splits/phenocell_dataset_split.csv`.

    Of the 58 CODEX channels, Hoechst and CD8 are read. CD8+ T cells are CD8_POSITIVE, other typed cells
    OTHER_NUCLEUS, cells of no clear type UNKNOWN; "dirt" is dropped. Samples that were not downloaded are
    left out. reg<n>_A and reg<n>_B are one group (a column `patient` of the split file comes before that).

    Raises
    ------
    DatasetError : another layout, or no pixel size given.
    """
    hdf = folder(root, "pathocell_hdf", dataset=_NAME)
    size = pixel_size(root, _NAME, mpp)
    table = _table(require(hdf.parent / _SPLIT_FILE, _NAME))
    items, missing = [], 0
    for row in table.itertuples(index=False):
        path = _file(hdf, str(row.sample_name))
        if path is None:
            missing += 1
            continue
        group = str(getattr(row, "patient", "") or re.sub(r"_[A-Za-z]$", "", path.stem))
        split = _SPLITS[str(row.train_test_val_split)]
        items.append(Item(path.stem, group, split, partial(_load, path, size)))
    if not items:
        raise DatasetError("none of the samples that the split file names is in it", path=hdf, fix=_FIX)
    if missing:
        log.warning("%s: %d of %d samples are not there, left out", hdf, missing, len(table))
    return Dataset("pathocell", items, "MIT", True)


def _table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        unknown = set(table["train_test_val_split"]) - set(_SPLITS)
        if unknown or "sample_name" not in table:
            raise ValueError(f"parts {sorted(unknown)}, columns {list(table.columns)}")
    except (OSError, ValueError, KeyError, pd.errors.ParserError) as error:
        raise DatasetError(
            f"not a table of sample_name and train_test_val_split (train, valid, test) ({error!r})",
            path=path,
            fix=_FIX,
        ) from None
    return table


def _file(hdf: Path, sample: str) -> Path | None:
    # A name from a table must not lead out of the folder.
    candidates = [hdf / Path(sample).name, *(hdf / f"{Path(sample).name}{end}" for end in (".hdf", ".h5"))]
    return next((path for path in candidates if path.is_file()), None)


def _load(path: Path, mpp: float) -> AnnotatedImage:
    try:
        with h5py.File(path) as file:
            channels = file["ifl"]
            if channels.ndim != 3 or channels.shape[0] != _N_CHANNELS:
                raise DatasetError(
                    f"its ifl is {channels.shape}, not ({_N_CHANNELS}, height, width)", path=path, fix=_FIX
                )
            nuclear, cd8 = channels[_HOECHST], channels[_CD8]
            raw, types = file["gt_inst"][0], file["gt_ct"][0]
    except (OSError, KeyError, IndexError) as error:
        raise DatasetError(f"ifl, gt_inst or gt_ct cannot be read ({error})", path=path, fix=_FIX) from None
    if raw.shape != nuclear.shape or types.shape != raw.shape:
        raise DatasetError(
            f"its ifl, gt_inst and gt_ct differ in size: {nuclear.shape}, {raw.shape}, {types.shape}",
            path=path,
            fix=_FIX,
        )
    types = types.astype(np.int64)
    if types.min() < 0 or types.max() >= _N_CLASSES:
        raise DatasetError(f"its gt_ct is not 0 to {_N_CLASSES - 1}", path=path, fix=_FIX)
    pixels = np.stack([nuclear, cd8, np.zeros_like(cd8)], axis=2)
    pixels = pixels.astype(np.uint16 if pixels.dtype.kind == "u" and pixels.itemsize <= 2 else np.float32)
    labels, ids = number(raw, path)
    found = majority(labels, len(ids), types, _N_CLASSES)
    cell = found != _DIRT
    labels = np.where(np.concatenate([[False], cell])[labels], labels, 0)
    # The segmentation was automatic: what it missed is not marked.
    return annotated(
        "fluorescence", pixels, mpp, labels, _CLASSES[found[cell]], background_known=False, path=path
    )
