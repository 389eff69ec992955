"""From the scores of images to a row each, and to one summary with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from histo.evaluation.agreement import (
    DENSITY_NAMES,
    LYSTO_NAMES,
    bland_altman,
    concordance,
    confusion_rows,
    density_class,
    moment_rows,
    quadratic_kappa,
)
from histo.evaluation.bootstrap import cluster_interval
from histo.evaluation.clumps import MORE_THAN, Clumps
from histo.evaluation.measures import MEASURES, bias, image_value, of_two, sums_of
from histo.evaluation.score import CELL_GROUPS, RADII_UM, CellGroup, ImageScore

Array = NDArray[np.float64]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Record):
    """A number with its 95 % interval over groups; or no number, and the reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n_images: int
    not_assessable: str | None = None
    no_interval: str | None = None

    @model_validator(mode="after")
    def _number_or_reason(self) -> Measured:
        if (self.value is None) == (self.not_assessable is None):
            raise ValueError("a measure has either a value or a reason for having none")
        if self.value is not None and (self.low is None) == (self.no_interval is None):
            raise ValueError("a value has either an interval or a reason for having none")
        return self


class ConfusionTable(_Record):
    """Images by true (rows) and found bin (columns)."""

    bins: list[str]
    images: list[list[int]]


class CountLimits(_Record):
    """Bland-Altman: mean of found less true, and the limits that hold 95 % of differences."""

    unit: str
    n_images: int
    mean: float | None
    low: float | None
    high: float | None
    not_assessable: str | None = None


class DensityClass(_Record):
    """Counts in images of one class of true density."""

    density: str
    n_images: int
    n_true: int
    n_found: int
    bias: Measured
    mean_absolute_error: Measured
    found_per_mm2: Measured


class CountSummary(_Record):
    """CD8+ counts of the images whose true count is known. Bias is found over true, less 1."""

    n_images: int
    n_true: int
    n_found: int
    bias: Measured
    mean_absolute_error: Measured
    by_density: list[DensityClass]
    quadratic_kappa: Measured
    lysto_bins: ConfusionTable
    concordance: Measured
    limits: CountLimits
    log2_limits: CountLimits


class ClumpSummary(_Record):
    """Counts in clumps of more than so many touching CD8+ cells."""

    more_than: int
    n_clumps: int
    n_true: int
    n_found: int
    bias: Measured


class FailedImage(_Record):
    """An image that could not be evaluated, and why."""

    name: str
    error: str


class Evaluation(_Record):
    """Everything an evaluation found."""

    dataset: str
    licence: str
    commercial_use: bool | None
    part: str
    histo_version: str
    detector: str
    detector_sha256: str
    config_name: str
    config_sha256: str
    edge_um: float
    n_images: int
    n_groups: int
    area_mm2: float
    scores: dict[CellGroup, dict[str, Measured]]
    counts: CountSummary
    clumps: ClumpSummary
    failed: list[FailedImage]


@dataclass(frozen=True)
class ScoredImage:
    """One image with its scores.

    assessed : share of it that tissue detection would have assessed.
    clumps : None where CD8+ cells are not outlined.
    """

    name: str
    group: str
    split: str | None
    kind: str
    mpp: float
    size_px: tuple[int, int]
    score: ImageScore
    assessed: float
    clumps: Clumps | None


def image_row(image: ScoredImage) -> dict[str, str | float | None]:
    """Return one row of `images.csv`; None where there is no number, with the reasons in the last column."""
    row: dict[str, str | float | None] = {
        "image": image.name,
        "group": image.group,
        "split": image.split,
        "kind": image.kind,
        "mpp_um": image.mpp,
        "width_px": image.size_px[0],
        "height_px": image.size_px[1],
        "scored_area_mm2": image.score.area_mm2,
        "assessed_share": image.assessed,
    }
    reasons: dict[str, list[str]] = {}

    def put(name: str, value: float | None, reason: str | None) -> None:
        row[name] = value
        if value is None and reason is not None:
            reasons.setdefault(reason, []).append(name)

    for group, score in image.score.groups.items():
        row[f"{group}_n_found"] = score.n_found
        put(f"{group}_n_true", score.n_true, score.reasons.get("count"))
        for radius in RADII_UM:
            counts = None if score.matching is None else score.matching[radius]
            why = score.reasons.get("matching")
            at = f"{radius:g}um"
            put(f"{group}_true_positives_{at}", counts and counts.true_positives, why)
            precise = counts is not None and "precision" not in score.reasons
            put(
                f"{group}_false_positives_{at}",
                counts.false_positives if counts is not None and precise else None,
                why or score.reasons.get("precision"),
            )
            put(f"{group}_false_negatives_{at}", counts and counts.false_negatives, why)
        for measure in MEASURES:
            put(f"{group}_{measure.name}", *image_value(measure, score, image.score.area_mm2))
    clumps = image.clumps
    no_clumps = "CD8+ cells are not outlined"
    put("n_clumps", None if clumps is None else len(clumps.n_true), no_clumps)
    put("n_true_in_clumps", None if clumps is None else int(clumps.n_true.sum()), no_clumps)
    put("n_found_in_clumps", None if clumps is None else int(clumps.n_found.sum()), no_clumps)
    row["not_assessable"] = "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())
    return row


