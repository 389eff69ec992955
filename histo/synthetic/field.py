"""One rendered field of view with the truth of every cell: what the shipped weights learn from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from histo.errors import ConfigError
from histo.slide.geometry import Box
from histo.synthetic import population
from histo.synthetic.noise import FloatArray, as_float, noise, noise_at, smoothstep
from histo.synthetic.optics import Look, draw_lamp, draw_look, jpeg_round_trip
from histo.synthetic.scene import (
    Ground,
    draw_ground,
    expose,
    fibre_angle,
    fluoresce,
    layered,
    pen_stroke,
    with_gaps,
)
from histo.synthetic.stamp import Cells, concatenate, stamp
from histo.synthetic.tissue import CLASSES, GLASS, HOST, LYMPHOID, NECROSIS, STROMA, TUMOUR
from histo.synthetic.visible import visible_cells

Context = Literal["tumour", "stroma", "host", "lymphoid", "margin", "necrosis", "glass", "slide"]
FieldKind = Literal["brightfield", "fluorescence"]

# What of a style belongs to the tissue.
_GROUND_STYLE = (
    "precipitate",
    "pigment",
    "blush",
    "vessels",
    "membrane",
    "mesh",
    "nuclear_stain",
    "fold",
    "ink",
    "ghosts",
)
_CONTEXTS: tuple[Context, ...] = ("tumour", "stroma", "host", "lymphoid", "margin", "necrosis", "glass")
_CONTEXT_SHARES = (0.27, 0.15, 0.15, 0.2, 0.15, 0.04, 0.04)


@dataclass(frozen=True)
class FieldStyle:
    """What to fix instead of drawing; None draws. Fixing one thing leaves the other draws as they were.

    context : the tissue in view. cd8_per_mm2 : mean density of CD8+ cells (in aggregates more).
    aggregate_fraction : of the field that is lymphoid aggregate, in the context "lymphoid".
    precipitate, pigment, blush, vessels, membrane, mesh : brown that is no cell, 0 for none, 1 for much.
    nuclear_stain : share of tumour nuclei that are stained. fold, ink, ghosts : strength, 0 for none.
    counterstain, brown : scale of the stain amounts. white_point : red, green, blue of glass.
    stain_vectors : (3, 3) rows nuclear, CD8, residual. jpeg_quality : 1 to 100, 0 for no compression.
    barren_share : of brightfield fields that have much brown and no CD8+ cell, whatever density is drawn.
    aggregate_share : of the other fields that are lymphoid aggregate beside those that are drawn so.
    clean : no blur, sharpening, noise, compression or colour fringe.
    """

    context: Context | None = None
    cd8_per_mm2: float | None = None
    aggregate_fraction: float | None = None
    precipitate: float | None = None
    pigment: float | None = None
    blush: float | None = None
    vessels: float | None = None
    membrane: float | None = None
    mesh: float | None = None
    nuclear_stain: float | None = None
    fold: float | None = None
    ink: float | None = None
    ghosts: float | None = None
    counterstain: float | None = None
    brown: float | None = None
    white_point: tuple[float, float, float] | None = None
    stain_vectors: NDArray[np.float32] | None = None
    jpeg_quality: int | None = None
    barren_share: float = 0.0
    aggregate_share: float = 0.0
    clean: bool = False


@dataclass(frozen=True)
class Field:
    """A rendered field of view.

    pixels : (H, W, 3) uint8 red, green, blue; or uint16 nuclear, CD8, autofluorescence.
    labels : (H, W) int32, 0 background, 1..n cells: the whole CD8+ cell, of others the nucleus.
    is_cd8 : (n,) bool; also of nuclei stained by `nuclear_stain`.
    x_um, y_um : (n,) float32 centroids of the labels, from the corner of the field.
    white_point : (3,) float32. stain_vectors : (3, 3) float32 unit rows nuclear, CD8, residual, as used.
    mpp : um per pixel. context : what tissue is in view; "slide" for a window of a slide.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    labels: NDArray[np.int32]
    is_cd8: NDArray[np.bool_]
    x_um: FloatArray
    y_um: FloatArray
    white_point: FloatArray
    stain_vectors: FloatArray
    mpp: float
    context: Context


