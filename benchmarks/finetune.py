"""What a fine-tune on corrected slides is worth, on rendered slides of a stain made to be hard.

    python benchmarks/finetune.py --out DIR [--steps 400]

Renders four slides with a third of the usual brown, in a hue near that of the counterstain, and analyses
them with the shipped weights. Two of them are corrected as a pathologist would, by the truth, and go the
user's way: GeoJSON, `histo measure`, `histo export --training`, `train.py` with configs/train_finetune.yaml.
The other two are analysed again with the new weights. Prints F1 of CD8+ cells (centroids within 4 um of a
true one) on these two, before and after; writes finetune.json. About five minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from rich.console import Console

from histo.cells.outlines import outlines
from histo.cells.table import CD8, OTHER
from histo.config import load_config
from histo.evaluation.matching import Matching, match_centroids, pooled
from histo.run.batch import run_batch
from histo.run.corrected import remeasure_folder
from histo.run.export import export_training
from histo.slide import Box
from histo.synthetic.field import FieldStyle
from histo.synthetic.slide import SlideSpec, render_slide, render_window_field
from histo.training.config import load_train_config
from histo.training.fit import train

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "train_finetune.yaml"
HARD = FieldStyle(
    brown=0.3,
    counterstain=1.1,
    stain_vectors=np.array([[0.60, 0.72, 0.35], [0.40, 0.66, 0.63], [0.7, -0.5, 0.3]], np.float32),
)
SPECS = [
    SlideSpec(
        slide_id=f"hard{n}",
        seed=7000 + n,
        size_um=(1200.0, 900.0),
        phenotype="excluded" if n % 2 else "inflamed",
        margin_um=80.0,
        look=HARD,
    )
    for n in range(4)
]
CORRECTED, HELD_OUT = SPECS[:2], SPECS[2:]
REVIEWED_UM = (100.0, 100.0, 1100.0, 800.0)
MATCH_UM = 4.0
SETTINGS = ["run.device=cpu", "measure.spatial=false"]


def corrections(spec: SlideSpec) -> dict[str, Any]:
    """Return what someone who knows the truth would export from QuPath: all cells, and what was reviewed."""
    width, height = spec.size_px
    field = render_window_field(spec, Box(0, 0, width, height))
    drawn = [
        (CD8 if is_cd8 else OTHER, "detection", outline)
        for is_cd8, outline in zip(field.is_cd8, outlines(field.labels, mpp=1.0), strict=True)
    ]
    area = shapely.box(*(np.array(REVIEWED_UM) / spec.mpp))
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(shape),
            "properties": {"objectType": kind, "classification": {"name": name}},
        }
        for name, kind, shape in [*drawn, ("Reviewed", "annotation", area)]
    ]
    return {"type": "FeatureCollection", "features": features}


def score(results: Path, slides: Path) -> Matching:
    """Match the CD8+ cells found in held-out slides to the true ones."""
    found = []
    for spec in HELD_OUT:
        true = pd.read_parquet(slides / f"{spec.slide_id}.truth.parquet")
        cells = pd.read_parquet(results / spec.slide_id / "cells.parquet")
        columns = ["x_um", "y_um"]
        true_um = true.loc[true["is_cd8"], columns].to_numpy()
        found.append(
            match_centroids(cells.loc[cells["cell_class"] == CD8, columns].to_numpy(), true_um, MATCH_UM)
        )
    return pooled(found)


def compare(out: Path, steps: int, console: Console) -> tuple[Matching, Matching]:
    """Return the matching on held-out slides before and after the fine-tune."""
    shutil.rmtree(out, ignore_errors=True)
    slides, edited = out / "slides", out / "edited"
    paths = {spec.slide_id: render_slide(spec, slides).slide for spec in SPECS}
    run_batch(list(paths.values()), out / "before", load_config(None, SETTINGS), console=console)
    edited.mkdir()
    for spec in CORRECTED:
        (edited / f"{spec.slide_id}.geojson").write_text(json.dumps(corrections(spec)))
    remeasure_folder(out / "before", out / "corrected", cells=edited, console=console)
    export_training(out / "corrected", out / "set", edited, licence="Apache-2.0", console=console)
    dataset = f"{{name: folder, path: {out / 'set'}, validation: 0, test: 0}}"
    weights = train(
        load_train_config(CONFIG, [f"datasets=[{dataset}]", f"optimiser.steps={steps}", "device=cpu"]),
        out / "training",
    )
    run_batch(
        [paths[spec.slide_id] for spec in HELD_OUT],
        out / "after",
        load_config(None, [*SETTINGS, f"cells.weights={weights}"]),
        console=console,
    )
    return score(out / "before", slides), score(out / "after", slides)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder; what is in it is removed")
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    found = compare(arguments.out, arguments.steps, Console(stderr=True))
    rows = {
        when: {name: round(getattr(matching, name), 3) for name in ("f1", "precision", "recall")}
        for when, matching in zip(("before", "after"), found, strict=True)
    }
    for when, row in rows.items():
        print(when, row)
    (arguments.out / "finetune.json").write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
