"""Counts and areas by zone, a row per slide: one schema for the tables of others and for our own results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import pandas as pd

from histo.measure.summary import ZONES, Zone

Site = Literal["primary", "metastasis"]
SITES: Final[tuple[Site, ...]] = get_args(Site)

_TEXT, _COUNT, _NUMBER = "string", "Int64", "float64"

# Every column, in order, with its pandas dtype. What is not known is NA.
ZONE_TABLE_COLUMNS: Final[dict[str, str]] = {
    "slide_id": _TEXT,  # unique
    "patient": _TEXT,
    "lesion": _TEXT,
    "site": _TEXT,  # primary, metastasis
    "stain": _TEXT,  # the marker that positive cells show
    "group": _TEXT,  # as the source calls it
    **{f"n_positive_{zone}": _COUNT for zone in ZONES},
    **{f"n_cells_{zone}": _COUNT for zone in ZONES},
    **{f"area_{zone}_mm2": _NUMBER for zone in ZONES},
    **{f"density_{zone}_per_mm2": _NUMBER for zone in ZONES},  # positive cells by area
    "not_assessable": _TEXT,  # what has no number, and why: "far: not in the table"
}


@dataclass(frozen=True)
class ZoneCount:
    """One zone of one slide. What is not known is None; `not_assessable` says why."""

    n_positive: int | None = None
    n_cells: int | None = None
    area_mm2: float | None = None
    not_assessable: str | None = None


@dataclass(frozen=True)
class ZoneSlide:
    """One slide: a patient, a lesion, a stain."""

    slide_id: str
    zones: Mapping[Zone, ZoneCount]
    patient: str | None = None
    lesion: str | None = None
    site: Site | None = None
    stain: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class ZoneTable:
    """A row per slide.

    frame : the columns of `ZONE_TABLE_COLUMNS`, see `zone_frame`.
    source_format : what was read, and `sources` from where.
    notes : what a reader of the numbers must know.

    Raises ValueError where the frame does not keep to the schema.
    """

    frame: pd.DataFrame
    source_format: str
    sources: tuple[Path, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        check_zone_frame(self.frame)


def zone_frame(slides: Iterable[ZoneSlide]) -> pd.DataFrame:
    """Return the table of some slides; a zone that a slide does not have, or without a number, is NA.

    The density is the count by the area (cells per mm2), NA where either is missing or the area is 0.
    """
    rows: list[dict[str, object]] = []
    for slide in slides:
        row: dict[str, object] = {
            "slide_id": slide.slide_id,
            "patient": slide.patient,
            "lesion": slide.lesion,
            "site": slide.site,
            "stain": slide.stain,
            "group": slide.group,
        }
        reasons = []
        for zone in ZONES:
            count = slide.zones.get(zone, ZoneCount(not_assessable="not in the table"))
            row[f"n_positive_{zone}"] = count.n_positive
            row[f"n_cells_{zone}"] = count.n_cells
            row[f"area_{zone}_mm2"] = count.area_mm2
            reason = count.not_assessable
            if count.n_positive is not None and count.area_mm2:
                row[f"density_{zone}_per_mm2"] = count.n_positive / count.area_mm2
            elif reason is None:
                reason = "no area" if not count.area_mm2 else "no count of positive cells"
            if reason is not None:
                reasons.append(f"{zone}: {reason}")
        row["not_assessable"] = "; ".join(reasons) or None
        rows.append(row)
    return pd.DataFrame(
        {
            name: pd.Series([row.get(name) for row in rows], dtype=dtype)
            for name, dtype in ZONE_TABLE_COLUMNS.items()
        }
    )


def check_zone_frame(frame: pd.DataFrame) -> None:
    """Raise ValueError unless a frame keeps to the schema of `ZONE_TABLE_COLUMNS`.

    Columns, order and dtypes; slides named, once each; known sites; no negative number; no more positive
    cells than cells; densities that are count by area.
    """
    if {name: str(dtype) for name, dtype in frame.dtypes.items()} != ZONE_TABLE_COLUMNS or list(
        frame.columns
    ) != list(ZONE_TABLE_COLUMNS):
        raise ValueError("the columns are not those of ZONE_TABLE_COLUMNS, with their dtypes and order")
    if frame["slide_id"].isna().any() or not frame["slide_id"].is_unique:
        raise ValueError("every slide_id must be given, and be there once")
    if not frame["site"].dropna().isin(SITES).all():
        raise ValueError(f"site must be one of {', '.join(SITES)} or NA")
    for zone in ZONES:
        n_positive = frame[f"n_positive_{zone}"].to_numpy(np.float64, na_value=np.nan)
        n_cells = frame[f"n_cells_{zone}"].to_numpy(np.float64, na_value=np.nan)
        area = frame[f"area_{zone}_mm2"].to_numpy()
        density = frame[f"density_{zone}_per_mm2"].to_numpy()
        # NaN compares false.
        if any((values < 0).any() for values in (n_positive, n_cells, area, density)):
            raise ValueError(f"{zone}: a number below 0")
        if (n_positive > n_cells).any():
            raise ValueError(f"{zone}: more positive cells than cells")
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = np.where(area > 0, n_positive / area, np.nan)
        if not np.allclose(density, expected, rtol=1e-9, atol=0.0, equal_nan=True):
            raise ValueError(f"{zone}: a density that is not count by area")