def measured(
    sums: Array,
    groups: Sequence[str],
    statistic: Callable[[Array], Array],
    *,
    undefined: str,
    resamples: int = 2000,
    seed: int = 0,
) -> Measured:
    """Return a statistic of the sums of images (n, k) with its interval over their groups.

    `undefined` is why it has no value where it has none.
    """
    value = float(statistic(sums.sum(axis=0))) if len(sums) else float("nan")
    if not np.isfinite(value):
        return Measured(value=None, n_images=len(sums), not_assessable=undefined)
    interval = cluster_interval(sums, groups, statistic, resamples=resamples, seed=seed)
    return Measured(
        value=value,
        low=interval.low,
        high=interval.high,
        n_images=len(sums),
        no_interval=interval.reason,
    )


def summarise_scores(
    images: Sequence[ScoredImage], *, resamples: int = 2000, seed: int = 0
) -> dict[CellGroup, dict[str, Measured]]:
    """Pool the scores of images, by group of cells, with intervals over their groups.

    Names that end in "_mean" are means over the images in which the measure is defined; the others pool the
    cells of all images.
    """
    return {group: _group_summary(images, group, resamples, seed) for group in CELL_GROUPS}


def _group_summary(
    images: Sequence[ScoredImage], group: CellGroup, resamples: int, seed: int
) -> dict[str, Measured]:
    scores = [image.score for image in images]
    summary: dict[str, Measured] = {}
    for measure in MEASURES:
        sums, which, why = sums_of(measure, scores, group)
        names = [images[i].group for i in which]
        undefined = measure.undefined if len(which) else why or "no image"
        summary[measure.name] = measured(
            sums, names, measure.statistic, undefined=undefined, resamples=resamples, seed=seed
        )
        if not measure.averaged:
            continue
        each = measure.statistic(sums) if len(sums) else np.empty(0)
        defined = np.isfinite(each)
        summary[f"{measure.name}_mean"] = measured(
            np.column_stack([each[defined], np.ones(int(defined.sum()))]),
            [name for name, keep in zip(names, defined, strict=True) if keep],
            of_two,
            undefined=undefined,
            resamples=resamples,
            seed=seed,
        )
    return summary


def summarise_counts(images: Sequence[ScoredImage], *, resamples: int = 2000, seed: int = 0) -> CountSummary:
    """Compare CD8+ counts, over the images whose true count is known."""
    known = [image for image in images if image.score.groups["cd8"].n_true is not None]
    groups = np.array([image.group for image in known], dtype=str)
    true = np.array([image.score.groups["cd8"].n_true for image in known], np.float64)
    found = np.array([image.score.groups["cd8"].n_found for image in known], np.float64)
    area = np.array([image.score.area_mm2 for image in known], np.float64)
    reasons = [image.score.groups["cd8"].reasons.get("count") for image in images]
    why = "no image has a true count"
    if reasons and reasons[0]:
        why += f": {reasons[0]}"

    def over(
        chosen: NDArray[np.bool_], sums: Array, statistic: Callable[[Array], Array], undefined: str
    ) -> Measured:
        return measured(
            sums[chosen],
            groups[chosen].tolist(),
            statistic,
            undefined=undefined if chosen.any() else (why if not len(known) else "no such image"),
            resamples=resamples,
            seed=seed,
        )

    every = np.ones(len(known), bool)
    counts = np.column_stack([found, true])
    errors = np.column_stack([np.abs(found - true), np.ones(len(true))])
    density = density_class(true, area)
    classes = []
    for place, name in enumerate(DENSITY_NAMES):
        here = density == place
        classes.append(
            DensityClass(
                density=name,
                n_images=int(here.sum()),
                n_true=int(true[here].sum()),
                n_found=int(found[here].sum()),
                bias=over(here, counts, bias, "no such cell is annotated"),
                mean_absolute_error=over(here, errors, of_two, "no such image"),
                found_per_mm2=over(here, np.column_stack([found, area]), of_two, "nothing is scored"),
            )
        )
    k = len(LYSTO_NAMES)
    confusion = confusion_rows(true, found)

    def kappa(sums: Array) -> Array:
        return quadratic_kappa(sums.reshape(*sums.shape[:-1], k, k))

    table = confusion.sum(axis=0).reshape(k, k).astype(int)
    return CountSummary(
        n_images=len(known),
        n_true=int(true.sum()),
        n_found=int(found.sum()),
        bias=over(every, counts, bias, "no such cell is annotated"),
        mean_absolute_error=over(every, errors, of_two, why),
        by_density=classes,
        quadratic_kappa=over(every, confusion, kappa, "all counts lie in one bin"),
        lysto_bins=ConfusionTable(bins=list(LYSTO_NAMES), images=table.tolist()),
        concordance=over(every, moment_rows(true, found), concordance, "all counts are the same"),
        limits=_limits(true, found, "cells an image"),
        log2_limits=_limits(np.log2(true + 1), np.log2(found + 1), "log2 of count + 1"),
    )


