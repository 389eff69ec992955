"""What the network should answer, and where that is known.

Where not everything is known, each pixel says which classes it may belong to. A pixel of a cell of unknown
class may be either cell; a pixel where only stained cells were annotated may be anything but a CD8+ cell.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, UNKNOWN

# Offsets are kept in steps of 0.1 um in a byte: +-12.7 um, beyond the largest cell.
_OFFSET_STEP_UM = 0.1
# Spread of the peak that marks a centre: wide enough to find, narrower than half the distance of two cells.
_CENTRE_SIGMA_UM = 1.2
# Round a point, this far is its cell for certain (lymphocytes are 6 um wide and more), ...
_POINT_RADIUS_UM = 2.5
# ... and this far may be.
_POINT_REACH_UM = 8.0

# Bits of `PackedTargets.known`. 1, 2, 4: the pixel may be background, CD8+ cell, other nucleus.
MAY_BE_ANY: Final = 7
# A nucleus that nobody annotated may be centred here; a CD8+ cell may not.
UNANNOTATED: Final = 8
# Nothing is known about centres here, nor about offsets.
NO_CENTRE: Final = 16
# Outside the image nothing is known at all.
OUTSIDE: Final = 0

# The class that a single allowed one means.
_SINGLE: Final = np.array([0, 0, 1, 0, 2, 0, 0, 0], np.uint8)
_ALLOWED: Final = {UNKNOWN: 2 | 4, CD8_POSITIVE: 2, OTHER_NUCLEUS: 4}


class PackedTargets(NamedTuple):
    """Targets of an image, packed into bytes so that many images stay in memory.

    classes : (H, W) uint8, 0 background, 1 CD8+ cell, 2 other nucleus; 0 too where that is not known.
    offsets : (2, H, W) int8, (x, y) to the centroid of the pixel's cell in steps of 0.1 um; 0 in background.
    centre : (H/2, W/2) uint8, 255 at a cell's centre.
    known : (H, W) uint8 of the bits above; None where everything is known.
    """

    classes: NDArray[np.uint8]
    offsets: NDArray[np.int8]
    centre: NDArray[np.uint8]
    known: NDArray[np.uint8] | None = None


class Targets(NamedTuple):
    """Targets of a batch, in the layout of `Maps`.

    classes : (N, H, W) int64. centre : (N, 1, H/2, W/2), 0-1. offsets : (N, 2, H, W) um.
    inside : (N, 1, H, W) bool, True in cells whose offsets are known.
    known : (N, H, W) uint8, see `PackedTargets`; None where everything is known.
    n_cd8 : (N,) float32 CD8+ cells in each image where that is all that is known, else NaN; None: all NaN.
    """

    classes: Tensor
    centre: Tensor
    offsets: Tensor
    inside: Tensor
    known: Tensor | None = None
    n_cd8: Tensor | None = None


def pack_targets(
    labels: NDArray[np.integer[Any]],
    is_cd8: NDArray[np.bool_],
    mpp: float,
    *,
    centroids_px: NDArray[np.float64] | None = None,
) -> PackedTargets:
    """Compute the targets of an image.

    Parameters
    ----------
    labels : (H, W), 0 for background, else 1 ... n; even height and width.
    is_cd8 : (n,) for label i at index i - 1.
    mpp : um per pixel.
    centroids_px : (n, 2) x, y, 0 at the centre of the first pixel; None: those of the labels. Needed where
        the labels in view are not whole.
    """
    height, width = labels.shape
    n = len(is_cd8)
    kind = np.concatenate([[0], np.where(is_cd8, 1, 2)]).astype(np.uint8)
    pixels = np.flatnonzero(labels)
    owner = labels.ravel()[pixels]
    rows, columns = np.divmod(pixels, width)
    if centroids_px is None:
        area = np.maximum(np.bincount(owner, minlength=n + 1), 1)
        centre_row = np.bincount(owner, rows, minlength=n + 1) / area
        centre_column = np.bincount(owner, columns, minlength=n + 1) / area
    else:
        centre_column, centre_row = np.vstack([np.zeros((1, 2)), centroids_px]).T
    dx = (centre_column[owner] - columns) * mpp
    dy = (centre_row[owner] - rows) * mpp

    offsets = np.zeros((2, height * width), np.int8)
    offsets[:, pixels] = np.clip(np.rint(np.stack([dx, dy]) / _OFFSET_STEP_UM), -127, 127)
    nearness = np.zeros(height * width, np.uint8)
    nearness[pixels] = np.rint(255 * np.exp(-(dx**2 + dy**2) / (2 * _CENTRE_SIGMA_UM**2)))
    centre = nearness.reshape(height // 2, 2, width // 2, 2).max(axis=(1, 3))
    return PackedTargets(kind[labels], offsets.reshape(2, height, width), centre)


def known_from_outlines(
    labels: NDArray[np.integer[Any]], classes: NDArray[np.uint8], *, background_known: bool
) -> NDArray[np.uint8]:
    """Return what is known where cells are outlined: (H, W) bits, see `PackedTargets`.

    The centre of a cell that the image's edge cuts lies who knows where: its class teaches, nothing else.

    Parameters
    ----------
    labels : (H, W), 0 or 1 ... n.
    classes : (n,) of `AnnotatedImage`.
    background_known : False where other nuclei may lie outside the labels.
    """
    of = np.zeros(len(classes) + 1, np.uint8)
    of[0] = 1 if background_known else 1 | 4 | UNANNOTATED
    of[1:] = _allowed(classes)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    cut = np.unique(edge[edge > 0])
    of[cut] |= NO_CENTRE
    known: NDArray[np.uint8] = of[labels]
    return known


def discs_from_points(
    points_px: NDArray[np.float64],
    classes: NDArray[np.uint8],
    shape: tuple[int, int],
    mpp: float,
    *,
    background_known: bool,
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return labels (H, W) of discs round points, and what is known (H, W), see `PackedTargets`.

    A disc is smaller than any cell. Round it, a pixel may belong to the cell or not; beyond a cell's reach it
    is as if nothing were annotated there.

    Parameters
    ----------
    points_px : (n, 2) x, y, 0 at the centre of the first pixel.
    classes : (n,) of `AnnotatedImage`.
    background_known : False where other nuclei may lie away from the points.
    """
    beyond = 1 if background_known else 1 | 4 | UNANNOTATED
    known = np.full(shape, beyond, np.uint8)
    labels = np.zeros(shape, np.int32)
    if len(points_px) == 0:
        return labels, known
    rows, columns = np.indices(shape)
    pixels = np.column_stack([columns.ravel(), rows.ravel()]).astype(np.float64)
    for value in np.unique(classes):
        tree = cKDTree(points_px[classes == value])
        distance, _ = tree.query(pixels, distance_upper_bound=_POINT_REACH_UM / mpp)
        known[np.isfinite(distance).reshape(shape)] |= _ALLOWED[int(value)]
    distance, nearest = cKDTree(points_px).query(pixels, distance_upper_bound=_POINT_RADIUS_UM / mpp)
    hit, nearest = np.isfinite(distance), np.asarray(nearest)
    labels.ravel()[hit] = nearest[hit] + 1
    known.ravel()[hit] = _allowed(classes)[nearest[hit]]
    return labels, known


