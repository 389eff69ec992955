"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A property is about a result, not about how busy the machine is.
settings.register_profile("histo", deadline=None)
settings.load_profile("histo")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real files; tests that need it are skipped where it is absent."""
    path = Path(os.environ.get("HISTO_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"real test data not found at {path}: set HISTO_DATA")
    return path
