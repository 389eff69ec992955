"""How fast networks of several sizes run on this machine, in each form that the CPU can run them in.

    python benchmarks/network.py [WIDTH_OR_WEIGHTS ...] [--threads 2 1] [--rounds 5] [--compile]

Forms: OpenVINO, as inference on a CPU has it, in float32 and in bfloat16 (one tile a core at once; the margin
of the maps that does not see all it looks at is never computed); torch in both (memory in channels-last
order, normalisations folded); ONNX Runtime in float32; and with --compile torch's compiler on top of bfloat16
(its first call takes a minute). The forms take turns, round by round, so that what else the machine does
falls on all alike; the best round of each counts. The input is a tile of 512 pixels with its halo; Mpx/s
counts all of its pixels.

For each network: size, kFLOP per pixel of input, parameters; for each form Mpx/s, in brackets how many times
as fast as torch in float32 in the same run, and the share of pixels of the core whose class is not that of
torch in float32. Nothing is asserted: look at the ratios.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histo.cells.detect import CellDetector
from histo.cells.network import CellNet, Maps, flops_per_pixel, folded, state_arrays
from histo.cells.onnx import export_onnx
from histo.cells.openvino_network import OpenVinoNetwork
from histo.cells.precision import Precision
from histo.cells.weights import Weights, load_weights
from histo.config import CellsConfig

CORE_PX = 512
WIDTHS = ("default", "8", "12", "16", "24", "32")
# Returns the class map (3, H, W), or less of its margin. Computes `tiles` tiles.


class Form(NamedTuple):
    run: Callable[[], NDArray[np.float32]]
    tiles: int = 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=WIDTHS, help="a width, a weights file or 'default'")
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    print(machine())
    for name in arguments.networks:
        weights = weights_of(name)
        parameters = sum(p.numel() for p in folded(weights.network()).parameters())
        print(
            f"\n{name}: width {weights.width}, {flops_per_pixel(weights.width) / 1000:.1f} kFLOP/px, "
            f"{parameters / 1000:.0f} k parameters"
        )
        for threads in arguments.threads:
            measure(weights, threads=threads, rounds=arguments.rounds, compiled=arguments.compile)


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    flags = ""
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
        model = names[0] if names else model
        flags = ", ".join(flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in text)
    load = f", load {os.getloadavg()[0]:.1f} before we began" if hasattr(os, "getloadavg") else ""
    return f"{model} ({flags}), {os.cpu_count()} cores{load}; torch {torch.__version__}"


def weights_of(name: str) -> Weights:
    if not name.isdigit():
        return load_weights(name)
    torch.manual_seed(0)
    network = CellNet(int(name))
    return Weights(state_arrays(network), network.width, 0.5, 0.4, f"width {name}")


def measure(weights: Weights, *, threads: int, rounds: int, compiled: bool) -> None:
    torch.set_num_threads(threads)
    side = CORE_PX + 2 * CellDetector(weights, CellsConfig()).halo_px
    stain = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 1.5 - 0.2
    with tempfile.TemporaryDirectory() as folder:
        forms = {
            "torch float32": torch_form(weights, stain, torch.float32),
            "torch bfloat16": torch_form(weights, stain, torch.bfloat16),
            "float32": openvino_form(weights, stain, "float32", threads),
            "bfloat16": openvino_form(weights, stain, "bfloat16", threads),
            "onnx float32": onnx_form(weights, stain, Path(folder) / "network.onnx", threads),
        }
        if compiled:
            forms["compiled bfloat16"] = torch_form(weights, stain, torch.bfloat16, compiled=True)
        with torch.inference_mode():
            classes = {name: core(form.run().argmax(axis=0)) for name, form in forms.items()}
            seconds = {name: float("inf") for name in forms}
            for _ in range(rounds):
                for name, form in forms.items():
                    start = time.perf_counter()
                    form.run()
                    seconds[name] = min(seconds[name], (time.perf_counter() - start) / form.tiles)
    for name, taken in seconds.items():
        changed = float((classes[name] != classes["torch float32"]).mean())
        print(
            f"  {threads} threads  {name:18s} {side**2 / taken / 1e6:6.2f} Mpx/s"
            f"  ({seconds['torch float32'] / taken:4.2f})  classes changed {changed:.2%}",
            flush=True,
        )


def torch_form(weights: Weights, stain: Tensor, dtype: torch.dtype, *, compiled: bool = False) -> Form:
    network: Callable[[Tensor], Maps] = (
        folded(weights.network()).to(dtype).to(memory_format=torch.channels_last)
    )
    if compiled:
        network = torch.compile(network)

    def run() -> NDArray[np.float32]:
        maps = network(stain.to(dtype=dtype, memory_format=torch.channels_last))
        return maps.classes[0].float().numpy()

    return Form(run)


def openvino_form(weights: Weights, stain: Tensor, precision: Precision, threads: int) -> Form:
    network = OpenVinoNetwork(weights, cd8_logit=0.0, precision=precision, threads=threads)
    pool = ThreadPoolExecutor(threads)
    tile = stain[0].numpy()

    def run() -> NDArray[np.float32]:
        first, *_ = pool.map(network, [tile] * threads)
        return first.classes

    return Form(run, threads)


def onnx_form(weights: Weights, stain: Tensor, path: Path, threads: int) -> Form:
    import onnxruntime

    export_onnx(weights, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    pixels = np.ascontiguousarray(stain.numpy())

    def run() -> NDArray[np.float32]:
        classes, *_ = session.run(["classes", "centre", "offsets"], {"stain": pixels})
        return np.asarray(classes[0], np.float32)

    return Form(run)


def core(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the middle of a map."""
    margin = (len(classes) - CORE_PX) // 2
    return classes[margin:-margin, margin:-margin]


if __name__ == "__main__":
    main()
