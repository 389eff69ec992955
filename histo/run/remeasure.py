"""Numbers made again from corrected cells and regions: no network, and no pixel, is needed for them."""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import shapely

from histo.cells.table import CD8, cell_columns, cell_frame, markers_of
from histo.config import Config
from histo.errors import HistoError
from histo.measure.cd8_agreement import RingIntensities
from histo.measure.density_map import DensityMap
from histo.measure.points import PointCollector
from histo.measure.slide import measure_slide
from histo.measure.summary import SlideSummary
from histo.measure.tally import Tally
from histo.regions.annotations import Annotations
from histo.regions.place import Regions, place_cells, place_regions
from histo.results.atomic import write_text
from histo.results.cells_parquet import GEOMETRY, CellParquetWriter, read_cells
from histo.results.geojson import CellGeoJsonWriter
from histo.results.maps import MAPS
from histo.results.overlay import Overlay
from histo.results.regions_parquet import REGIONS_FILE, read_regions, write_regions
from histo.results.report import write_report
from histo.results.stored import stored_summary
from histo.results.stored_maps import Ground, read_ground, read_overview, rewrite_labels, rewrite_maps
from histo.slide.open import open_slide

log = logging.getLogger("histo")


@dataclass(frozen=True, eq=False)
class SlideParts:
    """A slide's results, as far as numbers are made of them.

    cells : the cell table with "geometry", outlines in um. annotations : None where there are none.
    """

    summary: SlideSummary
    cells: pd.DataFrame
    annotations: Annotations | None
    ground: Ground


@dataclass(frozen=True, eq=False)
class Remeasured:
    """Numbers made again: the summary, the cells in their new places, and the regions they lie in."""

    summary: SlideSummary
    cells: pd.DataFrame
    regions: Regions


def load_parts(folder: Path) -> SlideParts:
    """Read the results of one slide.

    Raises
    ------
    ResultsError : a file is missing, damaged or of an earlier version.
    """
    summary = stored_summary(folder)
    cells = read_cells(folder / "cells.parquet")
    cells[GEOMETRY] = read_cells(folder / "cells.parquet", [GEOMETRY])[GEOMETRY]
    return SlideParts(
        summary, cells, read_regions(folder / REGIONS_FILE), read_ground(folder / MAPS, _size_um(summary))
    )


def remeasure(parts: SlideParts, config: Config) -> Remeasured:
    """Count cells in regions, as the analysis of a slide does: the same cells and regions, the same numbers.

    Parameters
    ----------
    parts : the slide's results, with cells (`correct_cells`) and regions as they are to be counted. What the
        summary says of image, stain and artefacts stays.
    config : that of the results. With `measure.spatial` off it takes a fraction of the time.
    """
    summary, ground = parts.summary, parts.ground
    regions = place_regions(
        parts.annotations,
        tissue=ground.tissue,
        assessed=ground.assessed,
        coverage=ground.coverage,
        mpp=ground.mpp,
        config=config.regions,
    )
    cells = _placed(parts.cells, regions, summary)
    regions = regions.without(ground.unread)
    tally, points, rings = Tally(config.regions.profile_bin_um), PointCollector(), RingIntensities()
    tally.add(cells)
    points.add(cells)
    measures = measure_slide(
        tally,
        points.points(),
        regions,
        tissue_area_mm2=summary.tissue.tissue_area_mm2,
        config=config.measure,
    )
    panel = summary.panel
    if panel is not None:
        rings.add(cells)
        agreement = rings.agreement(unit=summary.stain.unit, level=config.measure.confidence_level)
        panel = panel.model_copy(update={"cd8_agreement": agreement})
    excluded = summary.tissue.excluded_area_mm2 | dict(regions.excluded_area_mm2)
    tissue = summary.tissue.model_copy(
        update={"assessed_area_mm2": regions.assessed_area_mm2, "excluded_area_mm2": excluded}
    )
    again = summary.model_copy(update={"tissue": tissue, "panel": panel, **vars(measures)})
    return Remeasured(again, cells, regions)


