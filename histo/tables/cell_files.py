"""Tables of cells of other programs, read by their layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from histo.errors import PixelSizeError, TableError
from histo.tables.categories import by_category, categorical, from_codes, renamed
from histo.tables.cells import Unit, UnitSource
from histo.tables.file import TableFile, listed, read_columns, stem
from histo.tables.layouts import Format, Layout, layout_of
from histo.tables.mapping import TableMapping

# QuPath: what is no cell, by object type, and by name in older exports.
_NOT_CELLS: Final = (
    "annotation",
    "tile",
    "tma core",
    "root object",
    "pathannotationobject",
    "pathtileobject",
    "tmacoreobject",
    "pathrootobject",
)
_YES: Final = ("1", "1.0", "true", "t", "yes", "y", "positive", "pos", "+")
_NO: Final = ("0", "0.0", "false", "f", "no", "n", "negative", "neg", "-")
# A cell fills about pi/4 of its box. Beyond these shares, areas and pixel size cannot both be right.
_CELL_BY_BOX: Final = (0.25, 1.2)
_SHOWN: Final = 5


@dataclass(frozen=True)
class CellFile:
    """The cells of one file. Texts are dictionary-encoded, by our names; markers are nullable booleans.

    intensities : by marker, NaN where there is none. headers, intensity_headers : what they are called there.
    unit, unit_source, mpp_um : as in `CellTable`.
    """

    path: Path
    x_um: NDArray[np.float64]
    y_um: NDArray[np.float64]
    texts: Mapping[str, pd.Categorical[str]]
    markers: Mapping[str, Any]
    headers: Mapping[str, str]
    intensities: Mapping[str, NDArray[np.float64]]
    intensity_headers: Mapping[str, str]
    unit: Unit
    unit_source: UnitSource
    mpp_um: float | None
    notes: tuple[str, ...]


def read_cell_file(table: TableFile, fmt: Format, mapping: TableMapping, mpp: float | None) -> CellFile:
    """Read the cells of one file.

    Raises
    ------
    PixelSizeError : positions are in pixels and there is no pixel size, or it cannot be right.
    TableError : columns are missing, a value is no number or no yes or no, or a cell has no position.
    """
    layout = layout_of(table, fmt, mapping.columns)
    unit, unit_source = _unit(table, layout, mapping, mpp)
    columns = _read(table, layout, mapping.decimal)
    notes: list[str] = []
    kept = _cells_among(columns, layout)
    if len(kept) < len(columns):
        notes.append(f"{len(columns) - len(kept)} rows are annotations and the like, not cells: left out")
        columns = columns.take(pa.array(kept))
    if len(columns) == 0:
        raise TableError(
            "the table has no cells", path=table.path, fix="Export the cells, not the annotations"
        )
    if mpp is not None and unit == "um":
        notes.append("positions are in um, as the table says: the given pixel size was not needed")
        mpp = None
    scale = mpp or 1.0
    x, y = (_centre(columns, names) * scale for names in (layout.x, layout.y))
    lost = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y)))
    if len(lost):
        rows = ", ".join(str(row + 1) for row in kept[lost[:_SHOWN]])
        rows += " ..." if len(lost) > _SHOWN else ""
        raise TableError(
            f"{len(lost)} of {len(x)} cells have no position (rows {rows})",
            path=table.path,
            fix="Take these rows out, or export the table again",
        )
    if layout.cell_area_um2 is not None and mpp is not None:
        _check_pixel_size(table, columns, layout, mpp)
    texts = {
        ours: categorical(columns.column(theirs))
        for ours in ("image", "part", "patient", "cell_class", "region")
        if (theirs := getattr(layout, ours)) is not None
    }
    if "image" in texts:
        texts["image"] = _without_folders(texts["image"])
        if texts["image"].isna().any():
            raise TableError(
                f"some cells have no image in column {layout.image!r}",
                path=table.path,
                fix="Fill it, or name another with mapping.columns.image",
            )
    else:
        name = stem(table.path)
        texts["image"] = from_codes(np.zeros(len(x), np.int8), [name])
        notes.append("no column of images: all cells are of one image, named after the file")
    markers = {
        name: _yes_no(categorical(columns.column(header)), name, header, table.path)
        for name, header in layout.markers.items()
    }
    for header, limit in layout.positive_above.items():
        values = columns.column(header).to_numpy()
        markers[header] = pd.array(values > limit, dtype="boolean")
        markers[header][np.isnan(values)] = pd.NA
    return CellFile(
        path=table.path,
        x_um=x,
        y_um=y,
        texts=texts,
        markers=markers,
        headers={
            **layout.markers,
            **{name: f"{name} > {at:g}" for name, at in layout.positive_above.items()},
        },
        intensities={name: columns.column(header).to_numpy() for name, header in layout.intensities.items()},
        intensity_headers=layout.intensities,
        unit=unit,
        unit_source=unit_source,
        mpp_um=mpp,
        notes=tuple(notes),
    )


def _unit(
    table: TableFile, layout: Layout, mapping: TableMapping, mpp: float | None
) -> tuple[Unit, UnitSource]:
    """Return the unit of positions and who says so: header, mapping, or that there is a pixel size."""
    unit = layout.unit
    source: UnitSource = "header"
    if unit is None and mapping.unit is not None:
        unit, source = mapping.unit, "mapping"
    elif unit is None and mpp is not None:
        unit, source = "px", "mpp"
    give = "Give the pixel size in um with mpp (on the command line: --mpp)"
    if unit is None:
        raise PixelSizeError(
            f"the table does not say in what unit its positions ({listed((*layout.x, *layout.y))}) are",
            path=table.path,
            fix=f"{give}, or say unit: um in the mapping",
        )
    if unit == "px" and mpp is None:
        raise PixelSizeError(
            "positions are in pixels and the table has no pixel size", path=table.path, fix=give
        )
    return unit, source


def _read(table: TableFile, layout: Layout, decimal: str) -> pa.Table:
    texts = [layout.image, layout.part, layout.patient, layout.cell_class, layout.region, layout.object_type]
    area = [] if layout.cell_area_um2 is None else [layout.cell_area_um2]
    return read_columns(
        table,
        numbers=list(
            dict.fromkeys((*layout.x, *layout.y, *area, *layout.positive_above, *layout.intensities.values()))
        ),
        texts=list(dict.fromkeys((*(name for name in texts if name is not None), *layout.markers.values()))),
        decimal=decimal,
    )


def _cells_among(columns: pa.Table, layout: Layout) -> NDArray[np.int64]:
    """Return the rows that are cells."""
    if layout.object_type is None:
        return np.arange(len(columns))
    types = categorical(columns.column(layout.object_type))
    cells = [text.casefold() not in _NOT_CELLS for text in types.categories]
    return np.flatnonzero(by_category(types, cells, True))


def _without_folders(images: pd.Categorical[str]) -> pd.Categorical[str]:
    """Return images by file name, by their whole path where two would have the same."""
    short = renamed(images, lambda name: PureWindowsPath(name).name)
    return short if len(short.categories) == len(images.categories) else images


def _centre(columns: pa.Table, names: tuple[str, ...]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean([columns.column(name).to_numpy() for name in names], axis=0)
    return mean


def _check_pixel_size(table: TableFile, columns: pa.Table, layout: Layout, mpp: float) -> None:
    """Compare the areas that the table states in um2 with the boxes of its cells."""
    width, height = (
        np.diff([columns.column(name).to_numpy() for name in names], axis=0)[0]
        for names in (layout.x, layout.y)
    )
    area = columns.column(layout.cell_area_um2).to_numpy()
    good = (width > 0) & (height > 0) & (area > 0)
    if not good.any():
        return
    share = float(np.median(area[good] / (width[good] * height[good] * mpp**2)))
    if not _CELL_BY_BOX[0] <= share <= _CELL_BY_BOX[1]:
        raise PixelSizeError(
            f"at {mpp:g} um per pixel the median cell would fill {share:.0%} of its bounding box",
            path=table.path,
            fix="Give the pixel size at which the image was analysed",
        )


def _yes_no(values: pd.Categorical[str], name: str, header: str, path: Path) -> Any:
    """Read a column that says whether cells are positive: 1 and 0, true and false, "CD8+" and "CD8-" ..."""
    meanings: list[bool | None] = []
    strange = []
    for text in values.categories:
        plain = text.strip().casefold()
        sign = plain[-1:] if plain[:-1].strip() else plain
        if plain in _YES or sign == "+":
            meanings.append(True)
        elif plain in _NO or sign == "-":
            meanings.append(False)
        else:
            strange.append(text)
    if strange:
        raise TableError(
            f"column {header!r} should say for each cell whether it is positive for {name}, but holds "
            f"{listed(strange, 8)}",
            path=path,
            fix="Name another column, or give the value above which cells are positive in "
            "mapping.columns.positive_above",
        )
    return by_category(values, meanings, None)
