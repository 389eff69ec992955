from __future__ import annotations

from io import StringIO
from pathlib import Path

from rich.console import Console

from histo.run.doctor import examine


def _examined(slides: list[Path], out: Path, mpp: float | None = None) -> tuple[bool, str]:
    text = StringIO()
    passed = examine(slides, out, Console(file=text, width=400), mpp=mpp)
    return passed, text.getvalue()


def test_real_fluorescence_is_told_with_its_channels(data_dir: Path, tmp_path: Path) -> None:
    names = ("FIHC4__0929309_HP_IM3_2_component_data.tif", "vectra_polaris_small.qptiff")
    passed, text = _examined([data_dir / "mif" / name for name in names], tmp_path)
    assert passed
    assert "fluorescence, 0.4971 um/px, levels 348x260, channels Alexa 594, Cy3, Cy5, DAPI, FITC" in text
    assert "fluorescence, 0.4965 um/px, levels 1920x1440, channels DAPI, FITC, Cy3" in text


def test_a_slide_without_a_pixel_size_is_told_once_it_is_given(data_dir: Path, tmp_path: Path) -> None:
    slide = data_dir / "mif" / "instanseg_fluorescence_example.tif"
    passed, text = _examined([slide], tmp_path)
    assert not passed
    assert "--mpp" in text
    passed, text = _examined([slide], tmp_path, mpp=0.5)
    assert passed
    assert "fluorescence, 0.5 um/px, levels 450x450, channels channel 0, channel 1" in text
