"""Tissue classifiers: trained on annotated slides, applied to others."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from histo.config import Config
from histo.errors import ClassifierError, HistoError
from histo.regions.annotations import find_annotations
from histo.regions.classifier import (
    CrossValidation,
    TissueClassifier,
    load_classifier,
    save_classifier,
    train_classifier,
)
from histo.regions.classify import classify, regions_of, sample_slides
from histo.regions.features import CELL_UM
from histo.regions.find import prepared, residual_name_of
from histo.regions.scribbles import Scribble, read_scribbles
from histo.regions.windows import ClassifiedSlide, channels_of, prepare
from histo.results.geojson import write_annotations_geojson
from histo.slide import Slide, find_slides, open_slide
from histo.slide.survey import survey_slide
from histo.slide.tissue import Tissue, detect_tissue
from histo.stain.space import StainTransform, fit_stain

log = logging.getLogger("histo")


def train_regions(
    inputs: Sequence[Path],
    annotations: Path,
    out: Path,
    config: Config,
    *,
    line_width_um: float,
    smoothing_um: float,
    min_area_um2: float,
    mpp: float | None = None,
    console: Console | None = None,
) -> TissueClassifier:
    """Train a classifier on the annotations of slides, save it and print its cross-validated accuracy.

    Parameters
    ----------
    inputs : slides and folders of slides; those without a file in `annotations` are passed over.
    annotations : folder of annotation files, named like their slides.
    out : file to write.
    line_width_um : how wide an annotated line counts.
    smoothing_um, min_area_um2 : see `TissueClassifier`.
    mpp : pixel size in um for all slides; goes before their own.

    Raises
    ------
    HistoError : a slide or annotation file cannot be used, two slides share a name, or no classifier can be
        made of them.
    """
    console = console or Console(stderr=True)
    begun = time.monotonic()
    found = [(path, file) for path in find_slides(inputs) if (file := find_annotations(path, annotations))]
    if not found:
        raise ClassifierError(
            "none of the slides has an annotation file there",
            path=annotations,
            fix="Name the files like the slides, e.g. case1.svs and case1.geojson",
        )
    _check_names([path for path, _ in found])
    shown: list[tuple[str, ClassifiedSlide, tuple[Scribble, ...]]] = []
    for path, file in found:
        with open_slide(path, mpp=mpp, timeout_s=config.run.read_timeout_s) as slide:
            tissue, stain = _looked_over(slide, config)
            scribbles = read_scribbles(file, slide, config.regions.names, line_width_um)
            channels = channels_of(stain, residual_name_of(config.stain))
            shown.append((path.name, prepare(slide, stain, tissue, channels), scribbles))
    first = shown[0][1]
    for name, of, _ in shown:
        if of.channels != first.channels:
            raise ClassifierError(
                f"{name} has other channels than {shown[0][0]}: {', '.join(of.channels)}",
                fix="Train on slides of one protocol",
            )
    classifier = train_classifier(
        sample_slides(shown, threads=config.run.reader_threads),
        kind=first.slide.kind,
        channels=first.channels,
        smoothing_um=smoothing_um,
        min_area_um2=min_area_um2,
    )
    classifier = save_classifier(classifier, out)
    counts = classifier.training["n_annotations"]
    console.print(
        f"{len(shown)} slides, "
        + ", ".join(f"{counts[name]} x {name}" for name in classifier.classes)
        + f"; {time.monotonic() - begun:.1f} s",
        highlight=False,
    )
    console.print(accuracy_table(classifier.cross_validation))
    return classifier


def apply_regions(
    inputs: Sequence[Path],
    classifier_path: Path,
    out: Path,
    config: Config,
    *,
    mpp: float | None = None,
    console: Console | None = None,
) -> int:
    """Classify slides and write QuPath GeoJSON that `infer --annotations` reads; return how many failed.

    Parameters
    ----------
    inputs : slides and folders of slides.
    out : folder for a file per slide, named like it.
    mpp : pixel size in um for all slides; goes before their own.

    Raises
    ------
    ClassifierError : the classifier cannot be read, or two slides share a name. A slide that cannot be
        classified is told of, and does not stop the others.
    """
    console = console or Console(stderr=True)
    classifier = load_classifier(classifier_path)
    slides = find_slides(inputs)
    if not slides:
        raise ClassifierError("no slides found", fix="Name slide files, or folders that hold them")
    _check_names(slides)
    out.mkdir(parents=True, exist_ok=True)
    n_failed = 0
    for path in slides:
        begun = time.monotonic()
        try:
            with open_slide(path, mpp=mpp, timeout_s=config.run.read_timeout_s) as slide:
                tissue, stain = _looked_over(slide, config)
                of = prepared(slide, tissue, stain, config, classifier)
                raster = classify(classifier, of, threads=config.run.reader_threads)
                shapes = regions_of(raster, classifier.classes, CELL_UM)
                write_annotations_geojson(out / f"{_stem(path)}.geojson", shapes, slide.mpp)
        except HistoError as error:
            n_failed += 1
            console.print(f"  [red]failed[/red] {path.name}: {error}", highlight=False, soft_wrap=True)
            continue
        areas = ", ".join(f"{name} {shape.area / 1e6:.2f} mm2" for name, shape in shapes.items())
        console.print(
            f"  {path.name}: {areas or 'no tissue'}; {time.monotonic() - begun:.1f} s", highlight=False
        )
    return n_failed


def accuracy_table(result: CrossValidation) -> Table:
    """Return the cross-validated accuracies as a table: a row per slide, a column per class."""
    left_out = f"leaving {result.scheme} out" if result.scheme else "not possible"
    table = Table(title=f"Cross-validated accuracy, {left_out}: share of annotated pixels recognised")
    table.add_column("slide")
    for name in result.by_class:
        table.add_column(name, justify="right")
    for slide, accuracies in {**result.by_slide, "all": result.by_class}.items():
        table.add_row(
            slide,
            *(
                f"NA ({accuracy.not_assessable})" if accuracy.value is None else f"{accuracy.value:.3f}"
                for accuracy in accuracies.values()
            ),
        )
    return table


def _stem(path: Path) -> str:
    return path.stem.removesuffix(".ome")


def _check_names(slides: Sequence[Path]) -> None:
    """Refuse slides of one name: annotation files go by the names of their slides."""
    stems = [_stem(path) for path in slides]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ClassifierError(
            f"several slides are called {', '.join(twice)}: their annotation files cannot be told apart",
            fix="Name one folder of slides at a time",
        )


def _looked_over(slide: Slide, config: Config) -> tuple[Tissue, StainTransform]:
    survey = survey_slide(slide, config.tissue.mpp_um)
    tissue = detect_tissue(survey, slide.kind, config.tissue)
    return tissue, fit_stain(slide, survey, tissue, config.stain)
