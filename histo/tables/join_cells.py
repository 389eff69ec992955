"""Cells of one or more files as one table: which are CD8+, which are tumour, where they lie."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from histo.errors import TableError
from histo.tables.categories import by_category, nothing, renamed
from histo.tables.cell_files import CellFile
from histo.tables.cells import CELL_TABLE_COLUMNS, CellTable, intensity_column
from histo.tables.classes import means, same
from histo.tables.file import listed, some
from histo.tables.layouts import Format
from histo.tables.mapping import TableMapping

# QuPath names a parent by its name, its class, or "Annotation (class)".
_PARENT: Final = re.compile(r"(?:Annotation|PathAnnotationObject) \((.+)\)")


def join_cells(
    files: Sequence[CellFile], fmt: Format, mapping: TableMapping, notes: Sequence[str] = ()
) -> CellTable:
    """Make one table of the cells of one or more files, and say what each class means.

    Raises
    ------
    TableError : an image is in two files or of two patients, files differ in unit, or nothing means CD8.
    """
    first = files[0]
    where = first.path if len(files) == 1 else first.path.parent
    _check_images(files, where)
    units = {(file.unit, file.unit_source) for file in files}
    if len(units) > 1:
        raise TableError(
            f"some files are in um, others in pixels: {sorted(units)}",
            path=where,
            fix="Give those of one unit at a time",
        )
    sizes = [len(file.x_um) for file in files]
    texts = {
        name: pd.api.types.union_categoricals(
            [file.texts.get(name, nothing(size)) for file, size in zip(files, sizes, strict=True)]
        )
        for name in ("image", "part", "patient", "cell_class", "region")
    }
    headers = {name: header for file in files for name, header in file.headers.items()}
    markers = {name: _joined([file.markers.get(name) for file in files], sizes) for name in headers}
    _check_patients(texts["image"], texts["patient"], where)
    reasons: dict[str, str] = {}
    notes = [*notes, *dict.fromkeys(note for file in files for note in file.notes)]
    some = [name for name in headers if any(name not in file.markers for file in files)]
    if some:
        notes.append(f"markers that not all files have, NA in the others: {listed(some)}")
    for name in ("part", "patient"):
        if len(texts[name].categories) == 0:
            reasons[name] = "the table does not say"
    is_cd8 = _kind("cd8", texts["cell_class"], markers, mapping, notes, reasons, where)
    is_tumour = _kind("tumour", texts["cell_class"], markers, mapping, notes, reasons, where)
    region = _regions(texts["region"], mapping, notes, reasons)
    if len(texts["cell_class"].categories) == 0:
        reasons["cell_class"] = "the table has no column of classes"
    frame = pd.DataFrame(
        {
            "image_id": texts["image"],
            "part": texts["part"],
            "patient": texts["patient"],
            "x_um": np.concatenate([file.x_um for file in files]),
            "y_um": np.concatenate([file.y_um for file in files]),
            "cell_class": texts["cell_class"],
            "is_cd8": is_cd8,
            "is_tumour": is_tumour,
            "region": region,
        }
    )
    named: dict[str, str] = {}
    for name, values in markers.items():
        _add_marker(frame, named, name, headers[name], values)
    for name in mapping.class_markers:
        by_class = [means(text, (name,), marker=True) for text in texts["cell_class"].categories]
        values = by_category(texts["cell_class"], by_class, False)
        _add_marker(frame, named, name, f"{name} in the class", values)
    measured: dict[str, str] = {}
    for name in dict.fromkeys(name for file in files for name in file.intensities):
        measured[intensity_column(name)] = next(
            file.intensity_headers[name] for file in files if name in file.intensities
        )
        frame[intensity_column(name)] = np.concatenate(
            [
                file.intensities.get(name, np.full(size, np.nan))
                for file, size in zip(files, sizes, strict=True)
            ]
        )
    return CellTable(
        frame=frame[[*CELL_TABLE_COLUMNS, *named, *measured]],
        source_format=fmt,
        unit=first.unit,
        unit_source=first.unit_source,
        mpp_um=first.mpp_um,
        sources=tuple(file.path for file in files),
        markers=named,
        intensities=measured,
        not_assessable=reasons,
        notes=tuple(notes),
    )


def _joined(parts: Sequence[Any], sizes: Sequence[int]) -> Any:
    series = [
        pd.Series(pd.NA, index=range(size), dtype="boolean") if part is None else pd.Series(part)
        for part, size in zip(parts, sizes, strict=True)
    ]
    return pd.concat(series, ignore_index=True).array


def _check_images(files: Sequence[CellFile], where: Path) -> None:
    seen: dict[str, Path] = {}
    twice = []
    for file in files:
        for image in file.texts["image"].categories:
            if image in seen:
                twice.append(f"{image!r} in {seen[image].name} and {file.path.name}")
            seen.setdefault(image, file.path)
    if twice:
        raise TableError(
            f"images that are in two files: {some(twice)}",
            path=where,
            fix="Leave one of them in the folder, or join them to one file",
        )


def _check_patients(images: pd.Categorical[str], patients: pd.Categorical[str], where: Path) -> None:
    pairs = pd.DataFrame({"image": images.codes, "patient": patients.codes}).drop_duplicates()
    shared = pairs.loc[pairs["patient"] >= 0, "image"].value_counts()
    shared = shared[shared > 1]
    if len(shared):
        names = [
            f"{images.categories[code]!r} ({n} patients)"
            for code, n in zip(shared.index.tolist(), shared, strict=True)
        ]
        raise TableError(
            f"images of more than one patient: {some(names)}",
            path=where,
            fix="Name the column that tells images of all patients apart in mapping.columns.image",
        )


def _kind(
    kind: Literal["cd8", "tumour"],
    classes: pd.Categorical[str],
    markers: Mapping[str, Any],
    mapping: TableMapping,
    notes: list[str],
    reasons: dict[str, str],
    where: Path,
) -> Any:
    """Tell which cells are CD8+, or tumour: by markers of that name, else by class."""
    names = mapping.cd8 if kind == "cd8" else mapping.tumour
    not_names = mapping.not_cd8 if kind == "cd8" else mapping.not_tumour
    column = f"is_{kind}"
    whole = [name for name in markers if same(name, names)]
    # "CD3+ CD8+" where there is no "CD8".
    used = whole or [name for name in markers if means(name, names, not_names, marker=True)]
    if used:
        notes.append(f"{column}: positive for {' or '.join(used)}")
        values = markers[used[0]]
        for name in used[1:]:
            values = values | markers[name]
        return values
    texts = list(classes.categories)
    meanings = [means(text, names, not_names, marker=kind == "cd8") for text in texts]
    by_meaning = {
        answer: [text for text, meaning in zip(texts, meanings, strict=True) if meaning is answer]
        for answer in (True, False, None)
    }
    if by_meaning[None]:
        notes.append(
            f"{column}: cannot be told of classes {listed(by_meaning[None])}, NA; "
            f"name them in mapping.{kind} or mapping.not_{kind}"
        )
    if by_meaning[True] or (kind == "cd8" and mapping.allow_no_cd8 and (texts or markers)):
        yes, no = (listed(by_meaning[answer]) or "none" for answer in (True, False))
        notes.append(f"{column}: classes {yes}; not {no}")
        n_blank = int((classes.codes < 0).sum())
        if n_blank:
            notes.append(f"{column}: {n_blank} cells without a class are taken as not")
        return by_category(classes, meanings, False)
    if kind == "cd8" and (texts or markers):
        found = [f"classes: {listed(texts)}"] if texts else []
        found += [f"markers: {listed(list(markers))}"] if markers else []
        raise TableError(
            f"no class and no marker of the table means CD8 ({'; '.join(found)})",
            path=where,
            fix="Say which do in mapping.cd8; or say allow_no_cd8: true where there is no CD8+ cell",
        )
    reasons[column] = (
        f"no class and no marker of the table means {kind}"
        if texts or markers
        else "the table has no classes and no markers"
    )
    return pd.array([pd.NA] * len(classes), dtype="boolean")


def _regions(
    texts: pd.Categorical[str], mapping: TableMapping, notes: list[str], reasons: dict[str, str]
) -> pd.Categorical[str]:
    known = {name.casefold(): region for name, region in mapping.regions.items()}
    found: dict[str, str | None] = {}
    for text in texts.categories:
        match = _PARENT.fullmatch(text.strip())
        found[text] = known.get((match[1] if match else text).strip().casefold())
    unknown = [text for text, region in found.items() if region is None]
    if unknown:
        notes.append(f"region: {listed(unknown)} are no regions of the mapping, NA")
    if len(unknown) < len(found):
        notes.append(
            "region: "
            + ", ".join(f"{text!r} is {region}" for text, region in found.items() if region is not None)
        )
    else:
        reasons["region"] = "no tissue category, parent or classifier label of the table is a known region"
    return renamed(texts, found.get)


def _add_marker(frame: pd.DataFrame, named: dict[str, str], name: str, header: str, values: Any) -> None:
    """Add a column, "cd3_neg_cd8_positive" for "CD3- CD8+"; a second one of a name gets a number."""
    words = re.sub(r"-(?=\s|$)", " neg ", name.casefold())
    plain = f"{re.sub(r'[^0-9a-z]+', '_', words).strip('_')}_positive"
    column, n = plain, 1
    while column in named:
        n += 1
        column = f"{plain}_{n}"
    named[column] = header
    frame[column] = values