def write_remeasured(
    before: SlideParts,
    annotations: Annotations | None,
    after: Remeasured,
    source: Path,
    folder: Path,
    config: Config,
) -> None:
    """Write corrected results of a slide: all files that `infer` writes.

    Parameters
    ----------
    before : what was corrected. annotations : the regions that `after` was made with.
    source : folder of `before`. folder : made, or replaced.

    Raises
    ------
    ResultsError : a file cannot be read or written.
    """
    summary, regions, cells = after.summary, after.regions, after.cells
    mpp = mpp_of(summary)
    markers = markers_of(cells.columns)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        table, outlines = cells.drop(columns=GEOMETRY), cells[GEOMETRY].to_numpy(object)
        with CellParquetWriter(part / "cells.parquet", markers) as parquet:
            parquet.write(table, outlines)
        if config.results.geojson:
            with CellGeoJsonWriter(part / "cells.geojson.gz", mpp, summary.slide_id, markers) as geojson:
                geojson.write(table, outlines)
        write_regions(part, annotations, regions, mpp)
        shutil.copytree(source / MAPS, part / MAPS)
        _correct_maps(part / MAPS, before, after, config)
        picture = _draw_overlay(part / "overlay.png", source / MAPS, after, config)
        write_report(
            part / "report.html", summary, overlay=picture, confidence_level=config.measure.confidence_level
        )
        left_out = {"panel"} if summary.panel is None else None
        write_text(part / "summary.json", summary.model_dump_json(indent=2, exclude=left_out))
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _placed(cells: pd.DataFrame, regions: Regions, summary: SlideSummary) -> pd.DataFrame:
    """Return the cell table with the place of each cell, and its geometry."""
    x_um, y_um = cells["x_um"].to_numpy(np.float64), cells["y_um"].to_numpy(np.float64)
    place = place_cells(regions, x_um, y_um)
    mpp_x, mpp_y = mpp_of(summary)
    columns = {name: cells[name].to_numpy() for name in cells.columns if name != GEOMETRY}
    columns |= vars(place) | {"x_px": x_um / mpp_x, "y_px": y_um / mpp_y}
    return cell_frame(columns, cell_columns(markers_of(cells.columns))).assign(
        **{GEOMETRY: cells[GEOMETRY].to_numpy(object)}
    )


def _correct_maps(path: Path, before: SlideParts, after: Remeasured, config: Config) -> None:
    regions, cells, ground = after.regions, after.cells, before.ground
    density = DensityMap(_size_um(after.summary), config.results.density_map_um)
    counted = cells[(cells["cell_class"] == CD8) & cells["in_tissue"]]
    density.add(counted["x_um"].to_numpy(), counted["y_um"].to_numpy())
    area = density.area_on(ground.coverage * regions.assessed, ground.mpp)
    rewrite_maps(
        path,
        {
            "labels/regions": regions.region_map,
            "labels/zones": regions.zone_map,
            "distance": regions.signed_distance_um,
            "density": density.per_mm2(area),
        },
    )
    if not (path / "labels" / "cells").is_dir():
        return
    was, now = (frame.set_index("cell_id")[GEOMETRY] for frame in (before.cells, cells))
    both = was.index.intersection(now.index)
    stays = both[shapely.equals_identical(was[both].to_numpy(object), now[both].to_numpy(object))]
    gone, drawn = was.drop(stays), now.drop(stays)
    rewrite_labels(path, dict(zip(gone.index, gone, strict=True)), dict(zip(drawn.index, drawn, strict=True)))


def _draw_overlay(path: Path, maps: Path, after: Remeasured, config: Config) -> Path | None:
    """Draw the overlay, where the slide is still there; return the file."""
    image, regions = after.summary.image, after.regions
    mpp = None if image.mpp_source == "metadata" else image.mpp_x_um
    try:
        with open_slide(Path(after.summary.path), mpp=mpp) as slide:
            overlay = Overlay(
                slide,
                max_px=config.results.overlay_max_px,
                mpp=regions.mpp,
                assessed=regions.assessed,
                tumour=regions.tumour,
                border=regions.border,
                zones=regions.zone_map if regions.border is not None else None,
                overview=read_overview(maps),
                stains=after.summary.stain.channels,
            )
    except HistoError as error:
        log.warning("%s: no overlay is drawn (%s)", after.summary.slide_id, error)
        return None
    overlay.add(after.cells, after.cells[GEOMETRY].to_numpy(object))
    overlay.save(path)
    return path


def mpp_of(summary: SlideSummary) -> tuple[float, float]:
    """Return the level-0 pixel size (x, y) of a slide in um."""
    return summary.image.mpp_x_um, summary.image.mpp_y_um


def _size_um(summary: SlideSummary) -> tuple[float, float]:
    image = summary.image
    return image.width_px * image.mpp_x_um, image.height_px * image.mpp_y_um
