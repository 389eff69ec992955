"""Reading a table of cells of another program, against pandas reading all of it.

    uv run benchmarks/tables.py [--cells 1000000]

Writes a made-up QuPath export with 40 measurements, plain and gzipped. Prints seconds and peak memory of each
reader in a process of its own, and their ratios.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HISTO = "from histo.tables.open import open_table; read = lambda path: open_table(path).frame"
PANDAS = "import pandas; read = lambda path: pandas.read_csv(path, sep='\\t')"
MEASURE = """
import resource, sys, time
{reader}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.perf_counter()
n = len(read(sys.argv[1]))
seconds = time.perf_counter() - begun
print(n, seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def write(path: Path, n_cells: int) -> None:
    rng = np.random.default_rng(1)
    classes = np.array(["Tumor: Negative", "Tumor: Positive", "CD8: PD1", "CD8", ""])
    names = [f"Nucleus: measurement {i}" for i in range(40)]
    with path.open("w", encoding="utf-8") as file:
        file.write("\t".join(["Image", "Classification", "Centroid X µm", "Centroid Y µm", *names]) + "\n")
        for begin in range(0, n_cells, 10_000):
            n = min(10_000, n_cells - begin)
            numbers = rng.uniform(0, 20_000, (n, 42))
            for kind, row in zip(classes[rng.integers(0, len(classes), n)], numbers, strict=True):
                file.write(f"slide.svs\t{kind}\t" + "\t".join(f"{value:.4f}" for value in row) + "\n")


def measure(reader: str, path: Path) -> tuple[int, float, float]:
    code = MEASURE.format(reader=reader)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    n, seconds, megabytes = done.stdout.split()
    return int(n), float(seconds), float(megabytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "cells.tsv"
        write(plain, arguments.cells)
        packed = plain.with_suffix(".tsv.gz")
        with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=1) as target:
            shutil.copyfileobj(source, target)
        for path in (plain, packed):
            n, seconds, megabytes = measure(HISTO, path)
            same, pandas_seconds, pandas_megabytes = measure(PANDAS, path)
            assert n == same
            print(
                f"{path.name}: {path.stat().st_size / 1e6:.0f} MB, {n} cells; "
                f"histo {seconds:.1f} s, {megabytes:.0f} MiB; pandas {pandas_seconds:.1f} s, "
                f"{pandas_megabytes:.0f} MiB; {pandas_seconds / seconds:.1f} times as fast, "
                f"{megabytes / pandas_megabytes:.2f} of the memory"
            )


if __name__ == "__main__":
    main()
