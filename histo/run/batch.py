"""Many slides: one after the other, none stopping the rest, each one resumable."""

from __future__ import annotations

import json
import logging
import platform
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from histo import __version__
from histo.cells.build import Detector
from histo.cohort.manifest import Manifest, ManifestRow
from histo.config import Config
from histo.errors import ConfigError, HistoError
from histo.regions.find import load_configured
from histo.results.atomic import write_text
from histo.results.log_file import log_file
from histo.results.slides_table import SlideRow, write_slides_table
from histo.run.detect import TileProgress
from histo.run.detector import Trial, ready_detector
from histo.run.device import describe_device
from histo.run.memory import return_freed_memory
from histo.run.names import slide_ids
from histo.run.pipeline import SlideJob, analyse_slide
from histo.slide import find_slides

log = logging.getLogger("histo")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write there ({error.strerror})", path=folder, fix="Name another --out"
        ) from None


@dataclass(frozen=True)
class BatchResult:
    """Rows of `slides.csv`, in the order of the slides, and how many slides were already finished."""

    rows: list[SlideRow]
    n_kept: int

    @property
    def n_failed(self) -> int:
        """Slides without a result."""
        return sum(row.status == "failed" for row in self.rows)


def run_batch(
    inputs: Sequence[Path],
    out: Path,
    config: Config,
    *,
    manifest: Manifest | None = None,
    annotations: Path | None = None,
    mpp: float | None = None,
    console: Console | None = None,
) -> BatchResult:
    """Analyse slides and folders of slides into `out`.

    Finished slides whose content, configuration, detector, annotations and pixel size are unchanged are kept.

    Parameters
    ----------
    inputs : slide files and folders, searched for slides.
    out : results folder; made where it does not exist.
    manifest : whose slide is which, and pixel sizes.
    annotations : folder of annotation files; None looks beside each slide.
    mpp : pixel size in um for all slides; goes before manifest and metadata.

    Raises
    ------
    ConfigError : no slides, or a results folder that cannot be written. One bad slide raises nothing: it is a
        row with its error.
    """
    console = console or Console(stderr=True)
    slides = find_slides(inputs)
    if not slides:
        raise ConfigError(
            f"no slides found in {', '.join(map(str, inputs))}",
            fix="Name slide files, or folders that hold them",
        )
    if annotations is not None and not annotations.is_dir():
        raise ConfigError("the annotations folder does not exist", path=annotations)
    _make_folder(out)
    return_freed_memory()
    # A classifier that cannot be read is one error, not one for each slide.
    load_configured(config)
    detector, trial = ready_detector(config)
    console.print(
        f"histo {__version__}: {len(slides)} slides, {config.name}, {detector.name} on "
        f"{describe_device(detector.device)}"
    )
    record = _Record(config, detector, len(slides))
    rows: list[SlideRow] = []
    n_kept = 0
    ids = slide_ids(slides)
    try:
        with log_file(out / "run.log"), _progress(console) as progress:
            log.info("histo %s: %d slides, %s", __version__, len(slides), config.name)
            if trial is not None:
                log.info("%s: %s", detector.name, _told(trial))
            for name in () if manifest is None else manifest.unused(slides):
                log.warning("the manifest names %r, which is not among the slides", name)
            total = progress.add_task("slides", total=len(slides))
            for path, slide_id in zip(slides, ids, strict=True):
                entry = None if manifest is None else manifest.row_for(path)
                if manifest is not None and entry is None:
                    log.warning("%s: not in the manifest", path)
                job = SlideJob(
                    path=path,
                    slide_id=slide_id,
                    folder=out / slide_id,
                    annotations_folder=annotations,
                    mpp_flag=mpp,
                    mpp_manifest=None if entry is None else entry.mpp_um,
                )
                tiles = progress.add_task(slide_id, total=None)
                begun = time.monotonic()
                row, kept = _one_slide(
                    job,
                    entry,
                    config,
                    detector,
                    lambda done, of, task=tiles: progress.update(  # type: ignore[misc]
                        task, completed=done, total=of
                    ),
                )
                n_kept += kept
                record.seconds_by_slide[slide_id] = round(time.monotonic() - begun, 2)
                rows.append(row)
                progress.remove_task(tiles)
                progress.advance(total)
                state = "failed" if row.status == "failed" else "kept" if kept else "done"
                log.info("%s  %s  %s", state, slide_id, row.error or _headline(row))
                progress.console.print(f"  {state}  {slide_id}  {_headline(row)}", highlight=False)
    finally:
        # Also after Ctrl-C: what is finished is in the table, and the folder can be resumed.
        if rows:
            write_slides_table(out, rows)
            write_text(out / "run.json", json.dumps(record.as_dict(rows, n_kept), indent=2))
    if config.panel.markers:
        _tell_states(out, config, console)
    if manifest is not None and manifest.names_sites:
        _compare_sites(out, manifest, console)
    return BatchResult(rows=rows, n_kept=n_kept)


