"""Decoding a field of 200,000 cells, and writing a million cells to disk.

    uv run benchmarks/many_cells.py [--decode 200000] [--write 1000000]

Decoding: maps of cells that lie as close as lymphocytes in a follicle (6 um apart), in tiles of 1,024 pixels
of 0.5 um, from the network's maps to instances; seconds of one core, and what outlines and measurements,
which follow in a run, add. Writing: cells in tiles of 1,000, with outlines of twelve corners, to GeoParquet
and to GeoJSON; seconds of each, size, and how far the peak memory of the process grows between the first
tenth and the end. Exit code 1 where decoding takes more than 2 s, writing more than 30 s, or memory grows by
more than 100 MB.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import shapely

from histo.cells.decode import decode
from histo.cells.detect import owned_cells
from histo.cells.maps import TileMaps
from histo.cells.table import CD8, CELL_COLUMNS, OTHER, cell_frame
from histo.config import CellsConfig
from histo.results.cells_parquet import CellParquetWriter
from histo.results.geojson import CellGeoJsonWriter
from histo.slide.geometry import Box
from histo.slide.tiles import Tile

MPP_UM = 0.5
TILE_PX = 1024
SPACING_PX = 12
CELLS_A_TILE = 1000
LIMIT_DECODE_S, LIMIT_WRITE_S, LIMIT_GROWTH_MB = 2.0, 30.0, 100.0


def crowded_maps() -> tuple[TileMaps, int]:
    """Return the maps of a tile that is full of round cells, and how many there are."""
    rows, columns = np.mgrid[SPACING_PX // 2 : TILE_PX : SPACING_PX, SPACING_PX // 2 : TILE_PX : SPACING_PX]
    y, x = np.mgrid[:TILE_PX, :TILE_PX] + 0.5
    centre_y, centre_x = (np.floor(v / SPACING_PX) * SPACING_PX + SPACING_PX // 2 for v in (y, x))
    inside = np.hypot(y - centre_y, x - centre_x) < SPACING_PX / 2
    positive = (np.floor(x / SPACING_PX) + np.floor(y / SPACING_PX)) % 2 == 0
    classes = np.full((3, TILE_PX, TILE_PX), -3.0, np.float32)
    classes[0][~inside] = 3.0
    classes[1][inside & positive] = 3.0
    classes[2][inside & ~positive] = 3.0
    offsets = np.stack([centre_x - x, centre_y - y]).astype(np.float32) * MPP_UM
    centre = np.full((TILE_PX // 2, TILE_PX // 2), -6.0, np.float32)
    centre[rows.ravel() // 2, columns.ravel() // 2] = 4.0
    return TileMaps(classes, centre, offsets), rows.size


def decoding(n_cells: int) -> float:
    """Print what decoding costs; return core-seconds for that many cells."""
    maps, each = crowded_maps()
    config = CellsConfig()
    n_tiles = -(-n_cells // each)
    stain = np.zeros((3, TILE_PX, TILE_PX), np.float32)
    whole = Box(0, 0, TILE_PX, TILE_PX)
    found = 0
    decode_s = measure_s = 0.0
    # The first tile loads what is compiled, or compiles it: not counted.
    for index in range(-1, n_tiles):
        begun = time.process_time()
        instances = decode(
            maps, mpp=MPP_UM, centre_threshold=0.5, area_um2=(config.min_area_um2, config.max_area_um2)
        )
        decoded = time.process_time()
        cells = owned_cells(
            instances, stain, Tile(index, whole, whole), margin_px=0, mpp=MPP_UM, config=config
        )
        measured = time.process_time()
        if index == -1:
            print(f"the first tile: {measured - begun:.2f} core-s")
            continue
        decode_s += decoded - begun
        measure_s += measured - decoded
        found += len(cells.table)
    if found != n_tiles * each:
        raise SystemExit(f"{found} cells instead of {n_tiles * each} were decoded")
    print(
        f"decoding {found} cells ({n_tiles} tiles): {decode_s:.2f} core-s "
        f"(limit {LIMIT_DECODE_S:g}); outlines and measurements {measure_s:.2f} core-s"
    )
    return decode_s


def made_up(first: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a tile of cells with their outlines."""
    n = CELLS_A_TILE
    corner = np.array(divmod(first // n, 100)[::-1]) * 500.0
    at = corner + rng.uniform(0, 500, (n, 2))
    angle = np.arange(12) * np.pi / 6
    radius = rng.uniform(3, 5, (n, 12, 1))
    rings = at[:, None] + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    columns = {name: rng.uniform(0, 1, n) for name, dtype in CELL_COLUMNS.items() if dtype.kind == "f"}
    columns |= {
        "cell_id": np.arange(first + 1, first + 1 + n),
        "x_um": at[:, 0],
        "y_um": at[:, 1],
        "cell_class": np.where(rng.random(n) < 0.2, CD8, OTHER).astype(object),
        "in_tissue": rng.random(n) < 0.95,
        "region": np.full(n, "tumour", object),
        "zone": np.full(n, "core", object),
    }
    return cell_frame(columns, CELL_COLUMNS), shapely.polygons(rings)


def writing(n_cells: int) -> tuple[float, float]:
    """Print what writing costs; return seconds for both files and the growth of memory in MB."""
    rng = np.random.default_rng(0)
    seconds = {"Parquet": 0.0, "GeoJSON": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        paths = {"Parquet": Path(folder) / "cells.parquet", "GeoJSON": Path(folder) / "cells.geojson.gz"}

        def timed(name: str, action: Callable[[], None]) -> None:
            begun = time.perf_counter()
            action()
            seconds[name] += time.perf_counter() - begun

        parquet = CellParquetWriter(paths["Parquet"])
        geojson = CellGeoJsonWriter(paths["GeoJSON"], (0.25, 0.25), "benchmark")
        early = 0.0
        for first in range(0, n_cells, CELLS_A_TILE):
            table, outlines = made_up(first, rng)
            timed("Parquet", lambda t=table, o=outlines: parquet.write(t, o))  # type: ignore[misc]
            timed("GeoJSON", lambda t=table, o=outlines: geojson.write(t, o))  # type: ignore[misc]
            if first == n_cells // 10 // CELLS_A_TILE * CELLS_A_TILE:
                early = peak_mb()
        timed("Parquet", parquet.close)
        timed("GeoJSON", geojson.close)
        growth = peak_mb() - early
        for name, path in paths.items():
            size_mb = path.stat().st_size / 1e6
            print(f"writing {n_cells} cells as {name}: {seconds[name]:.1f} s, {size_mb:.0f} MB")
        print(f"both {sum(seconds.values()):.1f} s (limit {LIMIT_WRITE_S:g}), memory grew by {growth:.0f} MB")
    return sum(seconds.values()), growth


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--decode", type=int, default=200_000)
    parser.add_argument("--write", type=int, default=1_000_000)
    options = parser.parse_args()
    decode_s = decoding(options.decode)
    write_s, growth_mb = writing(options.write)
    good = decode_s <= LIMIT_DECODE_S and write_s <= LIMIT_WRITE_S and growth_mb <= LIMIT_GROWTH_MB
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
