"""The network by OpenVINO and by torch: the same maps, from any tile, any thread and after any fault."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from histo.cells.detect import CellDetector
from histo.cells.layers import RECEPTIVE_RADIUS_PX
from histo.cells.maps import TileMaps
from histo.cells.network import Maps, folded
from histo.cells.openvino_network import OpenVinoNetwork
from histo.cells.precision import Precision
from histo.cells.torch_network import TorchNetwork
from histo.cells.weights import Weights, load_weights
from histo.config import CellsConfig
from histo.errors import DeviceError, DeviceLostError
from histo.slide.geometry import Box
from histo.slide.tiles import Tile
from histo.stain.deconvolution import stain_amounts
from histo.synthetic.field import FieldStyle, render_field

M = RECEPTIVE_RADIUS_PX
Engine = Callable[[NDArray[np.float32]], TileMaps]


@pytest.fixture(scope="module")
def stain() -> NDArray[np.float32]:
    """Stain amounts (3, 320, 384) of a rendered field."""
    field = render_field(6, size_px=384, mpp=0.5, style=FieldStyle(context="lymphoid"))
    amounts = stain_amounts(field.pixels, field.white_point, field.stain_vectors)
    return np.ascontiguousarray(amounts[:, :320])


@pytest.fixture(scope="module")
def weights_of(random_weights: Weights) -> Callable[[str], Weights]:
    """The shipped weights, or untrained ones of half their width."""
    return lambda name: load_weights() if name == "shipped" else random_weights


def _openvino(
    weights: Weights, *, precision: Precision = "float32", threads: int = 1, logit: float = 0.0
) -> Engine:
    return OpenVinoNetwork(weights, cd8_logit=logit, precision=precision, threads=threads)


def _torch(weights: Weights, *, threads: int = 1, logit: float = 0.0) -> TorchNetwork:
    return TorchNetwork(weights, cd8_logit=logit, precision="float32", device="cpu", threads=threads)


def _assert_equal(some: TileMaps, other: TileMaps) -> None:
    for one, two in zip(some, other, strict=True):
        np.testing.assert_array_equal(one, two, strict=True)


def _assert_near(some: TileMaps, other: TileMaps) -> None:
    for one, two in zip(some, other, strict=True):
        assert one.dtype == two.dtype == np.float32
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["shipped", "random"])
def test_openvino_computes_the_network_that_is_trained(
    weights_of: Callable[[str], Weights], name: str, stain: NDArray[np.float32]
) -> None:
    weights = weights_of(name)
    maps = _openvino(weights)(stain)
    assert maps.classes.shape == (3, 160, 224)
    assert maps.centre.shape == (80, 112)
    assert maps.offsets.shape == (2, 160, 224)
    with torch.inference_mode():
        classes, centre, offsets = (
            each[0].numpy() for each in folded(weights.network())(torch.from_numpy(stain[None]))
        )
    expected = TileMaps(
        classes[:, M:-M, M:-M], centre[0, M // 2 : -M // 2, M // 2 : -M // 2], offsets[:, M:-M, M:-M]
    )
    _assert_near(maps, expected)


@pytest.mark.parametrize("engine", [_openvino, _torch])
def test_the_balance_shifts_the_logit_of_cd8_and_nothing_else(
    engine: Callable[..., Engine], random_weights: Weights, stain: NDArray[np.float32]
) -> None:
    before, after = (engine(random_weights, logit=logit)(stain) for logit in (0.0, 0.75))
    np.testing.assert_allclose(after.classes[1], before.classes[1] + 0.75, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(after.classes[::2], before.classes[::2])
    np.testing.assert_array_equal(after.centre, before.centre)
    np.testing.assert_array_equal(after.offsets, before.offsets)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["shipped", "random"])
def test_maps_are_the_same_bit_by_bit_from_every_crop_and_thread(
    weights_of: Callable[[str], Weights], name: str, precision: Precision, stain: NDArray[np.float32]
) -> None:
    network = _openvino(weights_of(name), precision=precision, threads=3)
    whole = network(stain)
    boxes = [
        Box(0, 0, 384, 320),
        Box(8, 16, 376, 304),
        Box(64, 32, 168, 176),
        Box(200, 128, 184, 192),
        Box(96, 0, 200, 320),
        Box(0, 136, 384, 168),
        Box(208, 144, 176, 176),
    ]
    crops = [np.ascontiguousarray(stain[:, b.y : b.bottom, b.x : b.right]) for b in boxes]
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(network, crops * 2))
    for box, maps in zip(boxes * 2, found, strict=True):
        rows, columns = slice(box.y, box.bottom - 2 * M), slice(box.x, box.right - 2 * M)
        halves = slice(rows.start // 2, rows.stop // 2), slice(columns.start // 2, columns.stop // 2)
        expected = whole.classes[:, rows, columns], whole.centre[halves], whole.offsets[:, rows, columns]
        _assert_equal(maps, TileMaps(*expected))


@pytest.mark.parametrize("name", ["shipped", "random"])
def test_torch_and_openvino_agree(
    weights_of: Callable[[str], Weights], name: str, stain: NDArray[np.float32]
) -> None:
    weights = weights_of(name)
    _assert_near(_torch(weights, logit=0.3)(stain), _openvino(weights, logit=0.3)(stain))


class SmallDevice:
    """A network on a device whose memory suffices for so many tiles at once."""

    def __init__(self, network: TorchNetwork, room: int, threads: int) -> None:
        self._compute: Any = network._network
        self._room, self._inside, self._lock = room, 0, threading.Lock()
        # The first tiles come all at once, as the threads of a busy run do.
        self._first = threading.Barrier(threads)
        self._waits = threads
        self.most = 0

    def __call__(self, stain: torch.Tensor) -> Maps:
        with self._lock:
            self._inside += 1
            waits, self._waits = self._waits > 0, self._waits - 1
        try:
            if waits:
                self._first.wait(timeout=60)
            with self._lock:
                inside = self._inside
            if waits:
                # None leaves before all have counted.
                self._first.wait(timeout=60)
            if inside > self._room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.most = max(self.most, inside)
            # As a real one does, it takes longer than the next tile takes to come.
            time.sleep(0.02)
            maps: Maps = self._compute(stain)
            return maps
        finally:
            with self._lock:
                self._inside -= 1


@pytest.mark.parametrize(("threads", "room", "left"), [(4, 2, 2), (6, 1, 1), (3, 3, 3)])
def test_too_many_tiles_for_the_memory_are_fewer_from_then_on(
    random_weights: Weights,
    stain: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    threads: int,
    room: int,
    left: int,
) -> None:
    network = _torch(random_weights, threads=threads)
    tiles = [np.ascontiguousarray(stain[:, y : y + 176, y : y + 184]) for y in range(0, 128, 8)]
    expected = [network(tile) for tile in tiles]
    device = SmallDevice(network, room, threads)
    monkeypatch.setattr(network, "_network", device)
    with caplog.at_level(logging.WARNING, "histo"), ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(network, tiles))
    for maps, each in zip(found, expected, strict=True):
        _assert_near(maps, each)
    assert device.most <= room
    told = [record.getMessage() for record in caplog.records]
    halvings = {4: ["4 tiles at once, going on with 2"], 3: []}.get(
        threads, ["6 tiles at once, going on with 3", "3 tiles at once, going on with 1"]
    )
    assert [message.partition("out of memory with ")[2] for message in told] == halvings
    assert network._at_once == left


def test_a_device_too_small_for_one_tile_says_so(
    random_weights: Weights, stain: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = _torch(random_weights, threads=4)

    def none(_: torch.Tensor) -> Maps:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(network, "_network", none)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(network, stain) for _ in range(4)]
        for each in asked:
            with pytest.raises(DeviceError, match="does not suffice for one tile") as caught:
                each.result(timeout=60)
            assert "run.tile_um" in str(caught.value)


def test_what_torch_says_of_a_lost_device_is_told_from_other_faults(
    random_weights: Weights, stain: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = _torch(random_weights)

    def fails(message: str) -> Callable[[torch.Tensor], Maps]:
        def run(_: torch.Tensor) -> Maps:
            raise RuntimeError(message)

        return run

    monkeypatch.setattr(network, "_network", fails("CUDA error: unspecified launch failure"))
    with pytest.raises(DeviceLostError, match="does not answer"):
        network(stain)
    monkeypatch.setattr(network, "_network", fails("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        network(stain)


def test_a_lost_device_is_replaced_by_the_cpu(
    stain: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights = load_weights()
    reference = CellDetector(weights, CellsConfig())
    detector = CellDetector(weights, CellsConfig(), threads=4)
    lost = threading.Barrier(4)

    class Gone:
        @contextmanager
        def maps(self, _: NDArray[np.float32]) -> Iterator[TileMaps]:
            # All four are on the device when it is lost.
            lost.wait(timeout=60)
            raise DeviceLostError("cuda:0 does not answer (CUDA error)")
            yield

    monkeypatch.setattr(detector, "_network", Gone())
    monkeypatch.setattr(detector, "device", "cuda:0")
    halo = detector.halo_px
    tiles = [Tile(i, Box(halo + 8 * i, halo, 64, 64), Box(8 * i, 0, 64 + 2 * halo, 320)) for i in range(8)]
    seen = [np.ascontiguousarray(stain[:, :, t.read.x : t.read.right]) for t in tiles]
    with caplog.at_level(logging.WARNING, "histo"), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(detector.detect, seen, tiles))
    assert detector.device == "cpu"
    assert [record.getMessage() for record in caplog.records] == [
        "cuda:0 does not answer (CUDA error); going on with the CPU, which takes longer"
    ]
    assert sum(len(cells.table) for cells in found) > 20
    for cells, tile, amounts in zip(found, tiles, seen, strict=True):
        pd.testing.assert_frame_equal(cells.table, reference.detect(amounts, tile).table, check_exact=True)
