"""Evaluate a detector on a dataset: a row an image, a summary, and pictures of the worst."""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from histo import __version__
from histo.cells.build import Detector, build_detector
from histo.config import Config
from histo.datasets.image import CD8_POSITIVE, AnnotatedImage, Dataset, Item
from histo.errors import ConfigError, DatasetError, HistoError
from histo.evaluation.clumps import Clumps, count_in_clumps
from histo.evaluation.find import Found, find_cells
from histo.evaluation.pictures import Failure, failure_of, write_failure
from histo.evaluation.score import score_image, truth_of
from histo.evaluation.summary import (
    Evaluation,
    FailedImage,
    ScoredImage,
    image_row,
    markdown,
    summarise_clumps,
    summarise_counts,
    summarise_scores,
)
from histo.results.atomic import write_text

Progress = Callable[[int, int], None]

IMAGES, SUMMARY, PAGE, FAILURES = "images.csv", "summary.json", "summary.md", "failures"


def choose_items(dataset: Dataset, part: str | None, at_most: int | None = None) -> tuple[list[Item], str]:
    """Return the images of a part of a dataset, and the part's name.

    Parameters
    ----------
    part : "train", "validation", "test" or "all"; None is the published test part, all where there is none.
    at_most : so many images, evenly spread over the part.

    Raises
    ------
    ConfigError : the dataset has no such part, or none of its images are asked for.
    """
    published = {item.split for item in dataset.items if item.split is not None}
    if part is None:
        part = "test" if "test" in published else "all"
    items = [item for item in dataset.items if part in ("all", item.split)]
    if not items:
        parts = ", ".join(sorted(published)) or "none"
        raise ConfigError(
            f"the dataset {dataset.name} has no part {part!r} (published parts: {parts})",
            fix="Use --part all, or another part",
        )
    if at_most is not None:
        if at_most < 1:
            raise ConfigError(f"{at_most} images are nothing to evaluate", fix="Give 1 or more")
        if at_most < len(items):
            places = np.linspace(0, len(items) - 1, at_most).round().astype(int)
            items = [items[i] for i in places.tolist()]
    return items, part


def evaluate(
    items: Sequence[Item],
    dataset: Dataset,
    config: Config,
    out: Path,
    *,
    part: str = "all",
    device: str = "cpu",
    edge_um: float = 0.0,
    n_pictures: int = 12,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate the detector that a configuration names, and write what comes out.

    Writes to `out`: `images.csv` (a row an image), `summary.json` (an `Evaluation`), `summary.md` (the same
    for people) and `failures/`, pictures of the images with most errors, worst first. An image that cannot
    be used is left out and listed in the summary.

    Parameters
    ----------
    items : which images; see `choose_items`.
    dataset : that they are of.
    config : stain protocol and detector, as for inference.
    out : folder, made where it is missing; an evaluation there is replaced.
    part : name of the part that `items` are.
    device : where a network runs.
    edge_um : width of the margin that is not scored.
    n_pictures : at most so many pictures.
    progress : called with (images done, images in all).

    Raises
    ------
    HistoError : the detector cannot be built, or nothing can be written.
    """
    detector = build_detector(config.cells, device)
    # The summary goes first and comes last: a folder without one is unfinished.
    (out / SUMMARY).unlink(missing_ok=True)
    scored: list[ScoredImage] = []
    failed: list[FailedImage] = []
    # The worst so far; the place breaks ties and keeps the order the same.
    worst: list[tuple[int, int, Failure]] = []
    for place, item in enumerate(items):
        if progress is not None:
            progress(place, len(items))
        try:
            one, failure = _evaluate_one(item, detector, config, edge_um)
        except HistoError as error:
            failed.append(FailedImage(name=item.name, error=str(error)))
            continue
        scored.append(one)
        if failure is not None and n_pictures > 0:
            heapq.heappush(worst, (failure.errors, -place, failure))
            if len(worst) > n_pictures:
                heapq.heappop(worst)
    if progress is not None:
        progress(len(items), len(items))
    evaluation = Evaluation(
        dataset=dataset.name,
        licence=dataset.licence,
        commercial_use=dataset.commercial_use,
        part=part,
        histo_version=__version__,
        detector=detector.name,
        detector_sha256=detector.sha256,
        config_name=config.name,
        config_sha256=config.fingerprint(),
        edge_um=edge_um,
        n_images=len(scored),
        n_groups=len({image.group for image in scored}),
        area_mm2=sum(image.score.area_mm2 for image in scored),
        scores=summarise_scores(scored),
        counts=summarise_counts(scored),
        clumps=summarise_clumps(scored),
        failed=failed,
    )
    _write(out, evaluation, scored, [failure for *_, failure in sorted(worst, reverse=True)])
    return evaluation


def _evaluate_one(
    item: Item, detector: Detector, config: Config, edge_um: float
) -> tuple[ScoredImage, Failure | None]:
    image = item.load()
    if image.kind == "fluorescence" and config.cells.detector != "network":
        raise DatasetError(
            f"it is fluorescence, and {config.cells.detector} is a rule for brightfield",
            path=item.name,
            fix="Use --detector network",
        )
    found = find_cells(image, detector, config.stain, name=item.name)
    score = score_image(image, found, edge_um=edge_um, name=item.name)
    height, width = image.pixels.shape[:2]
    one = ScoredImage(
        name=item.name,
        group=item.group,
        split=item.split,
        kind=image.kind,
        mpp=image.mpp,
        size_px=(width, height),
        score=score,
        assessed=found.assessed,
        clumps=_clumps(image, found, edge_um),
    )
    return one, failure_of(item.name, image, found, score, edge_um)


def _clumps(image: AnnotatedImage, found: Found, edge_um: float) -> Clumps | None:
    """Count in clumps; None where it is not known which outlined cells are CD8+."""
    truth = truth_of(image)
    if image.labels is None or truth is None or image.classes is None:
        return None
    positive = np.concatenate([[False], truth.classes == CD8_POSITIVE])
    if not positive.any() and not image.background_known:
        return None
    labels = np.where(positive[image.labels], image.labels, 0).astype(np.int32)
    return count_in_clumps(labels, found.points_um[found.is_cd8], image.mpp, edge_um=edge_um)


def _write(
    out: Path, evaluation: Evaluation, scored: Sequence[ScoredImage], failures: Sequence[Failure]
) -> None:
    folder = out / FAILURES
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(
            f"the folder cannot be made ({error.strerror or error})", path=folder, fix="Choose another --out"
        ) from error
    rows = pd.DataFrame([image_row(image) for image in scored])
    write_text(out / IMAGES, rows.to_csv(index=False, float_format="%.6g"))
    for place, failure in enumerate(failures, start=1):
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in failure.name)[:80]
        write_failure(folder / f"{place:02d}_{safe}.png", failure)
    write_text(out / PAGE, markdown(evaluation))
    write_text(out / SUMMARY, evaluation.model_dump_json(indent=2))
