"""From a configuration to what finds the cells: the one place that knows all detectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from histo.cells.detect import CellDetector, TileCells
from histo.cells.weights import load_weights
from histo.config import CellsConfig
from histo.slide.tiles import Tile


class Detector(Protocol):
    """What a run needs of a detector; see `CellDetector` for each of these."""

    name: str
    sha256: str
    device: torch.device

    @property
    def mpp(self) -> float:
        """Return um per pixel that tiles must have."""
        ...

    @property
    def halo_px(self) -> int:
        """Return the margin that a tile's read box must have around its core."""
        ...

    @property
    def multiple(self) -> int:
        """Return what the edges of read boxes must be multiples of."""
        ...

    def predict(self, stain: Tensor, tiles: Sequence[Tile]) -> Any:
        """Do the part of the work that belongs on the device; the result is for `cells`."""
        ...

    def cells(self, found: Any, stain: Tensor, tiles: Sequence[Tile], /) -> list[TileCells]:
        """Do the rest. May run in another thread."""
        ...

    def detect(self, stain: Tensor, tiles: Sequence[Tile]) -> list[TileCells]:
        """Do both."""
        ...


def build_detector(config: CellsConfig, device: torch.device | str = "cpu") -> Detector:
    """Build the detector that a configuration names.

    Parameters
    ----------
    device : where a network runs; a classical rule runs on the CPU, see the detector's own `device`.

    Raises
    ------
    WeightsError : the network's weights cannot be used.
    """
    if config.detector == "kather2018":
        from histo.cells.classical import KATHER2018, ClassicalDetector

        return ClassicalDetector(KATHER2018, config)
    return CellDetector(load_weights(config.weights), config, device=device, precision=config.precision)
