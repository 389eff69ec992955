"""Corrected GeoJSON, as it comes back from QuPath, to a results folder with the numbers made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import shapely
from rich.console import Console
from shapely.geometry import MultiPolygon

from histo.cells.table import CELL_CLASSES
from histo.config import Config, RegionName
from histo.errors import AnnotationError, ConfigError
from histo.measure.summary import Flag, SlideSummary
from histo.regions.annotations import Annotations, annotations_in, unpacked
from histo.regions.geojson import read_geojson
from histo.regions.shapes import Drawing
from histo.results.atomic import write_text
from histo.results.corrections import correct_cells, read_cell_corrections
from histo.results.regions_parquet import REGIONS_GEOJSON
from histo.results.slides_table import SlideRow, path_text, read_slides_table, write_slides_table
from histo.results.stored import slide_files, stored_config, stored_summaries
from histo.review.log import LOG
from histo.run.describe import agreement_flags
from histo.run.remeasure import SlideParts, load_parts, mpp_of, remeasure, write_remeasured
from histo.run.reviewed import Reviewed, read_review, with_drawn

_MAX_BYTES: Final = 1 << 30
# An outline that came back has moved where it differs by more than twice this: less is rounding.
_SAME_PX: Final = 0.03
_CORRECTED: Final = "corrected"
# Flags that speak of regions, and of calls: told again where those are others.
_OF_REGIONS: Final = ("classified_regions", "tumour_channel", "unmapped_annotations", "annotation_note")
_OF_CALLS: Final = "cd8_calls_disagree"


def remeasure_folder(
    results: Path,
    out: Path,
    *,
    cells: Path | None = None,
    regions: Path | None = None,
    review: bool = False,
    console: Console | None = None,
) -> list[SlideSummary]:
    """Make the numbers of a results folder again from corrected cells and regions, into a folder of its own.

    `out` becomes a results folder like that of `infer`; slides without corrections are in it as they were.

    Parameters
    ----------
    results : folder of `infer`; it is not changed.
    cells, regions : GeoJSON as QuPath exports it, or a folder of such files, named like the slides' results
        folders or the slides. A file of cells holds all cells of its slide, a file of regions all regions.
        One file may hold both.
    review : whether what was corrected in `histo review` counts. A file of cells, or of regions, of a slide
        takes the place of what the review says of them.

    Raises
    ------
    HistoError : a file cannot be read, fits no slide, or does not fit its slide.
    """
    console = console or Console(stderr=True)
    config = stored_config(results)
    table = read_slides_table(results)
    _check_out(results, out)
    summaries = {summary.slide_id: summary for summary in stored_summaries(results)}
    of_cells, of_regions = slide_files(cells, summaries), slide_files(regions, summaries)
    out.mkdir(parents=True, exist_ok=True)
    again: dict[str, SlideSummary] = {}
    for name, before in summaries.items():
        log = read_review(results / name, before.fingerprint) if review else Reviewed()
        after, told = _one_slide(
            results / name, out / name, config, of_cells.get(name), of_regions.get(name), log
        )
        again[name] = after
        console.print(
            f"  {name}: {told}; CD8+ cells {before.n_cd8} -> {after.n_cd8}", highlight=False, soft_wrap=True
        )
    rows = []
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        name, known = str(row["slide_id"]), {key: row[key] for key in ("site", "patient")}
        if name in again:
            rows.append(SlideRow.from_summary(again[name], **known))
        else:
            rows.append(SlideRow.failed(name, row["path"], row["error"], **known))
    write_slides_table(out, rows)
    record = json.loads((results / "run.json").read_bytes())
    record["remeasured"] = {
        "results": path_text(results.resolve()),
        "cells": {name: path_text(path) for name, path in of_cells.items()},
        "regions": {name: path_text(path) for name, path in of_regions.items()},
        "review": review,
    }
    write_text(out / "run.json", json.dumps(record, indent=2))
    return list(again.values())


def corrected_regions(
    path: Path, folder: Path, parts: SlideParts, config: Config
) -> tuple[Annotations, list[str]]:
    """Read regions that were corrected in QuPath, and say which differ from those that went out.

    A region that came back as it went out is the one that was measured, to the last digit; the file itself is
    rounded.

    Parameters
    ----------
    path : GeoJSON, also gzipped, with all regions of the slide. folder : of the slide's results.

    Raises
    ------
    AnnotationError : it cannot be read, holds no region, or does not fit the slide.
    """
    now = _regions_in(path, parts.summary, config)
    shown = _regions_in(folder / REGIONS_GEOJSON, parts.summary, config)
    exact = {} if parts.annotations is None else parts.annotations.polygons_um
    was = {} if shown is None else shown.polygons_um
    if now is None:
        raise AnnotationError(
            "no region in it", path=path, fix="Export the annotations of this slide again as GeoJSON"
        )
    reach_um = _SAME_PX * min(mpp_of(parts.summary))
    kept = {
        name
        for name, area in now.polygons_um.items()
        if name in was and name in exact and _is_same(was[name], area, reach_um)
    }
    changed = sorted((set(now.polygons_um) | set(was)) - kept)
    polygons = {name: exact[name] if name in kept else area for name, area in now.polygons_um.items()}
    return replace(now, polygons_um=polygons), list(changed)


def _one_slide(
    source: Path, folder: Path, config: Config, cells: Path | None, regions: Path | None, review: Reviewed
) -> tuple[SlideSummary, str]:
    """Make one slide's results again; return its summary, and what was corrected in words."""
    before = load_parts(source)
    corrections = review.cells
    annotations, changed = with_drawn(before.annotations, review, source)
    told = []
    if cells is None and corrections:
        told.append(f"cells, in the review: {corrections}")
    if regions is None and changed:
        told.append(f"regions, in the review: {', '.join(changed)} changed")
    if review.stale:
        told.append(f"{review.stale} corrections of cells of an earlier result left out")
    if cells is not None:
        image = before.summary.image
        corrections = read_cell_corrections(
            cells,
            before.cells,
            slide_id=before.summary.slide_id,
            mpp=mpp_of(before.summary),
            size_px=(image.width_px, image.height_px),
        )
        told.append(f"cells: {corrections}")
    if regions is not None:
        found, changed = corrected_regions(regions, source, before, config)
        told.append(f"regions: {', '.join(changed) or 'none'} changed")
        annotations = found if changed else before.annotations
    parts = replace(before, annotations=annotations)
    if corrections:
        parts = replace(parts, cells=correct_cells(before.cells, corrections))
    after = remeasure(parts, config)
    if corrections or changed:
        files = [cells, regions, *([source / LOG] if review != Reviewed() else [])]
        after = replace(after, summary=_told(after.summary, parts, changed, told, files))
    write_remeasured(before, annotations, after, source, folder, config)
    return after.summary, "; ".join(told) or "not corrected"


