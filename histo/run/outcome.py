"""One slide of many: whatever happens to it becomes a row of the table."""

from __future__ import annotations

import logging
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from histo.cells.build import Detector
from histo.cohort.manifest import ManifestRow
from histo.config import Config
from histo.errors import DiskError, HistoError, LockLostError
from histo.results.atomic import unwritable
from histo.results.slides_table import SlideRow
from histo.run.detect import TileProgress
from histo.run.pipeline import SlideJob, analyse_slide

log = logging.getLogger("histo")


@dataclass(frozen=True)
class SlideTask:
    """A slide to do, and its row of the manifest if it has one."""

    job: SlideJob
    entry: ManifestRow | None = None

    def failed(self, error: str) -> SlideRow:
        """Return the row of this slide where it could not be analysed."""
        site, patient = (None, None) if self.entry is None else (self.entry.site, self.entry.patient)
        return SlideRow.failed(self.job.slide_id, self.job.path, error, site=site, patient=patient)


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
    task: SlideTask, config: Config, detector: Detector, place: Place, progress: TileProgress
) -> SlideOutcome:
    """Analyse a slide; an error is a row with its reason.

    Raises
    ------
    LockLostError : see `guarded`.
    DiskError : no other slide could be written either.
    """
    begun = time.monotonic()
    kept = False
    try:
        summary, kept = analyse_slide(task.job, config, detector, progress)
    except (LockLostError, DiskError):
        raise
    except HistoError as error:
        row = task.failed(str(error))
    except Exception as error:
        if isinstance(error, OSError):
            told = unwritable(Path(error.filename or task.job.folder), error)
            if isinstance(told, DiskError):
                raise told from error
        # A fault of ours or of a library must not cost the rest of the night's slides.
        log.error("%s: unexpected error\n%s", task.job.path, traceback.format_exc())
        row = task.failed(f"unexpected {type(error).__name__}: {error}")
    else:
        site, patient = (None, None) if task.entry is None else (task.entry.site, task.entry.patient)
        row = SlideRow.from_summary(summary, site=site, patient=patient)
    return SlideOutcome(row, kept, round(time.monotonic() - begun, 2), place)
