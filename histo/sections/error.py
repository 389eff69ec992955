"""How far off a registration is, in um: by landmarks, there and back, and by what looks alike where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.feature import match_template

from histo.errors import ConfigError
from histo.sections.mapping import Mapping
from histo.sections.picture import NuclearPicture
from histo.tables.written import read_written

# Edge of the windows that are looked for on the other section, how far they are looked for, and between
# windows.
WINDOW_UM = 320.0
_REACH_UM = 96.0
_SPACING_UM = 100.0
# Windows lie within tissue: along an outline that both sections have, any two look alike.
_WITHIN = 0.95
# Windows of a slide: of larger ones every so many-th only.
_MOST_WINDOWS = 4000
# The stain is compared less its mean over about so far: along a border of the tumour any two windows look
# alike.
_MEAN_UM = 60.0
# A window looks alike where its best correlation exceeds this percentile of windows turned or mirrored, of
# which at least so many are looked for, as far as there are that many.
_BY_CHANCE = 95.0
_TURNED_WINDOWS = 400
_WAYS = 7
# A place is judged by the windows within so far of it.
_AROUND_UM = 250.0
_LANDMARK_COLUMNS = ("x_um", "y_um", "serial_x_um", "serial_y_um")
_MIN_LANDMARKS = 4
_SHOWN = 20


@dataclass(frozen=True, eq=False)
class LocalError:
    """The error at windows of the first slide, (n,) each.

    x_um, y_um : their centres. there_and_back_um : distance between a point and where the forward and then
    the backward registration take it. residual_um : shift of the second section that would look most alike;
    NaN where the window does not look alike. error_um : what is believed of the place: the
    larger of both, medians over the windows within 250 um; NaN where fewer than half of them (and of 3) look
    alike.
    verified : whether the window looks alike, more than by chance.
    """

    x_um: NDArray[np.float64]
    y_um: NDArray[np.float64]
    there_and_back_um: NDArray[np.float64]
    residual_um: NDArray[np.float64]
    error_um: NDArray[np.float64]
    verified: NDArray[np.bool_]

    @property
    def verified_fraction(self) -> float:
        """Share of the windows that look alike; by chance 0.05."""
        return float(self.verified.mean()) if len(self.verified) else 0.0

    def at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the error at points (n, 2): that of the nearest window, NaN where none is within 250 um."""
        if len(self.x_um) == 0:
            return np.full(len(points), np.nan)
        distance, nearest = KDTree(np.column_stack([self.x_um, self.y_um])).query(points)
        return np.where(distance <= _AROUND_UM, self.error_um[nearest], np.nan)