def render_field(
    seed: int,
    *,
    size_px: int = 256,
    mpp: float = 0.5,
    kind: FieldKind = "brightfield",
    style: FieldStyle | None = None,
) -> Field:
    """Render a field; the same arguments give the same field.

    Parameters
    ----------
    seed : non-negative; every seed draws its own tissue, cells, staining batch and scanner.
    size_px : width and height.
    mpp : um per pixel.
    kind : "brightfield" (H-DAB) or "fluorescence".
    style : choices to fix.

    Raises
    ------
    ConfigError : a negative seed, a size or pixel size that cannot be rendered, an unknown kind or context.
    """
    style = style or FieldStyle()
    _check(seed, size_px, mpp, kind, style)
    rng = np.random.default_rng([seed, 0])
    context, ground, weights, barren = _draw_tissue(rng, size_px, mpp, kind, style)
    look = styled_look(draw_look(np.random.default_rng([seed, 1])), style)
    box = Box(0, 0, size_px, size_px)
    rng = np.random.default_rng([seed, 2])
    cells = _draw_cells(rng, weights, ground, size_px * mpp, mpp, style, look.brown, barren)
    painted = stamp(cells, box, mpp)
    amounts = layered(painted, weights, ground, box, mpp)
    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    if kind == "brightfield":
        pixels = jpeg_round_trip(expose(amounts, look, ground, box, mpp), look.jpeg_quality)
    else:
        pixels = fluoresce(
            amounts, painted, weights, draw_lamp(np.random.default_rng([seed, 3])), ground, box, mpp
        )
    owner = painted.owner
    if kind == "brightfield" and ground.ink > 0:
        # Under ink nobody can tell.
        owner = np.where(pen_stroke(box, mpp, ground) > 0.3, -1, owner).astype(np.int32)
    labels, is_cd8, x_um, y_um = visible_cells(owner, cells, mpp)
    return Field(pixels, labels, is_cd8, x_um, y_um, look.white_point, look.stain_vectors, mpp, context)


def _check(seed: int, size_px: int, mpp: float, kind: str, style: FieldStyle) -> None:
    if seed < 0:
        raise ConfigError(f"seed {seed} is negative", fix="Give a seed of 0 or more")
    if not 16 <= size_px <= 4096:
        raise ConfigError(f"a field of {size_px} px cannot be rendered", fix="Give 16 to 4096 px")
    if not 0.1 <= mpp <= 2:
        raise ConfigError(f"a field of {mpp} um/px cannot be rendered", fix="Give 0.1 to 2 um/px")
    if kind not in ("brightfield", "fluorescence"):
        raise ConfigError(f"unknown kind {kind!r}", fix='Give "brightfield" or "fluorescence"')
    if style.context is not None and style.context not in _CONTEXTS:
        raise ConfigError(f"unknown context {style.context!r}", fix=f"Give one of {', '.join(_CONTEXTS)}")


def styled_look(look: Look, style: FieldStyle) -> Look:
    """Return a look with what a style fixes of it."""
    if style.counterstain is not None:
        look = replace(look, counterstain=style.counterstain)
    if style.brown is not None:
        look = replace(look, brown=style.brown)
    if style.white_point is not None:
        look = replace(look, white_point=np.asarray(style.white_point, np.float32))
    if style.stain_vectors is not None:
        vectors = np.asarray(style.stain_vectors, np.float32)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        look = replace(look, stain_vectors=vectors.astype(np.float32))
    if style.jpeg_quality is not None:
        look = replace(look, jpeg_quality=style.jpeg_quality or None)
    if style.clean:
        look = replace(look, blur_um=0.0, sharpen=0.0, noise=0.0, jpeg_quality=None, chromatic_um=0.0)
    return look


