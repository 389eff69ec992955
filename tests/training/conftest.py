"""A tiny dataset of one's own, and tiny runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from histo.synthetic.field import FieldStyle, render_field


def _write_folder(root: Path, n: int = 5, *, size_px: int = 128, settings: str = "") -> Path:
    """Write rendered fields as a folder of one's own: all cells outlined, two images a patient."""
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    lines = ["image,group"]
    for index in range(n):
        style = FieldStyle(context="stroma", cd8_per_mm2=1500.0)
        field = render_field(500 + index, size_px=size_px, mpp=0.5, style=style)
        Image.fromarray(field.pixels).save(root / "images" / f"i{index}.png")
        cd8 = np.concatenate([[0], np.where(field.is_cd8, np.arange(1, len(field.is_cd8) + 1), 0)])
        tifffile.imwrite(root / "labels" / f"i{index}.tif", cd8[field.labels].astype(np.uint16))
        lines.append(f"i{index},patient{index // 2}")
    (root / "groups.csv").write_text("\n".join(lines) + "\n")
    (root / "dataset.yaml").write_text(
        "mpp: 0.5\ndefault_class: cd8_positive\ngroups: groups.csv\nlicence: CC BY-NC 4.0\n"
        "commercial_use: false\n" + settings
    )
    return root


@pytest.fixture(scope="session")
def write_folder() -> Callable[..., Path]:
    return _write_folder


@pytest.fixture(scope="session")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_folder(tmp_path_factory.mktemp("own") / "mine", 8)
