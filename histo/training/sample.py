"""An image with what is known of its cells, at the working pixel size: rendered or real."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histo.training.targets import PackedTargets

Part = Literal["train", "validation", "test"]
Kind = Literal["brightfield", "fluorescence"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
RENDERED = "rendered"


@dataclass(frozen=True)
class Sample:
    """An image, its targets, and how its pixels become stain amounts.

    source : RENDERED, or the name of its dataset.
    pixels : (H, W, 3) red, green, blue; or nuclear, CD8, autofluorescence. H and W are even.
    labels : (H, W) integers, 0 background, 1 ... n cells (discs where only points are known); None where only
        the count is known.
    classes : (n,) uint8 of `AnnotatedImage`.
    centroids_um : (n, 2) x, y from the image's corner.
    targets : None where only the count is known.
    background_known : False where other nuclei may lie beside the labels.
    n_cd8 : number of CD8+ cells, where that is all that is known.
    white_point, stain_vectors : (3,), (3, 3) float32, for brightfield.
    background, full_scale : (3,) float32 counts, for fluorescence.
    """

    source: str
    kind: Kind
    pixels: NDArray[Any]
    labels: NDArray[Any] | None
    classes: NDArray[np.uint8]
    centroids_um: NDArray[np.float64]
    targets: PackedTargets | None
    white_point: NDArray[np.float32]
    stain_vectors: NDArray[np.float32]
    background: NDArray[np.float32]
    full_scale: NDArray[np.float32]
    background_known: bool = True
    n_cd8: int | None = None


@dataclass(frozen=True)
class Source:
    """Samples that crops are drawn from, with a chance in proportion to the weight."""

    name: str
    weight: float
    samples: list[Sample]
