"""Invented cells with markers: log-normal staining over a subtracted background, with a camera's noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from made_up import make_summary
from numpy.typing import NDArray

from histo.cells.table import CD8, OTHER
from histo.config import Config
from histo.results.slides_table import SlideRow, write_slides_table


def intensities(
    n: int, fraction: float, seed: int, *, contrast: float = 2.2, bleed: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return intensities, and which cells are truly positive.

    contrast : natural log of how much brighter positive cells are. bleed : share of cells that take up light
    of a neighbour.
    """
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < fraction
    stained = 10.0 * np.exp(rng.normal(0, 0.4, n) + contrast * positive) - 8.0
    neighbour = (rng.random(n) < bleed) * rng.exponential(20.0, n)
    return stained + neighbour + rng.normal(0, 3.0, n), positive


def results_folder(
    folder: Path,
    slides: Sequence[Mapping[str, float]],
    *,
    n_cd8: int = 500,
    n_other: int = 1000,
    assessable: bool = True,
    seed: int = 0,
) -> list[pd.DataFrame]:
    """Write a results folder of infer as far as states need it: a slide for each mapping of marker to share.

    Returns
    -------
    Of each slide its CD8+ cells in tissue, with a column `<marker>_true`.
    """
    truth, rows = [], []
    for number, fractions in enumerate(slides):
        rng = np.random.default_rng([seed, number])
        n = n_cd8 + n_other
        is_cd8 = np.arange(n) < n_cd8
        frame = pd.DataFrame(
            {
                "cell_id": np.arange(1, n + 1, dtype=np.int32),
                "x_um": rng.uniform(0, 4000, n),
                "y_um": rng.uniform(0, 3000, n),
                "cell_class": np.where(is_cd8, CD8, OTHER),
                "in_tissue": rng.random(n) < 0.95,
                "region": rng.choice(["tumour", "host", ""], n),
                "zone": rng.choice(["core", "inner_margin", "outer_margin", "far"], n) if assessable else "",
                "signed_distance_um": rng.uniform(-100, 100, n) if assessable else np.nan,
            }
        )
        for place, (marker, fraction) in enumerate(fractions.items()):
            values, positive = intensities(n, fraction, seed + 100 * number + place)
            values[~is_cd8] = intensities(n_other, 0.0, seed + 100 * number + place + 50)[0]
            frame[f"{marker}_ring_mean"] = values.astype(np.float32)
            frame[f"{marker}_true"] = positive
        summary = make_summary(f"slide-{number}", assessable=assessable)
        (folder / summary.slide_id).mkdir(parents=True)
        frame.drop(columns=[f"{marker}_true" for marker in fractions]).to_parquet(
            folder / summary.slide_id / "cells.parquet"
        )
        (folder / summary.slide_id / "summary.json").write_text(summary.model_dump_json(), encoding="utf-8")
        rows.append(SlideRow.from_summary(summary))
        truth.append(frame[is_cd8 & frame["in_tissue"]].reset_index(drop=True))
    write_slides_table(folder, rows)
    stain = {"kind": "fluorescence", "nuclear": "DAPI", "cd8": "CD8"}
    config = Config.model_validate({"stain": stain, "panel": {"markers": panel(slides[0])}})
    (folder / "run.json").write_text(json.dumps({"config": config.model_dump(mode="json")}), encoding="utf-8")
    return truth


def panel(markers: Sequence[str] | Mapping[str, float]) -> list[dict[str, str]]:
    """Return the panel of some markers, as a configuration has it."""
    roles = {"TCF1": "state"}
    return [{"name": name, "channel": name, "role": roles.get(name, "checkpoint")} for name in markers]
