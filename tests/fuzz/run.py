"""Fuzz a reader: `uv run --with atheris python tests/fuzz/run.py --reader tiff --seconds 60`.

With atheris the fuzzer follows what the code does; without it, or with --blind, valid files are damaged at
random. What breaks the contract of `readers.refusal`, and what takes long, is kept in --out/<reader>/. Files
that are named on the command line, each in a folder named like its reader, are read once, and what becomes of
them is told.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import resource
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuzz.readers import Reader

    from histo.errors import HistoError

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reader")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-mb", type=int, help="address space beyond what the imports took")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--blind", action="store_true", help="damage at random, do not follow the code")
    parser.add_argument("files", type=Path, nargs="*")
    arguments = parser.parse_args()
    # Readers warn of what they repair: millions of lines here.
    logging.disable()
    try:
        import atheris
    except ImportError:
        atheris = None
    if arguments.files or arguments.blind or atheris is None:
        from fuzz.readers import READERS

        if arguments.files:
            return _replay(arguments.files, arguments.limit_mb)
        return _blind(READERS[arguments.reader], arguments)
    # Only what can be wrong here is instrumented: the libraries would slow everything down.
    with atheris.instrument_imports(include=["histo", "tifffile"]):
        from fuzz.readers import READERS
    return _follow(atheris, READERS[arguments.reader], arguments)


def _limit(limit_mb: int | None) -> None:
    """Limit the address space to what is used now and so much more: a greater wish is a MemoryError."""
    if limit_mb is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (limit_mb << 20),) * 2)


def _replay(files: list[Path], limit_mb: int | None) -> int:
    from fuzz.readers import READERS, refusal

    def read(name: str, data: bytes) -> HistoError | None:
        with tempfile.TemporaryDirectory() as folder:
            return refusal(READERS[name], data, Path(folder))

    # Late imports and caches that a valid file needs are no cost of a hostile one.
    for name in sorted({file.parent.name for file in files}):
        for seed in READERS[name].seeds():
            read(name, seed)
    _limit(limit_mb)
    n_bad = 0
    for file in files:
        begun = time.monotonic()
        try:
            error = read(file.parent.name, file.read_bytes())
            told = "read" if error is None else f"refused: {error.what:.300}".replace("\n", " ")
        except BaseException as error:
            n_bad += 1
            told = f"BROKEN: {error!r:.300}"
            traceback.print_exc(limit=-8)
        print(f"{file.parent.name}/{file.name}\t{time.monotonic() - begun:.1f}\t{told}", flush=True)
    return 1 if n_bad else 0


def _blind(reader: Reader, arguments: argparse.Namespace) -> int:
    from fuzz.mutate import mutate
    from fuzz.readers import refusal

    seeds = reader.seeds()
    end, n, refused, slowest = time.monotonic() + arguments.seconds, 0, 0, 0.0
    seen: set[str] = set()
    folder = Path(tempfile.mkdtemp())
    while time.monotonic() < end:
        random = Random(arguments.seed * 1_000_003 + n)
        data = mutate(random.choice(seeds), random)
        begun = time.monotonic()
        try:
            refused += refusal(reader, data, folder) is not None
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)
            key = f"{type(error).__name__} {where[-1].filename}:{where[-1].lineno} {error!s:.12}"
            if key not in seen:
                seen.add(key)
                path = _keep(arguments.out / arguments.reader, data)
                ours = [f"{Path(f.filename).name}:{f.lineno}" for f in where if "/histo/" in f.filename]
                print(f"{path}\n  {error!r:.300}\n  {' > '.join(ours)}", flush=True)
        took = time.monotonic() - begun
        if took > max(5.0, slowest):
            print(f"{_keep(arguments.out / arguments.reader, data)}\n  took {took:.1f} s", flush=True)
        slowest = max(slowest, took)
        n += 1
        shutil.rmtree(folder)
        folder.mkdir()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{arguments.reader}: {n} files in {arguments.seconds} s, {refused} refused, {len(seen)} findings; "
        f"slowest {slowest:.2f} s, peak memory {peak} MB"
    )
    return 1 if seen else 0


def _follow(atheris: Any, reader: Reader, arguments: argparse.Namespace) -> int:
    from fuzz.mutate import mutate
    from fuzz.readers import refusal

    out = arguments.out / arguments.reader
    out.mkdir(parents=True, exist_ok=True)
    corpus = Path(tempfile.mkdtemp())
    for seed in reader.seeds():
        _keep(corpus, seed)
    folder = Path(tempfile.mkdtemp())

    def one(data: bytes) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        refusal(reader, data, folder)

    def damage(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        changed = atheris.Mutate(data, most) if random.random() < 0.3 else mutate(data, random)
        return bytes(changed[:most])

    options = [
        f"-max_total_time={arguments.seconds}",
        f"-seed={arguments.seed or 1}",
        "-max_len=65536",
        "-timeout=20",
        "-rss_limit_mb=3000",
        f"-artifact_prefix={out}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=damage)
    atheris.Fuzz()
    return 0


def _keep(folder: Path, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()[:12]
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    sys.exit(main())
