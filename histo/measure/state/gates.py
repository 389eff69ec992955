"""Where positive begins: one threshold of each marker for a whole batch, the most trusted there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from skimage.filters import threshold_otsu

from histo.measure.state.mixture import Populations, Scale, Values, fit_populations, spread_of
from histo.measure.state.names import CHECKPOINTS, identity
from histo.measure.state.summary import Gate, GateMethod, SensitivityCurve
from histo.measure.summary import Flag
from histo.panel import Marker, StatesConfig

# A mixture is taken where it is far likelier than one population (Kass 1995, J Am Stat Assoc 90:773: "very
# strong"), its components are apart (Ashman 1994) with a valley between them, and there are cells enough.
MIN_BIC_GAIN: Final = 10.0
MIN_ASHMAN_D: Final = 2.0
MAX_DIP: Final = 0.7
MIN_CELLS_OF_MIXTURE: Final = 50
MIN_CELLS_OF_COMPONENT: Final = 10
# So many cells would have shown a positive population, were there one.
MIN_CELLS_OF_ONE: Final = 200
# Share of the variance that Otsu's two classes explain. One normal population has 2 / pi = 0.64.
MIN_SEPARABILITY: Final = 0.8
MIN_CELLS_OF_OTSU: Final = 20
# With one population the gate lies where so many cells of the batch are expected above, were all negative.
EXPECTED_ABOVE_ONE: Final = 0.05
# Share of the variance of being positive that is explained by which slide a cell is of.
MAX_SHARE_BY_SLIDE: Final = 0.8
_CURVE_POINTS: Final = 50


@dataclass(frozen=True, eq=False)
class MarkerCells:
    """Intensities of one marker, of a batch; NaN where a cell has none.

    cd8 : by slide, of the CD8+ cells of slides that are no controls.
    control : of the CD8+ cells of control slides. negative : of cells that are configured as negative by
    lineage. other : of all other nuclei, for comparison; they set no gate.
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

    In this order: control slides, cells that are negative by lineage (both: `negative_percentile` of them),
    the manual gate, a mixture of two populations where they are apart, Otsu's threshold where few cells are
    split clearly. Where all cells are one population the gate is put above it, so that next to none is
    positive, unless that population is brighter than other nuclei: then nothing tells whether all or none
    are positive.

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
    flags: list[Flag] = []
    found = _of_negatives(cells, config, flags, seed)
    if found is not None and manual is not None:
        flags.append(
            Flag(
                code="manual_gate_not_used",
                message=f"{marker.name}: {found.method} are trusted more than the manual gate {manual:g}, "
                f"{_share_above(pooled, manual)} of CD8+ cells; to use that, configure no controls for it",
            )
        )
    if found is None:
        found = (
            _Found("manual", manual)
            if manual is not None
            else _unsupervised(marker.name, cells, pooled, seed)
        )
    share = None if found.threshold is None or not len(pooled) else _share(pooled, found.threshold)
    return _gate(marker, found, cells, pooled, share, config, manual=manual, flags=flags)


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
    scale = _negative_scale(cells)
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


def _of_negatives(cells: MarkerCells, config: StatesConfig, flags: list[Flag], seed: int) -> _Found | None:
    """Return the gate from control slides, or else from negative cells; None where neither are enough."""
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
        populations = fit_populations(values, seed)
        if populations is not None and _are_apart(populations) and populations.upper.share > tail:
            flags.append(
                Flag(
                    code="negatives_hold_positives",
                    message=f"{populations.upper.share:.1%} of the cells of {method} are a brighter "
                    "population of their own: if these are positive, the gate is too high",
                )
            )
        return _Found(
            method,
            float(np.quantile(values, 1 - tail)),
            negative_share=tail,
            n_reference=len(values),
            numbers={"percentile": config.negative_percentile},
        )
    return None


