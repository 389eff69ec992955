"""Reading tiled-JPEG slides: stored tiles decoded directly against OpenSlide, the same pixels.

    uv run benchmarks/reading.py SLIDE [--tile 512] [--reads 400]

Reads the same random boxes of level 0, aligned to stored tiles, through both. Prints tiles a second with one
and two threads, their ratio, and the largest difference between pixels (which must be 0).
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from histo.slide import Box, Slide, open_slide
from histo.slide.openslide_backend import OpenSlideSlide
from histo.slide.openslide_backend import inspect as inspect_openslide


def tiles_per_second(slide: Slide, boxes: list[Box], threads: int) -> float:
    mpp = slide.mpp[0]
    # A copy that has cached nothing yet.
    fresh = pickle.loads(pickle.dumps(slide))
    begun = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda box: fresh.read(box, mpp).shape, boxes):
            pass
    return len(boxes) / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--reads", type=int, default=400)
    arguments = parser.parse_args()
    direct = open_slide(arguments.slide)
    openslide = OpenSlideSlide(
        arguments.slide, inspect_openslide(arguments.slide), direct.mpp, direct.mpp_source
    )
    if type(direct) is OpenSlideSlide:
        sys.exit(f"{arguments.slide} is read through OpenSlide: nothing to compare")
    side = arguments.tile
    columns, rows = direct.size_px[0] // side, direct.size_px[1] // side
    # Each box once: neither side may live off its cache.
    chosen = np.random.default_rng(0).permutation(columns * rows)[: arguments.reads]
    boxes = [Box(int(k % columns) * side, int(k // columns) * side, side, side) for k in chosen]
    difference = max(
        int(np.abs(direct.read(b, direct.mpp[0]).astype(int) - openslide.read(b, direct.mpp[0])).max())
        for b in boxes[:50]
    )
    print(f"{len(boxes)} boxes of {side} px, largest difference between pixels: {difference}")
    for threads in (1, 2):
        ours, theirs = (
            statistics.median(tiles_per_second(slide, boxes, threads) for _ in range(3))
            for slide in (direct, openslide)
        )
        print(f"{threads} threads: direct {ours:.0f}/s, OpenSlide {theirs:.0f}/s, ratio {ours / theirs:.2f}")
    sys.exit(0 if difference == 0 else 1)


if __name__ == "__main__":
    main()
