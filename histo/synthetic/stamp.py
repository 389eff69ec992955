"""Cells onto pixels: all cells of a window at once, as stain amounts and labels.

A cell is a closed curve R(theta) around its centre, an ellipse with a few harmonics, and a nucleus of the
same kind inside it. What is painted depends on rho = r / R(theta) only, which needs no arctangent: sines and
cosines of multiples of theta are polynomials in x/r and y/r.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from histo.slide.geometry import Box
from histo.synthetic.noise import FloatArray, as_float

# Patch half sizes in pixels; cells are stamped in groups of equal patch.
_HALF_SIZES = np.concatenate(
    [np.arange(2, 16), np.arange(16, 32, 2), np.arange(32, 68, 4), 2 ** np.arange(7, 11)]
)
# Elements of one chunk: small enough for its temporaries to stay in the cache.
_CHUNK_ELEMENTS = 16_000
_CLOSENESS_STEPS = 1 << 20

# Values of Cells.label.
UNLABELLED, NUCLEUS, WHOLE_CELL, STAINED_NUCLEUS = 0, 1, 2, 3


@dataclass(frozen=True)
class Cells:
    """Cells and things drawn like cells, one array element each; um, amounts in optical density.

    x_um, y_um : centre of the cell. length_um, width_um : semi-axes of its outline; angle : of the long axis,
    radians. lobes : (n, 6) cosine and sine amplitudes of the 2nd, 3rd and 4th harmonic of the outline.
    nucleus_length_um, nucleus_width_um : semi-axes; nucleus_dx_um, nucleus_dy_um : from the cell's centre.
    nuclear : haematoxylin of the nucleus; vesicular : 0 solid to 1 pale, dark-rimmed; nucleolus : strength.
    cytoplasm : of the body, fades towards the outline, so that packed cells meet in seams.
    ring, ring_width_um : brown along the outline; ring_gaps : 0 whole to 1 broken line; ring_phase.
    brown : of the body; brown_nucleus : of the nucleus. edge_um : width over which the outlines fade.
    label : what of it is the cell to be found: nothing, the nucleus, the whole cell (CD8+), or the nucleus,
    counted as stained.
    """

    x_um: FloatArray
    y_um: FloatArray
    length_um: FloatArray
    width_um: FloatArray
    angle: FloatArray
    lobes: FloatArray
    nucleus_length_um: FloatArray
    nucleus_width_um: FloatArray
    nucleus_dx_um: FloatArray
    nucleus_dy_um: FloatArray
    nuclear: FloatArray
    vesicular: FloatArray
    nucleolus: FloatArray
    cytoplasm: FloatArray
    ring: FloatArray
    ring_width_um: FloatArray
    ring_gaps: FloatArray
    ring_phase: FloatArray
    brown: FloatArray
    brown_nucleus: FloatArray
    edge_um: FloatArray
    label: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.x_um)

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Cells:
        """Return some of the cells, by mask or index."""
        return Cells(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    def nucleus_reach_um(self) -> FloatArray:
        """Return how far from its centre a cell's nucleus is painted."""
        nucleus = np.maximum(self.nucleus_length_um, self.nucleus_width_um) * (1 + 0.7 * self._lobe_sum())
        offset = np.hypot(self.nucleus_dx_um, self.nucleus_dy_um)
        return as_float(nucleus + offset + 0.5 * self.edge_um)

    def reach_um(self) -> FloatArray:
        """Return how far from its centre anything of a cell but its cytoplasm is painted."""
        outline = np.maximum(self.length_um, self.width_um) * (1 + self._lobe_sum())
        # The line along the outline lies at 0.9 of it and is Gaussian across.
        line = np.where(self.ring > 0, 0.9 * outline + 2.1 * self.ring_width_um, 0)
        body = np.where(self.is_stained(), outline + 0.5 * self.edge_um, 0)
        return as_float(np.maximum(np.maximum(self.nucleus_reach_um(), body), line))

    def _lobe_sum(self) -> FloatArray:
        return as_float(np.hypot(self.lobes[:, ::2], self.lobes[:, 1::2]).sum(axis=1))

    def is_stained(self) -> NDArray[np.bool_]:
        """Tell which have brown outside the nucleus, or count with their whole body."""
        result: NDArray[np.bool_] = (self.ring > 0) | (self.brown > 0) | (self.label == WHOLE_CELL)
        return result


def concatenate(parts: list[Cells]) -> Cells:
    """Return all cells of several tables, in their order."""
    return Cells(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Cells)})


@dataclass(frozen=True)
class Layers:
    """What the cells of a window amount to: (height, width) each.

    nuclear, cytoplasm : haematoxylin; brown : DAB (of touching cells added: their seams are darker);
    owner : index of the cell that a pixel belongs to, -1 for none.
    """

    nuclear: FloatArray
    cytoplasm: FloatArray
    brown: FloatArray
    owner: NDArray[np.int32]


