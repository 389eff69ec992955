"""Whole rendered slides: a tumour in its host organ, with every cell known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon

from histo.errors import ConfigError
from histo.regions.shapes import as_multipolygon
from histo.slide.geometry import Box
from histo.synthetic import population
from histo.synthetic.field import Field, FieldStyle, styled_look
from histo.synthetic.layout import ZONES, Layout, draw_layout, zone_of
from histo.synthetic.noise import FloatArray, as_float, noise, noise_at, smoothstep
from histo.synthetic.optics import Lamp, Look, draw_lamp, draw_look, jpeg_round_trip
from histo.synthetic.panel import (
    CD8_CELL,
    CHROMOGENS,
    LYMPHOCYTE,
    OTHER_CELL,
    MarkerCells,
    RenderedPanel,
    batch_lamp,
    check_panel,
    chromogen_layer,
    draw_marker_cells,
    epithelial_layer,
    fluoresce_panel,
    marker_layer,
    panel_settings,
)
from histo.synthetic.pyramid import (
    TILE_PX,
    encode_tiles,
    reduced,
    write_brightfield,
    write_fluorescence,
)
from histo.synthetic.scene import (
    Ground,
    draw_ground,
    expose,
    fibre_angle,
    fluoresce,
    glow,
    layered,
    sharpening_px,
    with_gaps,
)
from histo.synthetic.stamp import WHOLE_CELL, Cells, concatenate, stamp
from histo.synthetic.tissue import CLASSES, GLASS, HOST, STROMA, TUMOUR
from histo.synthetic.visible import visible_cells

Site = Literal["primary", "metastasis"]
HostOrgan = Literal["liver", "bowel wall"]
Phenotype = Literal["inflamed", "excluded", "desert"]
SlideKind = Literal["brightfield", "fluorescence"]

FLUORESCENCE_CHANNELS = ("DAPI", "CD8", "Autofluorescence")

# Kather 2018 (eLife 7:e36967): the cut-off between few and many CD8+ cells per mm2.
PHENOTYPE_CUTOFF_PER_MM2 = 294.9


class ZoneDensities(NamedTuple):
    """CD8+ cells per mm2 of tissue: deeper than 500 um, 500 um inside, 500 um outside, beyond."""

    core: float
    inner_margin: float
    outer_margin: float
    far: float


# In the range of Kather's colorectal primaries and metastases (medians: core 117 and 30, outer margin 379 and
# 456, far 57 and 179), with core and outer margin well off the cut-off.
TYPICAL_DENSITIES: dict[Phenotype, ZoneDensities] = {
    "inflamed": ZoneDensities(520, 560, 640, 140),
    "excluded": ZoneDensities(55, 150, 560, 170),
    "desert": ZoneDensities(20, 45, 120, 90),
}


@dataclass(frozen=True)
class SlideSpec:
    """What to render.

    slide_id : name of the files. seed : everything else that is drawn. size_um : (width, height), rounded to
    whole 16 px. mpp : um per pixel. site, host : what the tumour is and lies in. phenotype : how CD8+ cells
    share nests and stroma; picks their densities unless `densities` gives them. other_lymphocytes_per_mm2 :
    CD8-negative ones. tumour : "side" reaches the edge of the tissue, where it has no invasive margin, and
    meets the host across one front; "nodule" lies inside it. tumour_fraction : of the tissue's width.
    margin_um : empty glass around the tissue. kind : brightfield (TIFF) or fluorescence (OME-TIFF).
    jpeg_quality : of the tiles. panel : markers beside CD8; without them all cells of the slide are the
    same, but the lamp is its own, dirt on the glass glows, and of stains there is no second chromogen.
    look : what of staining and scanner is fixed instead of drawn: counterstain, brown, white_point,
    stain_vectors, clean; what it says of tissue is not looked at.
    """

    slide_id: str
    seed: int = 1
    size_um: tuple[float, float] = (2600.0, 1700.0)
    mpp: float = 0.5
    site: Site = "metastasis"
    host: HostOrgan = "liver"
    phenotype: Phenotype = "excluded"
    densities: ZoneDensities | None = None
    other_lymphocytes_per_mm2: float = 150.0
    tumour: Literal["side", "nodule"] = "side"
    tumour_fraction: float = 0.46
    margin_um: float = 90.0
    kind: SlideKind = "brightfield"
    jpeg_quality: int = 85
    panel: RenderedPanel | None = None
    look: FieldStyle | None = None

    @property
    def size_px(self) -> tuple[int, int]:
        """Level-0 width and height."""
        width, height = (max(16, round(length / self.mpp / 16) * 16) for length in self.size_um)
        return width, height

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels of a fluorescence slide."""
        markers = () if self.panel is None else self.panel.markers
        return (*FLUORESCENCE_CHANNELS, *(marker.name for marker in markers))

    @property
    def cd8_per_mm2(self) -> ZoneDensities:
        """The densities aimed at."""
        return self.densities or TYPICAL_DENSITIES[self.phenotype]


