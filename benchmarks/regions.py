"""The tissue classifier on rendered slides: from some strokes on one slide to the regions of others.

    uv run benchmarks/regions.py OUT [--seeds 1 2 3] [--train P1_metastasis] [--pictures]

Renders the demo cohort of each seed into OUT (once), trains on three strokes a class of one slide of the
first seed, applies to all, and prints for each slide the Dice of tumour and host with the truth, for the
tumour also with holes filled (what the tumour border goes round), and the speed. The truth knows tumour
(nests and the stroma between them) and host; stroma counts as host here, for the bowel's wall looks like it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from shapely.geometry import MultiPolygon

from histo.config import Config
from histo.regions.annotations import read_annotations
from histo.regions.border import tumour_body
from histo.regions.classifier import MIN_AREA_UM2, SMOOTHING_UM, load_classifier
from histo.regions.classify import classify, regions_of
from histo.regions.features import CELL_UM
from histo.regions.find import prepared
from histo.regions.raster import rasterise
from histo.results.geojson import REGION_COLOURS
from histo.run.regions import train_regions
from histo.slide import open_slide
from histo.slide.survey import survey_slide
from histo.slide.tissue import detect_tissue
from histo.stain.space import fit_stain
from histo.synthetic.cohort import demo_specs
from histo.synthetic.scribbles import write_scribbles
from histo.synthetic.slide import RenderedSlide, render_slide


def dice(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    return 2 * np.count_nonzero(found & true) / max(1, np.count_nonzero(found) + np.count_nonzero(true))


def rendered(folder: Path, seed: int) -> list[RenderedSlide]:
    slides = []
    for spec in demo_specs(seed):
        where = folder / f"seed{seed}"
        known = RenderedSlide(
            spec,
            where / f"{spec.slide_id}.tif",
            where / f"{spec.slide_id}.geojson",
            where / f"{spec.slide_id}.truth.parquet",
            where / f"{spec.slide_id}.truth.json",
            {},
        )
        slides.append(known if known.truth_json.is_file() else render_slide(spec, where))
    return slides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--train", default="P1_metastasis")
    parser.add_argument("--strokes", type=int, default=1, help="seed of the strokes")
    parser.add_argument("--pictures", action="store_true", help="write a picture of each slide's classes")
    arguments = parser.parse_args()
    config = Config()
    slides = {seed: rendered(arguments.out, seed) for seed in arguments.seeds}
    shown = next(s for s in slides[arguments.seeds[0]] if s.spec.slide_id == arguments.train)
    strokes = arguments.out / "strokes"
    write_scribbles(shown, strokes / f"{arguments.train}.geojson", seed=arguments.strokes)
    begun = time.perf_counter()
    train_regions(
        [shown.slide],
        strokes,
        arguments.out / "tissue.safetensors",
        config,
        line_width_um=20,
        smoothing_um=SMOOTHING_UM,
        min_area_um2=MIN_AREA_UM2,
        console=Console(),
    )
    print(f"trained in {time.perf_counter() - begun:.1f} s, survey of the slide included")
    classifier = load_classifier(arguments.out / "tissue.safetensors")
    print(f"{'slide':24} {'tumour':>7} {'filled':>7} {'host':>7} {'seconds':>8} {'Mpx/s at 2 um':>14}")
    worst = 1.0
    for seed, of_seed in slides.items():
        for slide in of_seed:
            with open_slide(slide.slide) as opened:
                survey = survey_slide(opened, config.tissue.mpp_um)
                tissue = detect_tissue(survey, opened.kind, config.tissue)
                stain = fit_stain(opened, survey, tissue, config.stain)
                begun = time.perf_counter()
                of = prepared(opened, tissue, stain, config, classifier)
                raster = classify(classifier, of)
                seconds = time.perf_counter() - begun
                truth = read_annotations(slide.annotations, opened, config.regions.names).polygons_um
            true = {
                name: rasterise(area, of.assessed.shape, CELL_UM) & of.assessed
                for name, area in truth.items()
            }
            found = {name: raster == k for k, name in enumerate(classifier.classes, start=1)}
            polygons = regions_of(raster, classifier.classes, CELL_UM)
            body = tumour_body(
                polygons["tumour"],
                polygons.get("host", MultiPolygon()),
                config.regions.border_tissue_within_um,
            )
            filled = rasterise(body, of.assessed.shape, CELL_UM) & of.assessed
            host = (raster > 0) & ~found["tumour"]
            scores = (
                dice(found["tumour"], true["tumour"]),
                dice(filled, true["tumour"]),
                dice(host, true["host"]),
            )
            worst = min(worst, scores[0])
            speed = of.assessed.size * 16 / 1e6 / seconds
            name = f"{seed}: {slide.spec.slide_id}"
            print(
                f"{name:24} {scores[0]:7.3f} {scores[1]:7.3f} {scores[2]:7.3f} {seconds:8.2f} {speed:14.1f}"
            )
            if arguments.pictures:
                draw(
                    arguments.out / f"{seed}_{slide.spec.slide_id}.png",
                    survey.overview,
                    raster,
                    classifier.classes,
                )
    print(f"worst Dice of tumour: {worst:.3f}")
    sys.exit(0 if worst >= 0.9 else 1)


def draw(
    path: Path, overview: NDArray[np.uint8], raster: NDArray[np.uint8], classes: tuple[str, ...]
) -> None:
    colours = np.array([(255, 255, 255), *(REGION_COLOURS.get(name, (100, 100, 100)) for name in classes)])
    mixed = 0.6 * overview + 0.4 * np.where((raster > 0)[..., None], colours[raster], overview)
    picture = Image.fromarray(mixed.astype(np.uint8))
    picture.resize((picture.width * 3, picture.height * 3)).save(path)


if __name__ == "__main__":
    main()
