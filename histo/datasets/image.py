"""What an annotated image is, whatever dataset it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["brightfield", "fluorescence"]
Split = Literal["train", "validation", "test"]

# Values of `AnnotatedImage.classes`.
UNKNOWN, CD8_POSITIVE, OTHER_NUCLEUS = 0, 1, 2


@dataclass(frozen=True)
class AnnotatedImage:
    """Pixels and what is known about the cells in them; None where a dataset does not say.

    kind : how the pixels came about.
    pixels : (H, W, 3) uint8 red, green, blue; or (H, W, 3) uint16 or float32 nuclear, CD8,
        autofluorescence (0 where a dataset has none).
    mpp : um per pixel.
    labels : (H, W) int32, 0 background, 1 ... n instances.
    points_um : (n, 2) float64 x, y from the image's corner, of every cell; of `labels` their centroids.
    classes : (n,) uint8 of each instance or point: UNKNOWN, CD8_POSITIVE, OTHER_NUCLEUS. "CD8 positive"
        stands for the stained cell of the dataset (CD3, CD8 or Ki67), as its adapter says.
    n_cd8 : count of stained cells, where no more is known than that.
    background_known : True where pixels outside `labels`, or away from `points_um`, are known to hold no cell
        of any class; False where only stained cells were annotated, so that other nuclei may lie there.
    white_point : (red, green, blue) grey levels of bare glass, where they are known although the image need
        not show any; for brightfield.
    """

    kind: Kind
    pixels: NDArray[Any]
    mpp: float
    labels: NDArray[np.int32] | None = None
    points_um: NDArray[np.float64] | None = None
    classes: NDArray[np.uint8] | None = None
    n_cd8: int | None = None
    background_known: bool = True
    white_point: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Item:
    """One image of a dataset, not yet read.

    name : unique in its dataset.
    group : patient, or what stands for it (slide, organ): a split never tears one apart.
    split : as published, or None.
    load : reads it; picklable. Raises `DatasetError` where the file is not as published.
    """

    name: str
    group: str
    split: Split | None
    load: Callable[[], AnnotatedImage]


@dataclass(frozen=True)
class Dataset:
    """A dataset found on disk.

    licence : as its publishers state it. commercial_use : False where that licence forbids it, None where it
        is not stated.
    """

    name: str
    items: Sequence[Item]
    licence: str
    commercial_use: bool | None
