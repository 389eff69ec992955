"""A slide that is stopped in the middle goes on where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from histo.cells.detect import CellDetector, TileCells
from histo.config import Config, load_config
from histo.run.pipeline import SlideJob, analyse_slide
from histo.slide.tiles import Tile
from histo.synthetic.slide import RenderedSlide

TABLES = ("cells.parquet", "cells.geojson.gz", "summary.json", "regions.geojson", "overlay.png")
TILE_UM = 200


class Stopped(BaseException):
    """What a user's Ctrl-C, or a kill, would do."""


class Counting:
    """A detector that counts its tiles, and stops at one of them."""

    def __init__(self, detector: CellDetector, stop_at: int | None = None) -> None:
        self._detector, self._stop_at = detector, stop_at
        self.seen: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._detector, name)

    def detect(self, stain: NDArray[np.float32], tile: Tile) -> TileCells:
        if len(self.seen) == self._stop_at:
            raise Stopped
        self.seen.append(tile.index)
        return self._detector.detect(stain, tile)


def analyse(path: Path, folder: Path, detector: object, config: Config) -> None:
    job = SlideJob(path=path, slide_id="small", folder=folder)
    analyse_slide(job, config, detector)  # type: ignore[arg-type]


def config(*settings: str) -> Config:
    return load_config(
        None, [f"run.tile_um={TILE_UM}", "run.threads=1", "run.keep_tiles_after_s=0", *settings]
    )


@pytest.fixture(scope="module")
def whole(
    rendered: RenderedSlide, detector: CellDetector, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[int]]:
    """An undisturbed run, and its tiles."""
    folder = tmp_path_factory.mktemp("whole") / "small"
    counting = Counting(detector)
    analyse(rendered.slide, folder, counting, config())
    assert len(counting.seen) >= 10
    return folder, counting.seen


@pytest.fixture
def stopped(rendered: RenderedSlide, detector: CellDetector, tmp_path: Path) -> tuple[Path, list[int]]:
    """A run that was stopped after six tiles."""
    folder = tmp_path / "small"
    counting = Counting(detector, stop_at=6)
    with pytest.raises(Stopped):
        analyse(rendered.slide, folder, counting, config())
    assert len(counting.seen) == 6
    assert not (folder / "summary.json").exists()
    return folder, counting.seen


def assert_same(folder: Path, other: Path) -> None:
    for name in TABLES:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in other.iterdir())


def test_no_tile_is_done_twice_and_the_results_are_the_same(
    whole: tuple[Path, list[int]],
    stopped: tuple[Path, list[int]],
    rendered: RenderedSlide,
    detector: CellDetector,
) -> None:
    folder, seen = stopped
    counting = Counting(detector)
    analyse(rendered.slide, folder, counting, config())
    assert sorted(seen + counting.seen) == sorted(whole[1])
    assert_same(folder, whole[0])


def test_a_file_that_is_not_whole_is_no_tile(
    whole: tuple[Path, list[int]],
    stopped: tuple[Path, list[int]],
    rendered: RenderedSlide,
    detector: CellDetector,
) -> None:
    folder, _ = stopped
    first, second, third, *_ = sorted(folder.glob(".tiles-*/*.arrow"))
    first.write_bytes(first.read_bytes()[:-100])
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    second.write_bytes(content)
    third.write_bytes(b"")
    counting = Counting(detector)
    analyse(rendered.slide, folder, counting, config())
    assert len(counting.seen) == len(whole[1]) - 3
    assert_same(folder, whole[0])


@pytest.mark.parametrize("other", ["run.tile_um=150", "cells.cd8_logit=0.5"])
def test_tiles_of_another_plan_or_configuration_are_not_taken(
    stopped: tuple[Path, list[int]], rendered: RenderedSlide, detector: CellDetector, other: str
) -> None:
    folder, _ = stopped
    changed = config(other)
    counting = Counting(CellDetector(detector.weights, changed.cells))
    analyse(rendered.slide, folder, counting, changed)
    fresh = Counting(CellDetector(detector.weights, changed.cells))
    analyse(rendered.slide, folder.parent / "fresh", fresh, changed)
    assert sorted(counting.seen) == sorted(fresh.seen)
    assert len(pd.read_parquet(folder / "cells.parquet")) > 50
