"""Counting frames: random fields of a slide that a reader counts blind to the model, then beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from histo.measure.summary import Estimate
from histo.regions.place import Regions
from histo.review.actions import CountFrame, Entry
from histo.review.comparing import DensityAgreement, density_agreement

N_FRAMES: Final = 10
# A frame holds at least this share of assessed tissue, so that its count is one of tissue.
_MIN_TISSUE: Final = 0.8
_TRIES: Final = 4000


@dataclass(frozen=True)
class Frame:
    """A square field, um in the slide's frame: it holds what lies in [x, x + edge) x [y, y + edge)."""

    x_um: float
    y_um: float
    edge_um: float

    def holds(self, x_um: NDArray[np.float64], y_um: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which points lie in it. By their centroids, so that neighbours share no cell."""
        inside: NDArray[np.bool_] = (x_um >= self.x_um) & (x_um < self.x_um + self.edge_um)
        return inside & (y_um >= self.y_um) & (y_um < self.y_um + self.edge_um)


def frames_of(regions: Regions, slide_id: str, edge_um: float, n: int = N_FRAMES) -> list[Frame]:
    """Draw fields at random from the assessed tissue, without overlap; the same ones for every reader.

    Fewer than `n` where the tissue holds no more.
    """
    seed = hashlib.sha256(f"{slide_id}\0{edge_um:.3f}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(seed, np.uint32))
    # Sums over any rectangle from four corners.
    total = np.zeros(np.add(regions.assessed.shape, 1), np.int64)
    total[1:, 1:] = regions.assessed.cumsum(0).cumsum(1)
    rows, columns = regions.assessed.shape
    edge_px = max(1, round(edge_um / regions.mpp))
    frames: list[Frame] = []
    if edge_px > min(rows, columns):
        return frames
    for _ in range(_TRIES):
        row, column = rng.integers(0, rows - edge_px + 1), rng.integers(0, columns - edge_px + 1)
        below, right = row + edge_px, column + edge_px
        held = total[below, right] - total[row, right] - total[below, column] + total[row, column]
        frame = Frame(float(column * regions.mpp), float(row * regions.mpp), edge_um)
        apart = all(
            abs(frame.x_um - other.x_um) >= edge_um or abs(frame.y_um - other.y_um) >= edge_um
            for other in frames
        )
        if held >= _MIN_TISSUE * edge_px**2 and apart:
            frames.append(frame)
            if len(frames) == n:
                break
    return frames


def counted(entries: Sequence[Entry], frames: Sequence[Frame]) -> dict[int, CountFrame]:
    """Return the last count of each frame, by its number from 1.

    Counts of frames that lie elsewhere are left out: of another size, or of tissue that was found otherwise.
    """
    places = dict(enumerate(frames, start=1))
    return {
        action.frame: action
        for action in (entry.action for entry in entries)
        if isinstance(action, CountFrame)
        and places.get(action.frame) == Frame(action.x_um, action.y_um, action.edge_um)
    }


def against_model(
    frames: Sequence[Frame],
    counts: Mapping[int, CountFrame],
    x_um: NDArray[np.float64],
    y_um: NDArray[np.float64],
) -> dict[str, Any]:
    """Return the reader's counts, and the model's beside them once every frame is counted.

    Parameters
    ----------
    counts : see `counted`. x_um, y_um : the CD8+ cells of the run.
    """
    complete = len(frames) > 0 and all(number in counts for number in range(1, len(frames) + 1))
    agreement: DensityAgreement | None = None
    model: list[int] | None = None
    reader = [len(counts[k].marks) if k in counts else None for k in range(1, len(frames) + 1)]
    if complete:
        model = [int(frame.holds(x_um, y_um).sum()) for frame in frames]
        area = [frame.edge_um**2 / 1e6 for frame in frames]
        by_reader = [n / mm2 for n, mm2 in zip(reader, area, strict=True) if n is not None]
        by_model = [n / mm2 for n, mm2 in zip(model, area, strict=True)]
        # One cell more in each: a frame without any has a logarithm too.
        agreement = density_agreement("model against reader", by_reader, by_model, 1 / area[0])
    return {
        "frames": [[frame.x_um, frame.y_um] for frame in frames],
        "reader": reader,
        "marks": {k: [list(mark) for mark in count.marks] for k, count in counts.items()},
        "model": model,
        "concordance": None if agreement is None else _dumped(agreement.concordance),
        "ratio": None if agreement is None else _dumped(agreement.ratio),
    }


def _dumped(estimate: Estimate) -> dict[str, Any]:
    return estimate.model_dump(mode="json")
