"""The shipped network over a slide: histo against TIAToolbox and MONAI, same weights and precision.

    uv run benchmarks/peers.py --out bench [--size 16384] [--precision float32 bfloat16]
        [--overlap halo none] [--limit-s 1200]

Renders a slide of tiled JPEG at 0.25 um/px and makes, under --out, an environment for each peer with uv (some
gigabytes; both are kept for the next time). Every row is a process of its own, on all cores:

    labels   from the file to a map of classes on disk, the largest of three probabilities;
    maps     from the file to the maps of the three probabilities, float32, on disk;
    cells    histo's own run, `infer.py` with its defaults: cells, outlines, measurements, GeoJSON, report. It
             is here to be seen; nothing that the peers were asked for equals it.

All work at 0.5 um/px in patches of 1,024 px; the stain transform is a layer of what the peers get. With
--overlap halo patches overlap by histo's halo, 128 px a side, so that the network has as many pixels to do;
with none, the default of both peers, they do not: less work, and edges of patches show.
TIAToolbox: SemanticSegmentor with the tissue mask; with a halo it takes the middle of each patch. MONAI:
PatchInferer over WSISlidingWindowSplitter with AvgMerger, patches without tissue left out, overlaps averaged.
histo finds tissue and stains itself, within its time.

Printed for each row: seconds of the work (after the imports) and its core-seconds, seconds of the whole
process, peak memory of its processes (shared pages counted once), how many times as fast histo was (seconds
of the work), their memory over histo's, and the share of the tissue's pixels that have histo's class. A peer
that fails or takes longer than --limit-s has a row that says so.

Exit code 1 where a peer's row is missing, has another class on more than 2 % of the tissue, or a limit is
missed: labels 6 times as fast as TIAToolbox and 3 times as MONAI, maps 2 and 1.2 times, a sixth of their
memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import zarr
from memory import INFER, render
from network import machine
from numpy.typing import NDArray

from histo.cells.build import build_detector
from histo.cells.weights import load_weights
from histo.config import Config, load_config
from histo.slide import open_slide
from histo.slide.survey import survey_slide
from histo.slide.tissue import detect_tissue
from histo.stain.deconvolution import AMOUNT_RANGE
from histo.stain.space import BrightfieldTransform, fit_stain

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "cd8_ihc.yaml"
TILE_PX = 1024
OURS = "histo"
# What was tried besides is in docs/performance.md.
PEERS: dict[str, dict[str, Any]] = {
    "tiatoolbox": {"packages": ["tiatoolbox==2.1.3"], "settings": {"batch_size": 4, "workers": 2}},
    "monai": {
        "packages": ["monai[cucim]==1.6.1", "torch==2.15.0", "zarr==3.1.6"],
        "settings": {"batch_size": 4, "buffer_size": 8, "reader": "cuCIM"},
    },
}
TIMES_AS_FAST = {"labels": {"tiatoolbox": 6.0, "monai": 3.0}, "maps": {"tiatoolbox": 2.0, "monai": 1.2}}
TIMES_THE_MEMORY = 6.0
SAME_CLASS = 0.98


@dataclass(frozen=True)
class Row:
    """What a process took; `missing` says why there is nothing where it ended badly."""

    wall_s: float
    core_s: float
    peak_gb: float
    result: dict[str, Any]
    missing: str = ""

    @property
    def work_s(self) -> float:
        return float(self.result.get("work_s", self.wall_s))

    @property
    def work_core_s(self) -> float:
        return self.core_s - float(self.result.get("start_core_s", 0.0))


def environment(name: str, folder: Path) -> Path:
    """Make the environment of a peer unless it is there; return its interpreter."""
    packages, home = PEERS[name]["packages"], folder / f"env_{name}"
    python, done = home / "bin" / "python", home / "installed.txt"
    if not done.exists() or done.read_text() != "\n".join(packages):
        print(f"making an environment with {', '.join(packages)}", flush=True)
        uv = os.environ.get("UV", "uv")
        subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(home)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(python), *packages], check=True)
        done.write_text("\n".join(packages))
    return python


def measure(command: list[str], log: Path, limit_s: float, result: Path | None = None) -> Row:
    """Run a command alone; what it prints goes to `log`."""
    if result is not None:
        result.unlink(missing_ok=True)
    # What the peers get of ours: the definition of the network, which needs torch alone.
    environ = os.environ | {"PYTHONPATH": str(HERE.parent)}
    begun, peak, ended = time.perf_counter(), 0.0, threading.Event()
    missing = ""
    with log.open("wb") as file:
        # A session of its own, so that all it starts can be stopped with it.
        child = subprocess.Popen(command, stdout=file, stderr=file, env=environ, start_new_session=True)

    def watch() -> None:
        nonlocal peak, missing
        pause = 0.25
        while not ended.wait(pause):
            now = time.perf_counter()
            peak = max(peak, tree_bytes(child.pid))
            # Large page tables take long to walk: at most a twentieth of a core.
            pause = max(0.25, 20 * (time.perf_counter() - now))
            if time.perf_counter() - begun > limit_s and not missing:
                missing = f"not finished in {limit_s:g} s"
                os.killpg(child.pid, signal.SIGKILL)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - begun
    ended.set()
    watcher.join()
    if status and not missing:
        lines = log.read_text(errors="replace").strip().splitlines()
        missing = f"failed: {lines[-1][:150] if lines else f'status {status}'} (see {log.name})"
    found = json.loads(result.read_text()) if result is not None and not missing else {}
    return Row(wall_s, usage.ru_utime + usage.ru_stime, peak / 1e9, found, missing)


def tree_bytes(pid: int) -> float:
    """Return the memory of a process and its descendants, pages that several share counted once.

    Never less than the most that one of them has held; not from `wait4`, where a child begins with the most
    that its parent has held.
    """
    total = highest = 0.0
    processes: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        processes = [parent, *parent.children(recursive=True)]
    for process in processes:
        # One that has just ended has neither.
        with contextlib.suppress(psutil.Error, OSError, IndexError):
            total += process.memory_full_info().pss
            status = Path(f"/proc/{process.pid}/status").read_text()
            highest = max(highest, int(status.split("VmHWM:")[1].split()[0]) * 1024.0)
    return max(total, highest)


def prepare(slide_path: Path, config: Config, folder: Path) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Write what the peers are given; return what is the same in all of their jobs, and the tissue."""
    slide = open_slide(slide_path)
    survey = survey_slide(slide, config.tissue.mpp_um)
    tissue = detect_tissue(survey, slide.kind, config.tissue)
    stain = fit_stain(slide, survey, tissue, config.stain)
    assert isinstance(stain, BrightfieldTransform)
    weights = load_weights(config.cells.weights)
    network, mask = folder / "network.pt", folder / "tissue.npy"
    torch.save(
        {
            "state": weights.network().state_dict(),
            "width": weights.width,
            "white_point": torch.tensor(stain.white_point),
            "unmix": torch.from_numpy(np.linalg.inv(np.array(stain.vectors, np.float64))).float(),
            "amount_range": AMOUNT_RANGE,
        },
        network,
    )
    np.save(mask, tissue.assessed)
    job = {
        "slide": str(slide_path),
        "config": str(CONFIG),
        "network": str(network),
        "mask": str(mask),
        "mask_mpp": tissue.mpp,
        "mpp": weights.mpp,
        "slide_mpp": slide.mpp[0],
        "downsample": round(weights.mpp / slide.mpp[0]),
        "tile_px": TILE_PX,
    }
    return job, tissue.assessed