@dataclass(frozen=True)
class RenderedSlide:
    """The files of a slide, and its truth.

    slide : the image. annotations : QuPath GeoJSON, tumour and host. cells : Parquet, every cell: x_um,
    y_um, is_cd8, zone, signed_distance_um, radius_um, and by marker ("PD-1+") whether the cell carries it.
    truth_json : counts, areas and densities by zone, white point and stain vectors, and of a panel the
    settings that undo spill-over and autofluorescence; as in `truth`.
    """

    spec: SlideSpec
    slide: Path
    annotations: Path
    cells: Path
    truth_json: Path
    truth: dict[str, Any]


def render_slide(
    spec: SlideSpec,
    folder: Path,
    *,
    annotations_folder: Path | None = None,
    truth_folder: Path | None = None,
    threads: int = 2,
) -> RenderedSlide:
    """Render a slide with its annotations and truth into `folder`, or folders of their own.

    Pixels are made tile by tile and written at once; memory holds the cell table, a raster of the layout and
    some tiles. The same spec gives the same cells and, uncompressed, the same pixels, however many threads.

    Raises
    ------
    ConfigError : a spec that cannot be rendered.
    """
    _check(spec)
    annotations_folder, truth_folder = annotations_folder or folder, truth_folder or folder
    for each in (folder, annotations_folder, truth_folder):
        each.mkdir(parents=True, exist_ok=True)
    scene = _Scene.draw(spec)
    suffix = ".tif" if spec.kind == "brightfield" else ".ome.tif"
    path = folder / f"{spec.slide_id}{suffix}"
    part = folder / f".{spec.slide_id}.part{suffix}"
    try:
        if spec.kind == "brightfield":
            work = _BrightfieldBlock(scene, spec.jpeg_quality)
            strips = _joined(_in_order(work, _blocks(spec.size_px), threads))
            write_brightfield(part, spec.size_px, spec.mpp, strips, spec.jpeg_quality)
        else:
            blocks = _in_order(scene.fluorescence, _blocks(spec.size_px), threads)
            rows = (np.concatenate([pixels for _, pixels in row], axis=1) for _, row in _by_row(blocks))
            write_fluorescence(part, spec.size_px, spec.mpp, spec.channels, rows)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    annotations = annotations_folder / f"{spec.slide_id}.geojson"
    _write_annotations(annotations, spec, scene.layout)
    cells, truth = _truth(spec, scene)
    cells_path = truth_folder / f"{spec.slide_id}.truth.parquet"
    truth_path = truth_folder / f"{spec.slide_id}.truth.json"
    cells.to_parquet(cells_path, index=False)
    truth_path.write_text(json.dumps(truth, indent=1, default=np.ndarray.tolist), encoding="utf-8")
    return RenderedSlide(spec, path, annotations, cells_path, truth_path, truth)


