"""The log of a slide's review: append-only JSON lines, on the disk before an entry counts as made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from filelock import FileLock
from pydantic import ValidationError

from histo.errors import ReviewError
from histo.review.actions import Action, Entry, Redo, Reopen, Sign, Undo, check_action, standing

LOG: Final = "review/log.jsonl"
# A reviewer makes some thousand corrections of some hundred bytes; an outline has some hundred thousand.
_MAX_BYTES: Final = 1 << 28


@dataclass(frozen=True)
class Log:
    """The entries of a log, and what of the file could not be used, in words."""

    entries: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, reader: str | None) -> tuple[Entry, ...]:
        """Return the entries of one reader, or all."""
        return tuple(entry for entry in self.entries if reader is None or entry.by == reader)


def read_log(folder: Path) -> Log:
    """Read the log in a slide's results folder; an empty one where there is none.

    A last line that a kill cut short is no entry: its maker was never told that it was made. Any other line
    that cannot be read is left out and told in the notes.

    Raises
    ------
    ReviewError : the file cannot be read, or is too large to be a log.
    """
    path = folder / LOG
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ReviewError(f"a log of more than {_MAX_BYTES >> 20} MiB", path=path, fix="Move it away")
        data = path.read_bytes()
    except FileNotFoundError:
        return Log()
    except OSError as error:
        raise ReviewError(
            f"the log cannot be read ({error})", path=path, fix="Check its permissions"
        ) from None
    entries: list[Entry] = []
    notes: list[str] = []
    lines = data.split(b"\n")
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = Entry.model_validate_json(line)
            if entries and entry.number <= entries[-1].number:
                raise ReviewError("numbered out of order")
            _check(entries, entry)
        except (ValidationError, ReviewError) as error:
            if isinstance(error, ReviewError):
                why = error.what
            elif place == len(lines):
                why = "it was cut short and never confirmed"
            else:
                why = "it was cut short or is damaged"
            notes.append(f"line {place} of the review log is left out: {why}")
            continue
        entries.append(entry)
    return Log(tuple(entries), tuple(notes))


def append(
    folder: Path, action: Action, *, by: str, fingerprint: str, blinded: bool = False, alone: bool = False
) -> tuple[Log, Entry]:
    """Add an entry; when this returns, the entry is on the disk.

    Parameters
    ----------
    folder : the slide's results folder, which exists.
    alone : whether the reader works apart from the others, and sees and locks nothing but their own entries.

    Raises
    ------
    ReviewError : the action cannot follow what is there, or the log cannot be written.
    """
    path = folder / LOG
    try:
        path.parent.mkdir(exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            log = read_log(folder)
            check_action(log.of(by) if alone else log.entries, action)
            entry = Entry(
                number=log.entries[-1].number + 1 if log.entries else 1,
                at_utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
                by=by,
                fingerprint=fingerprint,
                blinded=blinded,
                action=action,
            )
            new = not path.exists()
            with path.open("a+b") as file:
                if file.tell() and _last_byte(path) != b"\n":
                    # What a kill cut short stays a line of its own.
                    file.write(b"\n")
                file.write(entry.model_dump_json().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if new:
                _sync_folder(path.parent)
    except OSError as error:
        raise ReviewError(
            f"the correction cannot be written ({error})", path=path, fix="Check space and permissions"
        ) from None
    return Log((*log.entries, entry), log.notes), entry


def signature_of(folder: Path) -> str | None:
    """Say who signed a slide and when, from its results folder; None where nobody did."""
    try:
        signed = standing(read_log(folder).entries, "").signed
    except ReviewError as error:
        return f"perhaps signed: {error.what}"
    return None if signed is None else f"signed by {signed.by} on {signed.at_utc[:10]}"


def _check(entries: list[Entry], entry: Entry) -> None:
    """Check an entry that is read: what readers working apart did must hold for each of them."""
    if isinstance(entry.action, (Undo, Redo, Sign, Reopen)):
        own = [e for e in entries if e.by == entry.by] if entry.blinded else entries
        check_action(own, entry.action)


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def _sync_folder(folder: Path) -> None:
    """Flush the name of a new file to the disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
