"""The detector of a run, tried out before the first slide."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from histo.cells.build import Detector, build_detector
from histo.cells.detect import CellDetector
from histo.config import BrightfieldStain, Config
from histo.errors import DeviceError
from histo.run.device import choose_device
from histo.slide import Box
from histo.slide.tiles import Tile
from histo.stain.deconvolution import AMOUNT_RANGE, optical_density, stain_matrix, unmix
from histo.synthetic.field import render_field

_SIZE_PX = 512
_TIMED = 3
# The rendered tile holds some hundred cells; a rounding error may cost one at the very threshold.
_LEAST_AGREEMENT = 0.97
_SAME_PLACE_UM = 1.0


@dataclass(frozen=True)
class Trial:
    """How a detector did on a rendered tile against the same network in float32 on the CPU.

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
    detector = build_detector(config.cells, choose_device(config.run.device))
    if not isinstance(detector, CellDetector):
        return detector, None
    if detector.device.type == "cpu" and detector.precision == "float32":
        return detector, None
    return detector, try_out(detector)


def try_out(detector: CellDetector) -> Trial:
    """Compare a detector with float32 on the CPU; raises DeviceError where they disagree."""
    reference = CellDetector(detector.weights, detector.config)
    stain, tile = _rendered_tile(detector.halo_px)
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


def _rendered_tile(halo_px: int) -> tuple[Tensor, Tile]:
    field = render_field(seed=0, size_px=_SIZE_PX, mpp=0.5)
    white = torch.as_tensor(field.white_point, dtype=torch.float32)
    amounts = unmix(
        optical_density(torch.from_numpy(field.pixels)[None], white), stain_matrix(BrightfieldStain().vectors)
    )
    inner = _SIZE_PX - 2 * halo_px
    tile = Tile(0, Box(halo_px, halo_px, inner, inner), Box(0, 0, _SIZE_PX, _SIZE_PX))
    return amounts.clamp(*AMOUNT_RANGE).permute(0, 3, 1, 2).contiguous(), tile


def _cells(
    detector: CellDetector, stain: Tensor, tile: Tile
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    table = detector.detect(stain.to(detector.device), [tile])[0].table
    # Another class is further away than any place.
    other = (table["cell_class"].astype("category").cat.codes.to_numpy() != 0) * 1e6
    return np.column_stack([table["x_um"], table["y_um"], other])


def _with_partner(cells: np.ndarray, others: np.ndarray) -> int:
    if not len(cells) or not len(others):
        return 0
    distance = np.asarray(cKDTree(others).query(cells)[0])
    return int((distance <= _SAME_PLACE_UM).sum())


def _seconds(detector: CellDetector, stain: Tensor, tile: Tile) -> float:
    stain = stain.to(detector.device)
    best = float("inf")
    for _ in range(_TIMED):
        begun = time.perf_counter()
        # To the host, so that a device is waited for.
        detector.predict(stain, [tile]).classes.amax().item()
        best = min(best, time.perf_counter() - begun)
    return best
