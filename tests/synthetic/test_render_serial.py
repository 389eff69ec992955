"""Rendered serial sections: the way between the slides, and what the second one holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histo.errors import ConfigError
from histo.slide import Box, open_slide
from histo.synthetic.serial import Mounting, SerialSpec, render_pair
from histo.synthetic.slide import SlideSpec

SLIDE = SlideSpec("first", seed=3, size_um=(700.0, 520.0), mpp=1.0, phenotype="inflamed", margin_um=60.0)


@settings(max_examples=25)
@given(
    angle=st.floats(-180, 180),
    stretch=st.floats(0.95, 1.05),
    flip=st.booleans(),
    bend=st.floats(0, 40),
    fault=st.sampled_from([(0.0, 0.0), (30.0, 0.0), (0.0, 50.0)]),
)
def test_there_and_back_is_the_same_place(
    angle: float, stretch: float, flip: bool, bend: float, fault: tuple[float, float]
) -> None:
    spec = SerialSpec(
        SLIDE,
        "second",
        rotation_deg=angle,
        stretch=(stretch, 1 / stretch),
        flip=flip,
        bend_um=bend,
        fold_um=fault[0],
        tear_um=fault[1],
    )
    mounting = Mounting.draw(spec)
    points = np.random.default_rng(0).uniform([60, 60], [640, 460], (200, 2))
    serial, in_fold = mounting.to_serial(points)
    layers, torn = mounting.layers(serial)
    # In a fold one of the layers is the place, elsewhere all are.
    nearest = np.min([np.abs(layer - points).max(axis=1) for layer in layers], axis=0)
    assert nearest.max() < 1e-6
    assert not torn.any()
    assert in_fold.any() == (fault[0] > 0)
    assert (serial > 0).all()
    assert (serial < mounting.serial_size_um).all()


def test_the_second_slide_shows_its_cells_where_they_are_said_to_be(tmp_path: Path) -> None:
    spec = SerialSpec(SLIDE, "second", rotation_deg=30.0, bend_um=10.0, marker_share=0.9, bright_share=0.5)
    pair = render_pair(spec, tmp_path)
    cells = pd.read_parquet(pair.serial_cells)
    assert 0.3 < cells["is_bright"].sum() / cells["is_marker"].sum() < 0.7
    with open_slide(pair.serial) as slide:
        width, height = slide.grid_size(1.0)
        blue = slide.read(Box(0, 0, width, height), 1.0)[..., 2].astype(float)
    column, row = (np.floor(cells[name].to_numpy()).astype(int) for name in ("x_um", "y_um"))
    darkness = pd.Series(blue[row, column]).groupby(cells["is_marker"].to_numpy()).median()
    assert darkness[True] < darkness[False] - 10
    # Of the would-be CD8+ cells some are those of the first section, most are not.
    first = pd.read_parquet(pair.slide.cells).query("is_cd8")[["x_um", "y_um"]].to_numpy()
    marker = cells.loc[cells["is_marker"], ["tissue_x_um", "tissue_y_um"]].to_numpy()
    nearest = np.linalg.norm(marker[:, None] - first[None], axis=2).min(axis=1)
    assert 0.15 < (nearest < 3).mean() < 0.7


def test_what_cannot_be_rendered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both sections are called"):
        render_pair(SerialSpec(SLIDE, "first"), tmp_path)
    with pytest.raises(ConfigError, match="a fold or a tear"):
        render_pair(SerialSpec(SLIDE, "second", fold_um=20, tear_um=20), tmp_path)