def local_error(
    first: NuclearPicture, moved: NDArray[np.float32], forward: Mapping, backward: Mapping
) -> LocalError:
    """Measure the error of a registration place by place, without landmarks.

    Inverse consistency (Christensen 2001, IEEE Trans Med Imaging 20:568) needs two registrations that know
    nothing of each other, and is blind to what misleads both. So windows of 320 um are looked for within 96
    um on the second section, where the registration has laid it, by normalised cross-correlation of the stain
    less its local mean. What a best correlation is worth is learnt from the windows themselves, turned by
    quarters and mirrored: stain alike, but of another structure. (Windows from elsewhere do not do on small
    pieces, where the right place is within reach of the wrong one.) Windows lie within the common tissue, for
    unrelated sections laid over each other share an outline.

    Parameters
    ----------
    first : nuclear stain of the first slide. moved : of the second, on the grid of the first.
    """
    mpp = first.mpp
    half, reach = round(WINDOW_UM / 2 / mpp), round(_REACH_UM / mpp)
    rows, columns = _centres(first.tissue & (moved > 0), mpp, half)
    x, y = ((place.astype(np.float64) + 0.5) * mpp for place in (columns, rows))
    centres = np.column_stack([x, y])
    there_and_back = np.hypot(*(backward(forward(centres)) - centres).T)
    one = np.pad(_structure(first.nuclear, first.tissue, mpp), half)
    two = np.pad(_structure(moved, moved > 0, mpp), half + reach)
    n_ways = min(_WAYS, -(-_TURNED_WINDOWS // max(len(rows), 1)))
    best, off = (np.zeros(len(rows)) for _ in range(2))
    by_chance = []
    for index, (row, column) in enumerate(zip(rows, columns, strict=True)):
        template = one[row : row + 2 * half + 1, column : column + 2 * half + 1]
        best[index], off[index] = _best(template, two, row, column, half, reach, mpp)
        for way in range(index * n_ways, (index + 1) * n_ways):
            turned = _turned(template, way % _WAYS + 1)
            by_chance.append(_best(turned, two, row, column, half, reach, mpp)[0])
    limit = float(np.percentile(by_chance, _BY_CHANCE)) if by_chance else 1.0
    verified = best > limit
    residual = np.where(verified, off, np.nan)
    return LocalError(x, y, there_and_back, residual, _smooth(centres, there_and_back, residual), verified)


def _centres(tissue: NDArray[np.bool_], mpp: float, half: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the centres of windows that hold hardly any glass."""
    share = ndimage.uniform_filter(tissue.astype(np.float32), 2 * half + 1, mode="constant")
    step = max(1, round(_SPACING_UM / mpp))
    while True:
        rows, columns = np.nonzero(share[step // 2 :: step, step // 2 :: step] > _WITHIN)
        if len(rows) <= _MOST_WINDOWS:
            return rows * step + step // 2, columns * step + step // 2
        step *= 2


def _structure(nuclear: NDArray[np.float32], tissue: NDArray[np.bool_], mpp: float) -> NDArray[np.float32]:
    """Return the stain less its local mean over the tissue; 0 on glass."""
    weight = tissue.astype(np.float32)
    total, share = (ndimage.gaussian_filter(part, _MEAN_UM / mpp) for part in (nuclear * weight, weight))
    return np.asarray((ndimage.gaussian_filter(nuclear, 1.0) - total / np.maximum(share, 1e-3)) * weight)


def _turned(window: NDArray[np.float32], way: int) -> NDArray[np.float32]:
    """Return a square window turned by quarters (ways 1 to 3), or turned and mirrored (4 to 7)."""
    turned = np.rot90(window, way)
    return np.ascontiguousarray(turned if way < 4 else turned[::-1])


def _best(
    template: NDArray[np.float32],
    picture: NDArray[np.float32],
    row: int,
    column: int,
    half: int,
    reach: int,
    mpp: float,
) -> tuple[float, float]:
    """Return the best correlation of a window round a place, and how far from it, um."""
    size = 2 * (half + reach) + 1
    around = picture[row : row + size, column : column + size]
    if template.std() < 1e-6 or around.std() < 1e-6:
        return 0.0, np.inf
    correlation = match_template(around, template)  # type: ignore[no-untyped-call]
    peak = np.unravel_index(int(correlation.argmax()), correlation.shape)
    off = np.hypot(peak[0] - reach, peak[1] - reach) * mpp
    return float(correlation[peak]), float(off)


def _smooth(
    centres: NDArray[np.float64], there_and_back: NDArray[np.float64], residual: NDArray[np.float64]
) -> NDArray[np.float64]:
    if len(centres) == 0:
        return np.empty(0)
    error = np.full(len(centres), np.nan)
    tree = KDTree(centres)
    for index, centre in enumerate(centres):
        near: list[int] = tree.query_ball_point(centre, _AROUND_UM)
        known = residual[near]
        known = known[~np.isnan(known)]
        if len(known) >= max(3, 0.5 * len(near)):
            error[index] = max(float(np.median(known)), float(np.median(there_and_back[near])))
    return error


def read_landmarks(path: Path) -> NDArray[np.float64]:
    """Read pairs of points: a CSV with x_um, y_um on the first slide, serial_x_um, serial_y_um on the second.

    Returns
    -------
    (n, 4) float64.

    Raises
    ------
    ConfigError : it cannot be read, lacks a column, holds what is no number, or fewer than 4 pairs.
    """
    frame = read_written(path, "the landmarks")
    missing = [name for name in _LANDMARK_COLUMNS if name not in frame.columns]
    if missing:
        raise ConfigError(
            f"the landmarks have no column {', '.join(missing)}",
            path=path,
            fix=f"Name the columns {', '.join(_LANDMARK_COLUMNS)}; positions are um from the top left corner",
        )
    numbers = [pd.to_numeric(frame[name], errors="coerce") for name in _LANDMARK_COLUMNS]
    values: NDArray[np.float64] = np.column_stack([column.to_numpy(np.float64) for column in numbers])
    bad = [str(line) for line in np.flatnonzero(~np.isfinite(values).all(axis=1)) + 2]
    if bad:
        raise ConfigError(
            f"landmarks that are no numbers, in line {', '.join(bad[:_SHOWN])}", path=path, fix="Correct them"
        )
    if len(values) < _MIN_LANDMARKS:
        raise ConfigError(
            f"only {len(values)} landmarks, {_MIN_LANDMARKS} needed", path=path, fix="Set some more"
        )
    return values


def landmark_error_um(landmarks: NDArray[np.float64], forward: Mapping) -> NDArray[np.float64]:
    """Return how far from its partner each landmark (n, 4) of the first slide is taken, um on the second."""
    return np.asarray(np.hypot(*(forward(landmarks[:, :2]) - landmarks[:, 2:]).T))
