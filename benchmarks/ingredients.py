"""What each ingredient of the renderer is worth: train with and without it, test on real images.

    python benchmarks/ingredients.py --out DIR [--seeds 0 1 2] [--steps 600] [--only NAME ...]

Every network is trained by `histo.training.fit.train` from configs/train_synthetic.yaml, shortened to --steps, with
one ingredient fixed to nothing in the training fields; what they are validated and tested on stays the same.
A run that is in DIR already is kept, so that a broken series goes on, and two halves of it can run side by side.
Prints a table of means and standard deviations over the seeds; the real images are those of real_images.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import real_images

from histo.training.config import load_train_config
from histo.training.fit import train

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "train_synthetic.yaml"
VECTORS = "[[0.65111,0.70119,0.29049],[0.26917,0.56824,0.77759],[0.4,-0.5,0.3]]"

# Name -> settings that take the ingredient out.
CASES: dict[str, tuple[str, ...]] = {
    "everything": (),
    "no cross-reaction (vessels, epithelium)": ("fields.style.vessels=0", "fields.style.membrane=0"),
    "no debris, blush, bubbles": (
        "fields.style.precipitate=0",
        "fields.style.pigment=0",
        "fields.style.blush=0",
        "fields.style.ghosts=0",
    ),
    "no aggregates": ("fields.style.aggregate_fraction=0",),
    "no stained nuclei": ("fields.style.nuclear_stain=0",),
    "no scanner (blur, noise, JPEG)": ("fields.style.clean=true",),
    "one stain, one strength": (
        f"fields.style.stain_vectors={VECTORS}",
        "fields.style.counterstain=0.5",
        "fields.style.brown=1.0",
        "fields.style.white_point=[240,240,240]",
    ),
}

# Column -> where it stands in metrics.json or real_images.json.
COLUMNS: dict[str, tuple[str, ...]] = {
    "rendered F1": ("metrics", "test", "f1_cd8"),
    "Ki67 F1": ("ki67", "dots", "f1"),
    "Ki67 pos. F1": ("ki67", "dots_positive", "f1"),
    "Ki67 pos.": ("ki67", "positive_fraction"),
    "CD31 /mm2": ("cd31", "false_cd8_per_mm2"),
    "FHL2 /mm2": ("fhl2", "false_cd8_per_mm2"),
    "FIHC4 F1": ("fihc4", "own_masks", "f1"),
}


def run(name: str, seed: int, steps: int, fields: int, out: Path) -> dict[str, Any]:
    """Train one network, or take the one that is there, and return its numbers."""
    folder = out / f"{name.split(' (')[0].replace(', ', '_').replace(' ', '_')}_{seed}"
    numbers = folder / "numbers.json"
    if not numbers.is_file():
        overrides = (
            f"seed={seed}",
            f"fields.train={fields}",
            f"fields.cache={out / 'cache'}",
            f"optimiser.steps={steps}",
            "optimiser.steps_per_epoch=100",
            *CASES[name],
        )
        weights = train(load_train_config(CONFIG, overrides), folder, resume=True)
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
    """Look up a number."""
    found: Any = numbers
    for key in place:
        found = found[key]
    return float("nan") if found is None else float(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--fields", type=int, default=240)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.only:
        runs = [run(name, seed, options.steps, options.fields, options.out) for seed in options.seeds]
        row = [name]
        for place in COLUMNS.values():
            values = [value(numbers, place) for numbers in runs]
            digits = 0 if max(values) > 2 else 3
            spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
            row.append(f"{mean(values):.{digits}f}{spread}")
        rows.append(row)
    print(f"{options.steps} steps on {options.fields} fields, seeds {options.seeds}; mean ± standard deviation\n")
    print("| trained on | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
