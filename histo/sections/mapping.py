"""A transform as a table of points: what thousands of cells go through at once, and its inverse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

# B-splines of hundreds of um bend by far less than 1 um between such steps.
_STEP_UM = 24.0
# The inverse is worked out by steps; each takes the error down by the strain of the tissue.
_INVERSE_STEPS = 40


@dataclass(frozen=True, eq=False)
class Mapping:
    """Where points of a slide lie on the other.

    step_um : between table entries, the first at (0, 0). table : (2, rows, columns), x and y, um.
    """

    step_um: float
    table: NDArray[np.float64]

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points (n, 2), um; beyond the table as a continuation of its affine part."""
        rows, columns = self.table.shape[1:]
        where = points[:, ::-1].T / self.step_um
        inside = np.clip(where, 0, np.array([[rows - 1.0], [columns - 1.0]]))
        mapped = np.stack([ndimage.map_coordinates(plane, inside, order=1) for plane in self.table], axis=1)
        beyond: NDArray[np.float64] = (where - inside)[::-1].T * self.step_um
        result: NDArray[np.float64] = mapped + beyond @ self.linear.T
        return result

    @property
    def linear(self) -> NDArray[np.float64]:
        """The affine part (2, 2): mean change of the mapped point for each um in x and in y."""
        across = np.diff(self.table, axis=2).mean(axis=(1, 2)) / self.step_um
        down = np.diff(self.table, axis=1).mean(axis=(1, 2)) / self.step_um
        return np.stack([across, down], axis=1)

    def stretch(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the area on the other slide of 1 um2 at points (n, 2); below 0 where the map folds over.

        Of a mirrored mapping too, the area is above 0 where it does not fold.
        """
        step = self.step_um
        right, down = np.array([step, 0.0]), np.array([0.0, step])
        x = (self(points + right) - self(points - right)) / (2 * step)
        y = (self(points + down) - self(points - down)) / (2 * step)
        area = x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]
        return np.asarray(area * np.sign(np.linalg.det(self.linear)))

    def inverse(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the points that are mapped to `points` (n, 2), to 0.1 um."""
        back = np.linalg.inv(self.linear)
        middle = (np.array(self.table.shape[:0:-1]) - 1) / 2 * self.step_um
        found = (points - self(middle[None])) @ back.T + middle
        for _ in range(_INVERSE_STEPS):
            change = (points - self(found)) @ back.T
            found = found + change
            if len(change) == 0 or np.abs(change).max() < 0.05:
                break
        return found


def tabulate(transform: sitk.Transform, size_um: tuple[float, float]) -> Mapping:
    """Return a SimpleITK transform as a table over a slide of `size_um` (width, height)."""
    columns, rows = (int(np.ceil(length / _STEP_UM)) + 2 for length in size_um)
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, (columns, rows), (0.0, 0.0), (_STEP_UM, _STEP_UM)
    )
    displacement = sitk.GetArrayFromImage(field)
    y, x = np.mgrid[0:rows, 0:columns] * _STEP_UM
    return Mapping(_STEP_UM, np.stack([x + displacement[..., 0], y + displacement[..., 1]]))
