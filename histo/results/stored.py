"""What a results folder says of itself: the configuration it was made with, and its finished slides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from histo.config import Config, RunConfig, apply_override, describe
from histo.errors import ConfigError, ResultsError
from histo.measure.summary import SlideSummary
from histo.regions.annotations import find_annotations
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
        # How the work was done changes no result: settings of another version may go.
        data["run"] = {key: value for key, value in data["run"].items() if key in RunConfig.model_fields}
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


def slide_files(source: Path | None, summaries: Mapping[str, SlideSummary]) -> dict[str, Path]:
    """Return the GeoJSON file of each slide that has one.

    Parameters
    ----------
    source : a folder of files, named like the slides or their results folders; or the file of the only slide.
    summaries : by slide id.

    Raises
    ------
    ConfigError : a file of no slide, or none at all. AnnotationError : two files of one slide.
    """
    if source is None:
        return {}
    if source.is_file():
        if len(summaries) != 1:
            raise ConfigError(
                f"one file for {len(summaries)} slides",
                path=source,
                fix="Give a folder of files that are named like the slides",
            )
        return dict.fromkeys(summaries, source)
    found: dict[str, Path] = {}
    for name, summary in summaries.items():
        path = find_annotations(Path(name), source) or find_annotations(Path(summary.path), source)
        if path is not None:
            found[name] = path
    strange = sorted(
        {p.name for p in source.iterdir() if ".geojson" in p.name} - {p.name for p in found.values()}
    )
    if strange or not found:
        raise ConfigError(
            f"files of no slide: {', '.join(strange[:10])}" if strange else "no file of any slide",
            path=source,
            fix=f"Name each like its slide, e.g. {next(iter(summaries), 'slide')}.geojson",
        )
    return found
