"""Made-up pictures of sections whose way onto each other is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from histo.sections.picture import NuclearPicture
from histo.synthetic.serial import RenderedPair

MPP = 8.0


def noise_picture(seed: int, shape: tuple[int, int] = (130, 190)) -> NuclearPicture:
    """Return an irregular piece of tissue with structures of some 40 um; all seeds have one shape."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    y, x = (rows - shape[0] / 2) / (0.38 * shape[0]), (columns - shape[1] / 2) / (0.40 * shape[1])
    angle = np.arctan2(y, x)
    tissue = np.hypot(x, y) < 0.9 + 0.12 * np.cos(3 * angle + 1) + 0.08 * np.sin(angle)
    values = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.5)
    nuclear = np.clip(0.5 + 0.22 * values / values.std(), 0, 1) * tissue
    return NuclearPicture(MPP, nuclear.astype(np.float32), tissue)


@dataclass(frozen=True)
class Moved:
    """A picture turned, mirrored and shifted, with new noise; and the true way to it."""

    picture: NuclearPicture
    matrix: NDArray[np.float64]
    centre_um: NDArray[np.float64]
    serial_centre_um: NDArray[np.float64]

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((points - self.centre_um) @ self.matrix.T + self.serial_centre_um)


def moved_picture(picture: NuclearPicture, angle_deg: float, *, mirrored: bool = False) -> Moved:
    angle = np.deg2rad(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([-1.0 if mirrored else 1.0, 1.0]) * 1.02
    side = 230
    rows, columns = picture.nuclear.shape
    middle, new_middle = np.array([rows, columns]) / 2 - 0.5, np.array([side / 2 + 5, side / 2 - 3]) - 0.5
    back = np.linalg.inv(matrix)[::-1, ::-1]
    offset = middle - back @ new_middle
    shape = (side, side)
    nuclear = ndimage.affine_transform(picture.nuclear, back, offset, shape, order=1)
    tissue = ndimage.affine_transform(picture.tissue.astype(float), back, offset, shape, order=1) > 0.5
    rough = np.random.default_rng(7).normal(0, 0.05, shape)
    return Moved(
        NuclearPicture(MPP, (np.clip(nuclear + rough, 0, 1) * tissue).astype(np.float32), tissue),
        matrix,
        (middle[::-1] + 0.5) * MPP,
        (new_middle[::-1] + 0.5) * MPP,
    )


@dataclass(frozen=True)
class PairOnDisk:
    """A rendered pair, and the folder of the results of infer on it."""

    pair: RenderedPair
    results: Path
