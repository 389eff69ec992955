"""The detector of a run, tried out before the first slide."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from histo.cells.build import Detector, build_detector
from histo.cells.detect import CellDetector
from histo.cells.table import CD8
from histo.config import Config
from histo.errors import DeviceError
from histo.run.device import choose_device, threads_of
from histo.slide import Box
from histo.slide.tiles import Tile

_SIZE_PX = 512
# 15 um apart; nuclei of 7, cells of 9 um.
_SPACING_PX, _JITTER_PX = 30, 4
_NUCLEUS_PX, _CELL_PX = 7, 9
_TIMED = 3
# The tile holds some eighty cells; a rounding error may cost one at the very threshold.
_LEAST_AGREEMENT = 0.97
_SAME_PLACE_UM = 1.0


@dataclass(frozen=True)
class Trial:
    """How a detector did on a drawn tile against the same network in float32 on the CPU.

    n_reference : cells that the reference finds.
    agreement : share of the cells of both that have a partner of the same class within a micrometre.
    speed_up : seconds of the reference over those of the detector.
    """

    n_reference: int
    agreement: float
    speed_up: float

    def __str__(self) -> str:
        return (
            f"{self.agreement:.1%} of the cells of a test tile as in float32 on the CPU, at "
            f"{self.speed_up:.1f} times its speed"
        )


def ready_detector(config: Config) -> tuple[Detector, Trial | None]:
    """Build a run's detector; try it out unless it is the reference itself.

    Raises
    ------
    WeightsError, ConfigError : weights or device cannot be used.
    DeviceError : the device finds other cells than the CPU does in float32.
    """
    device = choose_device(config.run.device)
    detector = build_detector(config.cells, device, threads=threads_of(config.run))
    if not isinstance(detector, CellDetector):
        return detector, None
    if detector.device == "cpu" and detector.precision == "float32":
        return detector, None
    return detector, try_out(detector)


def try_out(detector: CellDetector) -> Trial:
    """Compare a detector with float32 on the CPU; raises DeviceError where they disagree."""
    reference = CellDetector(detector.weights, detector.config)
    stain, tile = _drawn_tile(detector.halo_px)
    places = [_cells(each, stain, tile) for each in (reference, detector)]
    n = sum(len(cells) for cells in places)
    both = sum(_with_partner(cells, others) for cells, others in (places, places[::-1]))
    agreement = both / n if n else 1.0
    if agreement < _LEAST_AGREEMENT:
        raise DeviceError(
            f"on a test tile {detector.device} in {detector.precision} finds {len(places[1])} cells and the "
            f"CPU in float32 {len(places[0])}; only {agreement:.0%} agree",
            fix="Run with --set cells.precision=float32, or --device cpu, and check driver and memory",
        )
    seconds = [_seconds(each, stain, tile) for each in (reference, detector)]
    return Trial(len(places[0]), agreement, seconds[0] / seconds[1])


def _drawn_tile(halo_px: int) -> tuple[NDArray[np.float32], Tile]:
    """Return stain amounts with round nuclei, half of them in a ring of CD8.

    Drawn, not rendered: the textures of a rendered field would stay in memory.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:_SIZE_PX, :_SIZE_PX]
    centres = np.mgrid[_SPACING_PX // 2 : _SIZE_PX : _SPACING_PX, _SPACING_PX // 2 : _SIZE_PX : _SPACING_PX]
    places = centres.reshape(2, -1).T + rng.uniform(-_JITTER_PX, _JITTER_PX, (centres[0].size, 2))
    nearest = cKDTree(places).query(np.column_stack([y.ravel(), x.ravel()]))
    distance, which = (np.asarray(each).reshape(y.shape) for each in nearest)
    nuclear = np.where(distance < _NUCLEUS_PX, 0.7, 0.05)
    cd8 = np.where((which % 2 == 0) & (distance >= _NUCLEUS_PX) & (distance < _CELL_PX), 0.8, 0.0)
    blurred = [gaussian_filter(each, 1.0) for each in (nuclear, cd8, np.zeros_like(nuclear))]
    stain = np.stack(blurred) + rng.normal(0, 0.02, (3, _SIZE_PX, _SIZE_PX))
    inner = _SIZE_PX - 2 * halo_px
    tile = Tile(0, Box(halo_px, halo_px, inner, inner), Box(0, 0, _SIZE_PX, _SIZE_PX))
    return stain.astype(np.float32), tile


def _cells(
    detector: CellDetector, stain: NDArray[np.float32], tile: Tile
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    table = detector.detect(stain, tile).table
    # Another class is further away than any place.
    other = (table["cell_class"].to_numpy() != CD8) * 1e6
    return np.column_stack([table["x_um"], table["y_um"], other])


def _with_partner(cells: np.ndarray, others: np.ndarray) -> int:
    if not len(cells) or not len(others):
        return 0
    distance = np.asarray(cKDTree(others).query(cells)[0])
    return int((distance <= _SAME_PLACE_UM).sum())


def _seconds(detector: CellDetector, stain: NDArray[np.float32], tile: Tile) -> float:
    best = float("inf")
    for _ in range(_TIMED):
        begun = time.perf_counter()
        detector.predict(stain, tile)
        best = min(best, time.perf_counter() - begun)
    return best
