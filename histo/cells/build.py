"""From a configuration to what finds the cells: the one place that knows all detectors."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from histo.cells.detect import CellDetector, TileCells
from histo.cells.weights import load_weights
from histo.config import CellsConfig
from histo.slide.tiles import Tile


class Detector(Protocol):
    """What a run needs of a detector; see `CellDetector` for each of these."""

    name: str
    sha256: str
    device: str

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

    def detect(self, stain: NDArray[np.float32], tile: Tile) -> TileCells:
        """Find the cells of a tile. Several threads may do so at once."""
        ...


def build_detector(config: CellsConfig, device: str = "cpu", *, threads: int = 1) -> Detector:
    """Build the detector that a configuration names.

    Parameters
    ----------
    device : where a network runs; a classical rule runs on the CPU, see the detector's own `device`.
    threads : how many tiles it is to work on at once.

    Raises
    ------
    WeightsError : the network's weights cannot be used.
    """
    if config.detector == "kather2018":
        from histo.cells.classical import KATHER2018, ClassicalDetector

        return ClassicalDetector(KATHER2018, config)
    weights = load_weights(config.weights)
    return CellDetector(weights, config, device=device, precision=config.precision, threads=threads)
