"""Marker intensities of single cells against inForm's own table (FIHC4, akoyabio/phenoptr), and their cost.

    python benchmarks/markers.py [--data DIR] [--skip-speed]

Spearman rank correlations of mean intensities over cells, for each of five channels, in three steps:

1. inForm's compartments: our statistics over inForm's own nucleus, cytoplasm, membrane and whole cell.
2. inForm's outlines: our compartments round its nuclei (nucleus), and round its whole cells (ring: membrane).
   Then its nuclei, moved or changed in size by a few pixels: what another outline costs.
3. our cells: those that the network finds, one to one with inForm's within 4 um of the centroid; the ring of
   a CD8+ cell is its membrane, that of another cell the rim of its nucleus, so that it is set against both
   membrane and cytoplasm. Again for pairs that overlap well (intersection over union of 0.7 and more).

Then which phenotypes of inForm are which class of ours, and what 10 markers cost on top of finding the cells.

inForm's membrane map is a net of lines without ids: a line belongs to the cells on either side of it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import spearmanr
from skimage.segmentation import expand_labels

from histo.cells.build import build_detector
from histo.cells.compartments import Compartments, compartments
from histo.cells.detect import CellDetector
from histo.cells.markers import statistics, with_markers
from histo.cells.table import CD8
from histo.config import Config
from histo.evaluation.matching import matched_pairs
from histo.results.cells_parquet import read_cells
from histo.run.pipeline import SlideJob, analyse_slide
from histo.slide import Box, open_slide
from histo.slide.tiles import Tile
from histo.stain.panel import PanelTransform

ROOT = Path(__file__).resolve().parents[1]
FIELD = "FIHC4__0929309_HP_IM3_2_"
CHANNELS = ("Alexa 594", "Cy3", "Cy5", "DAPI", "FITC")
INFORM = ("Nucleus", "Cytoplasm", "Membrane", "Entire Cell")
WITHIN_UM = 4.0
GOOD_OVERLAP = 0.7
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class InForm:
    """What inForm wrote of the field: its table, one row for each cell, and its maps.

    nuclei, cytoplasm : (H, W) int32 labels, the cell ids of the table.
    membrane : (H, W) bool, lines.
    territory : (H, W) int32, the cell that a pixel between the lines belongs to.
    """

    table: pd.DataFrame
    nuclei: Labels
    cytoplasm: Labels
    membrane: NDArray[np.bool_]
    territory: Labels

    def means(self, compartment: str, channel: str) -> NDArray[np.float64]:
        """Return inForm's own mean of each row of the table; NaN where it gives none."""
        column = f"{compartment} {channel} Mean (Normalized Counts, Total Weighting)"
        return pd.to_numeric(self.table[column], errors="coerce").to_numpy(np.float64)

    @property
    def ids(self) -> NDArray[np.intp]:
        """The cell id of each row."""
        return self.table["Cell ID"].to_numpy(np.intp)


def read_inform(folder: Path) -> InForm:
    """Read table and maps of the field."""
    table = pd.read_csv(folder / f"{FIELD}cell_seg_data.txt", sep="\t")
    with tifffile.TiffFile(folder / f"{FIELD}binary_seg_maps.tif") as file:
        # Tissue classes come first.
        nuclei, cytoplasm, membrane = (page.asarray().astype(np.int32) for page in list(file.pages)[1:])
    # The lines are closed: each piece of ground between them is a cell, or lies between cells.
    pieces, n_pieces = ndimage.label(membrane == 0)
    inside = np.where(nuclei > 0, nuclei, cytoplasm)
    counts = np.zeros((n_pieces + 1, int(inside.max()) + 1), np.int64)
    np.add.at(counts, (pieces.ravel(), inside.ravel()), 1)
    counts[0] = 0
    owner = counts.argmax(axis=1).astype(np.int32)
    return InForm(table, nuclei, cytoplasm, membrane > 0, owner[pieces])


