"""Which cells there are and what each looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from histo.synthetic.noise import FloatArray, as_float
from histo.synthetic.stamp import NUCLEUS, STAINED_NUCLEUS, UNLABELLED, WHOLE_CELL, Cells
from histo.synthetic.tissue import GLASS, LYMPHOID, STROMA, TUMOUR

# (x_um, y_um) -> value at each point.
PointFunction = Callable[[FloatArray, FloatArray], FloatArray]


def lattice(
    rng: np.random.Generator,
    box_um: tuple[float, float, float, float],
    spacing_um: float,
    jitter: float = 0.25,
) -> tuple[FloatArray, FloatArray]:
    """Return points that keep apart: a hexagonal lattice, bent by a smooth field and shaken.

    Parameters
    ----------
    box_um : x, y, width, height to cover; points reach a little beyond it.
    spacing_um : between neighbours; the density is 1.1547 / spacing_um**2 per um2.
    jitter : standard deviation of the shaking, in spacings.
    """
    x0, y0, width, height = box_um
    columns = int(width / spacing_um) + 4
    rows = int(height / (spacing_um * 0.8660254)) + 4
    grid = np.mgrid[-2 : rows - 2, -2 : columns - 2].reshape(2, -1).astype(np.float32)
    x = (grid[1] + 0.5 * (grid[0] % 2)) * spacing_um
    y = grid[0] * (spacing_um * 0.8660254)
    phase = rng.uniform(0, 2 * np.pi, 6)
    lengths = rng.uniform(40, 120, 6)
    # Bending: a few plane waves, gentle enough to keep points apart.
    bend_x = sum(np.sin(y / lengths[k] * 6.28 + x / lengths[k] * 2 + phase[k]) for k in range(3))
    bend_y = sum(np.sin(x / lengths[k] * 6.28 - y / lengths[k] * 2 + phase[k]) for k in range(3, 6))
    shake = rng.standard_normal((2, len(x))).astype(np.float32).clip(-1.8, 1.8) * (jitter * spacing_um)
    x = x + np.asarray(bend_x) * 3.0 + shake[0] + rng.uniform(0, spacing_um) + x0
    y = y + np.asarray(bend_y) * 3.0 + shake[1] + rng.uniform(0, spacing_um) + y0
    return x.astype(np.float32), y.astype(np.float32)


def kept_apart(
    fixed: tuple[FloatArray, FloatArray], x: FloatArray, y: FloatArray, distance_um: FloatArray | float
) -> NDArray[np.bool_]:
    """Tell which points are farther than `distance_um` from all fixed ones."""
    if len(fixed[0]) == 0 or len(x) == 0:
        return np.ones(len(x), bool)
    nearest, _ = cKDTree(np.column_stack(fixed)).query(
        np.column_stack([x, y]), distance_upper_bound=float(np.max(distance_um))
    )
    return np.asarray(nearest > distance_um)


def _base(
    rng: np.random.Generator, x: FloatArray, y: FloatArray, lobes: float
) -> dict[str, NDArray[np.generic]]:
    n = len(x)
    zeros = np.zeros(n, np.float32)
    # Higher harmonics weaker, as in the outlines of real nuclei.
    scale = np.array([1, 1, 0.7, 0.7, 0.45, 0.45], np.float32) * np.float32(lobes)
    names = (
        "length_um",
        "width_um",
        "nucleus_length_um",
        "nucleus_width_um",
        "nucleus_dx_um",
        "nucleus_dy_um",
        "nuclear",
        "vesicular",
        "nucleolus",
        "cytoplasm",
        "ring",
        "ring_gaps",
        "brown",
        "brown_nucleus",
    )
    base: dict[str, NDArray[np.generic]] = dict.fromkeys(names, zeros)
    base |= {
        "x_um": np.asarray(x, np.float32),
        "y_um": np.asarray(y, np.float32),
        "angle": rng.uniform(0, np.pi, n).astype(np.float32),
        "lobes": rng.standard_normal((n, 6)).astype(np.float32) * scale,
        "ring_width_um": np.ones(n, np.float32),
        "ring_phase": rng.uniform(0, 2 * np.pi, n).astype(np.float32),
        # Most cells lie in focus, some above or below it.
        "edge_um": (0.75 * np.exp(np.abs(rng.normal(0, 0.45, n)))).astype(np.float32),
        "label": np.full(n, NUCLEUS, np.int8),
    }
    return base


def _make(base: dict[str, NDArray[np.generic]], **values: NDArray[np.generic] | float) -> Cells:
    n = len(base["x_um"])
    for name, value in values.items():
        array = np.asarray(value)
        base[name] = np.broadcast_to(array, (n, *array.shape[1:])).astype(
            np.int8 if name == "label" else np.float32
        )
    return Cells(**base)  # type: ignore[arg-type]


def _lognormal(rng: np.random.Generator, median: float, spread: float, n: int) -> FloatArray:
    return (median * np.exp(spread * rng.standard_normal(n).clip(-2.2, 2.2))).astype(np.float32)


def tumour_cells(
    rng: np.random.Generator,
    x: FloatArray,
    y: FloatArray,
    *,
    size_um: float = 4.3,
    pleomorphism: float = 0.15,
    columnar: float = 0.0,
    across: FloatArray | None = None,
    nuclear_stain: float = 0.0,
    brown_scale: float = 1.0,
) -> Cells:
    """Carcinoma: large vesicular nuclei with nucleoli, blue-grey cytoplasm.

    Parameters
    ----------
    size_um : median nuclear radius; pleomorphism : spread of its log.
    nuclear_stain : share of nuclei that the antibody stains (Ki67 and the like): from faint to black. Those
        with an optical density above 0.2 count as stained cells, as in QuPath's example of Ki67.
    brown_scale : what amounts are multiplied by on the slide.
    columnar : 0 for solid sheets of oval nuclei to 1 for palisades; across : (n,) the palisades' direction.
    """
    n = len(x)
    radius = _lognormal(rng, size_um, pleomorphism, n)
    slender = float(rng.uniform(0.2, 0.5))
    aspect = np.exp(rng.normal(0.1, 0.1, n).clip(0, 0.5) + slender * columnar)
    mitotic = rng.random(n) < 0.02
    cell = radius * rng.uniform(1.75, 2.1, n)
    base = _base(rng, x, y, 0.05)
    stained = rng.random(n) < nuclear_stain
    # Grey-brown to black, most of them dark.
    brown = np.where(stained, np.exp(rng.uniform(np.log(0.12), np.log(3.0), n)), 0)
    if across is not None and columnar > 0:
        base["angle"] = (across + rng.normal(0, 0.25, n)).astype(np.float32)
    return _make(
        base,
        length_um=cell * aspect**0.75,
        width_um=cell / aspect**0.75,
        nucleus_length_um=radius * aspect,
        nucleus_width_um=radius / aspect,
        nuclear=_lognormal(rng, 0.55, 0.3, n) * np.where(mitotic, 1.9, 1) * np.exp(-0.5 * brown),
        vesicular=np.where(mitotic, 0, rng.uniform(0.1, 0.6, n)),
        nucleolus=np.where(rng.random(n) < 0.65, rng.uniform(0.2, 0.9, n), 0),
        cytoplasm=_lognormal(rng, 1, 0.2, n),
        brown_nucleus=brown,
        label=np.where(brown * brown_scale > 0.2, STAINED_NUCLEUS, NUCLEUS),
    )


def hepatocytes(rng: np.random.Generator, x: FloatArray, y: FloatArray) -> Cells:
    """Liver plates: polygonal cells with round central nuclei, some with none in the section."""
    n = len(x)
    radius = _lognormal(rng, 3.6, 0.1, n)
    seen = rng.random(n) < 0.72
    return _make(
        _base(rng, x, y, 0.02),
        length_um=_lognormal(rng, 13.5, 0.07, n),
        width_um=_lognormal(rng, 13.5, 0.07, n),
        nucleus_length_um=radius,
        nucleus_width_um=radius * rng.uniform(0.92, 1, n),
        nucleus_dx_um=rng.normal(0, 1.2, n),
        nucleus_dy_um=rng.normal(0, 1.2, n),
        nuclear=_lognormal(rng, 0.5, 0.25, n) * seen,
        vesicular=rng.uniform(0.2, 0.6, n),
        nucleolus=rng.uniform(0.3, 1.1, n),
        cytoplasm=_lognormal(rng, 1, 0.1, n),
        label=np.where(seen, NUCLEUS, UNLABELLED),
    )


def spindle_cells(rng: np.random.Generator, x: FloatArray, y: FloatArray, angle: FloatArray) -> Cells:
    """Fibroblasts and endothelium: thin dark nuclei along the fibres."""
    n = len(x)
    return _make(
        _base(rng, x, y, 0.07),
        nucleus_length_um=_lognormal(rng, 5.6, 0.28, n),
        nucleus_width_um=_lognormal(rng, 1.7, 0.25, n),
        angle=angle + rng.normal(0, 0.25, n),
        nuclear=_lognormal(rng, 0.7, 0.35, n),
        vesicular=rng.uniform(0, 0.5, n),
    )


def lymphocytes(rng: np.random.Generator, x: FloatArray, y: FloatArray) -> Cells:
    """CD8-negative lymphocytes, plasma cells and other small leucocytes."""
    n = len(x)
    radius = _lognormal(rng, 3.0, 0.13, n)
    aspect = np.exp(rng.normal(0.06, 0.07, n).clip(0, 0.4))
    return _make(
        _base(rng, x, y, 0.045),
        length_um=radius * 1.25,
        width_um=radius * 1.25,
        nucleus_length_um=radius * aspect,
        nucleus_width_um=radius / aspect,
        nuclear=_lognormal(rng, 1.0, 0.22, n),
        vesicular=rng.uniform(0, 0.3, n),
        cytoplasm=rng.uniform(0, 0.8, n),
    )


def small_round_cells(
    rng: np.random.Generator,
    x_um: FloatArray,
    y_um: FloatArray,
    positive: NDArray[np.bool_],
    negative: NDArray[np.bool_],
    *,
    squeezed: FloatArray,
    along: FloatArray,
    packed: NDArray[np.bool_],
    crispness: float,
    solid: float,
) -> list[Cells]:
    """Return CD8+ cells and CD8-negative lymphocytes at the sites chosen for them; see `cd8_cells`."""
    return [
        cd8_cells(
            rng,
            x_um[positive],
            y_um[positive],
            squeezed=squeezed[positive],
            along=along[positive],
            packed=packed[positive],
            crispness=crispness,
            solid=solid,
        ),
        lymphocytes(rng, x_um[negative], y_um[negative]),
    ]


def ghost_nuclei(rng: np.random.Generator, x: FloatArray, y: FloatArray) -> Cells:
    """Nuclei far out of focus: pale smudges that nobody counts."""
    n = len(x)
    radius = _lognormal(rng, 3.6, 0.25, n)
    cells = _make(
        _base(rng, x, y, 0.08),
        nucleus_length_um=radius * rng.uniform(1, 1.5, n),
        nucleus_width_um=radius,
        nuclear=rng.uniform(0.05, 0.17, n),
        label=UNLABELLED,
    )
    return replace(cells, edge_um=rng.uniform(2.5, 4.5, n).astype(np.float32))


def debris(rng: np.random.Generator, x: FloatArray, y: FloatArray, brown: float, black: float = 0.0) -> Cells:
    """Specks that are no cells: precipitate, pigment, crumbs; black where `black` is above 0."""
    n = len(x)
    radius = rng.gamma(2.0, 0.35, n).clip(0.25, 2.6)
    length = radius * np.exp(rng.exponential(0.3, n)).clip(1, 3)
    return _make(
        _base(rng, x, y, 0.14),
        length_um=length,
        width_um=radius,
        nucleus_length_um=length,
        nucleus_width_um=radius,
        nuclear=black,
        brown=brown * _lognormal(rng, 1, 0.5, n),
        label=UNLABELLED,
    )


def blots(rng: np.random.Generator, x: FloatArray, y: FloatArray) -> Cells:
    """Drops of chromogen or dirt, black in every colour, some as large as cells."""
    n = len(x)
    radius = rng.uniform(1.5, 6.0, n)
    cells = _make(
        _base(rng, x, y, 0.1),
        length_um=radius * rng.uniform(1, 1.8, n),
        width_um=radius,
        nucleus_length_um=radius * rng.uniform(1, 1.8, n),
        nucleus_width_um=radius,
        nuclear=rng.uniform(1.2, 3.0, n),
        brown=rng.uniform(1.2, 3.0, n),
        label=UNLABELLED,
    )
    return replace(cells, edge_um=rng.uniform(1.0, 3.0, n).astype(np.float32))


def bubbles(rng: np.random.Generator, x: FloatArray, y: FloatArray) -> Cells:
    """Refractile vacuoles: a dark rim around a bright middle."""
    n = len(x)
    radius = rng.uniform(1.2, 3.2, n)
    return _make(
        _base(rng, x, y, 0.03),
        nucleus_length_um=radius * rng.uniform(1, 1.3, n),
        nucleus_width_um=radius,
        nuclear=rng.uniform(0.15, 0.6, n),
        vesicular=1.0,
        label=UNLABELLED,
    )


def vessels_along(
    rng: np.random.Generator,
    x: FloatArray,
    y: FloatArray,
    along: FloatArray,
    brown: float,
) -> list[Cells]:
    """Capillaries and small vessels, brown by cross-reaction: streaky, broken walls, with nuclei in them.

    Each is a path: a strand along the fibres (two walls, or one where it is collapsed), a tangle of loops, or
    a ring wider than a cell.

    Parameters
    ----------
    x, y : (n,) where each starts. along : (n,) direction of the fibres there, radians. brown : strength.
    """
    n, steps = len(x), 26
    if n == 0:
        return []
    look = rng.choice(3, n, p=(0.6, 0.15, 0.25))
    strand, tangle, ring = look == 0, look == 1, look == 2
    step = rng.uniform(1.6, 3.2, n)
    radius = rng.uniform(4.5, 13, n)
    turn = (
        np.where(ring, step / radius, 0)[:, None]
        + rng.standard_normal((n, steps)) * np.where(tangle, 0.75, 0.12)[:, None]
    )
    heading = along[:, None] + rng.normal(0, 0.2, (n, 1)) + np.cumsum(turn, axis=1)
    px = x[:, None] + np.cumsum(np.cos(heading) * step[:, None], axis=1)
    py = y[:, None] + np.cumsum(np.sin(heading) * step[:, None], axis=1)
    length = np.where(strand, rng.integers(2, steps + 1, n), rng.integers(12, steps + 1, n))
    length = np.where(ring, np.minimum(np.ceil(2 * np.pi * radius / step), steps), length)
    open_um = np.where(ring | (rng.random(n) < 0.35), 0, rng.uniform(1.2, 4.5, n))
    # Strength comes and goes along a wall.
    wave = np.cos(np.arange(steps) * rng.uniform(0.2, 0.9, (n, 1)) + rng.uniform(0, 6.28, (n, 1)))
    strength = brown * np.exp(rng.normal(0, 0.3, (n, 1))) * (0.75 + 0.45 * wave)
    here = np.arange(steps) < length[:, None]
    parts = []
    for side in (-1.0, 1.0):
        drawn = here & (rng.random((n, steps)) < 0.85) & ((side > 0) | (open_um[:, None] > 0))
        sx = (px - side * np.sin(heading) * open_um[:, None])[drawn]
        sy = (py + side * np.cos(heading) * open_um[:, None])[drawn]
        m = len(sx)
        thin = np.broadcast_to(rng.uniform(0.45, 1.0, (n, 1)), drawn.shape)[drawn]
        parts.append(
            _make(
                _base(rng, sx.astype(np.float32), sy.astype(np.float32), 0.12),
                length_um=np.broadcast_to(step[:, None], drawn.shape)[drawn] * rng.uniform(0.7, 1.6, m),
                width_um=thin * np.exp(rng.normal(0, 0.35, m)),
                angle=heading[drawn] + rng.normal(0, 0.13, m),
                nucleus_length_um=0.1,
                nucleus_width_um=0.1,
                brown=strength[drawn] * np.exp(rng.normal(0, 0.45, m)),
                label=UNLABELLED,
            )
        )
    # A thin wash of brown over the whole of it.
    washed = here & (rng.random((n, steps)) < 0.5) & (rng.random((n, 1)) < 0.7)
    m = int(washed.sum())
    wash = _make(
        _base(rng, px[washed].astype(np.float32), py[washed].astype(np.float32), 0.1),
        length_um=rng.uniform(2.5, 6, m),
        width_um=rng.uniform(1.5, 4.5, m),
        angle=heading[washed],
        nucleus_length_um=0.1,
        nucleus_width_um=0.1,
        brown=strength[washed] * rng.uniform(0.1, 0.5, m),
        label=UNLABELLED,
    )
    parts.append(replace(wash, edge_um=np.full(m, 2.0, np.float32)))
    # Nuclei of the wall lie along it, or between two lines that run on past them, more or less veiled.
    nuclei = here & (rng.random((n, steps)) < 0.2)
    apart = rng.spawn(1)[0]
    between = apart.random(nuclei.shape) < 0.6
    aside = rng.choice([-1.0, 1.0], nuclei.shape) * (open_um[:, None] + rng.uniform(0, 1.5, nuclei.shape))
    aside = np.where(between, apart.normal(0, 0.4, nuclei.shape), aside)
    cells = spindle_cells(
        rng,
        (px - aside * np.sin(heading))[nuclei].astype(np.float32),
        (py + aside * np.cos(heading))[nuclei].astype(np.float32),
        heading[nuclei].astype(np.float32),
    )
    m = len(cells)
    length = cells.nucleus_length_um * np.float32(0.8)
    width = as_float(cells.nucleus_width_um * rng.uniform(0.9, 1.6, m))
    lined, amount = between[nuclei], strength[nuclei].clip(0, 0.8)
    plump = as_float(np.where(lined, apart.uniform(1.0, 1.6, m), 1))
    parts.append(
        replace(
            cells,
            nucleus_length_um=length,
            nucleus_width_um=width * plump,
            length_um=as_float(length * np.where(lined, apart.uniform(1.1, 1.6, m), 1)),
            width_um=as_float(width * plump + 0.5),
            ring=as_float(np.where(lined, amount * apart.uniform(0.3, 1.1, m), 0)),
            ring_width_um=as_float(apart.uniform(0.45, 0.9, m)),
            ring_gaps=as_float(apart.uniform(0.3, 1.0, m)),
            brown=as_float(np.where(lined, amount * apart.uniform(0, 0.8, m), 0)),
            brown_nucleus=as_float(np.where(lined, amount * apart.uniform(0, 0.6, m), 0)),
        )
    )
    return parts


def capillary_knots(rng: np.random.Generator, x: FloatArray, y: FloatArray, brown: float) -> list[Cells]:
    """Capillaries cut every way: packed nuclei under a patchy haze, with broken brown threads between them.

    Parameters
    ----------
    x, y : (n,) where the groups lie. brown : strength.
    """
    reach = 16
    dx, dy = lattice(rng, (-reach, -reach, 2 * reach, 2 * reach), float(rng.uniform(6.8, 9.0)), 0.15)
    n = len(x)
    size = rng.uniform(7, reach, n)
    flat = np.exp(rng.normal(0, 0.35, n))
    turn = rng.uniform(0, np.pi, n)
    along = (dx * np.cos(turn)[:, None] + dy * np.sin(turn)[:, None]) / flat[:, None]
    across = (dy * np.cos(turn)[:, None] - dx * np.sin(turn)[:, None]) * flat[:, None]
    inside = np.hypot(along, across) < size[:, None]
    shake = rng.normal(0, 0.6, (2, *inside.shape))
    nx = (x[:, None] + dx + shake[0])[inside].astype(np.float32)
    ny = (y[:, None] + dy + shake[1])[inside].astype(np.float32)
    strength = np.broadcast_to(brown * np.exp(rng.normal(0, 0.3, (n, 1))), inside.shape)[inside]
    m = len(nx)
    radius = rng.uniform(2.7, 4.5, m)
    aspect = np.exp(rng.uniform(0, 0.3, m))
    nuclei = _make(
        _base(rng, nx, ny, 0.06),
        nucleus_length_um=radius * aspect,
        nucleus_width_um=radius / aspect,
        nuclear=_lognormal(rng, 0.7, 0.3, m),
        vesicular=rng.uniform(0, 0.6, m),
    )
    # Of the ring round a nucleus only pieces are there, thick and thin.
    pieces = 9
    angle = (np.arange(pieces) + rng.uniform(0, 1, (m, 1))) * (2 * np.pi / pieces)
    seen = rng.random((m, pieces)) < rng.uniform(0.1, 0.75, (m, 1))
    out = (radius[:, None] + rng.normal(0.7, 0.6, (m, pieces)))[seen]
    k = len(out)
    threads = _make(
        _base(
            rng,
            (np.broadcast_to(nx[:, None], seen.shape)[seen] + out * np.cos(angle[seen])).astype(np.float32),
            (np.broadcast_to(ny[:, None], seen.shape)[seen] + out * np.sin(angle[seen])).astype(np.float32),
            0.15,
        ),
        length_um=rng.uniform(0.9, 2.6, k),
        width_um=rng.uniform(0.4, 1.3, k),
        angle=angle[seen] + np.pi / 2 + rng.normal(0, 0.5, k),
        nucleus_length_um=0.1,
        nucleus_width_um=0.1,
        brown=np.broadcast_to(strength[:, None], seen.shape)[seen] * np.exp(rng.normal(0, 0.5, k)),
        label=UNLABELLED,
    )
    hazy = rng.random(m) < 0.85
    h = int(hazy.sum())
    haze = _make(
        _base(rng, nx[hazy] + as_float(rng.normal(0, 2, h)), ny[hazy] + as_float(rng.normal(0, 2, h)), 0.1),
        length_um=rng.uniform(2, 6, h),
        width_um=rng.uniform(2, 5, h),
        nucleus_length_um=0.1,
        nucleus_width_um=0.1,
        brown=strength[hazy] * rng.uniform(0.15, 0.8, h),
        label=UNLABELLED,
    )
    return [nuclei, threads, replace(haze, edge_um=rng.uniform(2, 4, h).astype(np.float32))]


def cd8_cells(
    rng: np.random.Generator,
    x: FloatArray,
    y: FloatArray,
    *,
    squeezed: FloatArray,
    along: FloatArray,
    packed: NDArray[np.bool_] | bool = False,
    crispness: float = 0.5,
    solid: float = 0.0,
) -> Cells:
    """CD8+ T cells, 6 to 10 um across.

    Parameters
    ----------
    squeezed : (n,) 0 round to 1 pressed between fibres; along : (n,) direction of the fibres, radians.
    packed : (n,) whether in an aggregate: there each has a whole, strong membrane, and none is faint.
    crispness : 1 thin sharp membranes, 0 cells that the chromogen fills.
    solid : share of cells that the chromogen fills wholly, nucleus and all.
    """
    n = len(x)
    filled = rng.random(n) < solid
    cell = _lognormal(rng, 3.95, 0.12, n) * np.where(filled, rng.uniform(0.9, 1.45, n), 1)
    stretch = np.exp(np.abs(rng.normal(0, 0.11, n)) + squeezed * rng.uniform(0.25, 0.75, n))
    stretch = stretch.clip(1, 2.3)
    angle = np.where(squeezed > 0.05, along + rng.normal(0, 0.3, n), rng.uniform(0, np.pi, n))
    length, width = cell * np.sqrt(stretch), cell / np.sqrt(stretch)
    fill = rng.uniform(0.68, 0.84, n)
    off = rng.uniform(0, 0.5, n) * (1 - fill) * 2.2
    turn = rng.uniform(0, 2 * np.pi, n)
    # Looks: line, ring with stained cytoplasm, blot over the nucleus, solid; some cut beside the nucleus.
    blot = (rng.random(n) > 0.55 + 0.4 * crispness) | filled
    no_nucleus = rng.random(n) < 0.13
    faint = np.where(rng.random(n) < 0.1, rng.uniform(0.5, 0.75, n), 1)
    faint = np.where(packed, 1.2, faint)
    amount = _lognormal(rng, 1, 0.27, n) * faint
    body = np.where(blot, rng.uniform(0.75, 1.1, n), rng.uniform(0.12, 0.55, n) * (1.25 - crispness))
    over = np.where(blot, rng.uniform(0.0, 0.4, n), rng.uniform(0.0, 0.12, n))
    over = np.where(filled, rng.uniform(0.35, 0.6, n), over)
    base = _base(rng, x, y, 0.055)
    base["lobes"] = (base["lobes"] * np.where(filled, 1.4, 1)[:, None]).astype(np.float32)
    ring = np.where(blot, rng.uniform(0.3, 0.6, n), rng.uniform(0.75, 1.15, n)) * np.where(filled, 0.15, 1)
    return _make(
        base,
        length_um=length,
        width_um=width,
        angle=angle,
        nucleus_length_um=length * fill,
        nucleus_width_um=width * fill,
        nucleus_dx_um=off * np.cos(turn),
        nucleus_dy_um=off * np.sin(turn),
        nuclear=_lognormal(rng, 0.95, 0.25, n) * np.where(no_nucleus, 0.08, 1) * np.where(filled, 0.5, 1),
        vesicular=rng.uniform(0, 0.3, n),
        ring=amount * ring,
        ring_width_um=rng.uniform(0.55, 1.15, n) + 0.35 * (1 - crispness),
        ring_gaps=rng.uniform(0, 0.75, n) * np.where(blot | packed, 0.4, 1),
        brown=amount * body,
        brown_nucleus=amount * over,
        label=WHOLE_CELL,
    )


def decoys(
    rng: np.random.Generator,
    area: tuple[float, float, float, float],
    weights_at: PointFunction,
    along: PointFunction,
    *,
    precipitate: float,
    pigment: float,
    vessels: float,
    ghosts: float,
) -> list[Cells]:
    """Draw what is no cell to be counted; each strength is 0 for none to 1 for much.

    Parameters
    ----------
    area : x, y, width, height in um. weights_at : classes of tissue at points, (class, n).
    along : direction of the fibres at points, radians.
    """
    area_mm2 = area[2] * area[3] / 1e6
    parts = []

    def scattered(per_mm2: float, clumps: float) -> tuple[FloatArray, FloatArray]:
        n = int(rng.poisson(per_mm2 * area_mm2))
        centres = max(1, int(n / max(clumps, 1)))
        pick = rng.integers(0, centres, n)
        shake = rng.normal(0, 1.8, (2, n)) * (clumps > 1)
        x = rng.uniform(area[0], area[0] + area[2], centres)[pick] + shake[0]
        y = rng.uniform(area[1], area[1] + area[3], centres)[pick] + shake[1]
        return x.astype(np.float32), y.astype(np.float32)

    def in_tissue(x: FloatArray, y: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(weights_at(x, y)[GLASS] < 0.5)

    x, y = scattered(precipitate * 3500, float(rng.choice([1, 1, 6, 14])))
    black = float(rng.uniform(0.5, 2.0)) if rng.random() < 0.25 else 0.0
    parts.append(debris(rng, x, y, float(rng.uniform(0.4, 1.6)), black))
    # Large black blots, and bubbles: bright, with a dark rim.
    x, y = scattered(precipitate * 160, 1)
    parts.append(blots(rng, x, y))
    x, y = scattered(ghosts * 700, float(rng.choice([1, 4])))
    parts.append(bubbles(rng, x, y))
    x, y = scattered(pigment * 2500, 8)
    inside = in_tissue(x, y)
    parts.append(debris(rng, x[inside], y[inside], float(rng.uniform(0.25, 0.7))))
    x, y = scattered(vessels * 800, float(rng.choice([1, 1, 3])))
    here = weights_at(x, y)
    inside = here[STROMA] + 0.3 * here[TUMOUR] + here[LYMPHOID] > 0.25
    x, y, crowded = x[inside], y[inside], here[LYMPHOID][inside] > 0.25
    # Among packed cells there is no room for nuclei of its own.
    knots = (rng.random(len(x)) < 0.5) & ~crowded
    # From a breath to black.
    strength = float(np.exp(rng.uniform(np.log(0.1), np.log(1.0))))
    parts += vessels_along(rng, x[~knots], y[~knots], along(x[~knots], y[~knots]), strength)
    parts += capillary_knots(rng, x[knots], y[knots], strength)
    x, y = scattered(ghosts * 1500, 1)
    inside = in_tissue(x, y)
    parts.append(ghost_nuclei(rng, x[inside], y[inside]))
    return parts
