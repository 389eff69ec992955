"""Checkpoint fractions of rendered slides through the whole pipeline, against the truth.

    python benchmarks/states.py --out DIR [--kinds mif red magenta teal] [--fractions 0 0.05 0.2 0.5] [--slides 2]

For every kind of slide (immunofluorescence, or CD8 in DAB with PD-1 in one of three chromogens) and fraction a
batch is rendered in which that share of the CD8+ cells carries PD-1, and one slide that was stained without the
PD-1 antibody. `histo infer`'s and `histo states`' own functions analyse them; each batch is gated by control
slide, by cells that are negative by lineage, and without any help. Truth is the fraction among all true CD8+
cells of the slides. Rendered slides and results that are in DIR already are kept. Prints a table; writes
states.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from histo.config import Config, load_config
from histo.run.batch import run_batch
from histo.run.states import states_of_results
from histo.synthetic.panel import CHROMOGENS, RenderedMarker, RenderedPanel
from histo.synthetic.slide import SlideSpec, render_slide

DUPLEX = Path(__file__).resolve().parents[1] / "configs" / "cd8_pd1_duplex.yaml"
ROUTES: dict[str, dict[str, Any]] = {
    "control slide": {"control_slides": ("control",)},
    "negative cells": {"negatives": {"PD-1": "other"}},
    "unsupervised": {},
}
FIRST_SEED = 9_000


def marker(fraction: float, of_lymphocytes: float) -> RenderedMarker:
    """Return PD-1 of a batch, with the glow and the spill-over of an ordinary filter."""
    return RenderedMarker(
        "PD-1", fraction=fraction, of_lymphocytes=of_lymphocytes, autofluorescence=0.15, spill={"CD8": 0.04}
    )


def specs(kind: str, fraction: float, n: int) -> list[SlideSpec]:
    """Return the slides of a batch, primaries and metastases in turn, and the control slide, last."""
    panel = RenderedPanel((marker(fraction, 0.1),), None if kind == "mif" else kind, batch=7)  # type: ignore[arg-type]
    made = [
        SlideSpec(
            slide_id=f"slide{index}",
            seed=FIRST_SEED + 10 * round(100 * fraction) + index,
            size_um=(1500.0, 1000.0),
            site="metastasis" if index % 2 else "primary",
            host="liver" if index % 2 else "bowel wall",
            phenotype="excluded" if index % 2 else "inflamed",
            kind="fluorescence" if kind == "mif" else "brightfield",
            panel=panel,
        )
        for index in range(n)
    ]
    bare = replace(panel, markers=(marker(0.0, 0.0),))
    return [*made, replace(made[0], slide_id="control", seed=FIRST_SEED + 7, panel=bare)]


def settings(kind: str, undo: dict[str, Any]) -> Config:
    """Return the configuration of a batch."""
    if kind == "mif":
        return Config.model_validate(
            {
                "name": "cd8_mif",
                "stain": {
                    "kind": "fluorescence",
                    "nuclear": "DAPI",
                    "cd8": "CD8",
                    "autofluorescence": "Autofluorescence",
                },
                "cells": {"cd8_logit": 0.75},
                "panel": {"markers": [{"name": "PD-1", "channel": "PD-1", "role": "checkpoint"}], **undo},
                "results": {"label_maps": False, "geojson": False},
                "measure": {"spatial": False},
            }
        )
    vector = list(CHROMOGENS[kind])  # type: ignore[index]
    off = ("results.label_maps=false", "results.geojson=false", "measure.spatial=false")
    return load_config(DUPLEX, [f"stain.vectors.residual={vector}", *off])


def run(out: Path, kind: str, fraction: float, n: int) -> list[dict[str, Any]]:
    """Render and analyse one batch; return a row per route and slide."""
    folder = out / f"{kind}_{fraction:g}"
    slides = []
    for spec in specs(kind, fraction, n):
        truth = folder / "truth" / f"{spec.slide_id}.truth.json"
        if not truth.exists():
            render_slide(
                spec, folder / "slides", annotations_folder=folder / "slides", truth_folder=truth.parent
            )
        suffix = ".ome.tif" if kind == "mif" else ".tif"
        slides.append(folder / "slides" / f"{spec.slide_id}{suffix}")
    undo = json.loads(truth.read_text()).get("panel", {})
    config = settings(kind, undo)
    results = folder / "results"
    run_batch(slides, results, config, console=Console(quiet=True))
    rows = []
    for route, states in ROUTES.items():
        told = folder / route.replace(" ", "_")
        shutil.rmtree(told, ignore_errors=True)
        settled = config.model_copy(update={"states": config.states.model_copy(update=states)})
        result = states_of_results(results, settled, told)
        gate = result.gates.gates[0]
        table = pd.read_csv(told / "states.csv")
        table = table[(table["state"] == "PD-1+") & (table["zone"] == "all")].set_index("slide_id")
        for spec in specs(kind, fraction, n):
            if spec.slide_id not in table.index:
                continue
            cells = pd.read_parquet(folder / "truth" / f"{spec.slide_id}.truth.parquet")
            true = float(cells.loc[cells["is_cd8"], "PD-1+"].mean())
            row = table.loc[spec.slide_id]
            rows.append(
                {
                    "kind": kind,
                    "aimed": fraction,
                    "route": route,
                    "method": gate.method,
                    "slide": spec.slide_id,
                    "true": true,
                    "estimate": float(row["fraction"]),
                    "low": float(row["fraction_low"]),
                    "high": float(row["fraction_high"]),
                    "n_cd8": int(row["n_cd8"]),
                    "n_true": int(cells["is_cd8"].sum()),
                    "reason": gate.not_assessable,
                }
            )
    return rows


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=["mif", "red", "magenta", "teal"])
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.0, 0.05, 0.2, 0.5])
    parser.add_argument("--slides", type=int, default=2)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for kind in given.kinds:
        for fraction in given.fractions:
            new = run(given.out, kind, fraction, given.slides)
            for row in new:
                error = row["estimate"] - row["true"]
                covers = row["low"] <= row["true"] <= row["high"]
                print(
                    f"{row['kind']:8s} {row['route']:15s} {row['method'] or '-':15s} {row['slide']:8s} "
                    f"true {row['true']:.3f}  found {row['estimate']:.3f} "
                    f"({row['low']:.3f} to {row['high']:.3f})  error {error:+.3f}"
                    f"{'' if abs(error) <= 0.03 else ' OFF'}{'' if covers else ' NOT COVERED'}  "
                    f"n {row['n_cd8']} of {row['n_true']}  {row['reason'] or ''}",
                    flush=True,
                )
            rows += new
    (given.out / "states.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
