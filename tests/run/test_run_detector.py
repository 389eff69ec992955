from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from histo.cells.detect import CellDetector, TileCells
from histo.cells.maps import TileMaps
from histo.cells.precision import choose_precision
from histo.cells.weights import load_weights
from histo.config import CellsConfig, Config
from histo.errors import DeviceError
from histo.run.detector import ready_detector, try_out
from histo.slide.tiles import Tile


def test_bfloat16_finds_the_cells_of_float32() -> None:
    trial = try_out(CellDetector(load_weights(), CellsConfig(), precision="bfloat16"))
    assert trial.n_reference > 50
    assert trial.agreement > 0.97
    assert trial.speed_up > 0


def _mirrored(classes: NDArray[np.float32]) -> NDArray[np.float32]:
    return classes[..., ::-1].copy()


def _without_cd8(classes: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([classes[0], np.full_like(classes[1], -100), classes[1:].max(axis=0)])


@pytest.mark.parametrize("wrong", [_mirrored, _without_cd8])
def test_a_device_that_computes_wrongly_stops_the_run(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> None:
    detector = CellDetector(load_weights(), CellsConfig(), precision="bfloat16")
    cells = detector.cells

    def broken(maps: TileMaps, stain: NDArray[np.float32], tile: Tile) -> TileCells:
        return cells(maps._replace(classes=wrong(maps.classes)), stain, tile)

    monkeypatch.setattr(detector, "cells", broken)
    with pytest.raises(DeviceError, match=r"float32.*agree") as caught:
        try_out(detector)
    assert "--device cpu" in str(caught.value)


def test_what_is_the_reference_itself_is_not_tried() -> None:
    config = Config(cells=CellsConfig(precision="float32"))
    detector, trial = ready_detector(config)
    assert trial is None
    assert detector.name == "network cd8"


def test_the_name_says_the_precision() -> None:
    detector, trial = ready_detector(Config(cells=CellsConfig(precision="bfloat16")))
    assert trial is not None
    assert detector.name == "network cd8 in bfloat16"


@pytest.mark.parametrize("has", [True, False])
def test_auto_goes_by_what_the_processor_has(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return ["FP32", *(["BF16"] if has else []), "EXPORT_IMPORT"]

    monkeypatch.setattr("histo.cells.openvino_network.core", Core)
    assert choose_precision("auto", "cpu") == ("bfloat16" if has else "float32")
    assert choose_precision("float32", "cpu") == "float32"
    assert choose_precision("bfloat16", "cpu") == "bfloat16"
