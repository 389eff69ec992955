"""Where one section lies on the other, to begin with: every rotation, mirrored or not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from histo.sections.picture import NuclearPicture

# Pixels of the longer side of the pictures that are turned.
_SIDE_PX = 192
_STEP_DEG = 6.0
# Then from the best of these, each way.
_FINER_DEG = (3.0, 1.5, 0.75)
# Guesses that are handed on; neighbours in angle of a better one are not among them.
_N_GUESSES = 6


@dataclass(frozen=True, eq=False)
class Guess:
    """A way from the first slide to the second: q = matrix (p - centre_um) + centre_um + shift_um.

    matrix : (2, 2), a rotation, or one with a reflection. similarity : cosine of the two pictures, 0 to 1.
    """

    matrix: NDArray[np.float64]
    centre_um: NDArray[np.float64]
    shift_um: NDArray[np.float64]
    angle_deg: float
    mirrored: bool
    similarity: float


def coarse_guesses(first: NuclearPicture, second: NuclearPicture, *, flips: bool) -> list[Guess]:
    """Return likely ways to lay the second section over the first, best first.

    The tissue's centres of mass are laid over each other, the second picture is turned in steps of 6 degrees,
    as it is and mirrored, and for each the best shift is where the cross-correlation of the nuclear stain
    (and with it of the tissue's shape, for glass has none) is largest. The best six are then turned in finer
    steps, to within half a degree or so.
    """
    factor = max(1, int(np.ceil(max(*first.nuclear.shape, *second.nuclear.shape) / _SIDE_PX)))
    one, two = first.coarser(factor), second.coarser(factor)
    mpp = one.mpp
    centres = [np.array(ndimage.center_of_mass(part.tissue)) for part in (one, two)]
    side = fft.next_fast_len(2 * int(np.ceil(np.hypot(*np.maximum(one.nuclear.shape, two.nuclear.shape)))))
    middle = np.array([side / 2, side / 2])
    fixed = _turned(_picture(one), np.eye(2), centres[0], middle, side)
    spectrum = np.conj(fft.rfft2(fixed))
    scale = float(np.linalg.norm(fixed))
    moving = _picture(two)

    def tried(angle: float, mirrored: bool) -> Guess:
        matrix = _matrix(angle, mirrored)
        # Rows and columns are y and x.
        turned = _turned(moving, matrix[::-1, ::-1], centres[1], middle, side)
        correlation = fft.irfft2(spectrum * fft.rfft2(turned), s=(side, side))
        peak = np.unravel_index(int(correlation.argmax()), correlation.shape)
        rows, columns = (int(p) - side if p > side / 2 else int(p) for p in peak)
        # In the turned picture the second section lies so much further on.
        offset = matrix @ (np.array([columns, rows]) * mpp)
        centre = (centres[0][::-1] + 0.5) * mpp
        shift = (centres[1][::-1] + 0.5) * mpp - centre + offset
        similarity = float(correlation.max()) / (scale * max(float(np.linalg.norm(turned)), 1e-9))
        return Guess(matrix, centre, shift, angle % 360, mirrored, similarity)

    def best(guesses: Iterable[Guess]) -> Guess:
        return max(guesses, key=lambda guess: guess.similarity)

    found = [
        tried(float(angle), mirrored)
        for mirrored in ((False, True) if flips else (False,))
        for angle in np.arange(0, 360, _STEP_DEG)
    ]
    found.sort(key=lambda guess: -guess.similarity)
    kept: list[Guess] = []
    for guess in found:
        if len(kept) < _N_GUESSES and all(_apart(guess, other) > 2 * _STEP_DEG for other in kept):
            kept.append(guess)
    for step in _FINER_DEG:
        kept = [best([g, *(tried(g.angle_deg + turn, g.mirrored) for turn in (-step, step))]) for g in kept]
    return sorted(kept, key=lambda guess: -guess.similarity)


def _picture(part: NuclearPicture) -> NDArray[np.float32]:
    # The shape of the tissue counts beside its stain: pale host tissue is no glass.
    return np.asarray(ndimage.gaussian_filter(part.nuclear + 0.3 * part.tissue, 1.0), np.float32)


def _matrix(angle_deg: float, mirrored: bool) -> NDArray[np.float64]:
    angle = np.deg2rad(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(turn @ np.diag([-1.0 if mirrored else 1.0, 1.0]), np.float64)


def _turned(
    picture: NDArray[np.float32],
    matrix: NDArray[np.float64],
    centre: NDArray[np.float64],
    middle: NDArray[np.float64],
    side: int,
) -> NDArray[np.float32]:
    """Return the picture as seen through `matrix`, its centre in the middle of a square."""
    return ndimage.affine_transform(picture, matrix, centre - matrix @ middle, (side, side), order=1)


def _apart(one: Guess, other: Guess) -> float:
    if one.mirrored != other.mirrored:
        return 360.0
    difference = abs(one.angle_deg - other.angle_deg) % 360
    return min(difference, 360 - difference)
