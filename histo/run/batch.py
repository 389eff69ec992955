"""Many slides: in turn or over workers, none stopping the rest, each one resumable."""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from histo import __version__
from histo.cells.build import Detector, build_detector
from histo.cohort.manifest import Manifest
from histo.config import Config
from histo.errors import ConfigError, DiskError, HistoError
from histo.regions.find import load_configured
from histo.results.atomic import write_text
from histo.results.log_file import log_file
from histo.results.slides_table import SlideRow, write_slides_table
from histo.review.log import signature_of
from histo.run.cluster_config import Workers
from histo.run.detector import ready_detector
from histo.run.device import describe_device
from histo.run.lock import Held, guarded, hold, read_owner
from histo.run.memory import share_freed_memory
from histo.run.names import slide_ids
from histo.run.outcome import Place, SlideOutcome, SlideTask, analyse_task
from histo.run.pipeline import SlideJob, has_to_be_copied
from histo.run.remote import RemoteSlide, find_remote, is_remote, told
from histo.run.staging import Ahead, staging_parent
from histo.slide import find_slides

log = logging.getLogger("histo")

# Called with number of the slide, tiles done, tiles in all.
SlideProgress = Callable[[int, int, int], None]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write there ({error.strerror})",
            path=folder,
            fix="Make room for it, or name another --out",
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
    inputs: Sequence[Path | str],
    out: Path,
    config: Config,
    *,
    manifest: Manifest | None = None,
    annotations: Path | None = None,
    mpp: float | None = None,
    cluster: Workers | None = None,
    console: Console | None = None,
) -> BatchResult:
    """Analyse slides and folders of slides into `out`.

    Finished slides whose content, configuration, detector, annotations and pixel size are unchanged are kept.

    Parameters
    ----------
    inputs : slide files and folders, searched for slides; and addresses of such in stores that fsspec knows,
        whose slides come after the others and are copied to the local disk for as long as they are in work.
    out : results folder; made where it does not exist.
    manifest : whose slide is which, and pixel sizes.
    annotations : folder of annotation files; None looks beside each slide.
    mpp : pixel size in um for all slides; goes before manifest and metadata.
    cluster : whose workers do the work, see `read_cluster`; None does it in this process, slide by slide.

    Raises
    ------
    ConfigError : no slides, a results folder that cannot be written or that another run works on, no such
        cluster, or no driver of a store. One bad slide raises nothing: it is a row with its error.
    ClusterError : workers cannot do the work, or all were lost.
    LockLostError : another run has taken over the results folder.
    DiskError : nothing more can be written there; slides that are finished are kept.
    """
    console = console or Console(stderr=True)
    slides = _find(inputs)
    if not slides:
        raise ConfigError(
            f"no slides found in {', '.join(told(str(given)) for given in inputs)}",
            fix="Name slide files, or folders that hold them",
        )
    if annotations is not None and not annotations.is_dir():
        raise ConfigError("the annotations folder does not exist", path=annotations)
    _make_folder(out)
    with hold(out) as held:
        result = _run(slides, config, held, manifest, annotations, mpp, cluster, console)
        if config.panel.markers:
            _tell_states(out, config, console)
        if manifest is not None and manifest.names_sites:
            _compare_sites(out, manifest, console)
    return result


def _find(inputs: Sequence[Path | str]) -> list[Path | RemoteSlide]:
    urls = [str(given) for given in inputs if is_remote(given)]
    return [*find_slides([given for given in inputs if not is_remote(given)]), *find_remote(urls)]


