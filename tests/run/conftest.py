"""A rendered slide and a detector, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from histo.cells.detect import CellDetector
from histo.cells.weights import load_weights
from histo.config import CellsConfig, load_config
from histo.run.batch import run_batch
from histo.synthetic.slide import RenderedSlide, SlideSpec, render_slide


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> RenderedSlide:
    """A small slide with a tumour border, zones narrow enough for it, and its annotation beside it."""
    spec = SlideSpec(slide_id="small", seed=5, size_um=(1000.0, 600.0), phenotype="inflamed", margin_um=60.0)
    return render_slide(spec, tmp_path_factory.mktemp("rendered"))


@pytest.fixture(scope="session")
def detector() -> CellDetector:
    return CellDetector(load_weights("default"), CellsConfig())


@pytest.fixture(scope="session")
def slides_folder(rendered: RenderedSlide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good slide, the same under a subfolder, and one that is no slide."""
    folder = tmp_path_factory.mktemp("slides")
    (folder / "again").mkdir()
    for target in (folder, folder / "again"):
        shutil.copy(rendered.slide, target)
        shutil.copy(rendered.annotations, target)
    (folder / "broken.svs").write_bytes(b"no slide at all")
    return folder


NARROW = [
    "regions.inner_margin_um=150",
    "regions.outer_margin_um=150",
    "regions.min_border_length_um=300",
    "measure.min_zone_area_mm2=0.01",
    "measure.permutations=19",
    "results.overlay_max_px=256",
    "run.device=cpu",
]


@pytest.fixture(scope="session")
def results(rendered: RenderedSlide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one slide, "small"; not to be changed."""
    out = tmp_path_factory.mktemp("run") / "results"
    run_batch([rendered.slide], out, load_config(None, NARROW), console=Console(quiet=True))
    return out
