"""Rendered serial sections: the next slice of a rendered tissue, on a slide of its own, with known truth.

The neighbouring section holds the same organ and tumour, with nests that differ a little and cells of which
only a part are the same. It is mounted turned, stretched, bent, and perhaps folded or torn, and stained for
another marker. Every point of one slide is known on the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree

from histo.errors import ConfigError
from histo.slide.geometry import Box
from histo.synthetic import population
from histo.synthetic.noise import as_float, noise_at
from histo.synthetic.optics import draw_look
from histo.synthetic.pyramid import TILE_PX, encode_tiles, reduced, write_brightfield
from histo.synthetic.slide import (
    RenderedSlide,
    SlideSpec,
    _draw_cells,
    _in_order,
    _Scene,
    _typical_look,
    render_slide,
)
from histo.synthetic.stamp import WHOLE_CELL, Cells, concatenate

# Smooth bending of the tissue: wavelengths of the waves that make it up.
_BEND_UM = (900.0, 2200.0)
# How much the nests of the next section are those of this one: correlation of the noise that shapes them.
_SAME_NESTS = 0.93
# Centres of cells of the next section keep so far from those that both sections share.
_APART_UM = 6.5


@dataclass(frozen=True)
class SerialSpec:
    """The next section of a slide, and what happened to it.

    slide : the first section, stained for CD8. serial_id : name of the second one's files. seed : what is
    drawn.
    rotation_deg, shift_um, stretch, flip : how it was mounted; stretch (x, y) along the tissue's axes.
    bend_um : largest smooth local displacement, about. fold_um : width of a fold across the tissue, three
    layers thick, which takes twice as much tissue away; tear_um : width of a gap; the fold or tear runs at
    `fault_deg` through the point at share `fault_at` of the tissue frame.
    same_cells : share of the CD8+ cells that reach into the next section and are seen again.
    marker_share : of would-be CD8+ cells that carry the marker. coupling : at 1 the marker's density is the
    CD8 density times that share everywhere; below, the share itself varies from place to place. bright_share
    : of the marker's cells that are bright, the others have `dim` of the stain.
    """

    slide: SlideSpec
    serial_id: str
    seed: int = 2
    rotation_deg: float = 0.0
    shift_um: tuple[float, float] = (0.0, 0.0)
    stretch: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    bend_um: float = 0.0
    fold_um: float = 0.0
    tear_um: float = 0.0
    fault_deg: float = 70.0
    fault_at: tuple[float, float] = (0.5, 0.5)
    same_cells: float = 0.35
    marker_share: float = 0.5
    coupling: float = 0.7
    bright_share: float = 1.0
    dim: float = 0.45


@dataclass(frozen=True)
class RenderedPair:
    """The files of a pair, and the way between them.

    slide : the CD8 slide with its annotations and truth. serial : the second image. serial_cells : Parquet,
    every cell of it: x_um, y_um on the second slide, tissue_x_um, tissue_y_um of the same place on the first,
    is_marker, is_bright, in_fault. mounting : maps points between the slides.
    """

    spec: SerialSpec
    slide: RenderedSlide
    serial: Path
    serial_cells: Path
    mounting: Mounting


class _Wave(NamedTuple):
    """A plane wave of displacement: amplitude (2,), wave vector (2,) per um, phase."""

    amplitude: NDArray[np.float64]
    vector: NDArray[np.float64]
    phase: float


@dataclass(frozen=True, eq=False)
class Mounting:
    """How the second section lies on its slide: points (n, 2), um in either slide's frame.

    From the second slide to the first: the linear part, then the bend, then the fold or tear.
    """

    linear: NDArray[np.float64]  # (2, 2), first to second
    centre_um: NDArray[np.float64]  # of the first slide
    serial_centre_um: NDArray[np.float64]
    serial_size_um: tuple[float, float]
    waves: tuple[_Wave, ...]
    fault_point_um: NDArray[np.float64]
    fault_normal: NDArray[np.float64]
    fold_um: float
    tear_um: float

    @classmethod
    def draw(cls, spec: SerialSpec) -> Mounting:
        """Draw the bend of a section; all else is given."""
        rng = np.random.default_rng([spec.seed, 20])
        width, height = (length * spec.slide.mpp for length in spec.slide.size_px)
        angle = np.deg2rad(spec.rotation_deg)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = turn @ np.diag(spec.stretch) @ np.diag([-1.0 if spec.flip else 1.0, 1.0])
        corners = np.array([[-width, -height], [width, -height], [-width, height], [width, height]]) / 2
        reach = np.abs(corners @ linear.T).max(axis=0) + 2 * spec.bend_um + np.abs(spec.shift_um)
        reach += 2 * spec.fold_um + spec.tear_um
        size = tuple(16 * spec.slide.mpp * np.ceil(2 * reach / (16 * spec.slide.mpp)))
        waves = []
        for _ in range(4 if spec.bend_um > 0 else 0):
            direction = rng.uniform(0, 2 * np.pi)
            length = rng.uniform(*_BEND_UM)
            vector = 2 * np.pi / length * np.array([np.cos(direction), np.sin(direction)])
            way = rng.uniform(0, 2 * np.pi)
            amplitude = spec.bend_um / 2.2 * np.array([np.cos(way), np.sin(way)])
            waves.append(_Wave(amplitude, vector, float(rng.uniform(0, 2 * np.pi))))
        fault = np.deg2rad(spec.fault_deg)
        return cls(
            linear=linear,
            centre_um=np.array([width, height]) / 2,
            serial_centre_um=np.array(size) / 2 + np.array(spec.shift_um),
            serial_size_um=(float(size[0]), float(size[1])),
            waves=tuple(waves),
            fault_point_um=np.array([width, height]) * np.array(spec.fault_at),
            fault_normal=np.array([np.sin(fault), -np.cos(fault)]),
            fold_um=spec.fold_um,
            tear_um=spec.tear_um,
        )

    def to_serial(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return where points of the first slide lie on the second, and which lie in the fold."""
        across = (points - self.fault_point_um) @ self.fault_normal
        w = self.fold_um
        in_fold = (across >= 0) & (across <= 3 * w) & (w > 0)
        # Of the three layers of a fold the middle one lies upside down.
        beyond = np.where(across < w, 0.0, np.where(across < 2 * w, 2 * w - 2 * across, -2 * w))
        moved = np.where(across > 0, beyond + self.tear_um, 0.0)
        flat = points + moved[:, None] * self.fault_normal
        before = flat.copy()
        for _ in range(30):
            before = flat - self._bend(before)
        return (before - self.centre_um) @ self.linear.T + self.serial_centre_um, in_fold

    def layers(self, points: NDArray[np.float64]) -> tuple[list[NDArray[np.float64]], NDArray[np.bool_]]:
        """Return where points of the second slide lie on the first, once for each layer of tissue there.

        Returns
        -------
        One or three arrays (n, 2), alike outside of a fold; and which points lie in a tear, on bare glass.
        """
        flat = (points - self.serial_centre_um) @ np.linalg.inv(self.linear).T + self.centre_um
        flat = flat + self._bend(flat)
        across = (flat - self.fault_point_um) @ self.fault_normal
        w, gap = self.fold_um, self.tear_um
        torn = (across >= 0) & (across < gap)
        if w == 0:
            return [flat - np.where(across >= gap, gap, 0.0)[:, None] * self.fault_normal], torn
        single = np.where(across > w, 2 * w, 0.0)
        inside = (across >= 0) & (across <= w)
        offsets = (single, np.where(inside, 2 * w - 2 * across, single), np.where(inside, 2 * w, single))
        return [flat + offset[:, None] * self.fault_normal for offset in offsets], torn

    def _bend(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.zeros_like(points)
        for wave in self.waves:
            total += np.sin(points @ wave.vector + wave.phase)[:, None] * wave.amplitude
        return total


def render_pair(spec: SerialSpec, folder: Path, *, threads: int = 2) -> RenderedPair:
    """Render a CD8 slide and the section next to it.

    The second slide has no annotations, as usual; its picture is held in memory, so that pairs must be small.

    Raises
    ------
    ConfigError : a spec that cannot be rendered.
    """
    if spec.slide.kind != "brightfield":
        raise ConfigError("serial sections are rendered in brightfield only")
    if spec.fold_um > 0 and spec.tear_um > 0:
        raise ConfigError("a serial section is rendered with a fold or a tear, not both")
    if spec.serial_id == spec.slide.slide_id:
        raise ConfigError(f"both sections are called {spec.serial_id!r}")
    first = render_slide(spec.slide, folder, threads=threads)
    mounting = Mounting.draw(spec)
    scene, shares = _next_section(spec)
    path = folder / f"{spec.serial_id}.tif"
    mpp = spec.slide.mpp
    size_px = (round(mounting.serial_size_um[0] / mpp), round(mounting.serial_size_um[1] / mpp))
    flat = _picture(scene, threads)
    glass = np.asarray(scene.look.white_point, np.float32)
    strips = _mounted(flat, glass, mounting, size_px, spec)
    part = folder / f".{spec.serial_id}.part.tif"
    try:
        write_brightfield(part, size_px, mpp, strips, spec.slide.jpeg_quality)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    cells = _serial_truth(scene, shares, mounting)
    cells_path = folder / f"{spec.serial_id}.truth.parquet"
    cells.to_parquet(cells_path, index=False)
    (folder / f"{spec.serial_id}.truth.json").write_text(
        json.dumps({"spec": asdict(spec), "n_marker": int(cells["is_marker"].sum())}, indent=1),
        encoding="utf-8",
    )
    return RenderedPair(spec, first, path, cells_path, mounting)


def _next_section(spec: SerialSpec) -> tuple[_Scene, NDArray[np.bool_]]:
    """Return the tissue of the second section, before it is mounted, and which of its cells are bright."""
    first = _Scene.draw(spec.slide)
    rng = np.random.default_rng([spec.seed, 21])
    # Nests change over the thickness of a section; tissue and tumour outlines hardly do.
    rasters = first.layout.rasters.copy()
    other = _Scene.draw(replace(spec.slide, seed=spec.slide.seed + 7919)).layout.rasters[2]
    rows, columns = np.minimum(other.shape, rasters[2].shape)
    rasters[2, :rows, :columns] = (
        _SAME_NESTS * rasters[2, :rows, :columns] + np.sqrt(1 - _SAME_NESTS**2) * other[:rows, :columns]
    )
    scene = replace(
        first,
        layout=replace(first.layout, rasters=rasters),
        look=_typical_look(draw_look(rng), rng),
        ground=replace(first.ground, haze=first.ground.haze * float(rng.uniform(0.8, 1.25))),
    )
    drawn, _ = _draw_cells(rng, scene)
    seen = first.cells.take(first.cells.label == WHOLE_CELL)
    seen = seen.take(rng.random(len(seen)) < spec.same_cells)
    moved = as_float(rng.normal(0, 1.0, (2, len(seen))).astype(np.float32))
    seen = replace(seen, x_um=seen.x_um + moved[0], y_um=seen.y_um + moved[1])
    # A share of the CD8+ cells comes from the first section, the others are drawn anew.
    is_cd8 = drawn.label == WHOLE_CELL
    stays = ~is_cd8 | (rng.random(len(drawn)) >= spec.same_cells)
    if len(seen):
        # In the order of the first section's table, shared cells lie over what they displace.
        distance, _ = KDTree(np.column_stack([seen.x_um, seen.y_um])).query(
            np.column_stack([drawn.x_um, drawn.y_um]), distance_upper_bound=_APART_UM
        )
        stays &= ~(np.isfinite(distance) & (drawn.label > 0))
    cells = concatenate([drawn.take(stays), seen])
    cells, bright = _stained(rng, cells, spec, scene)
    reach = np.maximum(cells.reach_um(), np.maximum(cells.length_um, cells.width_um))
    return (
        replace(scene, cells=cells, top_um=cells.y_um - reach - 2, bottom_um=cells.y_um + reach + 2),
        bright,
    )


def _stained(
    rng: np.random.Generator, cells: Cells, spec: SerialSpec, scene: _Scene
) -> tuple[Cells, NDArray[np.bool_]]:
    """Stain for the marker instead of CD8: some of the would-be CD8+ cells; and say which are bright."""
    is_cd8 = cells.label == WHOLE_CELL
    x, y = cells.x_um, cells.y_um
    # The share of cells that carry the marker wanders between places, the more the weaker the coupling.
    wander = noise_at(x, y, 140.0, (scene.ground.offset[1], scene.ground.offset[0]), 23)
    spread = 3.0 * (1 - spec.coupling)
    odds = spec.marker_share / (1 - min(spec.marker_share, 0.999)) * np.exp(spread * wander)
    has = is_cd8 & (rng.random(len(x)) < odds / (1 + odds))
    loses = is_cd8 & ~has
    plain = population.lymphocytes(rng, x[loses], y[loses])
    stained = cells.take(~loses)
    has = has[~loses]
    bright = has & (rng.random(len(stained)) < spec.bright_share)
    weaker = np.where(has & ~bright, np.float32(spec.dim), np.float32(1))
    stained = replace(
        stained,
        ring=as_float(stained.ring * weaker),
        brown=as_float(stained.brown * weaker),
        brown_nucleus=as_float(stained.brown_nucleus * weaker),
    )
    return concatenate([stained, plain]), np.concatenate([bright, np.zeros(len(plain), bool)])


def _picture(scene: _Scene, threads: int) -> NDArray[np.uint8]:
    """Render the whole of a flat section: (H, W, 3)."""
    width, height = scene.spec.size_px
    picture = np.empty((height, width, 3), np.uint8)

    def boxes() -> Iterator[Box]:
        for y in range(0, height, TILE_PX):
            for x in range(0, width, 2 * TILE_PX):
                yield Box(x, y, min(2 * TILE_PX, width - x), min(TILE_PX, height - y))

    for box, pixels in _in_order(scene.brightfield, boxes(), threads):
        picture[box.y : box.bottom, box.x : box.right] = pixels
    return picture


def _mounted(
    flat: NDArray[np.uint8],
    glass: NDArray[np.float32],
    mounting: Mounting,
    size_px: tuple[int, int],
    spec: SerialSpec,
) -> Iterator[tuple[NDArray[np.uint8], list[bytes]]]:
    """Yield the rows of tiles of the mounted section."""
    mpp = spec.slide.mpp
    # Light through each layer, as a share; nothing is there beyond the picture.
    light = torch.from_numpy(flat).permute(2, 0, 1)[None].to(torch.float32)
    light = (light.clamp_min(1.0) / torch.from_numpy(glass).view(1, 3, 1, 1)).log()
    height, width = flat.shape[:2]
    rng = np.random.default_rng([spec.seed, 22])
    for top in range(0, size_px[1], TILE_PX):
        rows = min(TILE_PX, size_px[1] - top)
        y, x = np.mgrid[top : top + rows, 0 : size_px[0]]
        points = (np.column_stack([x.ravel(), y.ravel()]) + 0.5) * mpp
        layers, torn = mounting.layers(points)
        total = torch.zeros((3, rows, size_px[0]))
        for index, layer in enumerate(layers):
            across = (2 * layer / mpp / np.array([width, height]) - 1).reshape(1, rows, size_px[0], 2)
            seen = torch.nn.functional.grid_sample(
                light, torch.from_numpy(across.astype(np.float32)), align_corners=False, padding_mode="zeros"
            )[0]
            if index > 0:
                # Outside of the fold the layers are one.
                apart = (
                    np.any(layer != layers[0], axis=1) if index == 1 else np.any(layer != layers[1], axis=1)
                )
                seen *= torch.from_numpy(apart.reshape(1, rows, size_px[0]).astype(np.float32))
            total += seen
        total *= torch.from_numpy(~torn.reshape(1, rows, size_px[0]))
        pixels = total.exp().permute(1, 2, 0).numpy() * glass
        pixels += rng.normal(0, 0.5, pixels.shape).astype(np.float32)
        strip = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
        yield reduced(strip), encode_tiles(strip, spec.slide.jpeg_quality)


def _serial_truth(scene: _Scene, bright: NDArray[np.bool_], mounting: Mounting) -> pd.DataFrame:
    counted = scene.cells.label > 0
    cells, bright = scene.cells.take(counted), bright[counted]
    tissue = np.column_stack([cells.x_um, cells.y_um]).astype(np.float64)
    serial, in_fold = mounting.to_serial(tissue)
    return pd.DataFrame(
        {
            "x_um": serial[:, 0],
            "y_um": serial[:, 1],
            "tissue_x_um": tissue[:, 0],
            "tissue_y_um": tissue[:, 1],
            "is_marker": cells.label == WHOLE_CELL,
            "is_bright": bright,
            "in_fault": in_fold,
        }
    )