def _run(
    slides: Sequence[Path | RemoteSlide],
    config: Config,
    held: Held,
    manifest: Manifest | None,
    annotations: Path | None,
    mpp: float | None,
    cluster: Workers | None,
    console: Console,
) -> BatchResult:
    out = held.folder
    tasks = _tasks(slides, out, manifest, annotations, mpp)
    in_the_way = [
        task.job.folder for task in tasks if task.job.folder.exists() and not task.job.folder.is_dir()
    ]
    if in_the_way:
        raise ConfigError(
            "files lie where the folders of slides belong: " + ", ".join(file.name for file in in_the_way),
            path=out,
            fix="Move them away, or name another --out",
        )
    share_freed_memory()
    # A classifier that cannot be read is one error, not one for each slide.
    load_configured(config)
    # Where workers do the work, this one says whether the weights can be used, and which they are.
    detector, trial = (build_detector(config.cells), None) if cluster else ready_detector(config)
    where = f"workers of {cluster}" if cluster else describe_device(detector.device, config.run)
    console.print(f"histo {__version__}: {len(slides)} slides, {config.name}, {detector.name} on {where}")
    n_remote = sum(isinstance(slide, RemoteSlide) for slide in slides)
    if n_remote:
        parent = staging_parent(config.run)
        console.print(f"remote slides, copied to {parent} before their turn: {n_remote}", soft_wrap=True)
    outcomes: dict[int, SlideOutcome] = {}
    begun = time.monotonic()
    try:
        with log_file(out / "run.log"), _Bars(console, tasks) as bars:
            log.info("histo %s: %d slides, %s, on %s", __version__, len(slides), config.name, where)
            if trial is not None:
                log.info("%s: %s", detector.name, trial)
            if held.before is not None:
                log.warning("going on in place of a run that is dead (%s)", held.before)
            for name in () if manifest is None else manifest.unused([Path(slide.name) for slide in slides]):
                log.warning("the manifest names %r, which is not among the slides", name)
            for task in tasks if manifest is not None else ():
                if task.entry is None:
                    log.warning("%s: not in the manifest", task.job.tell(task.job.path))
            if cluster is None:
                source = _in_turn(tasks, config, detector, held, bars.report)
            else:
                from histo.run.cluster import analyse_on_workers

                source = analyse_on_workers(
                    tasks,
                    config,
                    cluster,
                    detector_sha256=detector.sha256,
                    out=out,
                    owner=held.owner,
                    report=bars.report,
                )
            with closing(source):
                for number, outcome in source:
                    outcomes[number] = outcome
                    row = outcome.row
                    state = "failed" if row.status == "failed" else "kept" if outcome.kept else "done"
                    log.info("%s  %s  %s", state, row.slide_id, row.error or _headline(row))
                    if state == "done" and (signature := signature_of(out / row.slide_id)):
                        log.warning("%s: analysed anew, though it was %s", row.slide_id, signature)
                    bars.finish(number, f"  {state}  {row.slide_id}  {_headline(row)}")
    finally:
        # Also after Ctrl-C: what is finished is in the table, and the folder can be resumed.
        in_order = [outcomes[number] for number in sorted(outcomes)]
        if in_order and read_owner(out) == held.owner:
            write_slides_table(out, [outcome.row for outcome in in_order])
            record = _record(config, detector, cluster, len(slides), in_order, time.monotonic() - begun)
            write_text(out / "run.json", json.dumps(record, indent=2))
    return BatchResult(
        rows=[outcome.row for outcome in in_order], n_kept=sum(outcome.kept for outcome in in_order)
    )


def _tasks(
    slides: Sequence[Path | RemoteSlide],
    out: Path,
    manifest: Manifest | None,
    annotations: Path | None,
    mpp: float | None,
) -> list[SlideTask]:
    tasks = []
    for slide, slide_id in zip(slides, slide_ids(slides), strict=True):
        remote = slide if isinstance(slide, RemoteSlide) else None
        if remote is not None and annotations is not None:
            remote = replace(remote, annotations=())
        entry = None if manifest is None else manifest.row_for(Path(slide.name))
        job = SlideJob(
            path=Path(slide.name) if isinstance(slide, RemoteSlide) else slide,
            slide_id=slide_id,
            folder=out / slide_id,
            annotations_folder=annotations,
            mpp_flag=mpp,
            mpp_manifest=None if entry is None else entry.mpp_um,
            remote=remote,
        )
        tasks.append(SlideTask(job, entry))
    return tasks


