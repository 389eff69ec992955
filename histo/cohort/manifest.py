"""The manifest: a CSV with a row per slide that says whose it is and where it was taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from histo.errors import ConfigError
from histo.slide.pixel_size import MAX_MPP, MIN_MPP, believable
from histo.tables.file import listed, some
from histo.tables.written import read_written
from histo.tables.zones import SITES

# Histopathological growth pattern, and its usual one-letter forms.
GROWTH_PATTERNS = ("desmoplastic", "replacement", "pushing", "mixed")
_GROWTH_PATTERN_LETTERS = {name[0]: name for name in GROWTH_PATTERNS}
_SHOWN = 100
_KNOWN = ("slide", "path", "patient", "lesion", "site", "stain", "mpp_um", "growth_pattern", "treatment")


@dataclass(frozen=True)
class ManifestRow:
    """One slide. Empty cells of the CSV are None; columns of the user's own are kept in `covariates`."""

    slide: str
    path: str | None
    patient: str | None
    lesion: str | None
    site: str | None
    stain: str | None
    mpp_um: float | None
    growth_pattern: str | None
    treatment: str | None
    covariates: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """Rows by the name of the slide's file, with or without its extension."""

    path: Path
    rows: Mapping[str, ManifestRow]

    def row_for(self, slide: Path) -> ManifestRow | None:
        """Return the row of a slide, or None where the manifest does not name it."""
        return self.rows.get(slide.name) or self.rows.get(slide.stem)

    @property
    def slides(self) -> list[str]:
        """Paths and addresses of the slides, as far as the manifest tells them."""
        return [row.path for row in self.rows.values() if row.path is not None]

    @property
    def names_sites(self) -> bool:
        """Whether any slide has a site: whether there is anything to compare."""
        return any(row.site is not None for row in self.rows.values())

    def unused(self, slides: Sequence[Path]) -> list[str]:
        """Return the names that fit none of the slides; not those of a stain that none of the slides has.

        Slides of another stain are analysed in a run of their own.
        """
        names = {name for slide in slides for name in (slide.name, slide.stem)}
        stains = {row.stain for name, row in self.rows.items() if name in names}
        return [
            name
            for name, row in self.rows.items()
            if name not in names and (row.stain in stains or not stains)
        ]


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    The CSV (comma or semicolon, UTF-8) has a column `slide` (file name), and optionally `path` (of the file,
    from the manifest's folder, or its address in a store), `patient`, `lesion`, `site` (primary or
    metastasis), `stain`, `mpp_um`, `growth_pattern` (desmoplastic, replacement, pushing or mixed, or their
    first letter), `treatment`, and any others: covariates.

    Raises
    ------
    ConfigError : the file cannot be read, or does not fit; every mistake is listed, with its line.
    """
    frame = read_written(path, "the manifest")
    if "slide" not in frame.columns:
        raise ConfigError(
            f"the manifest has no column 'slide' (columns: {listed(list(frame.columns))})",
            path=path,
            fix="Name the column that holds the slides' file names 'slide'",
        )
    mistakes: list[str] = []
    rows: dict[str, ManifestRow] = {}
    # (patient, lesion): its site
    sites: dict[tuple[str | None, str], str] = {}
    records: list[dict[str, str]] = [
        {str(key): str(value).strip() for key, value in record.items()}
        for record in frame.to_dict(orient="records")
    ]
    for line, record in enumerate(records, start=2):
        slide = record["slide"]
        if not slide:
            mistakes.append(f"line {line}: no slide name")
            continue
        if slide in rows:
            mistakes.append(f"line {line}: slide {slide!r} is named twice")
            continue
        rows[slide] = ManifestRow(
            slide=slide,
            path=_path(record.get("path", ""), slide, path.parent, line, mistakes),
            patient=record.get("patient") or None,
            lesion=record.get("lesion") or None,
            site=_one_of("site", record, SITES, {}, line, mistakes),
            stain=record.get("stain") or None,
            mpp_um=_pixel_size(record.get("mpp_um", ""), line, mistakes),
            growth_pattern=_one_of(
                "growth_pattern", record, GROWTH_PATTERNS, _GROWTH_PATTERN_LETTERS, line, mistakes
            ),
            treatment=record.get("treatment") or None,
            covariates={key: value for key, value in record.items() if key not in _KNOWN and value},
        )
        row = rows[slide]
        if row.lesion is not None and row.site is not None:
            before = sites.setdefault((row.patient, row.lesion), row.site)
            if before != row.site:
                mistakes.append(f"line {line}: lesion {row.lesion!r} is {row.site}, before it was {before}")
    if mistakes:
        raise ConfigError(some(mistakes, _SHOWN), path=path, fix="Correct these lines of the manifest")
    return Manifest(path=path, rows=rows)


def _one_of(
    column: str,
    record: Mapping[str, str],
    known: Sequence[str],
    short: Mapping[str, str],
    line: int,
    mistakes: list[str],
) -> str | None:
    text = record.get(column, "").lower()
    value = short.get(text, text)
    if value and value not in known:
        mistakes.append(f"line {line}: {column} {text!r} is not one of {', '.join(known)}")
    return value or None


def _path(text: str, slide: str, folder: Path, line: int, mistakes: list[str]) -> str | None:
    if not text:
        return None
    is_address = "://" in text
    name = Path(text.partition("?")[0] if is_address else text).name
    if slide not in (name, Path(name).stem):
        mistakes.append(f"line {line}: the path is that of {name!r}, not of {slide!r}")
    return text if is_address else str(folder / text)


def _pixel_size(text: str, line: int, mistakes: list[str]) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        mistakes.append(f"line {line}: mpp_um {text!r} is not a number")
        return None
    if not believable(value):
        mistakes.append(f"line {line}: mpp_um {text} is outside {MIN_MPP:g} to {MAX_MPP:g} um")
    return value