def stamp(cells: Cells, box: Box, mpp: float) -> Layers:
    """Paint cells on a window of the grid at `mpp`.

    Cells that touch are parted where they are equally deep inside both outlines. The result at a pixel does
    not depend on the window.

    Parameters
    ----------
    cells : any number, anywhere; those out of reach cost one comparison.
    box : the window, in grid pixels.
    mpp : um per pixel.
    """
    height, width = box.height, box.width
    # One row and one column more: where the parts of patches outside the window are thrown.
    shape = (height + 1, width + 1)
    nuclear = np.zeros(shape, np.float32)
    cytoplasm = np.zeros(shape, np.float32)
    brown = np.zeros(shape, np.float32)
    key = np.zeros(shape, np.int64)
    bodies = np.maximum(cells.length_um, cells.width_um)
    for part, _, dx, dy, flat in _patches(cells, cells.cytoplasm > 0, bodies, box, mpp):
        _stamp_cytoplasm(part, dx, dy, flat, cytoplasm.reshape(-1))
    stained = cells.is_stained()
    reach = cells.reach_um()
    flat_canvas = (nuclear.reshape(-1), brown.reshape(-1), key.reshape(-1))
    for has_body in (False, True):
        for part, index, dx, dy, flat in _patches(cells, stained == has_body, reach, box, mpp):
            _stamp_chunk(part, index, dx, dy, flat, has_body, flat_canvas)
    owner = np.where(key > 0, (key & 0xFFFFFFFF).astype(np.int64), -1).astype(np.int32)
    return Layers(
        nuclear[:height, :width], cytoplasm[:height, :width], brown[:height, :width], owner[:height, :width]
    )