def render_window(spec: SlideSpec, box: Box) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Render a window of a slide, uncompressed: (H, W, 3), of a fluorescence panel (H, W, 3 + markers).

    The pixels are the same wherever the window lies.
    """
    _check(spec)
    scene = _Scene.draw(spec)
    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    pixels = scene.brightfield(box) if spec.kind == "brightfield" else scene.fluorescence(box)
    return pixels


def render_window_field(spec: SlideSpec, box: Box) -> Field:
    """Render a window of a slide, compressed as in its file, with the truth of every cell in view.

    Of a fluorescence panel it has nuclear, CD8 and autofluorescence.
    """
    _check(spec)
    scene = _Scene.draw(spec)
    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    if spec.kind == "brightfield":
        pixels = jpeg_round_trip(scene.brightfield(box), spec.jpeg_quality)
    else:
        pixels = scene.fluorescence(box)[..., :3]
    near = scene.near(box)
    labels, is_cd8, x_um, y_um = visible_cells(stamp(near, box, spec.mpp).owner, near, spec.mpp)
    look = scene.look
    return Field(pixels, labels, is_cd8, x_um, y_um, look.white_point, look.stain_vectors, spec.mpp, "slide")


def _check(spec: SlideSpec) -> None:
    if not 0.1 <= spec.mpp <= 2:
        raise ConfigError(f"a slide of {spec.mpp} um/px cannot be rendered", fix="Give 0.1 to 2 um/px")
    if min(spec.size_um) < 2 * spec.margin_um + 300:
        raise ConfigError(
            f"a slide of {spec.size_um[0]:g} x {spec.size_um[1]:g} um has no room for a tumour",
            fix=f"Give at least {2 * spec.margin_um + 300:g} um each way",
        )
    if not 0.05 <= spec.tumour_fraction <= 0.95:
        raise ConfigError(f"tumour_fraction {spec.tumour_fraction} is outside 0.05 to 0.95")
    if min(spec.cd8_per_mm2) < 0 or max(spec.cd8_per_mm2) > 8000:
        raise ConfigError("CD8+ densities must be 0 to 8000 per mm2: cells do not fit in less room")
    if not 1 <= spec.jpeg_quality <= 100:
        raise ConfigError(f"jpeg_quality {spec.jpeg_quality} is outside 1 to 100")
    if spec.panel is not None:
        check_panel(spec.panel, spec.kind)


# How the CD8+ cells of a zone share its tissue: weight of glass, tumour, stroma, host, lymphoid, necrosis.
_AFFINITY: dict[Phenotype, tuple[float, ...]] = {
    "inflamed": (0, 0.8, 1.2, 1.0, 1, 0),
    "excluded": (0, 0.12, 1.4, 1.0, 1, 0),
    "desert": (0, 0.5, 1.0, 1.0, 1, 0),
}


@dataclass(frozen=True)
class _Scene:
    """A slide before its pixels are made."""

    spec: SlideSpec
    layout: Layout
    ground: Ground
    look: Look
    lamp: Lamp
    nest_level: float
    lumen_level: float
    cells: Cells
    # Of the cells: y_um - reach and y_um + reach, for finding those of a strip.
    top_um: FloatArray
    bottom_um: FloatArray
    carried: MarkerCells | None = None

    @classmethod
    def draw(cls, spec: SlideSpec) -> _Scene:
        width, height = (length * spec.mpp for length in spec.size_px)
        rng = np.random.default_rng([spec.seed, 10])
        layout = draw_layout(rng, (width, height), spec.margin_um, spec.tumour, spec.tumour_fraction)
        ground = _typical_ground(draw_ground(rng), rng)
        look = styled_look(_typical_look(draw_look(rng), rng), spec.look or FieldStyle())
        lamp = replace(draw_lamp(rng), photons=float(rng.uniform(400, 3000)))
        scene = cls(
            spec=spec,
            layout=layout,
            ground=ground,
            look=look,
            lamp=lamp,
            nest_level=float(rng.uniform(-0.9, -0.3)),
            lumen_level=float(rng.uniform(1.5, 2.1)),
            cells=_no_cells(),
            top_um=np.empty(0, np.float32),
            bottom_um=np.empty(0, np.float32),
        )
        cells, lineage = _draw_cells(rng, scene)
        reach = np.maximum(cells.reach_um(), np.maximum(cells.length_um, cells.width_um))
        scene = replace(scene, cells=cells, top_um=cells.y_um - reach - 2, bottom_um=cells.y_um + reach + 2)
        return scene if spec.panel is None else scene._with_panel(spec.panel, lineage)

    def _with_panel(self, panel: RenderedPanel, lineage: NDArray[np.int8]) -> _Scene:
        zone = zone_of(self.layout.signed_distance(self.cells.x_um, self.cells.y_um))
        carried = draw_marker_cells(self.spec.seed, panel, lineage, zone, self.cells.label > 0)
        if panel.chromogen is None:
            # Dirt on the glass, which a bright field shows, does not glow.
            cells = self.cells
            in_tissue = self.layout.at(cells.x_um, cells.y_um)[0] > 0
            seen = {
                name: getattr(cells, name) * in_tissue
                for name in ("nuclear", "ring", "brown", "brown_nucleus")
            }
            return replace(self, carried=carried, lamp=batch_lamp(panel), cells=replace(cells, **seen))
        # No slide has the vector of the book.
        error = np.random.default_rng([self.spec.seed, 13]).normal(0, 0.02, 3)
        second = np.asarray(CHROMOGENS[panel.chromogen]) + error
        vectors = self.look.stain_vectors.copy()
        vectors[2] = second / np.linalg.norm(second)
        return replace(self, carried=carried, look=replace(self.look, stain_vectors=vectors))

    def weights(self, box: Box) -> FloatArray:
        """Return what tissue lies in a window: (class, H, W), sums to 1."""
        mpp, offset = self.spec.mpp, self.ground.offset
        rough = noise(box, 2.5 / mpp, offset, 2)
        tissue_um, tumour_um, islands = self.layout.window(box, mpp)
        islands += np.float32(0.12) * rough
        weights = np.zeros((len(CLASSES), box.height, box.width), np.float32)
        tissue = smoothstep(tissue_um + 3 * rough, -1.2, 1.2)
        inside = smoothstep(tumour_um + 3 * rough, -3, 3)
        nests = smoothstep(islands, self.nest_level - 0.12, self.nest_level + 0.12)
        weights[TUMOUR] = tissue * inside * nests
        weights[GLASS] = 1 - tissue
        if self.spec.host == "liver":
            # A rim of stroma along the tumour and a few portal tracts.
            rim = smoothstep(tumour_um + 20 * islands, -55, -35)
            tracts = smoothstep(islands, 1.75, 1.9)
            weights[HOST] = tissue * (1 - inside) * (1 - np.maximum(rim, tracts))
        weights[STROMA] = tissue - weights[TUMOUR] - weights[HOST]
        return with_gaps(weights, islands, box, mpp, self.ground, self.lumen_level)

    def weights_at(self, x_um: FloatArray, y_um: FloatArray) -> FloatArray:
        """Return what tissue lies at points: (class, n); as `weights`, but for its finest edges."""
        tissue_um, tumour_um, islands = self.layout.at(x_um, y_um)
        weights = np.zeros((len(CLASSES), len(x_um)), np.float32)
        tissue = (tissue_um > 3).astype(np.float32)
        inside = (tumour_um > 0).astype(np.float32)
        nests = (islands > self.nest_level).astype(np.float32)
        weights[TUMOUR] = tissue * inside * nests
        if self.ground.columnar > 0.3:
            weights[TUMOUR] *= islands < self.lumen_level
        weights[GLASS] = 1 - tissue
        if self.spec.host == "liver":
            tracts = (tumour_um + 20 * islands > -45) | (islands > 1.82)
            weights[HOST] = tissue * (1 - inside) * (1 - tracts)
        weights[STROMA] = tissue * (inside * (1 - nests) + (1 - inside)) - weights[HOST]
        return weights

    def near(self, box: Box) -> Cells:
        """Return the cells that reach into a window, in their order."""
        return self.cells.take(self._near(box))

    def _near(self, box: Box) -> NDArray[np.intp]:
        mpp = self.spec.mpp
        rows = (self.bottom_um > box.y * mpp) & (self.top_um < box.bottom * mpp)
        index = np.flatnonzero(rows)
        x, reach = self.cells.x_um[index], self.bottom_um[index] - self.cells.y_um[index]
        return index[(x + reach > box.x * mpp) & (x - reach < box.right * mpp)]

    def _marker_layers(self, outer: Box, weights: FloatArray, cytoplasm: FloatArray) -> list[FloatArray]:
        """Paint each marker of the panel on a window."""
        if self.spec.panel is None or self.carried is None:
            return []
        index, mpp = self._near(outer), self.spec.mpp
        cells, carried = self.cells.take(index), self.carried.take(index)
        return [
            epithelial_layer(cytoplasm, weights, self.ground, outer, mpp)
            if marker.place == "epithelium"
            else marker_layer(cells, carried, number, marker, outer, mpp)
            for number, marker in enumerate(self.spec.panel.markers)
        ]

    def brightfield(self, box: Box) -> NDArray[np.uint8]:
        halo = int(np.ceil(2.5 * self.look.blur_um / self.spec.mpp)) + sharpening_px(self.spec.mpp) // 2 + 2
        outer = Box(box.x - halo, box.y - halo, box.width + 2 * halo, box.height + 2 * halo)
        cells = self.near(outer)
        if not len(cells) and self.layout.window(outer, self.spec.mpp)[0].max() < -20:
            amounts = np.zeros((outer.height, outer.width, 3), np.float32)
        else:
            weights = self.weights(outer)
            painted = stamp(cells, outer, self.spec.mpp)
            amounts = layered(painted, weights, self.ground, outer, self.spec.mpp)
            for layer in self._marker_layers(outer, weights, painted.cytoplasm):
                tissue = 1 - weights[GLASS]
                amounts[..., 2] = chromogen_layer(
                    layer, tissue, self.ground, self.look.blur_um, outer, self.spec.mpp
                )
        pixels = expose(amounts, self.look, self.ground, outer, self.spec.mpp)
        return pixels[halo:-halo, halo:-halo]

    def fluorescence(self, box: Box) -> NDArray[np.uint16]:
        halo = int(np.ceil(3 * self.lamp.blur_um / self.spec.mpp)) + 2
        outer = Box(box.x - halo, box.y - halo, box.width + 2 * halo, box.height + 2 * halo)
        weights = self.weights(outer)
        painted = stamp(self.near(outer), outer, self.spec.mpp)
        panel, mpp = self.spec.panel, self.spec.mpp
        pixels: NDArray[np.uint16]
        if panel is not None:
            signals = glow(painted, weights, self.lamp, self.ground, outer, mpp)
            layers = self._marker_layers(outer, weights, painted.cytoplasm)
            pixels = fluoresce_panel(signals, layers, panel, self.lamp, self.ground, outer, mpp)
        else:
            amounts = layered(painted, weights, self.ground, outer, mpp)
            pixels = fluoresce(amounts, painted, weights, self.lamp, self.ground, outer, mpp)
        return pixels[halo:-halo, halo:-halo]


def _typical_ground(ground: Ground, rng: np.random.Generator) -> Ground:
    """Tame what would be an exceptional slide: whole slides stand for a stain that worked."""
    return replace(
        ground,
        precipitate=min(ground.precipitate, 0.03),
        pigment=min(ground.pigment, 0.08),
        blush=min(ground.blush, 0.15),
        vessels=min(ground.vessels, 0.05),
        ghosts=min(ground.ghosts, 0.4),
        membrane=0.0,
        mesh=0.0,
        nuclear_stain=0.0,
        fold=0.0,
        ink=0.0,
        tan=min(ground.tan, 0.05),
        solid=min(ground.solid, 0.2),
        haze=float(rng.uniform(0.03, 0.1)),
        cytoplasm=float(rng.uniform(0.06, 0.16)),
    )


def _typical_look(look: Look, rng: np.random.Generator) -> Look:
    return replace(
        look,
        white_point=(look.white_point + 2 * look.white_point.mean()) / 3,
        counterstain=float(rng.uniform(0.4, 0.8)),
        brown=float(rng.uniform(0.85, 1.3)),
        noise=float(rng.uniform(0.3, 1.2)),
        blur_um=float(rng.uniform(0.1, 0.4)),
        jpeg_quality=None,
    )


def _no_cells() -> Cells:
    empty = np.empty(0, np.float32)
    return population.lymphocytes(np.random.default_rng(0), empty, empty)


def _draw_cells(rng: np.random.Generator, scene: _Scene) -> tuple[Cells, NDArray[np.int8]]:
    """One point process over the whole slide; and what each cell is, for markers."""
    spec, ground, layout = scene.spec, scene.ground, scene.layout
    area = (0.0, 0.0, *layout.size_um)
    x, y = population.lattice(rng, area, 6.6, 0.17)
    tissue_um = layout.at(x, y)[0]
    # A cell whose centre is nearer to the edge would hang out of the tissue.
    inside = (tissue_um > 5) & (x > 5) & (y > 5) & (x < area[2] - 5) & (y < area[3] - 5)
    x, y = x[inside], y[inside]
    here = scene.weights_at(x, y)
    zone = zone_of(layout.signed_distance(x, y))
    clump = np.exp(0.9 * noise_at(x, y, 14.0, ground.offset))
    affinity = np.asarray(_AFFINITY[spec.phenotype], np.float32) @ here * clump
    chance = np.zeros(len(x), np.float32)
    for index, (density, area_mm2) in enumerate(zip(spec.cd8_per_mm2, layout.zone_area_mm2, strict=True)):
        members = zone == index
        chance[members] = _scaled(affinity[members], density * area_mm2)
    drawn = rng.random((2, len(x)), dtype=np.float32)
    positive = drawn[0] < chance
    others = spec.other_lymphocytes_per_mm2 * 0.8660254 * 6.6**2 / 1e6
    negative = ~positive & (drawn[1] < others * (here[STROMA] * 1.5 + here[TUMOUR] * 0.3 + here[HOST] * 0.6))
    squeezed = np.where(here[STROMA] > 0.5, rng.random(len(x)), 0).astype(np.float32)
    along = fibre_angle(x, y, ground)
    small = (x[positive | negative], y[positive | negative])
    lymphoid = population.small_round_cells(
        rng,
        x,
        y,
        positive,
        negative,
        squeezed=squeezed,
        along=along,
        packed=np.zeros(len(x), bool),
        crispness=ground.crispness,
        solid=ground.solid,
    )

    def fill(which: int, spacing_um: float, apart_um: float, keep: float) -> tuple[FloatArray, FloatArray]:
        px, py = population.lattice(rng, area, spacing_um, 0.2)
        stays = rng.random(len(px)) < keep
        px, py = px[stays], py[stays]
        there = scene.weights_at(px, py)[which] > 0.5
        px, py = px[there], py[there]
        free = population.kept_apart(small, px, py, apart_um)
        return px[free], py[free]

    x, y = fill(STROMA, float(rng.uniform(13, 20)), 5.0, 0.8)
    parts = [population.spindle_cells(rng, x, y, fibre_angle(x, y, ground))]
    x, y = fill(TUMOUR, ground.nucleus_um * float(rng.uniform(2.1, 2.7)), 6.8, 0.94)
    step = np.float32(8)
    islands = [layout.at(x + dx, y + dy)[2] for dx, dy in ((step, 0), (-step, 0), (0, step), (0, -step))]
    across = np.arctan2(islands[2] - islands[3], islands[0] - islands[1])
    parts.insert(
        0,
        population.tumour_cells(
            rng, x, y, size_um=ground.nucleus_um, columnar=ground.columnar, across=across
        ),
    )
    if spec.host == "liver":
        x, y = fill(HOST, float(rng.uniform(20, 22)), 6.5, 0.95)
        parts.insert(0, population.hepatocytes(rng, x, y))
        x, y = fill(HOST, 15.0, 8.5, 0.25)
        turn = rng.uniform(0, np.pi, len(x)).astype(np.float32)
        parts.insert(0, population.spindle_cells(rng, x, y, turn))
    n_before = sum(len(part) for part in parts)
    parts += lymphoid
    parts += population.decoys(
        rng,
        area,
        lambda px, py: scene.weights_at(px, py),
        lambda px, py: fibre_angle(px, py, ground),
        precipitate=ground.precipitate,
        pigment=ground.pigment,
        vessels=ground.vessels,
        ghosts=ground.ghosts,
    )
    cells = concatenate(parts)
    lineage = np.full(len(cells), OTHER_CELL, np.int8)
    n_cd8, n_lymphocytes = (len(part) for part in lymphoid)
    lineage[n_before : n_before + n_cd8] = CD8_CELL
    lineage[n_before + n_cd8 : n_before + n_cd8 + n_lymphocytes] = LYMPHOCYTE
    return cells, lineage


def _scaled(affinity: FloatArray, wanted: float) -> FloatArray:
    """Scale chances so that they sum to the number wanted, none above 0.85."""
    total = float(affinity.sum())
    if total == 0 or wanted == 0:
        return np.zeros_like(affinity)
    chance = affinity * (wanted / total)
    for _ in range(4):
        chance = np.minimum(chance, 0.85)
        chance = chance * min(wanted / float(chance.sum()), 1e3)
    return as_float(np.minimum(chance, 0.95))


def _blocks(size_px: tuple[int, int]) -> Iterator[Box]:
    """Cut a slide into blocks of one tile row and some tiles, row by row."""
    width, height = size_px
    step = 2 * TILE_PX
    for y in range(0, height, TILE_PX):
        for x in range(0, width, step):
            yield Box(x, y, min(step, width - x), min(TILE_PX, height - y))


class _BrightfieldBlock:
    """Renders a block, its tiles compressed and its next level averaged."""

    def __init__(self, scene: _Scene, quality: int) -> None:
        self.scene = scene
        self.quality = quality

    def __call__(self, box: Box) -> tuple[NDArray[np.uint8], list[bytes]]:
        pixels = self.scene.brightfield(box)
        return reduced(pixels), encode_tiles(pixels, self.quality)


def _in_order(work: Callable[[Box], Any], boxes: Iterator[Box], threads: int) -> Iterator[tuple[Box, Any]]:
    """Do the work on threads, a few blocks ahead of what is taken."""
    with ThreadPoolExecutor(threads) as pool:
        ahead: list[tuple[Box, Any]] = []
        for box in boxes:
            ahead.append((box, pool.submit(work, box)))
            if len(ahead) > 4 * threads:
                first, future = ahead.pop(0)
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()


def _by_row(blocks: Iterator[tuple[Box, Any]]) -> Iterator[tuple[int, list[tuple[Box, Any]]]]:
    for y, row in groupby(blocks, key=lambda block: block[0].y):
        yield y, list(row)


def _joined(
    blocks: Iterator[tuple[Box, tuple[NDArray[np.uint8], list[bytes]]]],
) -> Iterator[tuple[NDArray[np.uint8], list[bytes]]]:
    for _, row in _by_row(blocks):
        small = np.concatenate([result[0] for _, result in row], axis=1)
        yield small, [tile for _, result in row for tile in result[1]]


def _write_annotations(path: Path, spec: SlideSpec, layout: Layout) -> None:
    names = {"Tumor": layout.tumour, "Liver" if spec.host == "liver" else "Bowel": layout.host}
    colours = {"Tumor": [200, 0, 0], "Liver": [150, 90, 40], "Bowel": [90, 150, 200]}
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [
                    np.round(ring.coords, 2).tolist() for ring in (shape.exterior, *shape.interiors)
                ],
            },
            "properties": {
                "objectType": "annotation",
                "name": name,
                "classification": {"name": name, "color": colours[name]},
            },
        }
        for name, shapes in names.items()
        for shape in _in_pixels(shapes, spec.mpp).geoms
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def _in_pixels(shapes: MultiPolygon, mpp: float) -> MultiPolygon:
    """Return polygons in level-0 pixels, on a grid of 0.01 pixel, valid also after that rounding."""
    return as_multipolygon(shapely.set_precision(shapely.transform(shapes, lambda xy: xy / mpp), 0.01))


def _truth(spec: SlideSpec, scene: _Scene) -> tuple[pd.DataFrame, dict[str, Any]]:
    cells = scene.cells.take(scene.cells.label > 0)
    is_cd8 = cells.label == WHOLE_CELL
    distance = scene.layout.signed_distance(cells.x_um, cells.y_um)
    zone = zone_of(distance)
    length = np.where(is_cd8, cells.length_um, cells.nucleus_length_um)
    width = np.where(is_cd8, cells.width_um, cells.nucleus_width_um)
    frame = pd.DataFrame(
        {
            "x_um": cells.x_um.astype(np.float64),
            "y_um": cells.y_um.astype(np.float64),
            "is_cd8": is_cd8,
            "zone": np.array(ZONES, object)[zone],
            "signed_distance_um": distance.astype(np.float32),
            "radius_um": np.sqrt(length * width).astype(np.float32),
        }
    )
    for marker, positive in _positive(spec, scene).items():
        frame[f"{marker}+"] = positive[scene.cells.label > 0]
    zones: dict[str, Any] = {}
    for index, (name, area) in enumerate(zip(ZONES, scene.layout.zone_area_mm2, strict=True)):
        n_cd8 = int((is_cd8 & (zone == index)).sum())
        zones[name] = {
            "area_mm2": area,
            "n_cd8": n_cd8,
            "n_other": int((~is_cd8 & (zone == index)).sum()),
            "cd8_density_per_mm2": n_cd8 / area if area > 0 else None,
            "aimed_cd8_density_per_mm2": float(spec.cd8_per_mm2[index]),
        }
    core, outer = zones["core"]["cd8_density_per_mm2"], zones["outer_margin"]["cd8_density_per_mm2"]
    truth = {
        "spec": asdict(spec),
        "size_px": list(spec.size_px),
        "n_cells": len(frame),
        "n_cd8": int(is_cd8.sum()),
        "tissue_area_mm2": scene.layout.tissue.area / 1e6,
        "border_length_um": scene.layout.border.length,
        "zones": zones,
        "phenotype": _phenotype(core, outer),
        "phenotype_cutoff_per_mm2": PHENOTYPE_CUTOFF_PER_MM2,
    }
    if spec.kind == "brightfield":
        truth["white_point"] = scene.look.white_point.tolist()
        truth["stain_vectors"] = scene.look.stain_vectors.tolist()
    elif spec.panel is not None:
        truth["panel"] = panel_settings(spec.panel, scene.lamp)
    return frame, truth


def _positive(spec: SlideSpec, scene: _Scene) -> dict[str, NDArray[np.bool_]]:
    """Return of each marker that cells carry which of them do."""
    if spec.panel is None or scene.carried is None:
        return {}
    rows = zip(spec.panel.markers, scene.carried.positive, strict=True)
    return {marker.name: positive for marker, positive in rows if marker.place != "epithelium"}


def _phenotype(core: float | None, outer: float | None) -> Phenotype | None:
    """Kather 2018: inflamed where the core is above the cut-off, excluded where only the outer margin is."""
    if core is None or outer is None:
        return None
    if core > PHENOTYPE_CUTOFF_PER_MM2:
        return "inflamed"
    return "excluded" if outer > PHENOTYPE_CUTOFF_PER_MM2 else "desert"
