"""Slides with nothing on them: a result with reasons, not an error."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from rich.console import Console

from histo.config import load_config
from histo.run.batch import run_batch

pytestmark = pytest.mark.fault

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_glass_white_and_black_are_rows_without_numbers_but_with_reasons(tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    random = np.random.default_rng(0)
    pictures = {
        "black": np.zeros((600, 800, 3), np.uint8),
        "glass": random.normal(243, 1, (600, 800, 3)).astype(np.uint8),
        "white": np.full((600, 800, 3), 255, np.uint8),
    }
    for name, pixels in pictures.items():
        tifffile.imwrite(slides / f"{name}.tif", pixels, photometric="rgb", tile=(256, 256))
    result = run_batch([slides], tmp_path / "out", load_config(), mpp=0.5, console=Console(file=StringIO()))
    assert result.n_failed == 0
    table = pd.read_csv(tmp_path / "out" / "slides.csv").set_index("slide_id")
    assert list(table.index) == sorted(pictures)
    assert (table[["n_cells", "n_cd8", "tissue_area_mm2", "assessed_area_mm2"]] == 0).all(axis=None)
    assert table.filter(regex="density|log2|fraction|phenotype").isna().all(axis=None)
    assert table["not_assessable"].str.contains("density, fraction: no tissue found").all()
    assert table["flags"].notna().all()
    for name in pictures:
        assert "no tissue found" in (tmp_path / "out" / name / "report.html").read_text()


def test_a_dark_field_of_fluorescence_is_a_row_too(tmp_path: Path) -> None:
    path = tmp_path / "dark.ome.tif"
    pixels = np.random.default_rng(0).poisson(20, (2, 512, 512)).astype(np.uint16)
    tifffile.imwrite(path, pixels, ome=True, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "CD8"]}})
    result = run_batch(
        [path],
        tmp_path / "out",
        load_config(CONFIGS / "cd8_mif.yaml", ["stain.cd8=CD8"]),
        mpp=0.5,
        console=Console(file=StringIO()),
    )
    row = result.rows[0]
    assert (row.status, row.values["n_cd8"], row.values["cd8_density_per_mm2"]) == ("done", 0, None)
    assert "density, fraction: no tissue found" in str(row.values["not_assessable"])