def _patches(
    cells: Cells, which: NDArray[np.bool_], reach_um: FloatArray, box: Box, mpp: float
) -> Iterator[tuple[Cells, NDArray[np.intp], FloatArray, FloatArray, NDArray[np.int64]]]:
    """Yield cells in chunks of one patch size, those that reach into the window.

    Yields
    ------
    cells (n), their indices (n,), x and y of the patches' pixels from the cell's centre in um (n, 1, p) and
    (n, p, 1), and where the patches' pixels lie in the flattened window of one row and column more (n*p*p,).
    """
    width, height = box.width, box.height
    group = np.searchsorted(_HALF_SIZES, np.ceil(reach_um / mpp))
    group = np.minimum(group, len(_HALF_SIZES) - 1)
    half_px = _HALF_SIZES[group]
    column = np.floor(cells.x_um / mpp).astype(np.int64) - box.x
    row = np.floor(cells.y_um / mpp).astype(np.int64) - box.y
    near = which & (column + half_px >= 0) & (column - half_px < width)
    near &= (row + half_px >= 0) & (row - half_px < height)
    for size in np.unique(group[near]):
        half = int(_HALF_SIZES[size])
        span = np.arange(-half, half + 1)
        chunk = max(1, _CHUNK_ELEMENTS // len(span) ** 2)
        members = np.flatnonzero(near & (group == size))
        for start in range(0, len(members), chunk):
            index = members[start : start + chunk]
            rows = row[index, None] + span
            columns = column[index, None] + span
            inner_rows = np.where((rows < 0) | (rows >= height), height, rows) * (width + 1)
            inner_columns = np.where((columns < 0) | (columns >= width), width, columns)
            flat = (inner_rows[:, :, None] + inner_columns[:, None, :]).ravel()
            part = cells.take(index)
            # The centre of the pixel, from the centre of the cell; float64 before the difference is taken.
            dx = ((columns + box.x + 0.5) * mpp - part.x_um[:, None]).astype(np.float32)[:, None, :]
            dy = ((rows + box.y + 0.5) * mpp - part.y_um[:, None]).astype(np.float32)[:, :, None]
            yield part, index, dx, dy, flat


def _stamp_cytoplasm(
    part: Cells, dx: FloatArray, dy: FloatArray, flat: NDArray[np.int64], cytoplasm: FloatArray
) -> None:
    """Paint bodies that fade outwards: the greater of two neighbours wins, so that they meet in polygons."""
    u, v = _local(dx, dy, np.cos(part.angle), np.sin(part.angle), part.length_um, part.width_um)
    u *= u
    v *= v
    u += v
    fade = part.cytoplasm[:, None, None] * (1 - u * u * u)
    np.maximum.at(cytoplasm, flat, fade.ravel())


def _stamp_chunk(
    part: Cells,
    index: NDArray[np.intp],
    dx: FloatArray,
    dy: FloatArray,
    flat: NDArray[np.int64],
    has_body: bool,
    canvas: tuple[FloatArray, FloatArray, NDArray[np.int64]],
) -> None:
    nuclear, brown, key = canvas
    cos, sin = np.cos(part.angle), np.sin(part.angle)
    rho_cell: FloatArray | None = None
    amount: FloatArray | None = None
    if has_body:
        rho_cell, cos3, sin3 = _rho(part, dx, dy, cos, sin, part.length_um, part.width_um, 1.0)
        scale = np.sqrt(part.length_um * part.width_um)[:, None, None]
        inside = _edge(rho_cell, scale, part.edge_um)
        phase_cos, phase_sin = np.cos(part.ring_phase), np.sin(part.ring_phase)
        wave = phase_cos[:, None, None] * cos3 + phase_sin[:, None, None] * sin3
        gaps = part.ring_gaps[:, None, None]
        line = np.clip(1 - gaps + gaps * (np.float32(0.35) + wave), 0, np.float32(1.4))
        offset = (rho_cell - np.float32(0.9)) * (scale / part.ring_width_um[:, None, None])
        amount = part.ring[:, None, None] * line * np.exp(-(offset * offset))
        amount += part.brown[:, None, None] * inside
    nucleus_dx = dx - part.nucleus_dx_um[:, None, None]
    nucleus_dy = dy - part.nucleus_dy_um[:, None, None]
    rho, cos3, sin3 = _rho(
        part, nucleus_dx, nucleus_dy, cos, sin, part.nucleus_length_um, part.nucleus_width_um, 0.7
    )
    scale = np.sqrt(part.nucleus_length_um * part.nucleus_width_um)[:, None, None]
    inside = _edge(rho, scale, part.edge_um)
    vesicular = part.vesicular[:, None, None]
    rho2 = rho * rho
    profile = 1 - vesicular * (1 - rho2 * rho2)
    if part.nucleolus.any():
        # A nucleolus off the centre, where the third harmonic points.
        spot = rho2 + np.float32(0.16) - np.float32(0.7) * rho * np.maximum(cos3, 0)
        profile += part.nucleolus[:, None, None] * np.exp(-spot * (scale * scale) / np.float32(0.7))
    np.maximum.at(nuclear, flat, (part.nuclear[:, None, None] * inside * profile).ravel())
    if amount is not None:
        amount += part.brown_nucleus[:, None, None] * inside
        # The nucleus keeps most of the antibody out, unless the blot lies over it (brown_nucleus).
        kept_out = np.where(part.ring > 0, np.float32(0.55) * part.brown, np.float32(0))
        amount -= kept_out[:, None, None] * inside
        np.add.at(brown, flat, np.maximum(amount, 0).ravel())
    elif part.brown_nucleus.any():
        np.add.at(brown, flat, (part.brown_nucleus[:, None, None] * inside).ravel())

    whole = (part.label == WHOLE_CELL)[:, None, None]
    depth = rho if rho_cell is None else np.where(whole, np.minimum(rho_cell, rho), rho)
    mine = ((depth < 1) & (part.label > 0)[:, None, None]).ravel()
    if mine.any():
        closeness = ((1 - depth.ravel()[mine]) * (_CLOSENESS_STEPS - 1)).astype(np.int64) + 1
        ids = np.broadcast_to(index[:, None, None], depth.shape).ravel()[mine]
        np.maximum.at(key, flat[mine], (closeness << 32) | ids)


def _rho(
    part: Cells,
    dx: FloatArray,
    dy: FloatArray,
    cos: FloatArray,
    sin: FloatArray,
    length_um: FloatArray,
    width_um: FloatArray,
    lobe_scale: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return r / R(theta), and the cosine and sine of 3 theta."""
    u, v = _local(dx, dy, cos, sin, length_um, width_um)
    r = np.sqrt(u * u + v * v) + np.float32(1e-4)
    inverse = 1 / r
    c, s = u * inverse, v * inverse
    cos2, sin2 = c * c - s * s, 2 * c * s
    cos3, sin3 = c * cos2 - s * sin2, s * cos2 + c * sin2
    cos4, sin4 = cos2 * cos2 - sin2 * sin2, 2 * cos2 * sin2
    lobes = (part.lobes * np.float32(lobe_scale))[:, :, None, None]
    radius = 1 + lobes[:, 0] * cos2 + lobes[:, 1] * sin2 + lobes[:, 2] * cos3
    radius += lobes[:, 3] * sin3
    radius += lobes[:, 4] * cos4
    radius += lobes[:, 5] * sin4
    return as_float(r / radius), as_float(cos3), as_float(sin3)


def _local(
    dx: FloatArray,
    dy: FloatArray,
    cos: FloatArray,
    sin: FloatArray,
    length_um: FloatArray,
    width_um: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Return coordinates along and across the long axis, in semi-axes."""
    along, across = (1 / length_um)[:, None, None], (1 / width_um)[:, None, None]
    cos, sin = cos[:, None, None], sin[:, None, None]
    u = dx * (cos * along) + dy * (sin * along)
    v = dy * (cos * across) - dx * (sin * across)
    return as_float(u), as_float(v)


def _edge(rho: FloatArray, scale: FloatArray, edge_um: FloatArray) -> FloatArray:
    """Return 1 inside, 0 outside, a ramp of `edge_um` across rho = 1."""
    ramp = (1 - rho) * (scale / edge_um[:, None, None]) + np.float32(0.5)
    return np.clip(ramp, 0, 1, out=ramp)
