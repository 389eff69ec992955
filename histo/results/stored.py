"""What a results folder says of itself: the configuration it was made with, and its finished slides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from histo.config import Config, apply_override, describe
from histo.errors import ConfigError, ResultsError
from histo.measure.summary import SlideSummary
from histo.results.slides_table import read_slides_table


def stored_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration that a results folder was made with, with overrides.

    Raises
    ------
    ConfigError : it is missing, damaged or of another version, or an override does not fit.
    """
    path = folder / "run.json"
    try:
        data = json.loads(path.read_bytes())["config"]
        for override in overrides:
            apply_override(data, override)
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe(error), path=path, fix="Give the configuration with --config") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            "the configuration of this folder cannot be read",
            path=path,
            fix="Give it with --config, or run infer again",
        ) from None


def stored_summaries(folder: Path) -> list[SlideSummary]:
    """Return the summaries of the slides that the table of a results folder lists as done.

    Raises
    ------
    ResultsError : the table or a summary cannot be read, or no slide is done.
    """
    table = read_slides_table(folder)
    names = [str(name) for name in table.loc[table["status"] != "failed", "slide_id"]]
    if not names:
        raise ResultsError("no slide of this folder is finished", path=folder, fix="Run infer again")
    return [stored_summary(folder / name) for name in names]


def stored_summary(folder: Path) -> SlideSummary:
    """Return the summary in the folder of one slide; raises ResultsError where it cannot be read."""
    path = folder / "summary.json"
    try:
        return SlideSummary.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise ResultsError(
            "the summary of a slide is missing or of another version", path=path, fix="Run infer again"
        ) from None
