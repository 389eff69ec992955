"""The network on the CPU, by OpenVINO: the same layers as `network.CellNet`, without torch.

A third faster than torch in the same precision, and without the half gigabyte that torch and its CUDA
libraries take. Maps depend on nothing but what lies in the receptive field: not on tile, shape or threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from histo.cells.layers import BATCH_NORM_EPS, N_CLASSES, N_DEEP, RECEPTIVE_RADIUS_PX
from histo.cells.maps import TileMaps
from histo.cells.precision import Precision
from histo.cells.weights import Weights

_HINT: Final = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoNetwork:
    """Computes the maps of tiles; each thread that calls it computes on one core.

    Parameters
    ----------
    weights : see `load_weights`.
    cd8_logit : added to the logit of CD8+ cells.
    precision : of the layers; the maps are float32.
    threads : how many tiles may be under way at once; further callers wait.
    """

    def __init__(self, weights: Weights, *, cd8_logit: float, precision: Precision, threads: int) -> None:
        self._model = core().compile_model(
            _model(weights, cd8_logit),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINT[precision],
                "NUM_STREAMS": threads,
                "INFERENCE_NUM_THREADS": threads,
                # Workers that share a machine must not all sit on its first cores.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._free = [self._model.create_infer_request() for _ in range(threads)]
        self._available = threading.Semaphore(threads)

    def __call__(self, stain: NDArray[np.float32]) -> TileMaps:
        """Compute the maps of stain amounts (3, H, W), less the margin that does not see all it looks at.

        H and W are multiples of `layers.MULTIPLE`; the margin is `layers.RECEPTIVE_RADIUS_PX`.
        """
        with self.maps(stain) as maps:
            return TileMaps(*(values.copy() for values in maps))

    @contextmanager
    def maps(self, stain: NDArray[np.float32]) -> Iterator[TileMaps]:
        """Give the same maps without a copy: outside the block, they are written over by the next tile."""
        with self._available:
            request = self._free.pop()
            try:
                found = request.infer(
                    [np.ascontiguousarray(stain)[None]], share_inputs=True, share_outputs=True
                )
                yield TileMaps(found[0][0], found[1][0, 0], found[2][0])
            finally:
                self._free.append(request)


@cache
def core() -> openvino.Core:
    """Return the one entry to the library."""
    return openvino.Core()


def _model(weights: Weights, cd8_logit: float) -> openvino.Model:
    """Build the layers of `network.CellNet`, normalisations folded into their convolutions."""
    state = weights.state
    stain = ops.parameter([1, 3, -1, -1], openvino.Type.f32, name="stain")

    def layer(x: Any, name: str, *, stride: int = 1, padding: int = 0) -> Any:
        """Apply a convolution and its normalisation."""
        scale = state[f"{name}.1.weight"] / np.sqrt(
            state[f"{name}.1.running_var"].astype(np.float64) + BATCH_NORM_EPS
        )
        kernel = state[f"{name}.0.weight"] * scale[:, None, None, None]
        bias = state[f"{name}.1.bias"] - state[f"{name}.1.running_mean"] * scale
        return convolution(x, kernel, bias, stride, padding)

    def convolution(
        x: Any, kernel: NDArray[Any], bias: NDArray[Any], stride: int = 1, padding: int = 0
    ) -> Any:
        around = [padding, padding]
        y = ops.convolution(
            x, ops.constant(kernel.astype(np.float32)), [stride, stride], around, around, [1, 1]
        )
        return ops.add(y, ops.constant(bias.astype(np.float32).reshape(1, -1, 1, 1)))

    def residual(x: Any, name: str) -> Any:
        first = ops.relu(layer(x, f"{name}.first", padding=1))
        return ops.relu(ops.add(x, layer(first, f"{name}.second", padding=1)))

    def up(x: Any, skip: Any, name: str) -> Any:
        larger = ops.interpolate(
            layer(x, f"{name}.narrow"),
            ops.constant(np.array([2.0, 2.0], np.float32)),
            "nearest",
            "scales",
            axes=ops.constant(np.array([2, 3])),
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        return residual(ops.relu(ops.add(skip, larger)), f"{name}.merge")

    def inner(x: Any, margin: int) -> Any:
        """Cut a margin off."""
        axes = ops.constant(np.array([2, 3]))
        begin, end = (ops.constant(np.array([value, value])) for value in (margin, -margin))
        return ops.slice(x, begin, end, ops.constant(np.array([1, 1])), axes)

    half = residual(ops.relu(layer(stain, "stem", stride=2, padding=1)), "block_half")
    quarter = residual(ops.relu(layer(half, "to_quarter", stride=2)), "block_quarter")
    eighth = ops.relu(layer(quarter, "to_eighth", stride=2))
    for place in range(N_DEEP):
        eighth = residual(eighth, f"block_eighth.{place}")
    # On the way up, what will not be given back is left out as soon as nothing that is depends on it: first
    # down to the margin and two pixels for each of two convolutions, then to the margin.
    m = RECEPTIVE_RADIUS_PX
    deep = m // 8 - 2
    merged = up(inner(eighth, deep), inner(quarter, 2 * deep), "up_quarter")
    merged = up(inner(merged, m // 4 - 1 - 2 * deep), inner(half, m // 2 - 2), "up_half")
    merged = inner(merged, 2)
    bias = state["head.bias"].copy()
    # Four values a class for the four pixels of each pixel of the head.
    bias[4:8] += np.float32(cd8_logit)
    out = convolution(ops.relu(layer(merged, "mix")), state["head.weight"], bias)
    channels = [4 * N_CLASSES, 4 * 2, 1]
    classes, offsets, centre = (
        each for each in ops.variadic_split(out, ops.constant(1), ops.constant(np.array(channels))).outputs()
    )
    results = [
        ops.result(ops.depth_to_space(classes, "depth_first", 2)),
        ops.result(centre),
        ops.result(ops.depth_to_space(offsets, "depth_first", 2)),
    ]
    return openvino.Model(results, [stain], weights.name)
