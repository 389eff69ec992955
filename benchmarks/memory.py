"""Peak memory of a whole run on small and on large slides: it should not grow.

    uv run benchmarks/memory.py --out bench

Renders slides of 8k x 8k, 16k x 16k and 32k x 32k pixels at 0.25 um/px (kept in --out for the next time),
analyses each in a process of its own with `infer.py`, and prints wall time, throughput and peak resident
memory. Exit code 1 where one takes 10 % more memory than another, or any takes more than 1.2 GB. Linux only.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

from histo.synthetic.slide import SlideSpec, render_slide

INFER = Path(__file__).resolve().parent.parent / "infer.py"
MPP_UM = 0.25
SIZES_PX = (8192, 16384, 32768)
MAX_RATIO = 1.10
MAX_GB = 1.2


def render(size_px: int, folder: Path) -> Path:
    """Return the slide of this size; render it where it is not there yet."""
    size_um = size_px * MPP_UM
    spec = SlideSpec(slide_id=f"memory_{size_px}", seed=size_px, size_um=(size_um, size_um), mpp=MPP_UM)
    path = folder / f"{spec.slide_id}.tif"
    if not path.exists():
        begun = time.monotonic()
        render_slide(spec, folder)
        print(f"rendered {path.name}: {size_px**2 / 1e6 / (time.monotonic() - begun):.1f} Mpx/s")
    return path


def analyse(slide: Path, out: Path) -> tuple[float, float]:
    """Analyse a slide in a child process; return its seconds and its peak memory in GB."""
    begun = time.monotonic()
    child = subprocess.Popen([sys.executable, str(INFER), str(slide), "--out", str(out)])
    # Not what the system tells at the end: that begins with the memory of the process that started it.
    peak_kib, status = 0, Path(f"/proc/{child.pid}/status")
    while child.poll() is None:
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        peak_kib = max(peak_kib, int(found[1]) if found else 0)
        time.sleep(0.02)
    if child.returncode:
        raise SystemExit(f"infer.py failed on {slide}")
    return time.monotonic() - begun, peak_kib * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    peaks = []
    for size_px in SIZES_PX:
        slide = render(size_px, folder)
        seconds, peak_gb = analyse(slide, folder / f"results_{time.time_ns()}")
        peaks.append(peak_gb)
        speed = size_px**2 * (MPP_UM / 0.5) ** 2 / 1e6 / seconds
        print(f"{size_px}^2 px: {seconds:.1f} s, {speed:.2f} Mpx/s at 0.5 um/px, peak {peak_gb:.3f} GB")
    ratio = max(peaks) / min(peaks)
    print(f"peak memory, highest to lowest: {ratio:.3f} (limit {MAX_RATIO}); limit {MAX_GB} GB")
    sys.exit(0 if ratio <= MAX_RATIO and max(peaks) <= MAX_GB else 1)


if __name__ == "__main__":
    main()