def _draw_tissue(
    rng: np.random.Generator, size_px: int, mpp: float, kind: FieldKind, style: FieldStyle
) -> tuple[Context, Ground, FloatArray, bool]:
    """Draw what tissue lies where, (class, H, W) weights that sum to 1, and whether CD8+ cells are absent."""
    context: Context = _CONTEXTS[int(rng.choice(len(_CONTEXTS), p=_CONTEXT_SHARES))]
    context = style.context or context
    ground = draw_ground(rng)
    # A generator of its own: what is drawn after stays as it was.
    apart = rng.spawn(1)[0]
    barren = bool(apart.random() < style.barren_share) and kind == "brightfield"
    if style.context is None and not barren and apart.random() < style.aggregate_share:
        context = "lymphoid"
    if barren:
        strong = apart.uniform(0.3, 1.0, 3) * (apart.random(3) < (0.7, 0.35, 0.6))
        ground = replace(
            ground,
            vessels=max(ground.vessels, float(strong[0])),
            membrane=max(ground.membrane, float(strong[1])),
            mesh=max(ground.mesh, float(0.8 * strong[2])),
        )
    if kind == "fluorescence":
        # Brown nuclei are there for nuclear markers, which brightfield models meet; CD8 lies in membranes.
        ground = replace(ground, nuclear_stain=0.0)
    # Windows that do not cross the textures' period are views, not copies.
    within = max(1, 1024 - size_px)
    ground = replace(ground, offset=(ground.offset[0] % within, ground.offset[1] % within))
    ground = replace(
        ground,
        **{name: getattr(style, name) for name in _GROUND_STYLE if getattr(style, name) is not None},
    )
    box = Box(0, 0, size_px, size_px)
    offsets = rng.integers(0, 1024, (4, 2))
    level, other, extent = rng.uniform(-1.6, 0.6), rng.uniform(-0.8, 0.8), rng.uniform(0, 1)
    islands = noise(box, float(rng.uniform(10, 28)) / mpp, tuple(offsets[0]))
    margin = noise(box, 40 / mpp, tuple(offsets[1]), 1)
    rough = noise(box, 2.5 / mpp, tuple(offsets[2]), 2) * np.float32(0.12)
    extent = extent if style.aggregate_fraction is None else style.aggregate_fraction
    weights = np.zeros((len(CLASSES), size_px, size_px), np.float32)

    def nests(threshold: float) -> FloatArray:
        return smoothstep(islands + rough, threshold - 0.12, threshold + 0.12)

    if context == "tumour":
        weights[TUMOUR] = nests(level)
        weights[STROMA] = 1 - weights[TUMOUR]
    elif context == "stroma":
        weights[TUMOUR] = nests(1.3 + 0.5 * (level + 1))
        weights[STROMA] = 1 - weights[TUMOUR]
    elif context == "host":
        weights[STROMA] = smoothstep(islands + rough, 1.0 - level / 2, 1.4 - level / 2)
        weights[HOST] = 1 - weights[STROMA]
    elif context == "lymphoid":
        cut = float(np.quantile(islands, 1 - np.clip(0.15 + 0.85 * extent, 0.0, 1)))
        if style.aggregate_fraction is not None:
            cut = float(np.quantile(islands, 1 - extent)) if extent > 0 else np.inf
        weights[LYMPHOID] = smoothstep(islands + rough, cut - 0.2, cut + 0.1) if cut < np.inf else 0
        rest = 1 - weights[LYMPHOID]
        weights[TUMOUR] = rest * smoothstep(margin + rough, other - 0.1, other + 0.1)
        weights[STROMA] = rest - weights[TUMOUR]
    elif context == "margin":
        outside = smoothstep(margin + rough, other + 0.3, other + 0.5)
        weights[HOST] = outside
        weights[TUMOUR] = smoothstep(-margin + rough, -other - 0.2 + 0.5 * extent, -other + 0.5 * extent)
        weights[TUMOUR] *= 1 - outside
        weights[STROMA] = 1 - outside - weights[TUMOUR]
    elif context == "necrosis":
        weights[NECROSIS] = smoothstep(islands + rough, level - 0.5, level)
        weights[TUMOUR] = 1 - weights[NECROSIS]
    else:
        weights[GLASS] = smoothstep(margin + rough, other - 0.05, other + 0.05) if extent < 0.8 else 1
        weights[STROMA] = 1 - weights[GLASS]
    weights = with_gaps(weights, islands + rough, box, mpp, ground, float(rng.uniform(0.5, 1.5)))
    if rng.random() < 0.12 and context in ("stroma", "tumour", "host"):
        # The edge of the section.
        gap = smoothstep(margin + rough, 1.0, 1.08)
        weights *= 1 - gap
        weights[GLASS] += gap
    return context, ground, weights, barren


# Share of the white cells in each class of tissue: CD8+ density relative to the drawn one.
_CD8_AFFINITY = np.array([0, 0.45, 1.25, 0.6, 6.0, 0.1], np.float32)


