"""One slide, from file to results folder. Everything that grows with the slide is streamed."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import ndimage

from histo import __version__
from histo.cells.build import Detector
from histo.cells.table import CD8, cell_columns, cell_frame, markers_of
from histo.config import Config, FluorescenceStain
from histo.errors import SlideChangedError, TileReadError
from histo.measure.cd8_agreement import RingIntensities
from histo.measure.density_map import DensityMap
from histo.measure.points import PointCollector
from histo.measure.slide import measure_slide
from histo.measure.summary import SlideSummary, TileFailure, TissueSummary
from histo.measure.tally import Tally
from histo.regions.annotations import find_annotations, read_annotations
from histo.regions.classifier import TissueClassifier
from histo.regions.find import find_regions, load_configured
from histo.regions.place import Regions, place_cells, place_regions
from histo.regions.raster import pixels_under
from histo.results.atomic import write_text
from histo.results.cells_parquet import CellParquetWriter
from histo.results.geojson import CellGeoJsonWriter
from histo.results.maps import MapsWriter
from histo.results.overlay import Overlay
from histo.results.regions_parquet import write_regions
from histo.results.report import write_report
from histo.results.slides_table import path_text
from histo.run.describe import (
    flags_of,
    image_summary,
    panel_summary,
    stain_channels,
    stain_summary,
    tile_failure,
)
from histo.run.detect import TileProgress, detect_tiles
from histo.run.fingerprint import SlideContent, slide_content, slide_fingerprint, unchanged
from histo.run.journal import TileJournal, remove_journals
from histo.run.remote import RemoteSlide
from histo.slide import Box, Slide, open_slide
from histo.slide.patience import answer
from histo.slide.survey import survey_slide
from histo.slide.tiles import plan_tiles
from histo.slide.tissue import detect_tissue
from histo.stain.panel import fit_panel, panel_channels
from histo.stain.space import fit_stain

log = logging.getLogger("histo")

_SUMMARY = "summary.json"
_PART = ".part"


@dataclass(frozen=True)
class SlideJob:
    """One slide to do: where it is, what is known of it, where its results go.

    Of a `remote` slide, `path` is that of its copy, or of nothing before there is one.
    """

    path: Path
    slide_id: str
    folder: Path
    annotations_folder: Path | None = None
    mpp_flag: float | None = None
    mpp_manifest: float | None = None
    remote: RemoteSlide | None = None

    @property
    def version(self) -> str | None:
        """Return what the store of a remote slide says of its content; None where it says too little."""
        return None if self.remote is None else self.remote.version

    def tell(self, text: str | Path) -> str:
        """Return a path, or a text that may name one, as it is told: a remote slide by its address."""
        return str(text) if self.remote is None else self.remote.tell(text, self.path)


def analyse_slide(
    job: SlideJob, config: Config, detector: Detector, progress: TileProgress | None = None
) -> tuple[SlideSummary, bool]:
    """Analyse one slide into its results folder, or keep what is there where it is still valid.

    Parameters
    ----------
    progress : called with (tiles done, tiles in all).

    Returns
    -------
    The summary, and whether it was kept from an earlier run.

    Raises
    ------
    HistoError : the slide, its pixel size, its channels or its annotations cannot be used.
    """
    timeout_s = config.run.read_timeout_s
    kept = read_summary(job.folder)
    if kept is not None and _is_known_finished(job, config, detector, kept):
        return kept, True
    annotations_path, content = answer(partial(_look_at, job), timeout_s, job.path)
    classifier = load_configured(config)
    slide_is = job.version or content.sha256
    fingerprint = _fingerprint(job, config, detector, slide_is, annotations_path, classifier)
    if kept is not None and kept.fingerprint == fingerprint:
        return kept, True
    with open_slide(job.path, mpp=job.mpp_flag, manifest_mpp=job.mpp_manifest, timeout_s=timeout_s) as slide:
        # Beside the finished files, not in their place: an earlier result stays whole until this one is.
        job.folder.mkdir(parents=True, exist_ok=True)
        for left in job.folder.glob(f"{_PART}*"):
            shutil.rmtree(left, ignore_errors=True)
        # A worker that was given up as lost may still write to its own.
        part = Path(tempfile.mkdtemp(prefix=f"{_PART}-", dir=job.folder))
        try:
            with unchanged(job.path, content, timeout_s):
                summary = _analyse(
                    slide, job, part, config, detector, annotations_path, classifier, fingerprint, progress
                )
        except BaseException as error:
            shutil.rmtree(part, ignore_errors=True)
            if isinstance(error, SlideChangedError):
                # The tiles that are done are not all of one slide.
                remove_journals(job.folder)
            raise
    # Without a panel as if there were no such thing.
    left_out = {"panel"} if summary.panel is None else None
    # All that takes space is written before anything of an earlier result goes.
    write_text(part / _SUMMARY, summary.model_dump_json(indent=2, exclude=left_out))
    # The summary goes first and comes last: a folder without one is unfinished.
    (job.folder / _SUMMARY).unlink(missing_ok=True)
    for file in sorted(part.iterdir(), key=lambda file: (file.name == _SUMMARY, file.name)):
        target = job.folder / file.name
        if target.is_dir():
            shutil.rmtree(target)
        file.replace(target)
    part.rmdir()
    remove_journals(job.folder)
    return summary, False


def _fingerprint(
    job: SlideJob,
    config: Config,
    detector: Detector,
    slide: str,
    annotations: Path | None,
    classifier: TissueClassifier | None,
) -> str:
    """Return what a finished slide's summary has to carry; `slide` is what tells its content."""
    # What lies beside a remote slide is in the store's word for it.
    has_own = job.version is None or job.annotations_folder is not None
    return slide_fingerprint(
        slide,
        config,
        detector=f"{detector.name} {detector.sha256}",
        annotations=annotations if has_own else None,
        classifier_sha256=None if classifier is None else classifier.sha256,
        mpp=job.mpp_flag or job.mpp_manifest,
    )


