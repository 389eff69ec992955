"""`histo sections`: pairs of results to registrations, tiles and `sections.csv`."""

from __future__ import annotations

import csv
import json
import logging
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from histo.config import Config
from histo.errors import ConfigError, HistoError
from histo.measure.summary import Estimate, SlideSummary
from histo.results.atomic import replacing
from histo.results.slides_table import for_csv
from histo.sections.config import SectionsConfig
from histo.sections.lay import SlideResult, lay_pair
from histo.sections.pairs import Pair
from histo.sections.summary import PairResult, ZoneCodensity

log = logging.getLogger("histo")

_ESTIMATES = (
    ("cd8_density", "cd8_density_per_mm2"),
    ("marker_density", "marker_density_per_mm2"),
    ("bright_density", "bright_density_per_mm2"),
    ("spearman", "spearman"),
    ("pearson", "pearson"),
    ("enrichment", "enrichment"),
    ("matched", "matched_fraction"),
)
_COUNTS = ("n_tiles", "area_mm2", "n_cd8", "n_marker", "n_bright")
_ROW = (
    "slide_id",
    "serial_id",
    "marker",
    "status",
    "reason",
    "error_um",
    "error_90_um",
    "error_source",
    "verified_fraction",
    "zone",
    *_COUNTS,
    *(name + end for _, name in _ESTIMATES for end in ("", "_low", "_high")),
    "not_assessable",
)


def run_sections(
    results: Path,
    pairs: Sequence[Pair],
    out: Path,
    config: SectionsConfig,
    *,
    console: Console | None = None,
) -> list[PairResult]:
    """Lay pairs of serial sections over each other and measure them, into `out`.

    `<out>/<slide>__<serial>/` gets registration.json, the transforms, overlay.png and, where the pair is
    accepted, tiles.parquet; `<out>/sections.csv` a row per pair and zone.

    Parameters
    ----------
    results : folder of `histo infer` that holds the results of both slides of each pair.

    Raises
    ------
    ConfigError, ResultsError : the results, the pairs or `out` cannot be used; every slide without results is
        named. A pair that fails or is refused raises nothing: it is a row with its reason.
    """
    console = console or Console(stderr=True)
    run = _config_of(results)
    found = _results_of(results)
    missing = [name for pair in pairs for name in (pair.slide, pair.serial) if name not in found]
    if missing:
        raise ConfigError(
            f"no results of {', '.join(dict.fromkeys(missing))}",
            path=results,
            fix="Name slides by their id or file name, and run infer on them first",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write there ({error.strerror})", path=out, fix="Name another --out"
        ) from None
    done: list[PairResult] = []
    for pair in pairs:
        result = _one_pair(pair, found[pair.slide], found[pair.serial], run, config, out)
        done.append(result)
        console.print(
            f"  {result.slide_id} + {result.serial_id}: {headline(result)}", highlight=False, soft_wrap=True
        )
        write_sections(out / "sections.csv", done)
    return done


def headline(result: PairResult) -> str:
    """Say in a line what became of a pair."""
    if result.status != "done" or result.registration is None:
        return f"{result.status}: {result.reason}"
    whole = result.zones[0]
    text = f"error {result.registration.error_um:.0f} um, {whole.n_tiles} tiles"
    if whole.spearman.value is not None:
        text += f", CD8 and {result.marker}: Spearman {whole.spearman.value:.2f}"
        if whole.spearman.low is not None and whole.spearman.high is not None:
            text += f" ({whole.spearman.low:.2f} to {whole.spearman.high:.2f})"
    return text


def write_sections(path: Path, results: Sequence[PairResult]) -> None:
    """Write a row per pair and zone; one row for a pair that gives nothing."""
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _ROW, lineterminator="\n")
        writer.writeheader()
        for result in results:
            zones: Sequence[ZoneCodensity | None] = result.zones or [None]
            for zone in zones:
                writer.writerow({key: for_csv(value) for key, value in _row(result, zone).items()})


def _row(result: PairResult, zone: ZoneCodensity | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        name: getattr(result, name) for name in ("slide_id", "serial_id", "marker", "status", "reason")
    }
    if result.registration is not None:
        for name in ("error_um", "error_90_um", "error_source", "verified_fraction"):
            row[name] = getattr(result.registration, name)
    if zone is None:
        return row | {"zone": "all"}
    row |= {"zone": zone.zone, **{name: getattr(zone, name) for name in _COUNTS}}
    reasons = []
    for field, name in _ESTIMATES:
        estimate: Estimate = getattr(zone, field)
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        if estimate.not_assessable is not None:
            reasons.append(f"{name}: {estimate.not_assessable}")
    return row | {"not_assessable": "; ".join(reasons)}


def _one_pair(
    pair: Pair, slide: SlideResult, serial: SlideResult, run: Config, config: SectionsConfig, out: Path
) -> PairResult:
    slide_id, serial_id = slide.summary.slide_id, serial.summary.slide_id
    folder = out / f"{slide_id}__{serial_id}"

    def failed(reason: str) -> PairResult:
        return PairResult(
            slide_id=slide_id, serial_id=serial_id, marker=pair.marker, status="failed", reason=reason
        )

    try:
        folder.mkdir(parents=True, exist_ok=True)
        return lay_pair(pair, slide, serial, run, config, folder)
    except HistoError as error:
        return failed(str(error))
    except Exception as error:
        # A fault of ours or of a library must not cost the other pairs.
        log.error("%s: unexpected error\n%s", folder.name, traceback.format_exc())
        return failed(f"unexpected {type(error).__name__}: {error}")


def _config_of(results: Path) -> Config:
    path = results / "run.json"
    try:
        return Config.model_validate(json.loads(path.read_bytes())["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"no results of infer that can be read ({type(error).__name__})",
            path=path,
            fix="Name the folder that infer has written",
        ) from None


def _results_of(results: Path) -> dict[str, SlideResult]:
    """Return the finished slides by id, and by the name of their file with and without its extension."""
    found: dict[str, SlideResult] = {}
    for path in sorted(results.glob("*/summary.json")):
        try:
            summary = SlideSummary.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        result = SlideResult(path.parent, summary)
        file = Path(summary.path)
        for name in (file.stem, file.name):
            found.setdefault(name, result)
        found[summary.slide_id] = result
    return found