def _draw_cells(
    rng: np.random.Generator,
    weights: FloatArray,
    ground: Ground,
    size_um: float,
    mpp: float,
    style: FieldStyle,
    brown_scale: float,
    barren: bool,
) -> Cells:
    margin = 14.0
    area = (-margin, -margin, size_um + 2 * margin, size_um + 2 * margin)
    size_px = weights.shape[1]

    def weight(x: FloatArray, y: FloatArray) -> FloatArray:
        column = np.clip((x / mpp).astype(np.int64), 0, size_px - 1)
        row = np.clip((y / mpp).astype(np.int64), 0, size_px - 1)
        values: FloatArray = weights[:, row, column]
        return values

    # CD8+ T cells and the lymphocytes among them share one set of sites.
    density = float(np.exp(rng.uniform(np.log(30), np.log(2200)))) * float(rng.random() > 0.08)
    density = density if style.cd8_per_mm2 is None else style.cd8_per_mm2
    density = 0.0 if barren else density
    spacing = float(rng.uniform(5.9, 7.4))
    x, y = population.lattice(rng, area, spacing, 0.17)
    per_site = 0.8660254 * spacing**2 / 1e6
    chance = rng.random((2, len(x)), dtype=np.float32)
    here = weight(x, y)
    clump = np.exp(0.9 * noise_at(x, y, 14.0, ground.offset) - 0.405)
    wanted = density * per_site * (_CD8_AFFINITY @ here) * clump
    dense = here[LYMPHOID] > 0.5
    share = float(rng.beta(1.4, 1.4))
    packing = float(rng.uniform(0.75, 1.0))
    lymphoid_cd8 = 0.0 if density == 0 else packing * share
    wanted = np.where(dense, lymphoid_cd8, wanted)
    positive = (chance[0] < wanted) & (here[GLASS] < 0.5)
    others = float(np.exp(rng.uniform(np.log(20), np.log(1200)))) * per_site
    negative_chance = np.where(dense, packing - lymphoid_cd8, others * (_CD8_AFFINITY @ here))
    negative = ~positive & (chance[1] < negative_chance / np.maximum(1 - wanted, 0.05)) & (here[GLASS] < 0.5)
    along = fibre_angle(x, y, ground)
    squeezed = np.where(here[STROMA] > 0.6, rng.random(len(x)), 0).astype(np.float32)
    parts = population.small_round_cells(
        rng,
        x,
        y,
        positive,
        negative,
        squeezed=squeezed,
        along=along,
        packed=dense,
        crispness=ground.crispness,
        solid=ground.solid,
    )
    small = (x[positive | negative], y[positive | negative])

    def fill(which: int, spacing_um: float, apart_um: float, keep: float) -> tuple[FloatArray, FloatArray]:
        if not weights[which].any():
            return np.empty(0, np.float32), np.empty(0, np.float32)
        px, py = population.lattice(rng, area, spacing_um, 0.2)
        stays = (rng.random(len(px)) < keep) & (weight(px, py)[which] > 0.5)
        px, py = px[stays], py[stays]
        free = population.kept_apart(small, px, py, apart_um)
        return px[free], py[free]

    # Packed nuclei overlap a little in a section; loose ones lie far apart.
    tumour_spacing = ground.nucleus_um * float(rng.uniform(1.9, 3.0))
    x, y = fill(TUMOUR, tumour_spacing, 6.8, 0.94)
    along_nest = _slope_angle(weights[TUMOUR], x, y, mpp)
    parts.insert(
        0,
        population.tumour_cells(
            rng,
            x,
            y,
            size_um=ground.nucleus_um,
            pleomorphism=ground.pleomorphism,
            columnar=ground.columnar,
            across=along_nest,
            nuclear_stain=ground.nuclear_stain,
            brown_scale=brown_scale,
        ),
    )
    x, y = fill(HOST, float(rng.uniform(19, 23)), 6.5, 0.95)
    parts.insert(0, population.hepatocytes(rng, x, y))
    x, y = fill(STROMA, float(rng.uniform(12, 22)), 5.0, 0.8)
    parts.insert(0, population.spindle_cells(rng, x, y, fibre_angle(x, y, ground)))
    x, y = fill(HOST, 15.0, 8.5, 0.25)
    parts.insert(0, population.spindle_cells(rng, x, y, rng.uniform(0, 3.14, len(x)).astype(np.float32)))
    x, y = fill(NECROSIS, 7.0, 5.0, 0.3)
    parts.append(population.debris(rng, x, y, 0.0, float(rng.uniform(0.3, 0.9))))
    parts += population.decoys(
        rng,
        area,
        weight,
        lambda px, py: fibre_angle(px, py, ground),
        precipitate=ground.precipitate,
        pigment=ground.pigment,
        vessels=ground.vessels,
        ghosts=ground.ghosts,
    )
    return concatenate(parts)


def _slope_angle(weight: FloatArray, x_um: FloatArray, y_um: FloatArray, mpp: float) -> FloatArray:
    """Direction in which a weight changes fastest some 8 um around each point, radians."""
    size = weight.shape[0] - 1
    column, row = (x_um / mpp).astype(np.int64), (y_um / mpp).astype(np.int64)
    step = max(1, round(8 / mpp))

    def at(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> FloatArray:
        values: FloatArray = weight[np.clip(rows, 0, size), np.clip(columns, 0, size)]
        return values

    across = at(row, column + step) - at(row, column - step)
    down = at(row + step, column) - at(row - step, column)
    return as_float(np.arctan2(down, across))