def same_classes(ours: Path, theirs: Path, tissue: NDArray[np.bool_]) -> tuple[float, float]:
    """Compare two results pixel by pixel.

    Parameters
    ----------
    ours, theirs : arrays of classes (rows, columns), or of probabilities with the classes first or last.
    tissue : coarser by a whole number.

    Returns
    -------
    The share of the tissue's pixels with the same class, and of those pixels that either calls a cell.
    """
    arrays = [zarr.open_array(str(path), mode="r") for path in (ours, theirs)]
    n_rows, n_columns = arrays[0].shape
    factor = round(n_rows / tissue.shape[0])
    same = total = same_cell = cell = 0
    for top in range(0, n_rows, TILE_PX):
        bottom = min(top + TILE_PX, n_rows)
        low, high = top // factor, -(-bottom // factor)
        inside = np.kron(tissue[low:high], np.ones((factor, factor), bool))[: bottom - top, :n_columns]
        one, other = (strip(array, top, bottom)[:, :n_columns][inside] for array in arrays)
        equal, either = one == other, (one > 0) | (other > 0)
        same, total = same + int(equal.sum()), total + len(equal)
        same_cell, cell = same_cell + int((equal & either).sum()), cell + int(either.sum())
    return same / max(1, total), same_cell / max(1, cell)


def strip(array: Any, top: int, bottom: int) -> NDArray[Any]:
    """Return the classes of some rows; where no probability was given, background."""
    if array.ndim == 2:
        return np.asarray(array[top:bottom])
    values = array[:, top:bottom] if array.shape[0] == 3 else np.moveaxis(array[top:bottom], -1, 0)
    return np.nan_to_num(np.asarray(values)).argmax(0)


def show(name: str, what: str, row: Row, remark: str) -> None:
    print(
        f"  {name:26s} {what:7s} {row.work_s:8.1f} {row.work_core_s:8.1f} {row.wall_s:8.1f} "
        f"{row.peak_gb:7.2f}   {remark}",
        flush=True,
    )


