"""The ground that cells stand on: tissue and regions of a slide, as the run that analysed it found them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString, MultiPolygon, Polygon

from histo.config import Config, RegionName
from histo.measure.summary import SlideSummary
from histo.regions.annotations import Annotations, read_annotations
from histo.regions.place import Regions, place_regions
from histo.regions.shapes import as_multipolygon, repair
from histo.review.actions import DrawRegion, Scribble
from histo.slide import Slide
from histo.slide.survey import Survey, survey_slide
from histo.slide.tissue import Tissue, detect_tissue

# How wide a scribble counts.
SCRIBBLE_UM = 20.0
# Drawn over the others, which stay what they are underneath.
_ON_TOP = ("necrosis", "exclude")


@dataclass(frozen=True, eq=False)
class Ground:
    """Tissue and annotations of a slide; see `Regions` for what they become.

    unread : (rows, columns) bool, what the run could not read. notes : where this is not what the run found.
    """

    tissue: Tissue
    unread: NDArray[np.bool_]
    annotations: Annotations | None
    config: Config
    notes: tuple[str, ...] = ()


def read_ground(slide: Slide, summary: SlideSummary, config: Config) -> Ground:
    """Find tissue and regions again, in the way of the run: neither is among its results at full detail.

    Raises
    ------
    HistoError : the slide, its annotations or its classifier cannot be read any more.
    """
    survey = survey_slide(slide, config.tissue.mpp_um, threads=2)
    tissue = detect_tissue(survey, slide.kind, config.tissue)
    annotations = (
        None
        if summary.annotations is None
        else read_annotations(Path(summary.annotations), slide, dict(config.regions.names))
    )
    if config.regions.classifier is not None or config.regions.tumour_channel is not None:
        annotations = _found(slide, survey, tissue, annotations, config)
    ground = Ground(tissue, tissue.unread | _failed(summary, slide, tissue), annotations, config)
    found = regions_with(ground, ()).assessed_area_mm2
    recorded = summary.tissue.assessed_area_mm2
    if abs(found - recorded) > 1e-6 + 1e-4 * recorded:
        return replace(
            ground,
            notes=(
                f"{found:.4f} mm2 of assessed tissue are found now, {recorded:.4f} mm2 were when the slide "
                "was analysed: the slide, its annotations or this program have changed",
            ),
        )
    return ground


def regions_with(
    ground: Ground, drawn: Sequence[DrawRegion], found: Mapping[RegionName, MultiPolygon] | None = None
) -> Regions:
    """Return the regions of a slide with what reviewers drew on it, and what their scribbles found."""
    annotations = ground.annotations
    if drawn or found is not None:
        polygons = draw(polygons_with(ground, found), drawn)
        annotations = (
            Annotations(polygons, source=Path())
            if annotations is None
            else replace(annotations, polygons_um=polygons)
        )
    tissue = ground.tissue
    regions = place_regions(
        annotations,
        tissue=tissue.mask,
        assessed=tissue.assessed,
        coverage=tissue.coverage,
        mpp=tissue.mpp,
        config=ground.config.regions,
    )
    return replace(
        regions,
        assessed=regions.assessed & ~ground.unread,
        zone_map=np.where(ground.unread, 0, regions.zone_map).astype(np.uint8),
    )


def polygons_with(
    ground: Ground, found: Mapping[RegionName, MultiPolygon] | None
) -> Mapping[RegionName, MultiPolygon]:
    """Return the regions of the run, or those that scribbles found under what lies on top of them."""
    before = {} if ground.annotations is None else ground.annotations.polygons_um
    if found is None:
        return before
    return {**found, **{name: shape for name, shape in before.items() if name in _ON_TOP}}


def scribbled(slide: Slide, ground: Ground, lines: Sequence[Scribble]) -> dict[RegionName, MultiPolygon]:
    """Train a tissue classifier on lines, tell the tissue of the slide with it, and return the regions.

    Raises
    ------
    ClassifierError : no tumour, or nothing else, lies under the lines; or the slide is too coarse.
    """
    # They bring torch and scikit-learn: only where they are needed.
    from histo.regions.classifier import train_classifier
    from histo.regions.classify import classify, regions_of, sample_slides
    from histo.regions.features import CELL_UM
    from histo.regions.find import residual_name_of
    from histo.regions.scribbles import Scribble as Shown
    from histo.regions.windows import channels_of, prepare
    from histo.stain.space import fit_stain

    config = ground.config
    stain = fit_stain(
        slide, survey_slide(slide, config.tissue.mpp_um, threads=2), ground.tissue, config.stain
    )
    channels = channels_of(stain, residual_name_of(config.stain))
    of = prepare(slide, stain, ground.tissue, channels)
    shown = [
        Shown(line.region, as_multipolygon(LineString(line.line).buffer(SCRIBBLE_UM / 2))) for line in lines
    ]
    samples = sample_slides([(slide.path.name, of, shown)])
    classifier = train_classifier(samples, kind=slide.kind, channels=channels)
    regions = regions_of(classify(classifier, of), classifier.classes, CELL_UM)
    known = {line.region for line in lines}
    return {name: regions[name] for name in known if name in regions}


def draw(
    polygons_um: Mapping[RegionName, MultiPolygon], drawn: Sequence[DrawRegion]
) -> dict[RegionName, MultiPolygon]:
    """Return regions after outlines were added to them and removed from them, in turn.

    What becomes tumour is no longer host, and so on; necrosis and excluded areas lie on top of the others and
    take nothing from them.
    """
    regions = dict(polygons_um)
    for step in drawn:
        area = repair(Polygon(step.outline))
        before = regions.get(step.region, MultiPolygon())
        if step.mode == "remove":
            regions[step.region] = as_multipolygon(before.difference(area))
        else:
            regions[step.region] = as_multipolygon(shapely.union_all([before, area]))
            if step.region not in _ON_TOP:
                for name in regions.keys() - {step.region, *_ON_TOP}:
                    regions[name] = as_multipolygon(regions[name].difference(area))
    return {name: region for name, region in sorted(regions.items()) if not region.is_empty}


def _found(
    slide: Slide, survey: Survey, tissue: Tissue, annotations: Annotations | None, config: Config
) -> Annotations | None:
    # They bring scikit-learn, and what is compiled: only where it is needed.
    from histo.regions.find import find_regions, load_configured
    from histo.stain.space import fit_stain

    stain = fit_stain(slide, survey, tissue, config.stain)
    return find_regions(slide, survey, tissue, stain, annotations, config, load_configured(config))


def _failed(summary: SlideSummary, slide: Slide, tissue: Tissue) -> NDArray[np.bool_]:
    """Return the pixels under the tiles that the run could not read."""
    mask = np.zeros(tissue.mask.shape, bool)
    for tile in summary.tissue.failed_tiles:
        x, y = slide.mpp[0] / tissue.mpp, slide.mpp[1] / tissue.mpp
        rows = slice(max(0, floor(tile.y_px * y)), max(0, ceil((tile.y_px + tile.height_px) * y)))
        columns = slice(max(0, floor(tile.x_px * x)), max(0, ceil((tile.x_px + tile.width_px) * x)))
        mask[rows, columns] = True
    return mask
