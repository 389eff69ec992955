"""Which slide lies next to which: from a CSV of pairs, or from a manifest's lesions and stains."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from histo.cohort.manifest import Manifest
from histo.errors import ConfigError
from histo.tables.file import some
from histo.tables.written import read_written

_SHOWN = 100
_COLUMNS = ("slide", "serial", "marker")


@dataclass(frozen=True)
class Pair:
    """A CD8 slide and the section next to it, by slide id or file name; landmarks : a CSV, where given."""

    slide: str
    serial: str
    marker: str
    landmarks: Path | None = None


def read_pairs(path: Path) -> list[Pair]:
    """Read pairs from a CSV with columns slide, serial, marker and, where wanted, landmarks (a file).

    Raises
    ------
    ConfigError : it cannot be read or does not fit; every mistake is listed, with its line.
    """
    frame = read_written(path, "the pairs")
    missing = [name for name in _COLUMNS if name not in frame.columns]
    if missing:
        raise ConfigError(
            f"the pairs have no column {', '.join(missing)}",
            path=path,
            fix="Name the columns slide, serial, marker, and landmarks where there are any",
        )
    mistakes: list[str] = []
    pairs: list[Pair] = []
    for line, record in enumerate(frame.to_dict(orient="records"), start=2):
        row = {str(key): str(value).strip() for key, value in record.items()}
        empty = [name for name in _COLUMNS if not row[name]]
        if empty:
            mistakes.append(f"line {line}: no {' and no '.join(empty)}")
            continue
        landmarks = path.parent / row["landmarks"] if row.get("landmarks") else None
        if landmarks is not None and not _is_file(landmarks):
            mistakes.append(f"line {line}: no file {row['landmarks']} beside the pairs")
        if row["slide"] == row["serial"]:
            mistakes.append(f"line {line}: slide and serial are the same")
        if any((pair.slide, pair.serial) == (row["slide"], row["serial"]) for pair in pairs):
            mistakes.append(f"line {line}: this pair is named twice")
        pairs.append(Pair(row["slide"], row["serial"], row["marker"], landmarks))
    if not pairs and not mistakes:
        mistakes.append("it names no pair")
    if mistakes:
        raise ConfigError(some(mistakes, _SHOWN), path=path, fix="Correct these lines")
    return pairs


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def pairs_of_manifest(manifest: Manifest) -> list[Pair]:
    """Pair the CD8 slide of each lesion with its other slides; the marker is what their stain says.

    The CD8 slide is the one whose stain begins with "CD8" (without regard to case).

    Raises
    ------
    ConfigError : a lesion with more than one CD8 slide, or no pair at all.
    """
    lesions: dict[tuple[str | None, str], list[tuple[str, str]]] = defaultdict(list)
    for row in manifest.rows.values():
        if row.lesion is not None and row.stain is not None:
            lesions[row.patient, row.lesion].append((row.slide, row.stain))
    pairs: list[Pair] = []
    mistakes: list[str] = []
    for (_, lesion), slides in lesions.items():
        cd8 = [slide for slide, stain in slides if stain.casefold().startswith("cd8")]
        others = [(slide, stain) for slide, stain in slides if slide not in cd8]
        if len(cd8) > 1 and others:
            mistakes.append(f"lesion {lesion} has {len(cd8)} CD8 slides ({', '.join(cd8)})")
        elif cd8:
            pairs += [Pair(cd8[0], slide, stain) for slide, stain in others]
    if mistakes:
        raise ConfigError("; ".join(mistakes), path=manifest.path, fix="Name the pairs with --pairs")
    if not pairs:
        raise ConfigError(
            "no lesion has a CD8 slide and another stain",
            path=manifest.path,
            fix="Fill the columns lesion and stain, or name the pairs with --pairs",
        )
    return pairs