def _told(
    summary: SlideSummary,
    parts: SlideParts,
    changed: Sequence[str],
    told: Sequence[str],
    files: Sequence[Path | None],
) -> SlideSummary:
    """Say in a summary that it is of corrected results, and give it a fingerprint of its own."""
    gone = {_OF_CALLS, *(_OF_REGIONS if changed else ())}
    flags = [(flag.code, flag.message) for flag in summary.flags if flag.code not in gone]
    if summary.panel is not None:
        flags += agreement_flags(summary.panel.cd8_agreement)
    if changed and parts.annotations is not None:
        flags += [("annotation_note", note) for note in parts.annotations.notes]
    flags.append((_CORRECTED, f"corrected by hand: {'; '.join(told)}"))
    digest = hashlib.sha256(summary.fingerprint.encode())
    for path in files:
        digest.update(b"\0" if path is None else path.read_bytes())
    update: dict[str, Any] = {
        "flags": [Flag(code=code, message=message) for code, message in flags],
        "fingerprint": digest.hexdigest(),
    }
    if changed and parts.annotations is not None:
        update["annotations"] = path_text(parts.annotations.source)
    return summary.model_copy(update=update)


def _regions_in(path: Path, summary: SlideSummary, config: Config) -> Annotations | None:
    """Return the regions of a GeoJSON file, without the cells in it; None where it holds none."""
    fix = "Export the annotations of this slide again as GeoJSON"
    text = unpacked(path, _MAX_BYTES, too_much="Export the regions without the cells in them")
    try:
        drawing = read_geojson(text)
    except (ValueError, OverflowError, shapely.errors.ShapelyError) as error:
        raise AnnotationError(f"not GeoJSON of regions ({error})", path=path, fix=fix) from None
    cells = {name.casefold() for name in CELL_CLASSES}
    shapes = tuple(s for s in drawing.shapes if not s.names or s.names[0].strip().casefold() not in cells)
    if not shapes:
        return None
    image = summary.image
    return annotations_in(
        # Borders are ours, points and detections are cells.
        Drawing(shapes, {}),
        path,
        {**{name: name for name in get_args(RegionName)}, **config.regions.names},
        size_px=(image.width_px, image.height_px),
        mpp=mpp_of(summary),
        slide_name=summary.slide_id,
    )


def _is_same(before: MultiPolygon, after: MultiPolygon, reach_um: float) -> bool:
    """Tell whether two areas differ nowhere by more than slivers of twice `reach_um`."""
    return bool(shapely.symmetric_difference(before, after).buffer(-reach_um).is_empty)


def _check_out(results: Path, out: Path) -> None:
    """Refuse to write into results that are not a correction."""
    if out.resolve() == results.resolve():
        raise ConfigError(
            "corrected results go into a folder of their own", path=out, fix="Name another --out"
        )
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        earlier = "remeasured" in json.loads((out / "run.json").read_bytes())
    except (OSError, ValueError):
        earlier = False
    if not earlier:
        raise ConfigError("the folder is not empty", path=out, fix="Name another --out")
