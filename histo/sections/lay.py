"""One pair: two slides with their results, laid over each other, judged, and measured where they may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from histo.cells.table import CD8, CELL_COLUMNS
from histo.config import Config
from histo.errors import ConfigError, ResultsError
from histo.measure.summary import Estimate, SlideSummary
from histo.regions.annotations import read_annotations
from histo.regions.find import find_regions, load_configured
from histo.regions.place import Regions, place_regions
from histo.results.atomic import replacing, write_text
from histo.results.cells_parquet import read_cells
from histo.sections.codensity import MATCHED, codensities
from histo.sections.config import SectionsConfig
from histo.sections.error import WINDOW_UM, LocalError, landmark_error_um, local_error, read_landmarks
from histo.sections.mapping import Mapping, tabulate
from histo.sections.matching import matched_fraction
from histo.sections.overlay import write_overlay
from histo.sections.pairs import Pair
from histo.sections.picture import NuclearPicture, nuclear_picture, picture_mpp
from histo.sections.register import Registration, register, resampled
from histo.sections.summary import PairResult, RegistrationSummary
from histo.sections.tiles import common_tissue, cut_tiles, inside
from histo.slide import Slide, open_slide
from histo.slide.survey import Survey, survey_slide
from histo.slide.tissue import Tissue, detect_tissue
from histo.stain.space import StainTransform, fit_stain

SLIDE_TO_SERIAL = "slide_to_serial.h5"
SERIAL_TO_SLIDE = "serial_to_slide.h5"


@dataclass(frozen=True)
class SlideResult:
    """A slide's results: their folder, and the summary in it."""

    folder: Path
    summary: SlideSummary


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is known of a slide once it has been looked over."""

    survey: Survey
    tissue: Tissue
    stain: StainTransform
    regions: Regions


def lay_pair(
    pair: Pair, slide: SlideResult, serial: SlideResult, run: Config, config: SectionsConfig, folder: Path
) -> PairResult:
    """Register a pair, and, if it is accepted, measure it; write all into `folder`.

    Parameters
    ----------
    run : the configuration that the results were made with.

    Raises
    ------
    HistoError : a slide cannot be read, or the sections cannot be registered at all.
    """
    landmarks = None if pair.landmarks is None else read_landmarks(pair.landmarks)
    with _opened(slide, run) as first, _opened(serial, run) as second:
        one, two = _look(first, slide, run), _look(second, serial, run)
        mpp = picture_mpp((first, second), config.finest_mpp_um, config.max_px)
        pictures = (
            nuclear_picture(first, one.tissue, one.stain, mpp),
            nuclear_picture(second, two.tissue, two.stain, mpp),
        )
    forward = register(*pictures, grid_um=config.grid_um, flips=config.flips)
    backward = register(*pictures[::-1], grid_um=config.grid_um, flips=config.flips)
    there = tabulate(forward.transform, pictures[0].size_um)
    back = tabulate(backward.transform, pictures[1].size_um)
    moved = resampled(pictures[1], pictures[0], forward.transform)
    error = local_error(pictures[0], moved, there, back)
    summary = _judge(
        pair,
        (slide.summary.slide_id, serial.summary.slide_id),
        pictures[0],
        forward,
        there,
        error,
        landmarks,
        config,
    )
    _write_transform(forward.transform, folder / SLIDE_TO_SERIAL)
    _write_transform(backward.transform, folder / SERIAL_TO_SLIDE)
    write_text(folder / "registration.json", summary.model_dump_json(indent=2))
    result = PairResult(
        slide_id=summary.slide_id,
        serial_id=summary.serial_id,
        marker=pair.marker,
        status="refused",
        reason=summary.reason,
        registration=summary,
    )
    if summary.verdict == "refused":
        write_overlay(
            folder / "overlay.png", one.survey, two.survey, pictures[0], moved, there, error, None, config
        )
        (folder / "tiles.parquet").unlink(missing_ok=True)
        return result
    # Cells of the second slide come to the first through the inverse of the forward way, so that one map is
    # used.
    common = common_tissue(one.regions, two.regions, there)
    cells, why_no_bright = _cells(pair, slide, serial, there, config)
    tiles = cut_tiles(one.regions, common, there, error, cells, config)
    matched = Estimate.missing(MATCHED, "serial sections do not hold the same cells")
    if config.restained:
        within = [
            points[inside(points, common, one.regions.mpp)] for points in (cells["n_cd8"], cells["n_marker"])
        ]
        matched = matched_fraction(within[0], within[1], config.match_radius_um)
    with replacing(folder / "tiles.parquet") as part:
        tiles.to_parquet(part, index=False)
    write_overlay(
        folder / "overlay.png", one.survey, two.survey, pictures[0], moved, there, error, tiles, config
    )
    zones = codensities(tiles, config, has_bright=why_no_bright, matched=matched)
    return result.model_copy(update={"status": "done", "zones": zones})


def _opened(result: SlideResult, run: Config) -> Slide:
    image = result.summary.image
    path = Path(result.summary.path)
    if not path.exists():
        raise ResultsError(
            f"the slide {path} of these results is not there any more",
            path=result.folder,
            fix="Put it back, or run infer again where it lies now",
        )
    # As it was opened for these results: given by hand, the size is the same both ways.
    return open_slide(
        path,
        mpp=image.mpp_x_um if image.mpp_source == "flag" else None,
        manifest_mpp=image.mpp_x_um if image.mpp_source == "manifest" else None,
        timeout_s=run.run.read_timeout_s,
    )


def _look(slide: Slide, result: SlideResult, run: Config) -> _Seen:
    survey = survey_slide(slide, run.tissue.mpp_um)
    tissue = detect_tissue(survey, slide.kind, run.tissue)
    stain = fit_stain(slide, survey, tissue, run.stain)
    path = result.summary.annotations
    annotations = None if path is None else read_annotations(Path(path), slide, dict(run.regions.names))
    annotations = find_regions(slide, survey, tissue, stain, annotations, run, load_configured(run))
    regions = place_regions(
        annotations,
        tissue=tissue.mask,
        assessed=tissue.assessed,
        coverage=survey.coverage,
        mpp=survey.mpp,
        config=run.regions,
    )
    return _Seen(survey, tissue, stain, regions)


def _judge(
    pair: Pair,
    ids: tuple[str, str],
    picture: NuclearPicture,
    registration: Registration,
    there: Mapping,
    error: LocalError,
    landmarks: NDArray[np.float64] | None,
    config: SectionsConfig,
) -> RegistrationSummary:
    known = error.error_um[~np.isnan(error.error_um)]
    off = None if landmarks is None else landmark_error_um(landmarks, there)
    judged = known if off is None else off
    median = float(np.median(judged)) if len(judged) else None
    offset = there(np.zeros((1, 2)))[0]
    (xx, xy), (yx, yy) = there.linear
    return RegistrationSummary(
        slide_id=ids[0],
        serial_id=ids[1],
        marker=pair.marker,
        verdict="accepted" if (reason := refusal(error, median, config)) is None else "refused",
        reason=reason,
        error_um=median,
        error_90_um=float(np.percentile(judged, 90)) if len(judged) else None,
        error_source="inverse consistency and local agreement" if off is None else "landmarks",
        max_error_um=config.max_error_um,
        n_landmarks=0 if off is None else len(off),
        landmark_median_um=None if off is None else median,
        there_and_back_median_um=_median(error.there_and_back_um),
        residual_median_um=_median(error.residual_um),
        n_windows=len(error.x_um),
        verified_fraction=error.verified_fraction,
        similarity=registration.similarity,
        mirrored=registration.mirrored,
        rotation_deg=registration.rotation_deg,
        matrix=((float(xx), float(xy)), (float(yx), float(yy))),
        offset_um=(float(offset[0]), float(offset[1])),
        picture_mpp_um=picture.mpp,
        slide_to_serial=SLIDE_TO_SERIAL,
        serial_to_slide=SERIAL_TO_SLIDE,
    )


def refusal(error: LocalError, median_um: float | None, config: SectionsConfig) -> str | None:
    """Return why a registration is not to be used; None where it is.

    Parameters
    ----------
    median_um : of the landmarks, or of the windows; None where no window's error is known.
    """
    share = error.verified_fraction
    if len(error.x_um) == 0:
        return f"the sections have no tissue in common that is {WINDOW_UM:g} um wide"
    if share < config.min_verified:
        return (
            f"only {share:.0%} of the tissue looks more alike than by chance, "
            f"{config.min_verified:.0%} needed"
        )
    if median_um is None:
        return "the error is not known anywhere"
    if median_um > config.max_error_um:
        return f"the median error is {median_um:.0f} um, at most {config.max_error_um:g} um allowed"
    return None


def _cells(
    pair: Pair, slide: SlideResult, serial: SlideResult, there: Mapping, config: SectionsConfig
) -> tuple[dict[str, NDArray[np.float64]], str | None]:
    """Return CD8+, marker and bright cells in the first slide's frame; and why there are no bright ones."""
    cd8 = _stained(slide, None)
    gate, bright = config.gates.get(pair.marker), config.bright_gates.get(pair.marker)
    stained = _stained(serial, config.column if (gate, bright) != (None, None) else None)
    points = there.inverse(stained[["x_um", "y_um"]].to_numpy())
    keep = np.ones(len(stained), bool) if gate is None else stained[config.column].to_numpy() >= gate
    is_bright = np.zeros(len(stained), bool)
    if bright is not None:
        is_bright = keep & (stained[config.column].to_numpy() >= bright)
    cells = {
        "n_cd8": cd8[["x_um", "y_um"]].to_numpy(),
        "n_marker": points[keep],
        "n_bright": points[is_bright],
    }
    return cells, None if bright is not None else f"no bright gate for {pair.marker} is configured"


def _stained(result: SlideResult, column: str | None) -> pd.DataFrame:
    """Return the stained cells in assessed tissue."""
    columns = ["x_um", "y_um", "cell_class", "in_tissue", *([] if column is None else [column])]
    try:
        cells = read_cells(result.folder / "cells.parquet", columns)
    except ValueError:
        raise ConfigError(
            f"the cell table has no column {column!r} to be gated",
            path=result.folder / "cells.parquet",
            fix=f"Set column to one of {', '.join(name for name in CELL_COLUMNS if name.endswith('_mean'))}",
        ) from None
    return cells[(cells["cell_class"] == CD8) & cells["in_tissue"]]


def _median(values: NDArray[np.float64]) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def _write_transform(transform: sitk.Transform, path: Path) -> None:
    # SimpleITK goes by the extension, which a temporary name has to keep.
    part = path.with_name(f".part.{path.name}")
    try:
        sitk.WriteTransform(transform, str(part))
        part.replace(path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise ResultsError(f"cannot be written ({error})", path=path, fix="Name another --out") from None
