from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile
from numpy.typing import NDArray

from histo.compiled import compiled

# A folder that decoding runs from, and what it finds: one hole filled.
SCRIPT = """
import os
import numpy as np
from histo.cells.instances import fill_holes
labels = np.ones((5, 5), np.int32)
labels[2, 2] = 0
assert fill_holes(labels).all()
print(os.environ.get("NUMBA_CACHE_DIR", ""))
"""


def _sum(values: NDArray[np.int64]) -> int:
    total = 0
    for value in values:
        total += value
    return total


@pytest.mark.fault
def test_where_no_cache_can_be_kept_a_temporary_one_serves(tmp_path: Path) -> None:
    # As with a read-only installation and no home: none of numba's own places can be had.
    env = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    env |= {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault
def test_a_full_disk_only_costs_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    monkeypatch.setattr(IndexDataCacheFile, "load", full)
    assert compiled(_sum)(np.arange(5)) == 10
