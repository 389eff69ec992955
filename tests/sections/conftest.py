"""A rendered pair with its results, made once."""

from __future__ import annotations

import pytest
from rich.console import Console
from serial_pictures import PairOnDisk

from histo.config import load_config
from histo.run.batch import run_batch
from histo.synthetic.serial import SerialSpec, render_pair
from histo.synthetic.slide import SlideSpec


@pytest.fixture(scope="session")
def rendered_pair(tmp_path_factory: pytest.TempPathFactory) -> PairOnDisk:
    """A small pair at 1 um per pixel, turned and bent, and the results of infer on it."""
    folder = tmp_path_factory.mktemp("serial")
    slide = SlideSpec("cd8", seed=31, size_um=(1200.0, 900.0), mpp=1.0, phenotype="inflamed", margin_um=70.0)
    spec = SerialSpec(slide, "pd1", rotation_deg=25.0, shift_um=(40.0, -30.0), bend_um=12.0, coupling=0.8)
    pair = render_pair(spec, folder / "slides")
    config = load_config(None, ["measure.spatial=false", "regions.min_border_length_um=300"])
    run_batch([pair.slide.slide, pair.serial], folder / "results", config, console=Console(quiet=True))
    return PairOnDisk(pair, folder / "results")
