"""Is this machine fit for a run? Each check says what it found."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import openslide
from rich.console import Console
from rich.table import Table

from histo import __version__
from histo.cells.detect import CellDetector
from histo.cells.weights import load_weights
from histo.config import CellsConfig, RunConfig
from histo.errors import HistoError
from histo.run.detector import try_out
from histo.run.device import choose_device, describe_device, n_cuda
from histo.slide import Box, open_slide

_LIBRARIES = (
    "openvino",
    "torch",
    "numba",
    "numpy",
    "tifffile",
    "imagecodecs",
    "zarr",
    "shapely",
    "scikit-image",
)


def examine(slides: Sequence[Path], out: Path, console: Console, *, mpp: float | None = None) -> bool:
    """Run all checks and print them; return whether all passed.

    Parameters
    ----------
    slides : slides to open and describe, besides the machine.
    out : folder whose write access is checked.
    mpp : pixel size of the slides in um; None for what they state.
    """
    checks: list[tuple[str, Callable[[], str]]] = [
        ("Python", lambda: f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores"),
        ("histo", lambda: f"{__version__} in {Path(sys.modules['histo'].__file__ or '').parent}"),
        ("libraries", lambda: ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)),
        ("OpenSlide", lambda: openslide.__library_version__),
        ("device", lambda: describe_device(choose_device("auto"), RunConfig())),
        ("weights", _weights),
        ("one tile", _one_tile),
        ("write access", lambda: _write(out)),
        *((f"slide {path.name}", lambda path=path: _slide(path, mpp)) for path in slides),
    ]
    table = Table("check", "result", show_lines=False)
    passed = True
    for name, check in checks:
        try:
            table.add_row(name, check())
        except (HistoError, OSError, RuntimeError) as error:
            passed = False
            table.add_row(f"[red]{name}[/red]", str(error))
    console.print(table)
    return passed


def _weights() -> str:
    weights = load_weights("default")
    return f"{weights.name}, SHA-256 {weights.sha256[:12]}, {weights.mpp} um/px"


def _one_tile() -> str:
    """Pixels to cells on every device, as a run would do it: all must agree with float32 on the CPU."""
    devices = ["cpu", *(f"cuda:{i}" for i in range(n_cuda()))]
    found = []
    for device in devices:
        detector = CellDetector(load_weights("default"), CellsConfig(), device=device, precision="auto")
        trial = try_out(detector)
        found.append(
            f"{device} in {detector.precision}: {trial.agreement:.1%} of {trial.n_reference} cells as in "
            f"float32 on the CPU, {trial.speed_up:.1f} times as fast"
        )
    return "; ".join(found)


def _write(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return f"{folder.resolve()} can be written"


def _slide(path: Path, mpp: float | None) -> str:
    with open_slide(path, mpp=mpp) as slide:
        slide.read(Box(0, 0, 64, 64), slide.mpp[0])
        levels = ", ".join(f"{w}x{h}" for w, h in (level.size_px for level in slide.info.levels))
        return (
            f"{slide.kind}, {slide.mpp[0]:.4g} um/px, levels {levels}, channels {', '.join(slide.channels)}, "
            f"read by {slide.info.backend} ({slide.info.decoder})"
        )
