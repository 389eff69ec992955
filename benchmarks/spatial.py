"""All spatial measures of a slide of a million simulated cells: seconds and peak memory.

    uv run benchmarks/spatial.py [--cells 1000000] [--peers]

Tissue has a ragged edge and holes, tumour lies in nests, and CD8+ cells keep to the stroma round them. Prints
the measures, wall and CPU seconds and the peak memory of the process; the exit code is 1 where they take more
than 60 s or 2 GB.

With --peers the same cells go to squidpy and to R's spatstat, each in a process of its own and within ten
minutes, for the measures that they share with us. squidpy comes in an environment of its own, made by
`uv run --with squidpy`; Rscript with spatstat must be installed (Debian: r-cran-spatstat).
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from histo.measure.spatial.cross_k import cross_k
from histo.measure.spatial.nearest import nearest_neighbour
from histo.measure.spatial.slide import spatial_measures
from histo.measure.spatial.window import MaskWindow

MPP = 8.0
CELLS_PER_MM2 = 4500
LIMIT_S = 60.0
LIMIT_BYTES = 2e9
PEER_LIMIT_S = 600


def simulate(n_cells: int, seed: int) -> tuple[pd.DataFrame, NDArray[np.bool_], NDArray[np.float32]]:
    """Return cells (x_um, y_um, is_cd8, in_tumour), the tissue mask and a signed distance to the nests."""
    rng = np.random.default_rng(seed)
    side = int(np.sqrt(n_cells / CELLS_PER_MM2 * 1e6 / 0.7) / MPP)
    middle = np.hypot(*(np.indices((side, side)) / side - 0.5))
    wave = smooth(rng, side, 12)
    mask = (middle + 0.04 * wave < 0.49) & (smooth(rng, side, 5) < 1.4)
    nests = smooth(rng, side, 25)
    tumour = nests > 0.2
    # Cells by the pixel, CD8+ cells mostly outside the nests and near them.
    rows, columns = np.nonzero(mask)
    at = rng.integers(0, len(rows), n_cells)
    y, x = ((index[at] + rng.random(n_cells)) * MPP for index in (rows, columns))
    depth = nests[rows[at], columns[at]] - 0.2
    weight = np.where(depth > 0, 0.03, 0.6 * np.exp(depth / 0.6))
    cells = pd.DataFrame(
        {"x_um": x, "y_um": y, "is_cd8": rng.random(n_cells) < weight, "in_tumour": depth > 0}
    )
    signed = np.where(mask, np.where(tumour, -1.0, 1.0), np.nan).astype(np.float32)
    return cells, mask, signed


def smooth(rng: np.random.Generator, side: int, sigma_px: float) -> NDArray[np.float64]:
    field = gaussian_filter(rng.standard_normal((side, side)), sigma_px)
    return field / field.std()


def clocked(name: str, work: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    print(f"{name}: {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} s CPU", flush=True)
    return result


SQUIDPY = """
import sys, time
import anndata, numpy as np, pandas as pd, squidpy as sq
cells = pd.read_parquet(sys.argv[1])
kind = np.where(cells.is_cd8, "cd8", np.where(cells.in_tumour, "tumour", "other"))
kinds = pd.DataFrame({"kind": pd.Categorical(kind)})
data = anndata.AnnData(np.zeros((len(cells), 1), np.float32), obs=kinds)
data.obs.index = data.obs.index.astype(str)
data.obsm["spatial"] = cells[["x_um", "y_um"]].to_numpy()
print("squidpy", sq.__version__)


def clocked(name, work):
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    print(f"{name}: {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} s CPU", flush=True)


if sys.argv[2] == "co-occurrence":
    r = np.array([0.0, 20, 50, 100])
    clocked("co-occurrence to 100 um", lambda: sq.gr.co_occurrence(data, cluster_key="kind", interval=r))
    sys.exit()
