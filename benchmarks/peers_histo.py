"""What the peers are asked for, by histo's own parts: a class map, or maps of probabilities; see `peers.py`.

histo goes on from these maps to cells and keeps neither; this is its reading, its network and its tiles.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from histo.cells.build import build_detector
from histo.cells.detect import CellDetector
from histo.config import load_config
from histo.run.device import threads_of
from histo.run.memory import share_freed_memory
from histo.slide import open_slide
from histo.slide.reading import read_ahead
from histo.slide.survey import survey_slide
from histo.slide.tiles import Tile, plan_tiles
from histo.slide.tissue import detect_tissue
from histo.stain.space import StainTransform, fit_stain


def class_logits(
    detector: CellDetector, stain: StainTransform, tile: Tile, pixels: NDArray[Any]
) -> NDArray[np.float32]:
    """Return the network's (3, rows, columns) of a tile's core: the one place that knows the detector."""
    logits = detector.predict(stain(pixels), tile).classes
    core = tile.core
    top, left = (logits.shape[1] - core.height) // 2, (logits.shape[2] - core.width) // 2
    return logits[:, top : top + core.height, left : left + core.width]


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponent = np.exp(logits - logits.max(axis=0))
    exponent /= exponent.sum(axis=0)
    return exponent


def classes(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    background, cd8, other = logits
    found = (cd8 > background).astype(np.uint8)
    found[other > np.maximum(background, cd8)] = 2
    return found


def main() -> None:
    start_core_s = time.process_time()
    share_freed_memory()
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    begun = time.perf_counter()
    config = load_config(Path(job["config"]), [f"cells.precision={job['precision']}"])
    threads = threads_of(config.run)
    detector = build_detector(config.cells, threads=threads)
    assert isinstance(detector, CellDetector)
    slide = open_slide(job["slide"])
    survey = survey_slide(slide, config.tissue.mpp_um)
    tissue = detect_tissue(survey, slide.kind, config.tissue)
    stain = fit_stain(slide, survey, tissue, config.stain)
    plan = plan_tiles(
        slide,
        tissue,
        mpp=detector.mpp,
        tile_um=config.run.tile_um,
        halo_px=detector.halo_px,
        multiple=detector.multiple,
    )
    columns, rows = slide.grid_size(plan.mpp)
    path = Path(job["out"]) / "found.zarr"
    # A chunk a core: threads write without waiting for each other.
    width, height = plan.core_px
    if job["maps"]:
        array = zarr.create_array(
            str(path), shape=(3, rows, columns), chunks=(3, height, width), dtype="float32"
        )
    else:
        array = zarr.create_array(str(path), shape=(rows, columns), chunks=(height, width), dtype="uint8")
    decide: Callable[[NDArray[np.float32]], NDArray[Any]] = probabilities if job["maps"] else classes

    def work(tile: Tile, pixels: NDArray[Any]) -> None:
        found = decide(class_logits(detector, stain, tile, pixels))
        y, x = tile.core.y, tile.core.x
        found = found[..., : rows - y, : columns - x]
        array[..., y : y + found.shape[-2], x : x + found.shape[-1]] = found

    reads = read_ahead(
        slide, plan.tiles, plan.mpp, threads=config.run.reader_threads, ahead=config.run.read_ahead_tiles
    )
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[None]] = deque()
        for tile, pixels in reads:
            if isinstance(pixels, Exception):
                raise pixels
            under_way.append(pool.submit(work, tile, pixels))
            if len(under_way) > threads:
                under_way.popleft().result()
        for future in under_way:
            future.result()
    result = {
        "work_s": time.perf_counter() - begun,
        "start_core_s": start_core_s,
        "path": str(path),
        "versions": f"{detector.name}, OpenVINO {version('openvino')}",
    }
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