def compare(
    precision: str, overlaps: list[str], job: dict[str, Any], tissue: NDArray[np.bool_], options: Any
) -> list[str]:
    """Print the rows of one precision; return what was missed."""
    folder: Path = options.out

    def run(python: str, name: str, what: str, settings: dict[str, Any]) -> Row:
        label = f"{name}_{what}_{precision}"
        out, result, path = (folder / f"peers_{label}{end}" for end in ("", ".result.json", ".job.json"))
        shutil.rmtree(out, ignore_errors=True)
        if name != "tiatoolbox":  # which makes its folder itself
            out.mkdir()
        content = {**job, **settings, "precision": precision, "maps": what == "maps"}
        path.write_text(json.dumps(content | {"out": str(out), "result": str(result)}))
        script = str(HERE / f"peers_{name}.py")
        return measure([python, script, str(path)], folder / f"peers_{label}.log", options.limit_s, result)

    print(f"\n{precision}\n  {'':34s} {'work s':>8s} {'core-s':>8s} {'whole s':>8s} {'peak GB':>7s}")
    missed: list[str] = []
    ours = {what: run(sys.executable, OURS, what, {}) for what in TIMES_AS_FAST}
    for what, row in ours.items():
        show(OURS, what, row, row.missing or row.result["versions"])
        if row.missing:
            raise SystemExit(f"histo itself {row.missing}")
    cells = folder / f"peers_cells_{time.time_ns()}"
    command = [sys.executable, str(INFER), job["slide"], "--out", str(cells)]
    row = measure(
        [*command, "--set", f"cells.precision={precision}"], folder / "peers_cells.log", options.limit_s
    )
    show(OURS, "cells", row, row.missing or "infer.py: cells, outlines, measurements, GeoJSON, report")
    shutil.rmtree(cells, ignore_errors=True)
    for name, peer in PEERS.items():
        python = str(environment(name, folder))
        for overlap in overlaps:
            margin_px = job["halo_px"] if overlap == "halo" else 0
            for what, limits in TIMES_AS_FAST.items():
                row = run(python, name, what, {**peer["settings"], "margin_px": margin_px})
                title = f"{name}, overlap {overlap}"
                where = f"{precision}, {title}, {what}"
                if row.missing:
                    show(title, what, row, row.missing)
                    missed.append(f"{where}: {row.missing}")
                    continue
                faster = row.work_s / ours[what].work_s
                larger = row.peak_gb / ours[what].peak_gb
                agreed, agreed_cells = same_classes(
                    Path(ours["labels"].result["path"]), Path(row.result["path"]), tissue
                )
                show(
                    title,
                    what,
                    row,
                    f"histo {faster:.2f} times as fast (limit {limits[name]:g}), {larger:.2f} times its "
                    f"memory (limit {TIMES_THE_MEMORY:g}); same class {agreed:.2%}, of pixels that either "
                    f"calls a cell {agreed_cells:.2%}; {row.result['versions']}",
                )
                if faster < limits[name]:
                    missed.append(f"{where}: histo is {faster:.2f} times as fast, not {limits[name]:g}")
                if larger < TIMES_THE_MEMORY:
                    missed.append(f"{where}: {larger:.2f} times histo's memory, not {TIMES_THE_MEMORY:g}")
                if agreed < SAME_CLASS:
                    missed.append(
                        f"{where}: other classes than histo's on {1 - agreed:.1%} of the tissue: void"
                    )
                shutil.rmtree(folder / f"peers_{name}_{what}_{precision}", ignore_errors=True)
    for what in ours:
        shutil.rmtree(folder / f"peers_{OURS}_{what}_{precision}", ignore_errors=True)
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=16384, help="edge of the slide, a multiple of 2048")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--overlap", nargs="+", choices=["halo", "none"], default=["halo", "none"])
    parser.add_argument("--limit-s", type=float, default=1200.0, help="of each process")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    print(machine())
    slide = render(options.size, options.out)
    for name in PEERS:
        environment(name, options.out)
    config = load_config(CONFIG)
    job, tissue = prepare(slide, config, options.out)
    job["halo_px"] = build_detector(config.cells).halo_px
    print(
        f"{slide.name}: tissue on {tissue.mean():.0%}, worked on at {job['mpp']:g} um "
        f"({(options.size / job['downsample']) ** 2 / 1e6:.1f} Mpx); "
        + "; ".join(f"{name}: {peer['settings']}" for name, peer in PEERS.items())
    )
    missed: list[str] = []
    for precision in options.precision:
        missed += compare(precision, options.overlap, job, tissue, options)
    print("\nmissed:" if missed else "\nno limit missed")
    for each in missed:
        print(f"  {each}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