def known_classes(known: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the class of each pixel whose class is known, else 0; see `PackedTargets`."""
    classes: NDArray[np.uint8] = _SINGLE[known & MAY_BE_ANY]
    return classes


def _allowed(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array([_ALLOWED[i] for i in range(len(_ALLOWED))], np.uint8)[classes]


def unpack_targets(packed: PackedTargets, device: torch.device | str = "cpu") -> Targets:
    """Return the targets of a batch of packed images, stacked along a first axis."""
    classes = torch.as_tensor(packed.classes, device=device).long()
    offsets = torch.as_tensor(packed.offsets, device=device).float() * _OFFSET_STEP_UM
    centre = torch.as_tensor(packed.centre, device=device).float()[:, None] / 255
    if packed.known is None:
        return Targets(classes, centre, offsets, (classes > 0)[:, None])
    known = torch.as_tensor(packed.known, device=device)
    # Certainly in a cell: anything but background, and the centre is known.
    inside = (known & (1 | NO_CENTRE) == 0) & (known != OUTSIDE)
    return Targets(classes, centre, offsets, inside[:, None], known)


@lru_cache
def peak_mass(mpp: float) -> float:
    """Return the sum of the centre map over one true cell, of 8 um across."""
    # Where the cell lies between the pixels matters little; the mean of some places.
    side = 2 * int(8 / mpp)
    rows, columns = np.indices((side, side))
    masses = []
    for shift in (0.0, 0.5, 1.0, 1.5):
        middle = side // 2 + shift
        disc = (rows - middle) ** 2 + (columns - middle) ** 2 < (4 / mpp) ** 2
        centroid = np.array([[middle, middle]])
        packed = pack_targets(disc.astype(np.int32), np.array([True]), mpp, centroids_px=centroid)
        masses.append(packed.centre.sum() / 255)
    return float(np.mean(masses))