def inform_compartments(inform: InForm) -> Iterator[tuple[str, Compartments]]:
    """Yield each of inForm's compartments, as the ring of `Compartments`."""
    framed = np.pad(inform.territory, 1)
    height, width = inform.nuclei.shape
    of_membrane = [
        _pixels(np.where(inform.membrane, framed[dy : dy + height, dx : dx + width], 0))
        for dy in range(3)
        for dx in range(3)
    ]
    parts = {
        "Nucleus": _pixels(inform.nuclei),
        "Cytoplasm": _pixels(inform.cytoplasm),
        "Membrane": np.concatenate(of_membrane),
    }
    parts["Entire Cell"] = np.concatenate(list(parts.values()))
    for name in INFORM:
        # A pixel that several compartments, or neighbours, give to a cell is there once.
        owner, y, x = np.unique(parts[name], axis=0).T
        yield name, Compartments(int(inform.ids.max()), y, x, owner.astype(np.int32), 0)


def _pixels(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return (p, 3) label, row and column of the pixels that have a label."""
    rows, columns = np.nonzero(labels)
    return np.column_stack([labels[rows, columns], rows, columns])


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation where both are known."""
    known = np.isfinite(a) & np.isfinite(b)
    return float(spearmanr(a[known], b[known]).statistic)


def read_field(folder: Path) -> tuple[NDArray[np.float32], float]:
    """Return the field's pixels (H, W, channels) in the order of `CHANNELS`, and um per pixel."""
    with open_slide(folder / f"{FIELD}component_data.tif") as slide:
        assert slide.channels == CHANNELS
        pixels: NDArray[np.float32] = slide.read(Box(0, 0, *slide.size_px), slide.mpp[0])
        return pixels, slide.mpp[0]


def on_inform_compartments(folder: Path) -> dict[tuple[str, str], float]:
    """Return the correlations by (channel, compartment) of our statistics over inForm's compartments."""
    inform, (pixels, _) = read_inform(folder), read_field(folder)
    found = {}
    for name, parts in inform_compartments(inform):
        for place, channel in enumerate(CHANNELS):
            values = pixels[parts.rows, parts.columns, place]
            ring_mean = statistics(values, parts, 0.95)[1, 0][inform.ids - 1]
            found[channel, name] = correlation(ring_mean, inform.means(name, channel))
    return found


def on_inform_outlines(folder: Path) -> dict[tuple[str, str], float]:
    """Return the correlations of our compartments, half a micrometre to either side of inForm's outlines.

    A cell is the ground between the lines. The line itself is free ground, which belongs to the rings of the
    cells on either side, as it is the membrane of both in inForm: it must not be given to a nucleus that
    reaches under it.
    """
    inform, (pixels, _) = read_inform(folder), read_field(folder)
    found = {}
    for labels, compared in (
        (inform.nuclei, {"Nucleus": 0}),
        (inform.territory, {"Membrane": 1, "Entire Cell": 2}),
    ):
        parts = compartments(labels, labels > 0, half_ring_px=1)
        for place, channel in enumerate(CHANNELS):
            means = statistics(pixels[parts.rows, parts.columns, place], parts, 0.95)[:, 0]
            for name, which in compared.items():
                found[channel, name] = correlation(means[which][inform.ids - 1], inform.means(name, channel))
    return found


def on_displaced_nuclei(folder: Path) -> dict[tuple[str, str], float]:
    """Return the correlations of inForm's nuclei, moved or changed in size, and how they still overlap.

    The same cells in the same pixels: what is lost is what another outline costs.
    """
    inform, (pixels, _) = read_inform(folder), read_field(folder)
    nuclei = inform.nuclei
    changed = {
        "1 px wider": expand_labels(nuclei, 1),
        "2 px wider": expand_labels(nuclei, 2),
        "1 px less": _eroded(nuclei, 1),
        "2 px less": _eroded(nuclei, 2),
        "moved 1 px": np.roll(nuclei, 1, axis=1),
        "moved 2 px": np.roll(nuclei, 2, axis=1),
        "moved 3 px": np.roll(nuclei, 3, axis=1),
    }
    n, found = int(inform.ids.max()) + 1, {}
    for name, labels in changed.items():
        owner, rows, columns = _pixels(labels).T
        parts = Compartments(n - 1, rows, columns, owner.astype(np.int32), 0)
        for place, channel in enumerate(CHANNELS):
            means = statistics(pixels[rows, columns, place], parts, 0.95)[1, 0][inform.ids - 1]
            found[channel, name] = correlation(means, inform.means("Nucleus", channel))
        here, there = (np.bincount(which.ravel(), minlength=n)[inform.ids] for which in (nuclei, labels))
        shared = np.bincount(nuclei[nuclei == labels], minlength=n)[inform.ids]
        found["overlap", name] = float(np.median(shared / (here + there - shared)))
    return found


def _eroded(labels: Labels, by_px: int) -> Labels:
    inside = np.zeros(labels.shape, bool)
    for label in np.unique(labels[labels > 0]):
        inside |= ndimage.binary_erosion(labels == label, iterations=by_px)
    return np.where(inside, labels, 0)


@dataclass(frozen=True)
class Matched:
    """Our cells and inForm's, one to one.

    cells, outlines : our table and polygons in um. pairs : (k, 2) rows of it and of inForm's table.
    overlap : (k,) of our outline with inForm's nucleus, intersection over union. xy_um : (m, 2) of its rows.
    """

    cells: pd.DataFrame
    outlines: NDArray[np.object_]
    xy_um: NDArray[np.float64]
    pairs: NDArray[np.int64]
    overlap: NDArray[np.float64]


def our_cells(folder: Path, inform: InForm) -> Matched:
    """Find and measure the field's cells as `histo infer` does, and match them to inForm's."""
    config = Config.model_validate(
        {
            "cells": {"centre_threshold": 0.5, "min_area_um2": 16},  # as in configs/cd8_mif.yaml
            "stain": {"kind": "fluorescence", "nuclear": "DAPI", "cd8": "Alexa 594"},
            "panel": {"markers": [{"name": name.replace(" ", "_"), "channel": name} for name in CHANNELS]},
        }
    )
    with tempfile.TemporaryDirectory() as results:
        job = SlideJob(folder / f"{FIELD}component_data.tif", "fihc4", Path(results) / "fihc4")
        summary, _ = analyse_slide(job, config, build_detector(config.cells))
        cells = read_cells(job.folder / "cells.parquet")
        outlines = read_cells(job.folder / "cells.parquet", ["geometry"])["geometry"].to_numpy()
    mpp = summary.image.mpp_x_um
    centres = ndimage.center_of_mass(inform.nuclei > 0, inform.nuclei, inform.ids)
    xy_um = (np.array(centres)[:, ::-1] + 0.5) * mpp
    pairs = matched_pairs(cells[["x_um", "y_um"]].to_numpy(np.float64), xy_um, WITHIN_UM)
    rows, columns = np.divmod(np.arange(inform.nuclei.size), inform.nuclei.shape[1])
    points = shapely.points((columns + 0.5) * mpp, (rows + 0.5) * mpp)
    pixel, cell = shapely.STRtree(outlines).query(points, predicate="within")
    ours = np.zeros(inform.nuclei.size, np.int32)
    ours[pixel] = cell + 1
    n = np.array([len(cells) + 1, int(inform.ids.max()) + 1])
    both = np.bincount(ours * n[1] + inform.nuclei.ravel(), minlength=int(n.prod())).reshape(n)
    a, b = pairs[:, 0] + 1, inform.ids[pairs[:, 1]]
    shared = both[a, b]
    overlap = shared / (both.sum(axis=1)[a] + both.sum(axis=0)[b] - shared)
    return Matched(cells, outlines, xy_um, pairs, overlap)


def on_our_cells(
    matched: Matched, inform: InForm, min_overlap: float
) -> tuple[int, dict[tuple[str, str], float]]:
    """Return how many pairs overlap so much, and their correlations by (channel, inForm's compartment)."""
    ours, theirs = matched.pairs[matched.overlap >= min_overlap].T
    column = {"Nucleus": "nucleus", "Cytoplasm": "ring", "Membrane": "ring", "Entire Cell": "cell"}
    found = {}
    for channel in CHANNELS:
        for name, compartment in column.items():
            measured = matched.cells[f"{channel.replace(' ', '_')}_{compartment}_mean"].to_numpy(np.float64)
            found[channel, name] = correlation(measured[ours], inform.means(name, channel)[theirs])
    return len(ours), found


def phenotypes(matched: Matched, inform: InForm) -> pd.DataFrame:
    """Count the cells of each of inForm's phenotypes by our class, and ours that are not in its table.

    Its six cytotoxic T cells are pieces of three cells (tests/truth/README.md): also counted are all of its
    rows that lie within 4 um of the outline of a CD8+ cell of ours.
    """
    classes = matched.cells["cell_class"].to_numpy(object)
    of_theirs = np.full(len(inform.table), "no cell within 4 um", object)
    of_theirs[matched.pairs[:, 1]] = classes[matched.pairs[:, 0]]
    table = pd.crosstab(inform.table["Phenotype"], pd.Series(of_theirs, name="ours"))
    calls = shapely.union_all(matched.outlines[classes == CD8])
    near = shapely.distance(shapely.points(matched.xy_um), calls) <= WITHIN_UM
    table["near a CD8+ cell"] = pd.Series(near).groupby(inform.table["Phenotype"]).sum().astype("Int64")
    alone = np.delete(classes, matched.pairs[:, 0])
    table.loc["not in inForm's table"] = [int((alone == name).sum()) for name in table.columns]
    table.loc["not in inForm's table", "near a CD8+ cell"] = pd.NA
    return table


def speed(n_markers: int = 10, rounds: int = 5) -> None:
    """Print how long a tile takes: network, cells, and markers on top."""
    from histo.synthetic.field import FieldStyle, render_field

    config = Config()
    detector = build_detector(config.cells)
    assert isinstance(detector, CellDetector)
    size = 1024 + 2 * detector.halo_px
    field = render_field(5, size_px=size, mpp=0.5, style=FieldStyle(context="lymphoid"))
    stain = np.ascontiguousarray(np.moveaxis(1 - field.pixels / np.float32(255), -1, 0), np.float32)
    tile = Tile(0, Box(detector.halo_px, detector.halo_px, 1024, 1024), Box(0, 0, size, size))
    pixels = np.random.default_rng(0).integers(0, 4000, (size, size, n_markers + 2), np.uint16)
    panel = PanelTransform(
        unit="grey level",
        markers=tuple(f"m{i}" for i in range(n_markers)),
        channels=tuple(f"c{i}" for i in range(n_markers)),
        planes=tuple(range(n_markers)),
        background=(100.0,) * n_markers,
        noise=(10.0,) * n_markers,
        weights=tuple(tuple(float(i == j) for j in range(n_markers)) for i in range(n_markers)),
        upper_quantile=0.95,
    )
    seconds: dict[str, list[float]] = {"network": [], "cells": [], "markers": []}
    for _ in range(rounds):
        begun = time.perf_counter()
        maps = detector.predict(stain, tile)
        seconds["network"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        cells = detector.cells(maps, stain, tile)
        seconds["cells"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        with_markers(cells, pixels, panel)
        seconds["markers"].append(time.perf_counter() - begun)
    best = {name: min(times) for name, times in seconds.items()}
    print(
        f"\na tile of 1024 px, {len(cells.table)} cells, {cells.parts.rows.size / 1e3:.0f} k pixels in them:"
    )
    print(", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in best.items()), end="; ")
    print(f"{n_markers} markers cost {best['markers'] / (best['network'] + best['cells']):.2f} of the rest")


def _print(title: str, found: dict[tuple[str, str], float]) -> None:
    names = list(dict.fromkeys(name for _, name in found))
    print(f"\n{title}\n{'':12}" + "".join(f"{name:>13}" for name in names))
    for channel in dict.fromkeys(channel for channel, _ in found):
        print(f"{channel:12}" + "".join(f"{found[channel, name]:13.4f}" for name in names))
    print(f"lowest {min(value for (channel, _), value in found.items() if channel in CHANNELS):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(os.environ.get("HISTO_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--skip-speed", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.data / "mif"
    inform = read_inform(folder)
    print(f"inForm: {len(inform.table)} cells")
    _print("1. inForm's compartments, our statistics", on_inform_compartments(folder))
    _print("2. inForm's outlines, our compartments", on_inform_outlines(folder))
    _print("   inForm's nuclei, displaced", on_displaced_nuclei(folder))
    matched = our_cells(folder, inform)
    print(f"\nours: {len(matched.cells)} cells, {len(matched.pairs)} pairs within {WITHIN_UM:g} um", end="; ")
    print(
        "overlap with inForm's nucleus, quartiles", np.quantile(matched.overlap, (0.25, 0.5, 0.75)).round(2)
    )
    for least in (0.0, GOOD_OVERLAP):
        n, found = on_our_cells(matched, inform, least)
        _print(f"3. our cells, {n} pairs with an overlap of at least {least:g}", found)
    print(f"\n{phenotypes(matched, inform).to_string()}")
    print("CD8+ cells of ours:", int((matched.cells["cell_class"] == CD8).sum()))
    if not arguments.skip_speed:
        speed()


if __name__ == "__main__":
    main()