def _is_known_finished(job: SlideJob, config: Config, detector: Detector, kept: SlideSummary | None) -> bool:
    """Tell whether a remote slide is finished by what its store says of it, so that there need be no copy."""
    if job.version is None or kept is None:
        return False
    folder = job.annotations_folder
    # There need be no folder yet where the slide's copy would lie.
    annotations = None if folder is None else find_annotations(job.path, folder)
    classifier = load_configured(config)
    return kept.fingerprint == _fingerprint(job, config, detector, job.version, annotations, classifier)


def has_to_be_copied(job: SlideJob, config: Config, detector: Detector) -> bool:
    """Tell whether a slide is remote and not known to be finished: its store may say too little for that."""
    known = _is_known_finished(job, config, detector, read_summary(job.folder))
    return job.remote is not None and not known


def _look_at(job: SlideJob) -> tuple[Path | None, SlideContent]:
    return find_annotations(job.path, job.annotations_folder), slide_content(job.path)


def read_summary(folder: Path) -> SlideSummary | None:
    """Return the summary in a results folder; None where there is none that this version understands."""
    try:
        return SlideSummary.model_validate_json((folder / _SUMMARY).read_bytes())
    except (OSError, ValidationError):
        return None


def _analyse(
    slide: Slide,
    job: SlideJob,
    folder: Path,
    config: Config,
    detector: Detector,
    annotations_path: Path | None,
    classifier: TissueClassifier | None,
    fingerprint: str,
    progress: TileProgress | None,
) -> SlideSummary:
    if isinstance(config.stain, FluorescenceStain) and slide.kind == "fluorescence":
        # Before any work, and every name that is wrong at once.
        panel_channels(slide, config.stain, config.panel)
    survey = survey_slide(slide, config.tissue.mpp_um)
    tissue = detect_tissue(survey, slide.kind, config.tissue)
    stain = fit_stain(slide, survey, tissue, config.stain)
    panel = fit_panel(slide, survey, tissue, stain, config)
    markers = () if panel is None else panel.markers
    annotations = (
        None
        if annotations_path is None
        else read_annotations(annotations_path, slide, dict(config.regions.names))
    )
    annotations = find_regions(slide, survey, tissue, stain, annotations, config, classifier)
    regions = place_regions(
        annotations,
        tissue=tissue.mask,
        assessed=tissue.assessed,
        coverage=survey.coverage,
        mpp=survey.mpp,
        config=config.regions,
    )
    plan = plan_tiles(
        slide,
        tissue,
        mpp=detector.mpp,
        tile_um=config.run.tile_um,
        halo_px=detector.halo_px,
        multiple=detector.multiple,
        offset_um=config.run.tile_offset_um,
    )
    # Cells further out than a pixel from assessed tissue depend on which cores happen to reach them.
    near_tissue = ndimage.binary_dilation(tissue.assessed, np.ones((3, 3), bool))
    tally = Tally(config.regions.profile_bin_um)
    points = PointCollector()
    rings = RingIntensities()
    density = DensityMap(slide.size_um, config.results.density_map_um)
    journal = TileJournal(job.folder, fingerprint, plan, after_s=config.run.keep_tiles_after_s)
    if journal.kept:
        log.info("%s: %d of %d tiles kept", job.slide_id, len(journal.kept), len(plan.tiles))
    fresh = detect_tiles(
        slide,
        replace(plan, tiles=tuple(tile for tile in plan.tiles if tile.index not in journal.kept)),
        stain,
        detector,
        config.run,
        _all_of(progress, len(journal.kept)),
        panel,
        journal.keep,
    )
    failures: list[TileFailure] = []
    unread = tissue.unread.copy()
    n_cells = 0
    with (
        # What takes one core for a while is done beside the tiles, and beside the last of the maps.
        ThreadPoolExecutor(1, "beside") as beside,
        closing(fresh),
        MapsWriter(folder / "maps.zarr", slide, detector.mpp, labels=config.results.label_maps) as maps,
        CellParquetWriter(folder / "cells.parquet", markers) as parquet,
        _geojson(folder, slide, job.slide_id, config, markers) as geojson,
    ):
        overlay = beside.submit(
            Overlay,
            slide,
            max_px=config.results.overlay_max_px,
            mpp=survey.mpp,
            assessed=regions.assessed,
            tumour=regions.tumour,
            border=regions.border,
            zones=regions.zone_map if regions.border is not None else None,
            overview=survey.overview,
            stains=stain_channels(stain),
        )
        for tile, found in journal.in_order(plan, fresh):
            if isinstance(found, TileReadError):
                failures.append(tile_failure(tile, found, slide, detector.mpp))
                unread |= _covered(tile.core, detector.mpp, unread.shape, survey.mpp)
                continue
            on_grid, under = pixels_under(
                found.table["x_um"].to_numpy(), found.table["y_um"].to_numpy(), near_tissue.shape, survey.mpp
            )
            keep = on_grid & near_tissue[under]
            labels = _renumber(found.labels, keep, n_cells)
            cells = _place(found.table[keep], regions, slide, n_cells)
            outlines = found.outlines[keep]
            n_cells += len(cells)
            tally.add(cells)
            points.add(cells)
            if panel is not None:
                rings.add(cells)
            counted = cells[(cells["cell_class"] == CD8) & cells["in_tissue"]]
            density.add(counted["x_um"].to_numpy(), counted["y_um"].to_numpy())
            overlay.result().add(cells, outlines)
            parquet.write(cells, outlines)
            if geojson is not None:
                geojson.write(cells, outlines)
            if maps.labels is not None:
                maps.labels.write(tile.read, labels)
        regions = regions.without(unread)
        overlay_saved = beside.submit(overlay.result().save, folder / "overlay.png")
        tissue_area_mm2 = tissue.area_mm2(tissue.mask)
        measured = beside.submit(
            measure_slide,
            tally,
            points.points(),
            regions,
            tissue_area_mm2=tissue_area_mm2,
            config=config.measure,
        )
        maps.write_overview(survey.overview, survey.mpp)
        maps.write_regions(regions.region_map, regions.zone_map, regions.mpp)
        maps.write_tissue(tissue.mask, tissue.assessed, unread, tissue.mpp)
        maps.write_distance(regions.signed_distance_um, regions.mpp)
        area = density.area_on(survey.coverage * regions.assessed, survey.mpp)
        maps.write_density(density.per_mm2(area), density.cell_um)
    overlay_saved.result()
    write_regions(folder, annotations, regions, slide.mpp)
    excluded_mm2 = {
        name: tissue.area_mm2(mask & tissue.mask & ~tissue.assessed)
        for name, mask in tissue.artefacts.items()
    }
    agreement = rings.agreement(unit=stain.unit, level=config.measure.confidence_level)
    panel_told = None if panel is None else panel_summary(panel, stain, agreement, config)
    summary = SlideSummary(
        slide_id=job.slide_id,
        path=path_text(job.tell(job.path)),
        fingerprint=fingerprint,
        histo_version=__version__,
        config_name=config.name,
        config_sha256=config.fingerprint(),
        detector_name=detector.name,
        detector_sha256=detector.sha256,
        annotations=None if annotations_path is None else path_text(job.tell(annotations_path)),
        image=image_summary(slide),
        tissue=TissueSummary(
            tissue_area_mm2=tissue_area_mm2,
            assessed_area_mm2=regions.assessed_area_mm2,
            excluded_area_mm2=excluded_mm2 | dict(regions.excluded_area_mm2),
            unread_area_mm2=tissue.area_mm2(unread & tissue.mask),
            n_tiles=len(plan.tiles),
            failed_tiles=failures,
        ),
        stain=stain_summary(stain),
        panel=panel_told,
        **vars(measured.result()),
        flags=flags_of(slide, tissue, stain, panel_told, annotations, failures, config),
    )
    for flag in summary.flags:
        log.warning("%s: %s", job.slide_id, flag.message)
    write_report(
        folder / "report.html",
        summary,
        overlay=folder / "overlay.png",
        confidence_level=config.measure.confidence_level,
    )
    return summary


