"""Open a dataset by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from histo.datasets.bcdata import bcdata
from histo.datasets.cpdmi import cpdmi
from histo.datasets.deepliif import deepliif
from histo.datasets.image import Dataset
from histo.datasets.lizard import lizard
from histo.datasets.lynsec import lynsec, lynsec_he
from histo.datasets.lyon19 import lyon19
from histo.datasets.lysto import lysto
from histo.datasets.nuclick import nuclick
from histo.datasets.nuinsseg import nuinsseg
from histo.datasets.own_folder import own_folder
from histo.datasets.pannuke import pannuke
from histo.datasets.pathocell import pathocell
from histo.datasets.tissuenet import tissuenet
from histo.errors import DatasetError

DATASETS: Final[dict[str, Callable[[Path, float | None], Dataset]]] = {
    "nuclick": nuclick,
    "lysto": lysto,
    "lynsec": lynsec,
    "lynsec_he": lynsec_he,
    "deepliif": deepliif,
    "bcdata": bcdata,
    "lyon19": lyon19,
    "nuinsseg": nuinsseg,
    "pannuke": pannuke,
    "lizard": lizard,
    "pathocell": pathocell,
    "cpdmi": cpdmi,
    "tissuenet": tissuenet,
    "folder": own_folder,
}


def open_dataset(name: str, root: Path, *, mpp: float | None = None) -> Dataset:
    """Find the items of a dataset on disk; nothing but what names them is read.

    Parameters
    ----------
    name : one of `DATASETS`; "folder" for one's own.
    root : the folder that it was unpacked to.
    mpp : um per pixel of its images; before what the dataset states, needed where it states none.

    Raises
    ------
    DatasetError : unknown name, no such folder, another layout than the published one, or no pixel size.
    """
    if name not in DATASETS:
        raise DatasetError(f"no dataset is named {name!r}", fix=f"Give one of {', '.join(DATASETS)}")
    return DATASETS[name](Path(root), mpp)


def licence_warning(dataset: Dataset) -> str | None:
    """Return what to tell who trains on a dataset that is not free for commercial use; None where it is."""
    if dataset.commercial_use:
        return None
    if dataset.commercial_use is None:
        return (
            f"{dataset.name}: it is not known whether its licence ({dataset.licence}) allows commercial use; "
            "ask its publishers before weights trained on it are used so"
        )
    return (
        f"{dataset.name}: its licence ({dataset.licence}) forbids commercial use, and so that of weights "
        "trained on it"
    )
