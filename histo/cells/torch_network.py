"""The network on a GPU, by torch.

Every thread that calls it has a stream and page-locked buffers of its own, so that the copies of one tile and
the layers of another overlap.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histo.cells.layers import RECEPTIVE_RADIUS_PX
from histo.cells.maps import TileMaps
from histo.cells.network import Maps, folded
from histo.cells.precision import Precision
from histo.cells.weights import Weights
from histo.errors import DeviceError, DeviceLostError

log = logging.getLogger("histo")

_DTYPE: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TorchNetwork:
    """Computes the maps of tiles; may be called by several threads at once.

    Parameters
    ----------
    weights : see `load_weights`.
    cd8_logit : added to the logit of CD8+ cells.
    precision : of the layers; the maps are float32.
    device : "cuda", "cuda:1".
    threads : how many tiles may be on the device at once; halved whenever its memory does not suffice.
    """

    def __init__(
        self, weights: Weights, *, cd8_logit: float, precision: Precision, device: str, threads: int
    ) -> None:
        network = weights.network()
        network.shift_class(1, cd8_logit)
        self._device = torch.device(device)
        self._dtype = _DTYPE[precision]
        self._network = folded(network).to(self._device, self._dtype).to(memory_format=torch.channels_last)
        self._own = threading.local()
        self._at_once = threads
        self._under_way = 0
        self._changed = threading.Condition()

    def __call__(self, stain: NDArray[np.float32]) -> TileMaps:
        """Compute the maps of stain amounts (3, H, W); see `OpenVinoNetwork`.

        Raises
        ------
        DeviceError : the device's memory does not suffice for one tile.
        DeviceLostError : the device does not answer any more.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._under_way < self._at_once)
                self._under_way += 1
                among = self._at_once
            try:
                return self._maps(stain)
            except torch.OutOfMemoryError:
                self._take_fewer(among)
            except RuntimeError as error:
                # Of one base class since torch 2.8; by its words before.
                if "CUDA error" in str(error) or type(error).__name__ == "AcceleratorError":
                    raise DeviceLostError(f"{self._device} does not answer ({error})") from None
                raise
            finally:
                with self._changed:
                    self._under_way -= 1
                    self._changed.notify_all()

    @contextmanager
    def maps(self, stain: NDArray[np.float32]) -> Iterator[TileMaps]:
        """Give the maps for the time of a block; see `OpenVinoNetwork.maps`."""
        yield self(stain)

    def _take_fewer(self, among: int) -> None:
        """Halve the tiles at once, unless another thread has done so since this one began."""
        with self._changed:
            if among == 1:
                raise DeviceError(
                    f"the memory of {self._device} does not suffice for one tile",
                    fix="Make tiles smaller (--set run.tile_um=256), end other programs, or use --device cpu",
                )
            if among == self._at_once:
                self._at_once = max(1, among // 2)
                log.warning(
                    "%s: out of memory with %d tiles at once, going on with %d",
                    self._device,
                    among,
                    self._at_once,
                )
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _maps(self, stain: NDArray[np.float32]) -> TileMaps:
        with torch.inference_mode():
            if self._device.type != "cuda":
                plain = torch.from_numpy(stain)[None].to(self._device, self._dtype)
                return _on_host(_seen(self._network(plain)))
            with torch.cuda.stream(self._stream()):
                there = self._pinned("stain", stain.shape, torch.float32)
                there.copy_(torch.from_numpy(stain))
                batch = there[None].to(self._device, non_blocking=True)
                maps = _seen(self._network(batch.to(self._dtype, memory_format=torch.channels_last)))
                back = [
                    self._pinned(name, values.shape, self._dtype).copy_(values, non_blocking=True)
                    for name, values in maps._asdict().items()
                ]
                self._stream().synchronize()
                return _on_host(Maps(*back))

    def _stream(self) -> torch.cuda.Stream:
        """Return the stream of this thread."""
        if not hasattr(self._own, "stream"):
            self._own.stream, self._own.pinned = torch.cuda.Stream(self._device), {}  # type: ignore[no-untyped-call]
        stream: torch.cuda.Stream = self._own.stream
        return stream

    def _pinned(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return this thread's page-locked buffer of a name, made anew where the shape changes."""
        held: Tensor | None = self._own.pinned.get(name)
        if held is None or held.shape != shape:
            held = self._own.pinned[name] = torch.empty(shape, dtype=dtype, pin_memory=True)
        return held


def _seen(maps: Maps) -> Maps:
    """Cut off the margin that does not see all it looks at."""
    m = RECEPTIVE_RADIUS_PX
    return Maps(
        maps.classes[..., m:-m, m:-m],
        maps.centre[..., m // 2 : -m // 2, m // 2 : -m // 2],
        maps.offsets[..., m:-m, m:-m],
    )


def _on_host(maps: Maps) -> TileMaps:
    # A copy: the buffers are used again.
    classes, centre, offsets = (
        each[0].to("cpu", torch.float32, copy=True).contiguous().numpy() for each in maps
    )
    return TileMaps(classes, centre[0], offsets)
