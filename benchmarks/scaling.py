"""Slides over workers: how much faster two workers are than one, each with one core.

    uv run benchmarks/scaling.py --out bench

Renders eight slides (kept in --out for the next time), analyses them with `infer.py --cluster local:1` on one
core and with `--cluster local:2` on two, and prints wall times, start and end included, and their ratio. All
tables and maps must be the same to the byte. Exit code 1 where they are not, or where two workers are less
than 1.8 times as fast as one. Linux only: processes are bound to cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from histo.synthetic.slide import SlideSpec, render_slide

INFER = Path(__file__).resolve().parent.parent / "infer.py"
MPP_UM = 0.25
MIN_RATIO = 1.8
# What a run says of itself: when, where, how long.
OF_THE_RUN = ("run.json", "run.log")


def render(n: int, size_um: float, folder: Path) -> Path:
    """Return a folder of so many slides; render what is not there yet."""
    slides = folder / f"scaling_{size_um:.0f}_{n}"
    for number in range(n):
        spec = SlideSpec(slide_id=f"s{number}", seed=number, size_um=(size_um, size_um), mpp=MPP_UM)
        if not (slides / f"{spec.slide_id}.tif").exists():
            render_slide(spec, slides)
    return slides


def analyse(slides: Path, out: Path, cores: list[int]) -> float:
    """Analyse the slides with a worker for each core; return the seconds of wall time."""
    shutil.rmtree(out, ignore_errors=True)
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, str(INFER), str(slides), "--out", str(out), "--cluster", f"local:{len(cores)}"],
        check=True,
        preexec_fn=partial(os.sched_setaffinity, 0, cores),
    )
    return time.monotonic() - begun


def written(folder: Path) -> dict[str, bytes]:
    """Return what a run wrote, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in OF_THE_RUN
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--size-um", type=float, default=2048.0)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed")
    slides = render(arguments.slides, arguments.size_um, arguments.out)
    seconds, results = [], []
    for n in (1, 2):
        out = arguments.out / f"scaling_local_{n}"
        seconds.append(analyse(slides, out, cores[:n]))
        results.append(written(out))
        print(f"local:{n}: {seconds[-1]:.1f} s for {arguments.slides} slides of {arguments.size_um:.0f} um")
    same = results[0] == results[1]
    ratio = seconds[0] / seconds[1]
    print(f"two workers to one: {ratio:.2f} times as fast (limit {MIN_RATIO})")
    print(f"{len(results[0])} files, {'all the same' if same else 'NOT the same'}")
    sys.exit(0 if same and ratio >= MIN_RATIO else 1)


if __name__ == "__main__":
    main()