def _place(table: pd.DataFrame, regions: Regions, slide: Slide, n_before: int) -> pd.DataFrame:
    """Number the cells of a tile and say where they are; see `cell_columns`."""
    x_um, y_um = table["x_um"].to_numpy(), table["y_um"].to_numpy()
    place = place_cells(regions, x_um, y_um)
    columns: dict[str, NDArray[Any]] = {name: table[name].to_numpy() for name in table.columns}
    columns |= {
        "cell_id": np.arange(n_before + 1, n_before + 1 + len(table)),
        "x_px": x_um / slide.mpp[0],
        "y_px": y_um / slide.mpp[1],
        "in_tissue": place.in_tissue,
        "region": place.region,
        "zone": place.zone,
        "signed_distance_um": place.signed_distance_um,
    }
    return cell_frame(columns, cell_columns(markers_of(table.columns)))


def _all_of(progress: TileProgress | None, n_kept: int) -> TileProgress | None:
    """Count the tiles of an earlier run too."""
    if progress is None:
        return None
    return lambda done, of: progress(n_kept + done, n_kept + of)


def _renumber(labels: NDArray[np.int32], keep: NDArray[np.bool_], n_before: int) -> NDArray[np.int32]:
    """Turn a tile's local ids into the slide's: kept cells in their order after `n_before`, the others 0."""
    number = np.zeros(len(keep) + 1, np.int32)
    number[1:][keep] = np.arange(n_before + 1, n_before + 1 + int(keep.sum()))
    return number[labels]


def _covered(core: Box, mpp: float, shape: tuple[int, ...], coarse_mpp: float) -> NDArray[np.bool_]:
    """Return the pixels of the coarse grid that a core touches."""
    mask = np.zeros(shape, bool)
    scale = mpp / coarse_mpp
    rows = slice(max(0, floor(core.y * scale)), max(0, ceil(core.bottom * scale)))
    columns = slice(max(0, floor(core.x * scale)), max(0, ceil(core.right * scale)))
    mask[rows, columns] = True
    return mask


@contextmanager
def _geojson(
    folder: Path, slide: Slide, slide_id: str, config: Config, markers: Sequence[str]
) -> Iterator[CellGeoJsonWriter | None]:
    if not config.results.geojson:
        yield None
        return
    with CellGeoJsonWriter(folder / "cells.geojson.gz", slide.mpp, slide_id, markers) as writer:
        yield writer
