"""Checkpoint fractions of rendered slides through the whole pipeline, against the truth.

    python benchmarks/states.py --out DIR [--kinds mif red magenta teal] [--fractions 0 0.05 0.2 0.5]
                                [--slides 1] [--statistics median mean]

For every kind of slide (immunofluorescence, or CD8 in DAB with PD-1 in one of three chromogens) slides are
rendered in which a fraction of the CD8+ cells carries PD-1, and a slide that was stained without the PD-1
antibody. The functions behind `histo infer` and `histo states` analyse them. The slides of one fraction are a
batch, and all slides are one; each is gated by the control slide, by cells that are negative by lineage, and
without any help, on the median or mean of the ring. Truth is the fraction among all true CD8+ cells of a
slide. What is rendered and analysed in DIR already is kept. Prints a table; writes states.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from histo.config import Config, load_config
from histo.panel import Statistic
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
CONTROL = "control"


def marker(fraction: float, of_lymphocytes: float) -> RenderedMarker:
    """Return PD-1 of a batch, with the glow and the spill-over of an ordinary filter."""
    return RenderedMarker(
        "PD-1", fraction=fraction, of_lymphocytes=of_lymphocytes, autofluorescence=0.15, spill={"CD8": 0.04}
    )


def specs(kind: str, fractions: Sequence[float], n: int) -> dict[str, SlideSpec]:
    """Return the slides of a kind by name: n of each fraction, primaries and metastases, and a control."""

    def slide(name: str, index: int, fraction: float, of_lymphocytes: float) -> SlideSpec:
        chromogen = None if kind == "mif" else kind
        panel = RenderedPanel((marker(fraction, of_lymphocytes),), chromogen, batch=7)  # type: ignore[arg-type]
        return SlideSpec(
            slide_id=name,
            seed=FIRST_SEED + index,
            size_um=(1500.0, 1000.0),
            site="metastasis" if index % 2 else "primary",
            host="liver" if index % 2 else "bowel wall",
            phenotype="excluded" if index % 2 else "inflamed",
            kind="fluorescence" if kind == "mif" else "brightfield",
            panel=panel,
        )

    made = [
        slide(f"{fraction:g}_{place}", number * n + place, fraction, 0.1)
        for number, fraction in enumerate(fractions)
        for place in range(n)
    ]
    return {spec.slide_id: spec for spec in (*made, slide(CONTROL, 100, 0.0, 0.0))}


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
                "cells": {"centre_threshold": 0.5, "min_area_um2": 16},
                "panel": {"markers": [{"name": "PD-1", "channel": "PD-1", "role": "checkpoint"}], **undo},
                "results": {"label_maps": False, "geojson": False},
                "measure": {"spatial": False},
            }
        )
    vector = list(CHROMOGENS[kind])  # type: ignore[index]
    off = ("results.label_maps=false", "results.geojson=false", "measure.spatial=false")
    return load_config(DUPLEX, [f"stain.vectors.residual={vector}", *off])


def run(
    out: Path, kind: str, fractions: Sequence[float], n: int, statistics: Sequence[Statistic]
) -> Iterator[dict[str, Any]]:
    """Render and analyse the slides of a kind; yield a row per batch, statistic, route and slide."""
    folder = out / kind
    wanted = specs(kind, fractions, n)
    truth, slides = folder / "truth", []
    for spec in wanted.values():
        if not (truth / f"{spec.slide_id}.truth.json").exists():
            render_slide(
                spec, folder / "slides", annotations_folder=folder / "slides", truth_folder=truth, threads=1
            )
        slides.append(folder / "slides" / f"{spec.slide_id}{'.ome.tif' if kind == 'mif' else '.tif'}")
    config = settings(kind, json.loads((truth / f"{CONTROL}.truth.json").read_text()).get("panel", {}))
    run_batch(slides, folder / "results", config, console=Console(quiet=True))
    batches = {f"{fraction:g}": [f"{fraction:g}_{place}" for place in range(n)] for fraction in fractions}
    batches["all"] = [name for names in batches.values() for name in names]
    for (batch, names), statistic, (route, states) in product(batches.items(), statistics, ROUTES.items()):
        # The control slide is of every batch, but only where it is used as such.
        chosen = [*names, CONTROL] if "control_slides" in states else names
        part = part_of(folder / "results", folder / "batch", chosen)
        (gated,) = config.panel.markers
        panel = config.panel.model_copy(
            update={"markers": (gated.model_copy(update={"statistic": statistic}),)}
        )
        settled = config.model_copy(
            update={"panel": panel, "states": config.states.model_copy(update=states)}
        )
        result = states_of_results(part, settled, folder / "states")
        (gate,) = result.gates.gates
        for summary in result.slides:
            (found,) = (s for s in summary.states if s.state == "PD-1+" and s.zone == "all")
            cells = pd.read_parquet(truth / f"{summary.slide_id}.truth.parquet")
            yield {
                "kind": kind,
                "batch": batch,
                "statistic": statistic,
                "route": route,
                "method": gate.method,
                "slide": summary.slide_id,
                "true": float(cells.loc[cells["is_cd8"], "PD-1+"].mean()),
                "estimate": found.fraction.value,
                "low": found.fraction.low,
                "high": found.fraction.high,
                "n_cd8": found.n_cd8,
                "n_true": int(cells["is_cd8"].sum()),
                "reason": gate.not_assessable or found.fraction.not_assessable,
            }


def part_of(results: Path, folder: Path, names: Sequence[str]) -> Path:
    """Make a results folder of some slides of another."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rows = pd.read_parquet(results / "slides.parquet")
    rows[rows["slide_id"].isin(names)].to_parquet(folder / "slides.parquet", index=False)
    for name in names:
        (folder / name).symlink_to((results / name).resolve())
    return folder


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=["mif", "red", "magenta", "teal"])
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.0, 0.05, 0.2, 0.5])
    parser.add_argument("--slides", type=int, default=1)
    parser.add_argument("--statistics", nargs="+", default=["median", "mean"])
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for kind in given.kinds:
        for row in run(given.out, kind, given.fractions, given.slides, given.statistics):
            rows.append(row)
            start = (
                f"{row['kind']:7s} {row['batch']:4s} {row['statistic']:6s} {row['route']:14s} "
                f"{row['method'] or '-':14s} {row['slide']:7s} true {row['true']:.3f}  "
            )
            if row["estimate"] is None:
                print(f"{start}NA: {row['reason']}", flush=True)
                continue
            error = row["estimate"] - row["true"]
            covers = row["low"] <= row["true"] <= row["high"]
            print(
                f"{start}found {row['estimate']:.3f} ({row['low']:.3f} to {row['high']:.3f}) "
                f"error {error:+.3f}{'' if abs(error) <= 0.03 else ' OFF'}{'' if covers else ' NOT COVERED'} "
                f"n {row['n_cd8']} of {row['n_true']}",
                flush=True,
            )
    (given.out / "states.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