def summarise_clumps(images: Sequence[ScoredImage], *, resamples: int = 2000, seed: int = 0) -> ClumpSummary:
    """Compare counts in dense clumps, over the images whose CD8+ cells are outlined."""
    known = [(image.group, image.clumps) for image in images if image.clumps is not None]
    sums = np.array([(c.n_found.sum(), c.n_true.sum()) for _, c in known], np.float64).reshape(-1, 2)
    # Images without a clump say nothing; as groups of their own they would only dilute the resamples.
    has = sums.sum(axis=1) > 0
    return ClumpSummary(
        more_than=MORE_THAN,
        n_clumps=sum(len(c.n_true) for _, c in known),
        n_true=int(sums[:, 1].sum()),
        n_found=int(sums[:, 0].sum()),
        bias=measured(
            sums[has],
            [name for (name, _), keep in zip(known, has, strict=True) if keep],
            bias,
            undefined="there is no clump" if known else "CD8+ cells are not outlined",
            resamples=resamples,
            seed=seed,
        ),
    )


def _limits(true: Array, found: Array, unit: str) -> CountLimits:
    if len(true) < 2:
        return CountLimits(
            unit=unit,
            n_images=len(true),
            mean=None,
            low=None,
            high=None,
            not_assessable="fewer than two images have a true count",
        )
    limits = bland_altman(true, found)
    return CountLimits(unit=unit, n_images=len(true), mean=limits.mean, low=limits.low, high=limits.high)


def markdown(evaluation: Evaluation) -> str:
    """Return the summary as a page for people."""
    e = evaluation
    lines = [
        f"# {e.detector} on {e.dataset}",
        "",
        f"{e.n_images} images of {e.n_groups} groups (part: {e.part}), {e.area_mm2:.3g} mm2 scored"
        + (f", a margin of {e.edge_um:g} um is not" if e.edge_um else "")
        + f". Configuration {e.config_name}, histo {e.histo_version}. Licence of the images: {e.licence}.",
        "Intervals are 95 % percentiles over resampled groups. NA: not assessable, for the reason below.",
        "",
        "| measure | CD8+ cells | other nuclei | all cells |",
        "|---|---|---|---|",
    ]
    notes: dict[str, None] = {}

    def cell(m: Measured) -> str:
        if m.value is None:
            notes[m.not_assessable or ""] = None
            return "NA"
        if m.low is None or m.high is None:
            notes[f"no interval: {m.no_interval}"] = None
            return f"{m.value:.3f}"
        return f"{m.value:.3f} ({m.low:.3f} to {m.high:.3f})"

    for name in e.scores["cd8"]:
        lines.append(f"| {name} | " + " | ".join(cell(e.scores[group][name]) for group in CELL_GROUPS) + " |")
    c = e.counts
    lines += [
        "",
        "## CD8+ counts",
        "",
        f"{c.n_found} found, {c.n_true} true, in {c.n_images} images whose true count is known.",
        "",
        "| measure | value |",
        "|---|---|",
        f"| bias | {cell(c.bias)} |",
        f"| mean absolute error an image | {cell(c.mean_absolute_error)} |",
        f"| quadratic kappa on LYSTO bins | {cell(c.quadratic_kappa)} |",
        f"| concordance (Lin) | {cell(c.concordance)} |",
        f"| limits of agreement, {c.limits.unit} | {_limits_text(c.limits)} |",
        f"| limits of agreement, {c.log2_limits.unit} | {_limits_text(c.log2_limits)} |",
        f"| bias in clumps of more than {e.clumps.more_than} cells "
        f"({e.clumps.n_found} found, {e.clumps.n_true} true in {e.clumps.n_clumps}) "
        f"| {cell(e.clumps.bias)} |",
        "",
        "| true density | images | true | found | bias | mean absolute error | found per mm2 |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {d.density} | {d.n_images} | {d.n_true} | {d.n_found} | {cell(d.bias)} | "
        f"{cell(d.mean_absolute_error)} | {cell(d.found_per_mm2)} |"
        for d in c.by_density
    ]
    if notes:
        lines += ["", "NA:", "", *(f"- {note}" for note in notes)]
    if e.failed:
        lines += ["", "Not evaluated:", "", *(f"- {f.name}: {f.error}" for f in e.failed)]
    return "\n".join(lines) + "\n"


def _limits_text(limits: CountLimits) -> str:
    if limits.mean is None:
        return "NA"
    return f"{limits.mean:.3f} ({limits.low:.3f} to {limits.high:.3f})"
