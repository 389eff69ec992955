"""Build hook of the wheel: the review page, which is built from TypeScript, belongs in it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildPage(BuildHookInterface):  # type: ignore[type-arg]
    """Builds the page; without Node, one that is built already is taken."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build it with npm; an editable installation builds it on first use instead."""
        web = Path(self.root) / "histo" / "review" / "web"
        npm = shutil.which("npm")
        built = (web.parent / "static" / "index.html").is_file()
        if version == "editable" or (npm is None and built):
            return
        if npm is None:
            raise RuntimeError("the wheel holds the review page: Node 20 or newer, with npm, must build it")
        subprocess.run([npm, "install", "--no-package-lock", "--no-audit", "--no-fund"], cwd=web, check=True)
        subprocess.run([npm, "run", "build"], cwd=web, check=True)
