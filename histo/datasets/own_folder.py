"""One's own annotated images: a folder of images, a folder of labels, and what is known of them."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from histo.datasets.folder_settings import read_folder_settings
from histo.datasets.image import Dataset, Item, Split
from histo.datasets.layout import pixel_size, require_root
from histo.datasets.own_image import load_own_image
from histo.datasets.tables import read_csv
from histo.errors import DatasetError

_NAME = "a folder of one's own"
_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_WHITE = ("white_red", "white_green", "white_blue")
_LABELS = (".tif", ".tiff", ".geojson", ".json", ".csv")

log = logging.getLogger(__name__)


def own_folder(root: Path, mpp: float | None = None) -> Dataset:
    """Find one's own images: `images/<name>.*`, `labels/<name>.*`, and `dataset.yaml` (`FolderSettings`).

    Images are PNG, JPEG or TIFF. The labels of an image are one file of the same name: a TIFF label image
    (0 background, one whole number for each cell), GeoJSON as QuPath exports it (outlines or points, in
    pixels of the image), or a CSV of points (columns x_px, y_px or x_um, y_um, and class if wished). An image
    without cells needs labels too: empty ones.

    Raises
    ------
    DatasetError : another layout, settings that do not fit, images without labels, groups that do not fit.
    """
    require_root(root, _NAME)
    settings = read_folder_settings(root / "dataset.yaml")
    given = settings.mpp if mpp is None else mpp
    if given is not None:
        given = pixel_size(root, _NAME, given)
    images, labels = _by_stem(root / "images", _IMAGES), _by_stem(root / "labels", _LABELS)
    without = sorted(set(images) - set(labels))
    if without:
        raise DatasetError(
            f"no labels for {len(without)} images: {', '.join(without[:5])}",
            path=root / "labels",
            fix="Add a file for each, an empty one where the image holds no cell",
        )
    groups = _groups(root, settings.groups, images)
    if groups is None:
        log.warning("%s: no groups given, each image counts as a patient of its own", root)
        groups = {stem: _Line(stem) for stem in images}
    items = [
        Item(
            stem,
            (line := groups[stem]).group,
            line.split,
            partial(load_own_image, image, labels[stem], settings, given, line.white_point),
        )
        for stem, image in images.items()
    ]
    return Dataset(root.resolve().name, items, settings.licence, settings.commercial_use)


def _by_stem(where: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    if not where.is_dir():
        raise DatasetError(
            f"not the layout of {_NAME}: no folder {where.name}",
            path=where.parent,
            fix="Put the images into 'images' and their labels into 'labels'",
        )
    found: dict[str, Path] = {}
    for path in sorted(where.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        # The longest known ending: "a.ome.tif" and "a.geojson" belong together.
        stem = path.stem.removesuffix(".ome")
        if stem in found:
            raise DatasetError(
                f"two files named {stem}: {found[stem].name} and {path.name}", path=where, fix="Keep one"
            )
        found[stem] = path
    if not found and where.name == "images":
        raise DatasetError("no image in it", path=where, fix="Put PNG, JPEG or TIFF images there")
    return found


class _Line(NamedTuple):
    """What the groups say of an image."""

    group: str
    split: Split | None = None
    white_point: tuple[float, float, float] | None = None


def _groups(root: Path, name: str | None, images: dict[str, Path]) -> dict[str, _Line] | None:
    if name is None:
        return None
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise DatasetError("the groups lie outside the dataset's folder", path=path, fix="Put them beside it")
    table = read_csv(path)
    if not {"image", "group"} <= set(table.columns):
        raise DatasetError(
            f"no columns image and group (columns: {', '.join(table.columns)})",
            path=path,
            fix="Name the columns image, group and, if wished, split",
        )
    splits = table["split"] if "split" in table else pd.Series("", index=table.index)
    bad = sorted(set(splits) - {"", "train", "validation", "test"})
    if bad:
        raise DatasetError(
            f"split {bad[0]!r} is none of train, validation, test", path=path, fix="Correct the column split"
        )
    by_name = {image.name: stem for stem, image in images.items()} | {stem: stem for stem in images}
    whites = _white_points(table, path)
    found: dict[str, _Line] = {}
    for image, group, split, white in zip(table["image"], table["group"], splits, whites, strict=True):
        stem = by_name.get(image)
        if stem is None:
            continue
        if not group or stem in found:
            raise DatasetError(
                f"{image} has {'two lines' if group else 'no group'}", path=path, fix="Correct its line"
            )
        found[stem] = _Line(group, split or None, white)
    missing = sorted(set(images) - set(found))
    if missing:
        raise DatasetError(
            f"no line for {len(missing)} images: {', '.join(missing[:5])}", path=path, fix="Add their lines"
        )
    return found


def _white_points(table: pd.DataFrame, path: Path) -> list[tuple[float, float, float] | None]:
    """Return the white point of each line; None where it has none."""
    if not set(_WHITE) & set(table.columns):
        return [None] * len(table)
    lacking = [name for name in _WHITE if name not in table.columns]
    if lacking:
        raise DatasetError(
            f"no column {', '.join(lacking)}", path=path, fix=f"Give all of {', '.join(_WHITE)}"
        )
    found: list[tuple[float, float, float] | None] = []
    for place, texts in enumerate(table[list(_WHITE)].itertuples(index=False), start=2):
        if not any(texts):
            found.append(None)
            continue
        red, green, blue = pd.to_numeric(pd.Series(texts), errors="coerce").to_numpy(np.float64).tolist()
        if not (0 < red <= 255 and 0 < green <= 255 and 0 < blue <= 255):
            raise DatasetError(
                f"line {place} has no white point of grey levels above 0 to 255", path=path, fix="Correct it"
            )
        found.append((red, green, blue))
    return found
