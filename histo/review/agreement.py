"""How well two readers agree who corrected the same slides, each without seeing the other's work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from histo.errors import ReviewError
from histo.measure.summary import Estimate
from histo.results.atomic import write_text
from histo.results.slides_table import read_slides_table
from histo.results.stored import stored_config
from histo.review.actions import standing
from histo.review.comparing import DensityAgreement, cohen_kappa, density_agreement
from histo.review.log import read_log
from histo.review.slide import Now, SlideUnderReview, Who

AGREEMENT_FILE: Final = "review_agreement.json"
DENSITIES: Final = {
    "cd8_density_per_mm2": "CD8+ density",
    "cd8_density_core_per_mm2": "CD8+ density, tumour core",
    "cd8_density_inner_margin_per_mm2": "CD8+ density, inner margin",
    "cd8_density_outer_margin_per_mm2": "CD8+ density, outer margin",
}
# What a reader made of a cell that the run found.
_NO_CELL, _CD8, _OTHER = 0, 1, 2


class PairAgreement(BaseModel):
    """Agreement of two readers.

    kappa_cells : Cohen's kappa over the cells that the run found: CD8+, other, or no cell. Both readers began
    with the run's calls, so it is high where they changed little. kappa_phenotype : over slides.
    """

    model_config = ConfigDict(frozen=True)

    readers: tuple[str, str]
    slides: tuple[str, ...]
    densities: dict[str, DensityAgreement]
    n_cells: int
    kappa_cells: Estimate
    kappa_phenotype: Estimate


def readers_agreement(results: Path, slides: Path | None = None) -> list[PairAgreement]:
    """Compare every two readers on the slides that both signed blinded, and write it to `AGREEMENT_FILE`.

    Parameters
    ----------
    results : a results folder of `infer`. slides : see `histo.review.command.review`.

    Raises
    ------
    ReviewError : no slide was signed by two blinded readers. HistoError : a slide cannot be read.
    """
    config = stored_config(results)
    done = read_slides_table(results)
    read: dict[str, dict[str, tuple[Now, NDArray[np.int64]]]] = {}
    for name in done.loc[done["status"] != "failed", "slide_id"]:
        folder = results / str(name)
        readers = _signed_blinded(folder)
        if len(readers) > 1:
            for reader in readers:
                slide = SlideUnderReview(folder, config, Who(reader, alone=True), slides)
                now = slide.now()
                read.setdefault(str(name), {})[reader] = (now, _labels(slide, now))
    names = sorted({reader for of_slide in read.values() for reader in of_slide})
    offset = config.measure.log_ratio_offset_per_mm2
    pairs = []
    for first, second in combinations(names, 2):
        both = [name for name, of_slide in read.items() if first in of_slide and second in of_slide]
        if both:
            one, other = ([read[name][reader] for name in both] for reader in (first, second))
            pairs.append(_pair((first, second), both, one, other, offset))
    if not pairs:
        raise ReviewError(
            "no slide was signed by two readers who worked blinded",
            path=results,
            fix="Let two readers sign the same slides with histo review --blinded --reader NAME",
        )
    told = [pair.model_dump(mode="json") for pair in pairs]
    write_text(results / AGREEMENT_FILE, json.dumps(told, indent=2))
    return pairs


def _pair(
    readers: tuple[str, str],
    slides: list[str],
    one: Sequence[tuple[Now, NDArray[np.int64]]],
    other: Sequence[tuple[Now, NDArray[np.int64]]],
    offset: float,
) -> PairAgreement:
    densities = {}
    for name, label in DENSITIES.items():
        values = [(_value(a, name), _value(b, name)) for (a, _), (b, _) in zip(one, other, strict=True)]
        known = [(x, y) for x, y in values if x is not None and y is not None]
        densities[name] = density_agreement(label, [x for x, _ in known], [y for _, y in known], offset)
    phenotypes = [
        (a.phenotypes["new"]["value"], b.phenotypes["new"]["value"])
        for (a, _), (b, _) in zip(one, other, strict=True)
    ]
    told = [(x, y) for x, y in phenotypes if x is not None and y is not None]
    cells_one, cells_other = (np.concatenate([labels for _, labels in of]) for of in (one, other))
    return PairAgreement(
        readers=readers,
        slides=tuple(slides),
        densities=densities,
        n_cells=len(cells_one),
        kappa_cells=cohen_kappa(cells_one.tolist(), cells_other.tolist(), "cells"),
        kappa_phenotype=cohen_kappa([x for x, _ in told], [y for _, y in told], "phenotypes"),
    )


def _signed_blinded(folder: Path) -> list[str]:
    log = read_log(folder)
    readers = {entry.by for entry in log.entries if entry.blinded}
    return sorted(reader for reader in readers if standing(log.of(reader), "").signed is not None)


def _labels(slide: SlideUnderReview, now: Now) -> NDArray[np.int64]:
    labels = np.where(now.corrected.kept, np.where(now.corrected.is_cd8, _CD8, _OTHER), _NO_CELL)
    return labels[slide.cells.by_id].astype(np.int64)


def _value(now: Now, name: str) -> float | None:
    return next(
        (number.new.value for number in now.numbers if number.name == name and number.new is not None), None
    )
