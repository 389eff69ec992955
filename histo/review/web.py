"""The page: built files that a wheel brings, and that a source checkout builds with Node."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Final

from histo.errors import ReviewError

_HERE = Path(__file__).parent
SOURCES: Final = _HERE / "web"
BUILT: Final = _HERE / "static"
_STAMP = "built-from.txt"
_TIMEOUT_S = 600


def page_folder() -> Path:
    """Return the folder of the built page; built first where it is missing or older than its sources.

    Raises
    ------
    ReviewError : it has to be built and cannot be; it says what to do.
    """
    if not SOURCES.is_dir():
        if (BUILT / "index.html").is_file():
            return BUILT
        raise ReviewError(
            "this installation has no review page", path=BUILT, fix="Install histo from a wheel"
        )
    wanted = _fingerprint()
    stamp = BUILT / _STAMP
    if stamp.is_file() and stamp.read_text() == wanted:
        return BUILT
    _build()
    stamp.write_text(wanted)
    return BUILT


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file() and "node_modules" not in path.parts:
            digest.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _build() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ReviewError(
            "the review page is not built, and Node is not there to build it",
            path=SOURCES,
            fix="Install Node 20 or newer with npm and run this again, or install histo from a wheel",
        )
    steps = [[npm, "run", "build"]]
    if not _has_modules():
        # No long retries: without a way to the registry it should say so soon.
        steps.insert(0, [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--fetch-retries=1"])
    for step in steps:
        try:
            done = subprocess.run(
                step, cwd=SOURCES, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ReviewError(f"the review page cannot be built ({error})", path=SOURCES) from None
        if done.returncode != 0:
            told = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
            raise ReviewError(
                f"the review page cannot be built: npm said\n{told}",
                path=SOURCES,
                fix="Node 20 or newer and a way to the npm registry are needed, once",
            )


def _has_modules() -> bool:
    """Tell whether the modules that are installed are those of package.json."""
    mark, wanted = SOURCES / "node_modules" / ".package-lock.json", SOURCES / "package.json"
    return mark.is_file() and mark.stat().st_mtime >= wanted.stat().st_mtime
