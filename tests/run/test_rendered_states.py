"""Rendered slides with known checkpoint fractions through the whole pipeline."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from histo.config import Config, load_config
from histo.run.batch import run_batch
from histo.synthetic.panel import CHROMOGENS, RenderedMarker, RenderedPanel
from histo.synthetic.slide import RenderedSlide, SlideSpec, render_slide

QUICK = {"results": {"label_maps": False, "geojson": False}, "measure": {"spatial": False}}


def rendered(
    folder: Path, kind: str, fraction: float, size_um: tuple[float, float], *, control: bool = False
) -> RenderedSlide:
    spec = SlideSpec(
        "control" if control else "slide",
        seed=22 if control else 21,
        size_um=size_um,
        phenotype="inflamed",
        kind="fluorescence" if kind == "mif" else "brightfield",
        panel=RenderedPanel(
            (
                RenderedMarker(
                    "PD-1",
                    fraction=fraction,
                    of_lymphocytes=0.0 if control else 0.1,
                    spill={"CD8": 0.04},
                ),
            ),
            None if kind == "mif" else kind,
        ),
    )
    return render_slide(spec, folder)


def configured(kind: str, slide: RenderedSlide, root: Path) -> Config:
    if kind != "mif":
        settings = load_config(
            root / "configs" / "cd8_pd1_duplex.yaml", [f"stain.vectors.residual={list(CHROMOGENS[kind])}"]
        ).model_dump()
        return Config.model_validate({**settings, **QUICK})
    marker = {"name": "PD-1", "channel": "PD-1", "role": "checkpoint", "statistic": "median"}
    names = {"nuclear": "DAPI", "cd8": "CD8", "autofluorescence": "Autofluorescence"}
    return Config.model_validate(
        {
            "name": "mif",
            "stain": {"kind": "fluorescence", **names},
            "cells": {"centre_threshold": 0.5, "min_area_um2": 16},
            "panel": {"markers": [marker], **slide.truth["panel"]},
            **QUICK,
        }
    )


def measured(
    folder: Path,
    kind: str,
    fraction: float,
    size_um: tuple[float, float],
    root: Path,
    *,
    control: bool = False,
) -> tuple:
    """Return the true fraction, and the row of `states.csv` of the whole slide; by a control slide or not."""
    slide = rendered(folder, kind, fraction, size_um)
    slides, config = [slide.slide], configured(kind, slide, root)
    if control:
        slides.append(rendered(folder, kind, 0.0, size_um, control=True).slide)
        states = config.states.model_copy(update={"control_slides": ("control",)})
        config = config.model_copy(update={"states": states})
    out = folder / "results"
    run_batch(slides, out, config, console=Console(quiet=True))
    cells = pd.read_parquet(slide.cells)
    table = pd.read_csv(out / "states.csv")
    (row,) = table[(table["zone"] == "all") & (table["state"] == "PD-1+")].to_dict(orient="records")
    return float(cells.loc[cells["is_cd8"], "PD-1+"].mean()), row


def test_a_fraction_is_found(tmp_path, pytestconfig):
    true, row = measured(tmp_path, "mif", 0.3, (900.0, 700.0), pytestconfig.rootpath)
    assert row["fraction"] == pytest.approx(true, abs=0.05)
    assert row["fraction_low"] <= true <= row["fraction_high"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mif", *CHROMOGENS])
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.2, 0.5])
def test_fractions_without_controls(kind, fraction, tmp_path, pytestconfig):
    true, row = measured(tmp_path, kind, fraction, (1500.0, 1000.0), pytestconfig.rootpath)
    assert row["fraction"] == pytest.approx(true, abs=0.03)
    if fraction == 0:
        assert row["fraction"] <= 0.005
    else:
        assert row["fraction_low"] <= true <= row["fraction_high"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mif", *CHROMOGENS])
@pytest.mark.parametrize("fraction", [0.0, 0.05])
def test_fractions_with_a_control_slide(kind, fraction, tmp_path, pytestconfig):
    true, row = measured(tmp_path, kind, fraction, (1500.0, 1000.0), pytestconfig.rootpath, control=True)
    assert row["slide_id"] == "slide"
    assert row["fraction"] == pytest.approx(true, abs=0.03)
    assert row["fraction_low"] <= true <= row["fraction_high"]
