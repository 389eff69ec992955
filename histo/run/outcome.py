"""One slide of many: whatever happens to it becomes a row of the table."""

from __future__ import annotations

import logging
import time
import traceback
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from histo.cells.build import Detector
from histo.cohort.manifest import ManifestRow
from histo.config import Config
from histo.errors import DiskError, HistoError, LockLostError
from histo.results.atomic import unwritable
from histo.results.slides_table import SlideRow
from histo.run.detect import TileProgress
from histo.run.pipeline import SlideJob, analyse_slide, has_to_be_copied
from histo.run.staging import copied

log = logging.getLogger("histo")


@dataclass(frozen=True)
class SlideTask:
    """A slide to do, and its row of the manifest if it has one."""

    job: SlideJob
    entry: ManifestRow | None = None

    def failed(self, error: str) -> SlideRow:
        """Return the row of this slide where it could not be analysed."""
        site, patient = (None, None) if self.entry is None else (self.entry.site, self.entry.patient)
        job = self.job
        return SlideRow.failed(job.slide_id, job.tell(job.path), error, site=site, patient=patient)


@dataclass(frozen=True)
class Place:
    """Where slides are analysed: a process, and what runs the network there."""

    host: str
    pid: int
    device: str
    detector: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class SlideOutcome:
    """What became of a slide; `kept`: finished before. `place` is None where no process lived to tell."""

    row: SlideRow
    kept: bool
    seconds: float
    place: Place | None


def analyse_task(
    task: SlideTask,
    config: Config,
    detector: Detector,
    place: Place,
    progress: TileProgress,
    copy: AbstractContextManager[Path | None] | None = None,
) -> SlideOutcome:
    """Analyse a slide; an error is a row with its reason.

    `copy` gives the copy of a remote slide, or None where none is needed; left out, it is made now.

    Raises
    ------
    LockLostError : see `guarded`.
    DiskError : no other slide could be written either.
    """
    begun = time.monotonic()
    kept = False
    job = task.job
    try:
        if copy is None:
            copy = _copy_now(job, config, detector, progress)
        with copy as path:
            job = job if path is None else replace(job, path=path)
            summary, kept = analyse_slide(job, config, detector, progress)
    except (LockLostError, DiskError):
        raise
    except HistoError as error:
        row = task.failed(job.tell(str(error)))
    except Exception as error:
        if isinstance(error, OSError):
            told = unwritable(Path(error.filename or task.job.folder), error)
            if isinstance(told, DiskError):
                raise told from error
        # A fault of ours or of a library must not cost the rest of the night's slides.
        log.error("%s: unexpected error\n%s", job.tell(job.path), job.tell(traceback.format_exc()))
        row = task.failed(job.tell(f"unexpected {type(error).__name__}: {error}"))
    else:
        site, patient = (None, None) if task.entry is None else (task.entry.site, task.entry.patient)
        row = SlideRow.from_summary(summary, site=site, patient=patient)
    return SlideOutcome(row, kept, round(time.monotonic() - begun, 2), place)


def _copy_now(
    job: SlideJob, config: Config, detector: Detector, progress: TileProgress
) -> AbstractContextManager[Path | None]:
    if job.remote is None or not has_to_be_copied(job, config, detector):
        return nullcontext()
    return copied(job.remote, config.run, lambda: progress(0, 1))
