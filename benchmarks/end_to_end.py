"""A whole slide, from file to results, against what its reading and its network alone take.

    uv run benchmarks/end_to_end.py --out bench [--size 16384] [--rounds 2] [--set run.tile_um=512 ...]

Renders a slide of tiled JPEG at 0.25 um/px (kept in --out for the next time) and, in turns in one process,
reads all of its tiles, runs the network on as many, and analyses it to cells, labels and report. Each may use
all cores, so that work which overlaps perfectly takes the sum of what the parts take alone: reading plus
network is the limit that no order of work can beat, however the two overlap. Decoding and writing come on
top. Prints the best round of each, core-seconds of the process, Mpx of tissue a second at the network's
0.5 um/px, and the ratio to the limit. Exit code 1 where the ratio is above 1.2 or the speed below 8 Mpx/s.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from memory import render
from network import machine

from histo.cells.detect import CellDetector
from histo.config import Config, load_config
from histo.run.detector import ready_detector
from histo.run.device import threads_of
from histo.run.memory import share_freed_memory
from histo.run.pipeline import SlideJob, analyse_slide
from histo.slide import open_slide
from histo.slide.reading import read_ahead
from histo.slide.survey import survey_slide
from histo.slide.tiles import Tile, plan_tiles
from histo.slide.tissue import detect_tissue
from histo.stain.space import fit_stain

MAX_RATIO = 1.2
LEAST_MPX_PER_S = 8.0
CONFIG = Path(__file__).resolve().parent.parent / "configs" / "cd8_ihc.yaml"


def measure(path: Path, out: Path, config: Config, rounds: int) -> tuple[float, float]:
    """Print what each part takes; return the ratio to the limit, and Mpx of tissue a second."""
    detector, _ = ready_detector(config)
    assert isinstance(detector, CellDetector)
    slide = open_slide(path)
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
    largest = max(plan.tiles, key=lambda tile: tile.read.width * tile.read.height)
    first = stain(slide.read(largest.read, plan.mpp))
    tissue_mpx = tissue.area_mm2(tissue.assessed) * 1e6 / detector.mpp**2 / 1e6

    def read() -> None:
        threads, ahead = config.run.reader_threads, config.run.read_ahead_tiles
        for _ in read_ahead(slide, plan.tiles, plan.mpp, threads=threads, ahead=ahead):
            pass

    def network() -> None:
        # The same pixels each time: only their number counts. Tiles at the edge of the slide may be smaller.
        def predict(tile: Tile) -> None:
            detector.predict(first[:, : tile.read.height, : tile.read.width], tile)

        with ThreadPoolExecutor(threads_of(config.run)) as pool:
            deque(pool.map(predict, plan.tiles), maxlen=0)

    def whole() -> None:
        shutil.rmtree(out, ignore_errors=True)
        analyse_slide(SlideJob(path, path.stem, out), config, detector)

    parts: dict[str, Callable[[], None]] = {"reading": read, "network": network, "end to end": whole}
    wall = dict.fromkeys(parts, float("inf"))
    core = dict.fromkeys(parts, float("inf"))
    for _ in range(rounds):
        for name, part in parts.items():
            begun, spent = time.perf_counter(), time.process_time()
            part()
            wall[name] = min(wall[name], time.perf_counter() - begun)
            core[name] = min(core[name], time.process_time() - spent)
    print(
        f"{len(plan.tiles)} tiles, {tissue_mpx:.1f} Mpx of tissue, {detector.name}, {config.run.tile_um:g} um"
    )
    for name in parts:
        print(f"  {name:12s} {wall[name]:7.2f} s   {core[name]:7.2f} core-s")
    limit = wall["reading"] + wall["network"]
    ratio, speed = wall["end to end"] / limit, tissue_mpx / wall["end to end"]
    print(f"  limit {limit:.2f} s, ratio {ratio:.2f} (at most {MAX_RATIO}); in core-seconds ", end="")
    print(f"{core['end to end'] / (core['reading'] + core['network']):.2f}; {speed:.2f} Mpx of tissue/s")
    return ratio, speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", dest="overrides", nargs="+", default=[])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(machine())
    slide = render(options.size, options.out)
    share_freed_memory()
    config = load_config(CONFIG, options.overrides)
    ratio, speed = measure(slide, options.out / "end_to_end", config, options.rounds)
    sys.exit(0 if ratio <= MAX_RATIO and speed >= LEAST_MPX_PER_S else 1)


if __name__ == "__main__":
    main()
