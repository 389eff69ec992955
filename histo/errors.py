"""Errors that say what happened, to which file, and what to do about it."""

from __future__ import annotations

from pathlib import Path

# What a damaged file says of itself can be of any length.
_MAX_CHARACTERS = 4_000
_MAX_PATH = 1_000


class HistoError(Exception):
    """Base of all errors that a user can act on.

    Parameters
    ----------
    what : what happened, one sentence without a full stop at the end.
    path : the file or folder concerned, if one is.
    fix : what the user can do about it, one imperative sentence.
    """

    def __init__(self, what: str, *, path: str | Path | None = None, fix: str | None = None) -> None:
        self.what = _printable(what)
        self.path = None if path is None else Path(path)
        self.fix = fix
        super().__init__(str(self))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.path, self.fix)

    def __str__(self) -> str:
        text = self.what if self.path is None else f"{_printable(str(self.path), _MAX_PATH)}: {self.what}"
        return text if self.fix is None else f"{text}. {self.fix}"


def _printable(text: str, most: int = _MAX_CHARACTERS) -> str:
    """Cut a text that is too long, and write out what no console and no file takes: half letters, escapes."""
    if len(text) > most:
        text = f"{text[: most - 40]} ... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _rebuild(cls: type[HistoError], what: str, path: Path | None, fix: str | None) -> HistoError:
    # Exceptions pickle by positional args; ours are keyword-only.
    return cls(what, path=path, fix=fix)


class SlideError(HistoError):
    """A slide that cannot be opened or read."""


class TileReadError(SlideError):
    """A part of a slide that cannot be decoded; the rest of the slide may still be good."""


class SlideChangedError(SlideError):
    """A slide that is not the same at the end of its analysis as at the beginning."""


class NoAnswerError(SlideError):
    """A slide whose file system does not answer."""


class PixelSizeError(SlideError):
    """No pixel size, or one that is not believable. It is never guessed."""


class ChannelError(SlideError):
    """A channel that the configuration names and the slide does not have."""


class ConfigError(HistoError):
    """A configuration, manifest or command line that cannot be used."""


class AnnotationError(HistoError):
    """An annotation file that cannot be read or does not fit its slide."""


class ClassifierError(HistoError):
    """A tissue classifier that cannot be trained, read, or used on a slide."""


class DatasetError(HistoError):
    """A dataset for training or evaluation that is not laid out as published, or damaged."""


class TableError(HistoError):
    """A table of another program that cannot be read, or not be understood."""


class DeviceError(HistoError):
    """A processor that does not compute what it should."""


class DeviceLostError(DeviceError):
    """A processor that does not answer any more."""


class WeightsError(HistoError):
    """Network weights that are missing, damaged or made for something else."""


class ResultsError(HistoError):
    """A results file that cannot be written, or read back."""


class DiskError(ResultsError):
    """A disk that takes no more results: full, over a quota, or read-only. What comes after fails as well."""


class PointsError(HistoError):
    """Points, or the window round them, that a spatial statistic cannot use."""


class RegistrationError(HistoError):
    """Serial sections that cannot be laid over each other."""


class LockLostError(HistoError):
    """A results folder that this run no longer holds: what it still writes there could harm another run."""


class ClusterError(HistoError):
    """Workers that cannot be had, cannot do the work, or were lost."""


class ReviewError(HistoError):
    """A review that cannot be read or written, or a step of it that cannot be taken."""
