"""Short trainings side by side: what the renderer's ingredients, and the size of the network, are worth.

    python benchmarks/trials.py ingredients --out DIR [--seeds 0 1 2] [--steps 400] [--fields 240]
    python benchmarks/trials.py sizes --out DIR [--seeds 0] [--steps 1200] [--fields 600]

Every network is trained by `histo.training.fit.train` from configs/train_synthetic.yaml, shortened. In
"ingredients" one ingredient is taken out of the training fields; in "sizes" the width differs. What they are
validated and tested on is the same for all. A run that is in DIR already is kept, so that a broken series
goes on, and parts of it (--only NAME ..., --seeds ...) can run side by side. Prints a table of means and
standard deviations over the seeds; the real images are those of real_images.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import real_images

from histo.cells.network import flops_per_pixel
from histo.training.config import load_train_config
from histo.training.fit import train

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "train_synthetic.yaml"
VECTORS = "[[0.65111,0.70119,0.29049],[0.26917,0.56824,0.77759],[0.4,-0.5,0.3]]"

# Name -> settings that take the ingredient out.
INGREDIENTS: dict[str, tuple[str, ...]] = {
    "everything": (),
    "no cross-reaction": ("fields.style.vessels=0", "fields.style.membrane=0", "fields.style.mesh=0"),
    "no debris, blush, bubbles": (
        "fields.style.precipitate=0",
        "fields.style.pigment=0",
        "fields.style.blush=0",
        "fields.style.ghosts=0",
    ),
    "no aggregates": ("fields.style.aggregate_fraction=0",),
    "no stained nuclei": ("fields.style.nuclear_stain=0",),
    "no blur, noise, JPEG": ("fields.style.clean=true",),
    "one stain, one strength": (
        f"fields.style.stain_vectors={VECTORS}",
        "fields.style.counterstain=0.5",
        "fields.style.brown=1.0",
        "fields.style.white_point=[240,240,240]",
    ),
}
WIDTHS = (8, 12, 16, 24)
SIZES: dict[str, tuple[str, ...]] = {
    f"width {width}, {flops_per_pixel(width) / 1000:.1f} kFLOP/px": (f"width={width}",) for width in WIDTHS
}

# Column -> where it stands in metrics.json or real_images.json.
COLUMNS: dict[str, tuple[str, ...]] = {
    "rendered F1": ("metrics", "test", "f1_cd8"),
    "other nuclei F1": ("metrics", "test", "f1_other"),
    "Ki67 F1": ("ki67", "dots", "f1"),
    "Ki67 pos. F1": ("ki67", "dots_positive", "f1"),
    "Ki67 pos.": ("ki67", "positive_fraction"),
    "CD31 /mm2": ("cd31", "false_cd8_per_mm2"),
    "FHL2 /mm2": ("fhl2", "false_cd8_per_mm2"),
    "FIHC4 F1": ("fihc4", "dots", "f1"),
}


def run(settings: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Train one network, or take the one that is there, and return its numbers."""
    numbers = folder / "numbers.json"
    if not numbers.is_file():
        weights = train(load_train_config(CONFIG, settings), folder, resume=True)
        real_images.main(
            ["--weights", str(weights), "--out", str(folder / "real"), "--no-classical", "--no-overlays"]
        )
        real = json.loads((folder / "real" / "real_images.json").read_text())
        (detector,) = real["detectors"].values()
        metrics = json.loads((folder / "metrics.json").read_text())
        numbers.write_text(json.dumps({"metrics": metrics, **detector}, indent=1))
    result: dict[str, Any] = json.loads(numbers.read_text())
    return result


def value(numbers: dict[str, Any], place: tuple[str, ...]) -> float:
    """Look up a number; NaN where there is none."""
    found: Any = numbers
    for key in place:
        found = found[key]
    return float("nan") if found is None else float(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["ingredients", "sizes"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--fields", type=int)
    parser.add_argument("--only", nargs="+")
    options = parser.parse_args()
    whole = options.what == "ingredients"
    cases = INGREDIENTS if whole else SIZES
    seeds = options.seeds or ([0, 1, 2] if whole else [0])
    steps, fields = options.steps or (400 if whole else 1200), options.fields or (240 if whole else 600)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, settings in cases.items():
        if options.only and name not in options.only:
            continue
        runs = [
            run(
                (
                    f"seed={seed}",
                    f"fields.train={fields}",
                    "fields.validation=8",
                    "fields.test=24",
                    f"fields.cache={options.out / 'cache'}",
                    f"optimiser.steps={steps}",
                    *settings,
                ),
                options.out / f"{name.replace(',', '').replace('/', '_').replace(' ', '_')}_{seed}",
            )
            for seed in seeds
        ]
        row = [name]
        for place in COLUMNS.values():
            values = [value(numbers, place) for numbers in runs]
            digits = 0 if max(values) > 2 else 3
            spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
            row.append(f"{mean(values):.{digits}f}{spread}")
        rows.append(row)
    print(f"{steps} steps on {fields} fields, seeds {seeds}; mean ± standard deviation\n")
    print("| trained with | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