def _in_turn(
    tasks: Sequence[SlideTask], config: Config, detector: Detector, held: Held, report: SlideProgress
) -> Generator[tuple[int, SlideOutcome]]:
    """Analyse slides in this process, one after the other; yield number and outcome of each."""
    device = describe_device(detector.device, config.run)
    place = Place(socket.gethostname(), os.getpid(), device, detector.name)
    remote = {number: task.job.remote for number, task in enumerate(tasks) if task.job.remote is not None}
    with Ahead(
        remote, lambda number: has_to_be_copied(tasks[number].job, config, detector), config.run
    ) as ahead:
        for number, task in enumerate(tasks):
            progress = guarded(partial(report, number), held.folder, held.owner.token)
            copy = ahead.copy(number) if number in remote else None
            yield number, analyse_task(task, config, detector, place, progress, copy)


def _tell_states(out: Path, config: Config, console: Console) -> None:
    """Gate the slides that are finished and tell their states; what is in the way of it stops nothing."""
    from histo.run.states import headlines, states_of_results

    try:
        result = states_of_results(out, config)
    except DiskError:
        raise
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
    except DiskError:
        raise
    except HistoError as error:
        log.warning("no report of the cohort: %s", error)
        return
    for line in headlines(summary):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    console.print(f"Cohort: {out / 'cohort.html'}", soft_wrap=True)


class _Bars:
    """Progress on a console: a bar of all slides, and one for each that is begun; a context manager."""

    def __init__(self, console: Console, tasks: Sequence[SlideTask]) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._names = [task.job.slide_id for task in tasks]
        self._total = self._progress.add_task("slides", total=len(tasks))
        self._bars: dict[int, TaskID] = {}
        self._finished: set[int] = set()
        # Workers report from another thread, and may report late.
        self._lock = threading.Lock()

    def report(self, number: int, done: int, of: int) -> None:
        """Say that so many tiles of a slide are done."""
        with self._lock:
            if number in self._finished:
                return
            if number not in self._bars:
                self._bars[number] = self._progress.add_task(self._names[number], total=None)
            self._progress.update(self._bars[number], completed=done, total=of)

    def finish(self, number: int, line: str) -> None:
        """Say that a slide is done."""
        with self._lock:
            self._finished.add(number)
            if number in self._bars:
                self._progress.remove_task(self._bars.pop(number))
            self._progress.advance(self._total)
        self._progress.console.print(line, highlight=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _record(
    config: Config,
    detector: Detector,
    cluster: Workers | None,
    n_slides: int,
    outcomes: Sequence[SlideOutcome],
    seconds: float,
) -> dict[str, Any]:
    """Return what `run.json` says of a run, as JSON values."""
    places = Counter(outcome.place for outcome in outcomes if outcome.place is not None)
    return {
        "histo_version": __version__,
        "finished_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": len(outcomes) == n_slides,
        "config": config.model_dump(mode="json"),
        "config_sha256": config.fingerprint(),
        "detector": {"name": detector.name, "sha256": detector.sha256},
        "cluster": None if cluster is None else str(cluster),
        "device": ", ".join(sorted({place.device for place in places})),
        "workers": [asdict(place) | {"n_slides": n} for place, n in places.items()],
        "python": platform.python_version(),
        "torch": version("torch"),
        "openvino": version("openvino"),
        "seconds": round(seconds, 2),
        "seconds_by_slide": {outcome.row.slide_id: outcome.seconds for outcome in outcomes},
        "n_slides": n_slides,
        "n_done": sum(outcome.row.status == "done" for outcome in outcomes),
        "n_kept": sum(outcome.kept for outcome in outcomes),
        "n_failed": sum(outcome.row.status == "failed" for outcome in outcomes),
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
