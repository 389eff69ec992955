"""Where positive begins: one threshold of each marker for a whole batch, the most trusted there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, fisher_exact, norm
from skimage.filters import threshold_otsu

from histo.measure.state.mixture import Populations, Scale, Values, fit_populations, spread_of
from histo.measure.state.names import CHECKPOINTS, identity
from histo.measure.state.summary import Gate, GateMethod, SensitivityCurve
from histo.measure.summary import Flag
from histo.panel import Marker, StatesConfig

# A mixture is taken where it is far likelier than one population (Kass 1995, J Am Stat Assoc 90:773: "very
# strong"), its components are apart (Ashman 1994) with a valley between them, and there are cells enough.
MIN_BIC_GAIN: Final = 10.0
# Less of a difference decides nothing (Kass 1995).
UNDECIDED_BIC: Final = 2.0
MIN_ASHMAN_D: Final = 2.0
MAX_DIP: Final = 0.7
MIN_CELLS_OF_MIXTURE: Final = 50
MIN_CELLS_OF_COMPONENT: Final = 5
# So many cells would have shown a positive population, were there one.
MIN_CELLS_OF_ONE: Final = 200
# Share of the variance that Otsu's two classes explain. One normal population has 2 / pi = 0.64.
MIN_SEPARABILITY: Final = 0.8
MIN_CELLS_OF_OTSU: Final = 20
# With one population the gate lies where so many cells of the batch are expected above, were all negative.
EXPECTED_ABOVE_ONE: Final = 0.05
# Share of the variance of being positive that is explained by which slide a cell is of.
MAX_SHARE_BY_SLIDE: Final = 0.8
# So much more of the CD8+ cells than of other nuclei lies above a gate where some are positive, and so seldom
# by chance.
MAX_EXCESS: Final = 0.02
BY_CHANCE: Final = 0.001
# Negative cells do not fit a batch where so much more of its dimmer population lies above their gate, and so
# seldom by chance. More than `MAX_TAIL` of it there is no tail, but dim positive cells.
MAX_EXCESS_OF_DIMMER: Final = 0.01
MISFIT_BY_CHANCE: Final = 0.01
MAX_TAIL: Final = 0.06
# What is allowed for as negative cells above a gate that was set without controls: at least so many, since no
# tail is known to be normal that far out; as many as other nuclei, but no more than this of them.
MIN_NEGATIVE_SHARE: Final = 0.001
MAX_NEGATIVE_SHARE: Final = 0.01
_CURVE_POINTS: Final = 50


@dataclass(frozen=True, eq=False)
class MarkerCells:
    """Intensities of one marker, of a batch; NaN where a cell has none.

    cd8 : by slide, of the CD8+ cells of slides that are no controls.
    control : of the CD8+ cells of control slides. negative : of cells that are configured as negative by
    lineage. other : of all other nuclei: of a marker that few of them carry, they tell what no staining is.
    """

    cd8: Sequence[Values]
    control: Values = field(default_factory=lambda: np.empty(0))
    negative: Values = field(default_factory=lambda: np.empty(0))
    other: Values = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class _Found:
    """What one way of gating says."""

    method: GateMethod | None
    threshold: float | None
    reason: str | None = None
    negative_share: float | None = None
    n_reference: int = 0
    numbers: dict[str, float] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()


def set_gate(marker: Marker, cells: MarkerCells, config: StatesConfig, seed: int = 0) -> Gate:
    """Set the gate of one marker for a batch.

    In this order: control slides, cells that are negative by lineage (both: `negative_percentile` of them,
    where they stand for those of the batch), the manual gate, a mixture of two populations where they are
    apart, Otsu's threshold where few cells are split clearly. Without any of these: where CD8+ cells are like
    other nuclei, or one population, the gate is put above them, so that next to none is positive; where more
    of them than of other nuclei are bright, it is put above the other nuclei; where all of them are brighter
    nothing tells whether all or none are positive. No gate but the manual one is set below `min_gates`, or
    below the gate of a mixture whose brighter population is above that.

    Parameters
    ----------
    cells : of the whole batch; never of one slide.
    seed : of samples that are taken from many cells.

    Returns
    -------
    The gate, or why there is none, with its sensitivity curve and flags.
    """
    cells = _measured(cells)
    pooled = np.concatenate([np.empty(0), *cells.cd8])
    manual = _by_marker(config.gates, marker)
    populations = fit_populations(pooled, seed)
    floor = _least_of_batch(marker, populations, config)
    flags: list[Flag] = []
    unfit: list[GateMethod] = []
    found = _of_negatives(marker, cells, pooled, populations, config, flags, unfit, seed)
    if found is not None and manual is not None:
        flags.append(
            Flag(
                code="manual_gate_not_used",
                message=f"{marker.name}: {found.method} are trusted more than the manual gate {manual:g}, "
                f"{_share_above(pooled, manual)} of CD8+ cells; to use that, configure no controls for it",
            )
        )
    if found is None and manual is not None:
        found = _Found("manual", manual)
    elif found is None:
        found = _unsupervised(marker, cells, pooled, populations, config)
    if found.method != "manual" and found.threshold is not None and found.threshold < floor:
        flags.append(
            Flag(
                code="gate_raised",
                message=f"{marker.name}: the gate from {found.method}, {found.threshold:.4g}, is raised to "
                f"{floor:.4g}: the least one is {_floor(marker, config):g}",
            )
        )
        numbers = {**found.numbers, "raised_from": found.threshold}
        found = replace(found, threshold=floor, numbers=numbers)
    share = None if found.threshold is None or not len(pooled) else _share(pooled, found.threshold)
    return _gate(marker, found, cells, pooled, share, config, manual=manual, unfit=unfit, flags=flags)


def table_gate(
    marker: Marker, called: Sequence[NDArray[np.bool_]], cells: MarkerCells, config: StatesConfig
) -> Gate:
    """Return the record of a marker that the table of another program calls itself.

    Parameters
    ----------
    called : by slide, of its CD8+ cells whose call is known: whether they are positive.
    cells : intensities, where the table has them, for the curve and the bright gate.
    """
    cells = _measured(cells)
    pooled = np.concatenate([np.empty(0), *cells.cd8])
    known = np.concatenate([np.empty(0, bool), *called])
    share = float(known.mean()) if len(known) else None
    gate = _gate(marker, _Found("table", None), cells, pooled, share, config)
    return gate.model_copy(update={"n_cells": len(known)})


def _gate(
    marker: Marker,
    found: _Found,
    cells: MarkerCells,
    pooled: Values,
    share: float | None,
    config: StatesConfig,
    *,
    manual: float | None = None,
    unfit: Sequence[GateMethod] = (),
    flags: Sequence[Flag] = (),
) -> Gate:
    """Record what was found, with everything that does not depend on how."""
    references: tuple[tuple[str, Values], ...] = (
        ("control slides", cells.control),
        ("negative cells", cells.negative),
        ("other nuclei", cells.other),
    )
    reference_name, reference = next((pair for pair in references if len(pair[1])), (None, np.empty(0)))
    bright, bright_method, no_bright = _bright(marker, found, config)
    scale = _negative_scale(cells, unfit)
    return Gate(
        marker=marker.name,
        identity=identity(marker.name),
        column=marker.column,
        is_checkpoint=is_checkpoint(marker),
        method=found.method,
        threshold=found.threshold,
        not_assessable=found.reason,
        manual_threshold=manual,
        n_cells=len(pooled),
        n_reference=found.n_reference,
        negative_share=found.negative_share,
        fraction=share,
        numbers=found.numbers,
        bright_threshold=bright,
        bright_method=bright_method,
        bright_not_assessable=no_bright,
        cofactor=scale[0],
        negatives_median=scale[1],
        negatives_sd=scale[2],
        curve=_curve(pooled, found.threshold, reference_name, reference),
        flags=[*flags, *found.flags],
    )


def is_checkpoint(marker: Marker) -> bool:
    """Tell whether a marker is a co-inhibitory receptor: by its role, or by what it is."""
    return marker.role == "checkpoint" or identity(marker.name) in CHECKPOINTS


def _of_negatives(
    marker: Marker,
    cells: MarkerCells,
    pooled: Values,
    populations: Populations | None,
    config: StatesConfig,
    flags: list[Flag],
    unfit: list[GateMethod],
    seed: int,
) -> _Found | None:
    """Return the gate from control slides, or else negative cells; None where neither are enough and fit."""
    floor = _least_of_batch(marker, populations, config)
    tail = 1 - config.negative_percentile / 100
    needed = ceil(1 / tail - 1e-6)
    ways: tuple[tuple[GateMethod, Values], ...] = (
        ("control slides", cells.control),
        ("negative cells", cells.negative),
    )
    for method, values in ways:
        if len(values) == 0:
            continue
        if len(values) < needed:
            flags.append(
                Flag(
                    code="too_few_negatives",
                    message=f"{method} have {len(values)} cells; their {config.negative_percentile:g}th "
                    f"percentile needs {needed}: not used",
                )
            )
            continue
        threshold = float(np.quantile(values, 1 - tail))
        misfit = _misfit(pooled, populations, values, max(threshold, floor), tail)
        if misfit is not None:
            message = (
                f"{marker.name}: {method} do not stand for this batch and are not used: {misfit}. By that "
                f"gate, {threshold:.4g}, {_share_above(pooled, threshold)} of CD8+ cells would be positive"
            )
            flags.append(Flag(code="negatives_do_not_fit", message=message))
            unfit.append(method)
            continue
        own = fit_populations(values, seed)
        if own is not None and _are_apart(own) and own.upper.share > tail:
            flags.append(
                Flag(
                    code="negatives_hold_positives",
                    message=f"{own.upper.share:.1%} of the cells of {method} are a brighter "
                    "population of their own: if these are positive, the gate is too high",
                )
            )
        return _Found(
            method,
            threshold,
            negative_share=tail,
            n_reference=len(values),
            numbers={"percentile": config.negative_percentile},
        )
    return None


def _misfit(
    pooled: Values, populations: Populations | None, negatives: Values, threshold: float, tail: float
) -> str | None:
    """Return why negative cells do not stand for the negative CD8+ cells of a batch, or None where they may.

    Where CD8+ cells are two populations that are apart, the dimmer one should lie above a gate from negatives
    no more often than these. It may be dimly positive: then its cells, moved by what its lower part lies
    above that of the negatives, are still above the gate, or it is apart from the negatives altogether.
    CD8+ cells that are one population do not fit where such a move alone brings them below the gate.
    """
    two = populations if populations is not None and _are_apart(populations) else None
    dimmer = pooled if two is None else pooled[pooled <= two.crossing]
    above, above_theirs = int((dimmer > threshold).sum()), int((negatives > threshold).sum())
    table = np.array([[above, len(dimmer) - above], [above_theirs, len(negatives) - above_theirs]])
    spread = spread_of(negatives)
    if spread <= 0 or fisher_exact(table, alternative="greater").pvalue > MISFIT_BY_CHANCE:
        return None
    share = above / len(dimmer)
    scale = Scale(spread)
    ours, theirs = scale.of(dimmer), scale.of(negatives)
    between = float(np.median(ours) - np.median(theirs))
    if sqrt(2) * between / sqrt(spread_of(ours) ** 2 + spread_of(theirs) ** 2) >= MIN_ASHMAN_D:
        return None
    # Of the lower parts, in which there is hardly a positive cell.
    low = norm.cdf(-1)
    shift = float(np.quantile(ours, low) - np.quantile(theirs, low))
    left = float((ours > scale.of(np.array([threshold]))[0] + shift).mean())
    if two is not None:
        if share <= tail + MAX_EXCESS_OF_DIMMER or left > MAX_TAIL:
            return None
        return f"{share:.1%} of the dimmer of two populations of CD8+ cells lie above their gate"
    if share <= tail + MAX_EXCESS or left - tail > (share - tail) / 2:
        return None
    return f"the CD8+ cells, as one population, are brighter, so that {share:.1%} lie above their gate"


def _unsupervised(
    marker: Marker, cells: MarkerCells, pooled: Values, populations: Populations | None, config: StatesConfig
) -> _Found:
    """Return the gate that the CD8+ cells of a batch give by themselves, or why they give none."""
    if populations is None or len(pooled) < MIN_CELLS_OF_OTSU:
        few = len(pooled) < MIN_CELLS_OF_OTSU
        why = f"only {len(pooled)} CD8+ cells" if few else "the intensities are all alike"
        return _Found(None, None, f"{why}, and neither controls nor a manual gate")
    numbers = _numbers(populations)
    floor = _floor(marker, config)
    if _are_apart(populations):
        return _of_mixture(marker, cells, populations, numbers, floor)
    # What is apart and may be two: Otsu splits any single population, too.
    two = populations.ashman_d >= MIN_ASHMAN_D and populations.bic_gain > -UNDECIDED_BIC
    split = _otsu(pooled, populations.spread) if two and populations.dip <= MAX_DIP else None
    if split is not None:
        threshold, separability = split
        message = (
            f"{marker.name}: the gate is Otsu's threshold (separability {separability:.2f}), the least "
            "trusted way: look at its curve, and give controls or a manual gate"
        )
        return _Found(
            "Otsu",
            threshold,
            numbers={**numbers, "separability": separability},
            flags=(Flag(code="otsu_gate", message=message),),
        )
    tail = 1 - config.negative_percentile / 100
    above_others = float(np.quantile(cells.other, 1 - tail)) if _compares(marker, cells) else None
    if len(pooled) < (MIN_CELLS_OF_ONE if above_others is None else MIN_CELLS_OF_MIXTURE):
        reason = (
            f"{len(pooled)} CD8+ cells show no two populations, and are too few to say that there is only "
            "one: give controls or a manual gate"
        )
        return _Found(None, None, reason, numbers=numbers)
    single = populations.single
    centre, sd = _on_spread(populations, single.mean, single.sd, of_single=True)
    if np.median(pooled) > floor and _is_above(cells.other, Scale(populations.spread), centre, sd):
        reason = (
            "all CD8+ cells are one population, brighter than other nuclei: nothing tells whether all or "
            "none of them are positive; give controls or a manual gate"
        )
        return _Found(None, None, reason, numbers=numbers)
    if above_others is not None and _exceed(pooled, max(above_others, floor), tail):
        misfit = _misfit(pooled, populations, cells.other, max(above_others, floor), tail)
        if misfit is not None:
            reason = (
                f"compared with other nuclei, {misfit}: nothing tells a trace of another stain from faint "
                "staining of all of them; give controls or a manual gate"
            )
            return _Found(None, None, reason, numbers=numbers)
        return _of_others(marker, cells, above_others, tail, numbers)
    if two and above_others is None:
        reason = (
            "the CD8+ cells are either two populations that overlap or a single skewed one (Ashman's D "
            f"{populations.ashman_d:.1f}, no clear valley): give controls or a manual gate"
        )
        return _Found(None, None, reason, numbers=numbers)
    return _of_one(marker, cells, populations, above_others, numbers)


def _compares(marker: Marker, cells: MarkerCells) -> bool:
    """Tell whether other nuclei show what no staining looks like: most of them do not carry such a marker."""
    return (
        len(cells.other) >= MIN_CELLS_OF_ONE
        and (marker.role in ("checkpoint", "state") or is_checkpoint(marker))
        # Tumour cells divide.
        and identity(marker.name) != "Ki67"
    )


def _exceed(pooled: Values, threshold: float, tail: float) -> bool:
    """Tell whether clearly more CD8+ cells lie above a threshold than the share of other nuclei that does."""
    n_above = int((pooled > threshold).sum())
    by_chance = float(binom.sf(n_above - 1, len(pooled), tail))
    return n_above / len(pooled) > tail + MAX_EXCESS and by_chance < BY_CHANCE


def _of_mixture(
    marker: Marker, cells: MarkerCells, populations: Populations, numbers: dict[str, float], floor: float
) -> _Found:
    name, threshold, lower = marker.name, populations.crossing, populations.lower
    flags = []
    positive = [values > threshold for values in cells.cd8 if len(values)]
    if len(positive) > 1 and _share_by_slide(positive) > MAX_SHARE_BY_SLIDE:
        message = (
            f"{name}: the two populations are two sets of slides. If they differ in staining or background, "
            "not in their cells, this gate is wrong: give controls or a manual gate"
        )
        flags.append(Flag(code="populations_are_slides", message=message))
    if float(populations.scale.value(lower.mean)) > floor and _is_above(
        cells.other, Scale(populations.spread), *_on_spread(populations, lower.mean, lower.sd)
    ):
        message = (
            f"{name}: even the dimmer population of CD8+ cells is brighter than other nuclei: it may be "
            "positive, and the brighter one bright"
        )
        flags.append(Flag(code="dim_population_above_others", message=message))
    if (
        _compares(marker, cells)
        and _share(cells.other, threshold) >= _share(np.concatenate(cells.cd8), threshold) - MAX_EXCESS
    ):
        message = (
            f"{name}: {_share(cells.other, threshold):.1%} of other nuclei lie above the gate too: it may be "
            "background that makes two populations"
        )
        flags.append(Flag(code="others_above_gate", message=message))
    place = float(populations.scale.of(np.array([threshold]))[0])
    expected = max(float(norm.sf(place, lower.mean, lower.sd)), MIN_NEGATIVE_SHARE)
    if _compares(marker, cells):
        # The tail of real negative cells is longer than a normal one; some other nuclei may be positive.
        expected = max(expected, min(_share(cells.other, threshold), MAX_NEGATIVE_SHARE))
    return _Found(
        "mixture",
        threshold,
        negative_share=expected,
        numbers=numbers,
        flags=tuple(flags),
    )


def _of_others(
    marker: Marker, cells: MarkerCells, threshold: float, tail: float, numbers: dict[str, float]
) -> _Found:
    """Return a gate above other nuclei, where more of the CD8+ cells lie above it but form no population."""
    message = (
        f"{marker.name}: the CD8+ cells show no two populations that are apart, but more of them than of "
        "other nuclei are bright. The gate lies above the other nuclei, as if these were negative by "
        "lineage: look at its curve, and give controls or a manual gate"
    )
    return _Found(
        "other nuclei",
        threshold,
        negative_share=tail,
        n_reference=len(cells.other),
        numbers=numbers,
        flags=(Flag(code="gate_from_other_nuclei", message=message),),
    )


def _of_one(
    marker: Marker,
    cells: MarkerCells,
    populations: Populations,
    above_others: float | None,
    numbers: dict[str, float],
) -> _Found:
    """Return a gate above the only population, and above the other nuclei where they are a reference."""
    n_cells = sum(len(values) for values in cells.cd8)
    tail = EXPECTED_ABOVE_ONE / n_cells
    threshold = populations.above_single(tail)
    if above_others is not None:
        threshold = max(threshold, above_others)
    compared = "" if len(cells.other) >= MIN_CELLS_OF_ONE else ", with no other nuclei to compare them with"
    message = (
        f"{marker.name}: no positive population was seen among {n_cells} CD8+ cells{compared}. All are taken "
        "as negative, the gate lies above their bulk"
    )
    return _Found(
        "one population",
        threshold,
        negative_share=max(tail, MIN_NEGATIVE_SHARE),
        numbers=numbers,
        flags=(Flag(code="no_positive_population", message=message),),
    )


def _are_apart(populations: Populations) -> bool:
    least = min(populations.lower.share, populations.upper.share) * populations.n
    return (
        populations.n >= MIN_CELLS_OF_MIXTURE
        and least >= MIN_CELLS_OF_COMPONENT
        and populations.bic_gain > MIN_BIC_GAIN
        and populations.ashman_d >= MIN_ASHMAN_D
        and populations.dip <= MAX_DIP
    )


def _numbers(populations: Populations) -> dict[str, float]:
    lower, upper = populations.lower, populations.upper
    return {
        "bic_gain": populations.bic_gain,
        "ashman_d": populations.ashman_d,
        "dip": populations.dip,
        "cofactor": populations.scale.cofactor,
        "origin": populations.scale.origin,
        "lower_mean": lower.mean,
        "lower_sd": lower.sd,
        "upper_mean": upper.mean,
        "upper_sd": upper.sd,
        "upper_share": upper.share,
    }


def _otsu(values: Values, spread: float) -> tuple[float, float] | None:
    """Return Otsu's threshold and its separability; None where the classes are not clear, or one is tiny.

    Otsu 1979, IEEE Trans Syst Man Cybern 9:62; separability is the variance between classes by that of all.
    """
    scale = Scale(spread, float(np.median(values)))
    places = scale.of(values)
    cut = float(threshold_otsu(places))  # type: ignore[no-untyped-call]
    above = places > cut
    share = float(above.mean())
    if min(above.sum(), (~above).sum()) < MIN_CELLS_OF_COMPONENT:
        return None
    between = share * (1 - share) * (places[above].mean() - places[~above].mean()) ** 2
    separability = float(between / places.var())
    return (float(scale.value(cut)), separability) if separability >= MIN_SEPARABILITY else None


def _on_spread(
    populations: Populations, mean: float, sd: float, *, of_single: bool = False
) -> tuple[float, float]:
    """Return mean and deviation of a population on the scale whose cofactor is the spread of all cells."""
    scale = populations.single_scale if of_single else populations.scale
    low, middle = Scale(populations.spread).of(scale.value(np.array([mean - sd, mean])))
    return float(middle), float(middle - low)


def _is_above(other: Values, scale: Scale, mean: float, sd: float) -> bool:
    """Tell whether a population lies above that of the other nuclei, and apart from it (Ashman's D)."""
    if len(other) < MIN_CELLS_OF_ONE:
        return False
    places = scale.of(other)
    difference = mean - float(np.median(places))
    return sqrt(2) * difference / sqrt(sd**2 + spread_of(places) ** 2) >= MIN_ASHMAN_D


def _share_by_slide(positive: Sequence[NDArray[np.bool_]]) -> float:
    """Return the share of the variance of being positive that lies between slides."""
    pooled = np.concatenate(positive)
    mean = pooled.mean()
    if mean in (0, 1):
        return 0.0
    between = sum(len(values) * (values.mean() - mean) ** 2 for values in positive) / len(pooled)
    return float(between / (mean * (1 - mean)))


def _bright(
    marker: Marker, found: _Found, config: StatesConfig
) -> tuple[float | None, str | None, str | None]:
    """Return the bright gate, how it was set, or why there is none."""
    manual = _by_marker(config.bright_gates, marker)
    multiple = _by_marker(config.bright_multiples, marker)
    if manual is not None:
        if found.threshold is not None and manual <= found.threshold:
            return None, None, f"the bright gate {manual:g} is not above the gate {found.threshold:g}"
        return manual, "manual", None
    if multiple is None:
        return None, None, "neither a bright gate nor a multiple of the gate is configured"
    if found.method not in ("control slides", "negative cells") or found.threshold is None:
        return None, None, "a multiple of the gate is taken only where the gate comes from controls"
    if found.threshold <= 0:
        return None, None, f"no multiple can be taken of the gate {found.threshold:g}"
    return multiple * found.threshold, f"{multiple:g} x the gate from {found.method}", None


def _floor(marker: Marker, config: StatesConfig) -> float:
    """Return the least gate of a marker; -inf where none is configured."""
    least = _by_marker(config.min_gates, marker)
    return -inf if least is None else least


def _least_of_batch(marker: Marker, populations: Populations | None, config: StatesConfig) -> float:
    """Return the least gate of a marker; that between two populations where the brighter one is above it."""
    least = _floor(marker, config)
    if populations is None or not _are_apart(populations):
        return least
    # No trace is as bright as that, so that the cells themselves tell where it ends.
    brighter = float(populations.scale.value(populations.upper.mean))
    return min(least, populations.crossing) if brighter > least else least


def _by_marker(values: dict[str, float], marker: Marker) -> float | None:
    """Return the value of a marker, by its name in the panel or by another name of the same marker."""
    if marker.name in values:
        return values[marker.name]
    return next((value for name, value in values.items() if identity(name) == identity(marker.name)), None)


def _negative_scale(
    cells: MarkerCells, unfit: Sequence[GateMethod]
) -> tuple[float | None, float | None, float | None]:
    """Return cofactor, median and deviation of negative cells on an arcsinh scale, where there are any."""
    ways = (("control slides", cells.control), ("negative cells", cells.negative))
    fitting = (values for name, values in ways if len(values) and name not in unfit)
    values = next(fitting, np.empty(0))
    if len(values) < MIN_CELLS_OF_OTSU or spread_of(values) <= 0:
        return None, None, None
    scale = Scale(spread_of(values))
    places = scale.of(values)
    # The half below the median: a few positive cells among them do not count.
    return scale.cofactor, float(np.median(places)), spread_of(places)


def _curve(
    pooled: Values, threshold: float | None, reference_name: str | None, reference: Values
) -> SensitivityCurve | None:
    """Return the share of cells above thresholds that lie even on an arcsinh scale, the gate among them."""
    if len(pooled) < 2:
        return None
    scale = Scale(spread_of(pooled) or float(pooled.std()) or 1.0)
    low, high = np.quantile(pooled, [0.005, 0.995])
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
    first, last = scale.of(np.array([low, high])).tolist()
    thresholds = scale.value(np.linspace(first, last, _CURVE_POINTS))
    if threshold is not None:
        thresholds[np.abs(thresholds - threshold).argmin()] = threshold
    return SensitivityCurve(
        threshold=thresholds.tolist(),
        fraction=_shares(pooled, thresholds),
        reference=reference_name,
        reference_fraction=None if reference_name is None else _shares(reference, thresholds),
    )


def _shares(values: Values, thresholds: Values) -> list[float]:
    at_most = np.searchsorted(np.sort(values), thresholds, side="right")
    shares: list[float] = (1 - at_most / len(values)).tolist()
    return shares


def _share(values: Values, threshold: float) -> float:
    return float((values > threshold).mean())


def _share_above(values: Values, threshold: float) -> str:
    return f"{_share(values, threshold):.1%}" if len(values) else "none"


def _measured(cells: MarkerCells) -> MarkerCells:
    """Leave out cells without a value."""
    return MarkerCells(
        [_finite(values) for values in cells.cd8], *map(_finite, (cells.control, cells.negative, cells.other))
    )


def _finite(values: Values) -> Values:
    plain = np.asarray(values, np.float64)
    return plain[np.isfinite(plain)]
