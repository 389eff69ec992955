"""A load test of the review server on loopback: how long tiles take, and how much memory the server does.

A rendered slide is tiled to a large one with as many cells as asked, laid out as a results folder. Clients
with connections of their own ask for tiles of the slide and of the cells as somebody does who looks round.

    uv run python benchmarks/review.py --out review-load     # 40,000 x 40,000 px, 500,000 cells, 4 clients
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import shapely
import tifffile

from histo.cells.build import build_detector
from histo.cells.table import CD8, CELL_COLUMNS, OTHER, cell_frame
from histo.config import Config
from histo.measure.summary import SlideSummary
from histo.results.cells_parquet import CellParquetWriter
from histo.results.geojson import write_annotations_geojson
from histo.results.maps import MapsWriter
from histo.results.slides_table import SlideRow, write_slides_table
from histo.run.pipeline import SlideJob, analyse_slide
from histo.slide import Box, open_slide
from histo.slide.survey import survey_slide
from histo.synthetic.slide import SlideSpec, render_slide

MPP = 0.25
# Of the issue that asked for this page, on 2 cores.
LIMITS_MS = {"overlay": 100.0, "slide": 60.0}
LIMIT_GB = 1.0


def large_slide(folder: Path, size_px: int) -> Path:
    """Write a pyramid whose tiles are those of a small rendered slide, over and over."""
    path = folder / "large.tif"
    if path.exists():
        return path
    spec = SlideSpec(slide_id="seed", seed=3, size_um=(1100.0, 1100.0), phenotype="inflamed", mpp=MPP)
    with open_slide(render_slide(spec, folder / "seed").slide, mpp=MPP) as small:
        patch = small.read(Box(64, 64, 4096, 4096), MPP)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        level, size = 0, size_px
        while True:
            image = patch[:: 2**level, :: 2**level]
            n = -(-size // image.shape[0]) if image.shape[0] else 1

            def tiles(image: np.ndarray = image, size: int = size, n: int = n):  # type: ignore[no-untyped-def]
                for y in range(0, size, 512):
                    for x in range(0, size, 512):
                        rows = np.arange(y, y + 512) % image.shape[0]
                        columns = np.arange(x, x + 512) % image.shape[1]
                        yield np.ascontiguousarray(image[rows][:, columns])

            writer.write(
                tiles(),
                shape=(size, size, 3),
                dtype=np.uint8,
                tile=(512, 512),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 85},
                resolution=(1e4 / (MPP * 2**level), 1e4 / (MPP * 2**level)),
                resolutionunit=3,
                subfiletype=1 if level else 0,
            )
            if size <= 1024:
                return path
            level, size = level + 1, size // 2


def large_results(folder: Path, slide_path: Path, n_cells: int) -> Path:
    """Lay out a results folder with this slide and so many cells, a tumour in its left half."""
    results = folder / "results"
    if (results / "run.json").exists():
        return results
    config = Config.model_validate({"measure": {"spatial": False}, "cells": {"detector": "kather2018"}})
    # A small slide through the pipeline gives a summary of the right shape.
    job = SlideJob(next((folder / "seed").glob("*.tif")), "large", results / "large", mpp_flag=MPP)
    summary, _ = analyse_slide(job, config, build_detector(config.cells))
    with open_slide(slide_path, mpp=MPP) as slide:
        width, height = slide.size_um
        annotations = folder / "large.geojson"
        shapes = {
            "tumour": shapely.box(0, 0, width / 2, height),
            "host": shapely.box(width / 2, 0, width, height),
        }
        write_annotations_geojson(annotations, shapes, slide.mpp)
        rng = np.random.default_rng(1)
        x, y = rng.uniform(20, width - 20, n_cells), rng.uniform(20, height - 20, n_cells)
        order = np.lexsort((x, y // 384))
        x, y = x[order], y[order]
        angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        with CellParquetWriter(results / "large" / "cells.parquet") as writer:
            for start in range(0, n_cells, 20_000):
                part = slice(start, min(start + 20_000, n_cells))
                n = part.stop - part.start
                radius = rng.uniform(3.0, 4.5, (n, 20))
                around = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 2)
                rings = around + np.column_stack([x[part], y[part]])[:, None]
                columns = {name: np.zeros(n, dtype) for name, dtype in CELL_COLUMNS.items()}
                columns |= {
                    "cell_id": np.arange(part.start + 1, part.stop + 1),
                    "x_um": x[part],
                    "y_um": y[part],
                    "x_px": x[part] / MPP,
                    "y_px": y[part] / MPP,
                    "cell_class": rng.choice(np.array([CD8, OTHER], object), n, p=[0.1, 0.9]),
                    "probability": rng.uniform(0.5, 1, n),
                    "in_tissue": np.ones(n, bool),
                    "region": np.where(x[part] < width / 2, "tumour", "host").astype(object),
                    "zone": np.full(n, "core", object),
                    "signed_distance_um": x[part] - width / 2,
                }
                writer.write(cell_frame(columns, CELL_COLUMNS), shapely.polygons(rings))
        survey = survey_slide(slide, 8.0)
        with MapsWriter(results / "large" / "maps.zarr", slide, 0.5, labels=False) as maps:
            maps.write_overview(survey.overview, 8.0)
        image = summary.image.model_copy(update={"width_px": slide.size_px[0], "height_px": slide.size_px[1]})
    told = summary.model_dump(mode="json") | {
        "path": str(slide_path),
        "annotations": str(annotations),
        "image": image.model_dump(mode="json"),
    }
    large = SlideSummary.model_validate(told)
    (results / "large" / "summary.json").write_text(large.model_dump_json(exclude={"panel"}))
    write_slides_table(results, [SlideRow.from_summary(large, site="metastasis", patient="P")])
    (results / "run.json").write_text(json.dumps({"config": config.model_dump(mode="json")}))
    return results


def percentiles(seconds: list[float]) -> str:
    p50, p95, p100 = np.percentile(1e3 * np.array(seconds), [50, 95, 100])
    return f"n {len(seconds):5d}   median {p50:6.1f} ms   p95 {p95:6.1f} ms   longest {p100:6.1f} ms"


def client(
    host: str,
    urls: Callable[[np.random.Generator], list[tuple[str, str]]],
    seed: int,
    seconds: float,
    into: dict[str, list[float]],
) -> None:
    """Ask for what is in view, view after view, and write down how long each answer took."""
    rng = np.random.default_rng(seed)
    connection = http.client.HTTPConnection(host, timeout=60)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for kind, url in urls(rng):
            begun = time.perf_counter()
            connection.request("GET", url)
            answer = connection.getresponse()
            size = len(answer.read())
            into[kind].append(time.perf_counter() - begun)
            assert answer.status == 200, (url, answer.status, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size-px", type=int, default=40_000)
    parser.add_argument("--cells", type=int, default=500_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    slide = large_slide(given.out.resolve(), given.size_px)
    results = large_results(given.out.resolve(), slide, given.cells)
    command = [sys.executable, "-m", "histo.cli", "review", str(results), "--port", "0", "--reader", "load"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        host = re.search(r"http://([^/]+)/", server.stderr.readline())
        assert host is not None
        try:
            measure(host[1], server.pid, given)
        finally:
            server.terminate()


def measure(host: str, pid: int, given: argparse.Namespace) -> None:
    def ask(path: str, body: object = None, token: str = "") -> dict:  # type: ignore[type-arg]
        connection = http.client.HTTPConnection(host, timeout=300)
        headers = {"content-type": "application/json", "x-histo-write": token}
        sent = None if body is None else json.dumps(body)
        connection.request("POST" if sent else "GET", path, sent, headers)
        return json.loads(connection.getresponse().read())

    for _ in range(600):
        try:
            token = ask("/api/session")["write"]
            break
        except OSError:
            time.sleep(0.1)
    begun = time.perf_counter()
    detail = ask("/api/slides/large")
    print(f"slide opened in {time.perf_counter() - begun:.2f} s; {os.cpu_count()} cores")
    begun = time.perf_counter()
    ask("/api/slides/large/state")
    print(f"{given.cells} cells and tissue read in {time.perf_counter() - begun:.2f} s")
    print(f"server: {highest_gb(pid):.2f} GB at its highest so far")
    width_px, height_px = detail["size_px"]
    tile_px, top = detail["tile_px"], detail["max_level"]
    width_um = detail["size_um"][0]

    def in_view(rng: np.random.Generator) -> list[tuple[str, str]]:
        """A view of 1400 x 900 px at a random place, at a scale from the whole slide to single cells."""
        out = int(rng.integers(0, 6))
        level, um = top - out, MPP * 2**out
        x, y = rng.uniform(0, 1, 2) * (width_um - min(width_um, 1400 * um))
        asked = []
        scale = tile_px * um
        for row in range(int(y // scale), int((y + 900 * um) // scale) + 1):
            for column in range(int(x // scale), int((x + 1400 * um) // scale) + 1):
                if column * scale < width_px * MPP and row * scale < height_px * MPP:
                    asked.append(("slide", f"/api/slides/large/tiles/{level}/{column}_{row}.jpg"))
        kind, edge = ("outlines", 512.0) if um < 0.55 else ("points", 4096.0)
        for row in range(int(y // edge), int((y + 900 * um) // edge) + 1):
            for column in range(int(x // edge), int((x + 1400 * um) // edge) + 1):
                asked.append(("overlay", f"/api/slides/large/cells/{kind}/{column}_{row}.bin"))
        return asked

    took: list[dict[str, list[float]]] = [{"slide": [], "overlay": []} for _ in range(given.clients)]
    threads = [
        threading.Thread(target=client, args=(host, in_view, seed, given.seconds, into))
        for seed, into in enumerate(took)
    ]
    process = psutil.Process(pid)
    before = sum(process.cpu_times()[:2])
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    busy = (sum(process.cpu_times()[:2]) - before) / given.seconds
    for kind, limit in LIMITS_MS.items():
        all_of = [seconds for one in took for seconds in one[kind]]
        print(f"{kind:8s} {percentiles(all_of)}   asked for: p95 below {limit:.0f} ms")
    print(f"server: {busy:.2f} cores busy, {highest_gb(pid):.2f} GB at its highest so far")
    for action in (
        {"kind": "delete_cells", "cells": [1, 2, 3]},
        {"kind": "draw_region", "region": "exclude", "outline": [[1000, 1000], [3000, 1000], [3000, 3000]]},
        {"kind": "draw_region", "region": "tumour", "outline": [[4000, 4000], [7000, 4000], [7000, 7000]]},
    ):
        begun = time.perf_counter()
        ask("/api/slides/large/log", action, token)
        print(f"{action['kind']}: new numbers after {time.perf_counter() - begun:.2f} s")
    print(f"server: {highest_gb(pid):.2f} GB at its highest   asked for: below {LIMIT_GB:.0f} GB")


def highest_gb(pid: int) -> float:
    """Return the most memory that a process ever had, as the system counts it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e9


if __name__ == "__main__":
    main()