def _tell_states(out: Path, config: Config, console: Console) -> None:
    """Gate the slides that are finished and tell their states; what is in the way of it stops nothing."""
    from histo.run.states import headlines, states_of_results

    try:
        result = states_of_results(out, config)
    except HistoError as error:
        log.warning("no states: %s", error)
        return
    for line in headlines(result):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    console.print(f"States: {out / 'states.html'}", soft_wrap=True)


def _compare_sites(out: Path, manifest: Manifest, console: Console) -> None:
    """Write the cohort's report beside the slides' results; what is in the way of it stops nothing."""
    # Statistics and figures are not held in memory while slides are analysed.
    from histo.cohort.command import analyse, headlines
    from histo.cohort.config import CohortConfig

    try:
        summary = analyse(out, out, CohortConfig(), manifest=manifest)
    except HistoError as error:
        log.warning("no report of the cohort: %s", error)
        return
    for line in headlines(summary):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    console.print(f"Cohort: {out / 'cohort.html'}", soft_wrap=True)


def _one_slide(
    job: SlideJob,
    entry: ManifestRow | None,
    config: Config,
    detector: Detector,
    progress: TileProgress,
) -> tuple[SlideRow, bool]:
    site = None if entry is None else entry.site
    patient = None if entry is None else entry.patient
    try:
        summary, kept = analyse_slide(job, config, detector, progress)
    except HistoError as error:
        return SlideRow.failed(job.slide_id, job.path, str(error), site=site, patient=patient), False
    except Exception as error:
        # A fault of ours or of a library must not cost the rest of the night's slides.
        log.error("%s: unexpected error\n%s", job.path, traceback.format_exc())
        text = f"unexpected {type(error).__name__}: {error}"
        return SlideRow.failed(job.slide_id, job.path, text, site=site, patient=patient), False
    return SlideRow.from_summary(summary, site=site, patient=patient), kept


def _told(trial: Trial) -> str:
    return (
        f"{trial.agreement:.1%} of the cells of a test tile as in float32 on the CPU, at "
        f"{trial.speed_up:.1f} times its speed"
    )


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


@dataclass
class _Record:
    """What `run.json` says of a run."""

    config: Config
    detector: Detector
    n_slides: int
    seconds_by_slide: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def as_dict(self, rows: Sequence[SlideRow], n_kept: int) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "histo_version": __version__,
            "finished_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "complete": len(rows) == self.n_slides,
            "config": self.config.model_dump(mode="json"),
            "config_sha256": self.config.fingerprint(),
            "detector": {"name": self.detector.name, "sha256": self.detector.sha256},
            "device": describe_device(self.detector.device),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "seconds": round(time.monotonic() - self.started, 2),
            "seconds_by_slide": self.seconds_by_slide,
            "n_slides": self.n_slides,
            "n_done": sum(row.status == "done" for row in rows),
            "n_kept": n_kept,
            "n_failed": sum(row.status == "failed" for row in rows),
        }


def _headline(row: SlideRow) -> str:
    if row.status == "failed":
        # The whole reason is told at the end, in the table and in the log.
        return ""
    density, phenotype = row.values.get("cd8_density_per_mm2"), row.values.get("phenotype")
    text = f"{row.values.get('n_cd8')} CD8+ cells"
    if density is not None:
        text += f", {float(density):.0f} /mm2"
    return text if phenotype is None else f"{text}, {phenotype}"