clocked("neighbours within 20 um", lambda: sq.gr.spatial_neighbors(data, coord_type="generic", radius=20.0))
clocked(
    "neighbourhood enrichment, 199 permutations",
    lambda: sq.gr.nhood_enrichment(data, cluster_key="kind", n_perms=199, seed=0, n_jobs=1),
)
"""

SPATSTAT = """
suppressMessages(library(spatstat))
cat("spatstat", as.character(packageVersion("spatstat")), "\\n")
folder <- commandArgs(TRUE)[1]
cells <- read.csv(file.path(folder, "cells.csv"))
mask <- as.matrix(read.csv(file.path(folder, "mask.csv"), header = FALSE)) == 1
mpp <- as.numeric(commandArgs(TRUE)[2])
W <- owin(mask = mask, xrange = c(0, ncol(mask) * mpp), yrange = c(0, nrow(mask) * mpp))
X <- ppp(cells$x_um, cells$y_um, window = W, marks = factor(cells$kind), checkdup = FALSE, check = FALSE)
timed <- function(name, work) {
  s <- system.time(value <- work)
  cat(sprintf("%s: %.1f s, %.1f s CPU", name, s[[3]], s[[1]] + s[[2]]), format(value, digits = 10), "\\n")
}
cd8 <- X[marks(X) == "cd8"]; tumour <- X[marks(X) == "tumour"]
timed("nearest tumour nucleus, mean", mean(nncross(unmark(cd8), unmark(tumour), what = "dist")))
r <- seq(0, 20, by = 0.1)
timed("cross-G, border and Kaplan-Meier, at 20 um", {
  G <- Gcross(X, "cd8", "tumour", r = r, correction = c("rs", "km")); G$km[length(r)] })
r <- seq(0, 100, by = 1)
timed("cross-K, border, to 100 um", {
  K <- Kcross(X, "cd8", "tumour", r = r, correction = "border"); K$border[101] })
timed("cross-K, translation, to 100 um", {
  K <- Kcross(X, "cd8", "tumour", r = r, correction = "translate"); K$trans[101] })
"""


def peers(cells: pd.DataFrame, mask: NDArray[np.bool_], folder: Path) -> None:
    cells.to_parquet(folder / "cells.parquet")
    (folder / "peer.py").write_text(SQUIDPY)
    uv = ["uv", "run", "--no-project", "--with", "squidpy", "--with", "pyarrow", "python"]
    for what in ("enrichment", "co-occurrence"):
        run([*uv, str(folder / "peer.py"), str(folder / "cells.parquet"), what])
    if shutil.which("Rscript") is None:
        print("spatstat: no Rscript")
        return
    kind = np.where(cells["is_cd8"], "cd8", np.where(cells["in_tumour"], "tumour", "other"))
    cells[["x_um", "y_um"]].assign(kind=kind).to_csv(folder / "cells.csv", index=False)
    np.savetxt(folder / "mask.csv", mask, fmt="%d", delimiter=",")
    (folder / "peer.R").write_text(SPATSTAT)
    run(["Rscript", str(folder / "peer.R"), str(folder), str(MPP)])


def run(command: list[str]) -> None:
    print("---", " ".join(Path(word).name for word in command), flush=True)
    begun = time.perf_counter()
    # A session of its own, so that what uv starts can be stopped with it.
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            process.wait(PEER_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            print(f"stopped after {PEER_LIMIT_S} s")
            return
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    print(
        f"--- {time.perf_counter() - begun:.0f} s in all; most memory of a peer so far {peak:.2f} GB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", action="store_true")
    arguments = parser.parse_args()
    cells, mask, signed = simulate(arguments.cells, arguments.seed)
    is_cd8, in_tumour = (cells[name].to_numpy() for name in ("is_cd8", "in_tumour"))
    print(
        f"{len(cells)} cells on {mask.sum() * MPP**2 / 1e6:.0f} mm2 ({mask.shape[0]} x {mask.shape[1]} "
        f"pixels of {MPP:g} um): {is_cd8.sum()} CD8+, {(in_tumour & ~is_cd8).sum()} tumour nuclei"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    wall, cpu = time.perf_counter(), time.process_time()
    measures = spatial_measures(
        cells["x_um"].to_numpy(), cells["y_um"].to_numpy(), is_cd8, in_tumour, mask, MPP, signed
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for name, estimate in measures.items():
        print(f"  {name}: {estimate.value if estimate.value is not None else estimate.not_assessable}")
    good = wall <= LIMIT_S and peak <= LIMIT_BYTES
    print(
        f"all measures: {wall:.1f} s ({cpu:.1f} s CPU), peak memory {peak / 1e9:.2f} GB "
        f"({before / 1e9:.2f} GB before): {'within' if good else 'ABOVE'} 60 s and 2 GB",
        flush=True,
    )
    if arguments.peers:
        points = cells[["x_um", "y_um"]].to_numpy()
        cd8, tumour = points[is_cd8], points[in_tumour & ~is_cd8]
        window, r = MaskWindow(mask, MPP), np.arange(101.0)
        clocked("nearest tumour nucleus", lambda: nearest_neighbour(cd8, tumour))
        for correction in ("border", "translation"):
            k = clocked(
                f"cross-K, {correction}, to 100 um",
                lambda how=correction: cross_k(cd8, tumour, window, r, correction=how),
            )
            print(f"  K(100 um) = {k.k_um2[-1]:.4f} um2")
        with tempfile.TemporaryDirectory() as folder:
            peers(cells, mask, Path(folder))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