def _unsupervised(name: str, cells: MarkerCells, pooled: Values, seed: int) -> _Found:
    """Return the gate that the CD8+ cells of a batch give by themselves, or why they give none."""
    populations = fit_populations(pooled, seed)
    if populations is None or len(pooled) < MIN_CELLS_OF_OTSU:
        why = (
            f"only {len(pooled)} CD8+ cells"
            if len(pooled) < MIN_CELLS_OF_OTSU
            else "the intensities are all alike"
        )
        return _Found(None, None, f"{why}, and neither controls nor a manual gate")
    numbers = _numbers(populations)
    if _are_apart(populations):
        return _of_mixture(name, cells, populations, numbers)
    split = _otsu(pooled, populations.spread)
    if split is not None:
        threshold, separability = split
        message = (
            f"{name}: the gate is Otsu's threshold (separability {separability:.2f}), the least trusted way: "
            "look at its curve, and give controls or a manual gate"
        )
        return _Found(
            "Otsu",
            threshold,
            numbers={**numbers, "separability": separability},
            flags=(Flag(code="otsu_gate", message=message),),
        )
    if len(pooled) < MIN_CELLS_OF_ONE:
        reason = (
            f"{len(pooled)} CD8+ cells show no two populations, and are too few to say that there is only "
            "one: give controls or a manual gate"
        )
        return _Found(None, None, reason, numbers=numbers)
    if populations.bic_gain > MIN_BIC_GAIN and populations.ashman_d >= MIN_ASHMAN_D:
        reason = (
            f"no valley between the populations (Ashman's D {populations.ashman_d:.1f}): either two that "
            "overlap or a single skewed one; give controls or a manual gate"
        )
        return _Found(None, None, reason, numbers=numbers)
    return _of_one(name, cells, populations, numbers)


def _of_mixture(name: str, cells: MarkerCells, populations: Populations, numbers: dict[str, float]) -> _Found:
    threshold = populations.crossing
    lower = populations.lower
    flags = []
    positive = [values > threshold for values in cells.cd8 if len(values)]
    if len(positive) > 1 and _share_by_slide(positive) > MAX_SHARE_BY_SLIDE:
        message = (
            f"{name}: the two populations are two sets of slides. If they differ in staining or background, "
            "not in their cells, this gate is wrong: give controls or a manual gate"
        )
        flags.append(Flag(code="populations_are_slides", message=message))
    if _is_above(cells.other, Scale(populations.spread), *_on_spread(populations, lower.mean, lower.sd)):
        message = (
            f"{name}: even the dimmer population of CD8+ cells is brighter than other nuclei: it may be "
            "positive, and the brighter one bright"
        )
        flags.append(Flag(code="dim_population_above_others", message=message))
    place = float(populations.scale.of(np.array([threshold]))[0])
    return _Found(
        "mixture",
        threshold,
        negative_share=float(norm.sf(place, lower.mean, lower.sd)),
        numbers=numbers,
        flags=tuple(flags),
    )


def _of_one(name: str, cells: MarkerCells, populations: Populations, numbers: dict[str, float]) -> _Found:
    single = populations.single
    centre, sd = _on_spread(populations, single.mean, single.sd, of_single=True)
    if _is_above(cells.other, Scale(populations.spread), centre, sd):
        reason = (
            "all CD8+ cells are one population, brighter than other nuclei: nothing tells whether all or "
            "none of them are positive; give controls or a manual gate"
        )
        return _Found(None, None, reason, numbers=numbers)
    n_cells = sum(len(values) for values in cells.cd8)
    tail = EXPECTED_ABOVE_ONE / n_cells
    against = (
        ""
        if len(cells.other) >= MIN_CELLS_OF_ONE
        else ", and there were no other nuclei to compare them with"
    )
    message = (
        f"{name}: no positive population was seen among {n_cells} CD8+ cells. All are taken as negative, the "
        f"gate lies above them{against}"
    )
    return _Found(
        "one population",
        populations.above_single(tail),
        negative_share=tail,
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
    if min(above.sum(), (~above).sum()) < MIN_CELLS_OF_COMPONENT / 2:
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


def _by_marker(values: dict[str, float], marker: Marker) -> float | None:
    """Return the value of a marker, by its name in the panel or by another name of the same marker."""
    if marker.name in values:
        return values[marker.name]
    return next((value for name, value in values.items() if identity(name) == identity(marker.name)), None)


def _negative_scale(cells: MarkerCells) -> tuple[float | None, float | None, float | None]:
    """Return cofactor, median and deviation of negative cells on an arcsinh scale, where there are any."""
    values = cells.control if len(cells.control) else cells.negative
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
