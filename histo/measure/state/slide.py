"""The states of one slide, from its CD8+ cells, the gates of its batch and its areas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histo import __version__
from histo.measure.density import PER_MM2, poisson_density, zone_density
from histo.measure.state.definitions import (
    PROGENITOR,
    TERMINAL,
    NegativeShare,
    State,
    negative_share_of,
    why_no_call,
    why_not,
)
from histo.measure.state.fractions import (
    H_SCORE,
    LOAD,
    OF_CD8,
    RATIO,
    Z,
    by_blocks,
    clustered_fraction,
    count_ratio,
    h_score,
    mean_of_cells,
    median_z,
    state_fraction,
)
from histo.measure.state.rules import Call, apply_rule
from histo.measure.state.summary import (
    STATE_ZONES,
    Gate,
    StateAtDistance,
    StateInZone,
    StatesSummary,
    StateZone,
    ZoneMeasures,
)
from histo.measure.summary import Estimate, Flag


@dataclass(frozen=True, eq=False)
class StateCells:
    """The CD8+ cells in assessed tissue of one slide.

    zone : (n,) core, inner_margin, outer_margin, far or "". signed_distance_um : NaN without a border.
    values : by marker of the panel, (n,) intensities, NaN where a cell has none.
    calls : by marker, (n,) nullable booleans that a table brings instead of intensities.
    """

    cell_id: NDArray[np.int64]
    x_um: NDArray[np.float64]
    y_um: NDArray[np.float64]
    zone: NDArray[np.str_]
    signed_distance_um: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float64]]
    calls: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.cell_id)


@dataclass(frozen=True)
class Areas:
    """Assessed tissue of a slide, in mm2.

    by_zone : None where a zone has no area; then `reasons` says why.
    by_distance : (low_um, high_um, area) of classes of distance to the border; None without a border.
    """

    by_zone: Mapping[StateZone, float | None]
    reasons: Mapping[StateZone, str]
    by_distance: Sequence[tuple[float, float, float]] | None = None


@dataclass(frozen=True)
class Limits:
    """From which numbers on there is an estimate, and the level of intervals."""

    min_cd8_cells: int
    min_zone_area_mm2: float
    block_um: float
    level: float


def call_positive(values: NDArray[np.float64], threshold: float) -> Any:
    """Return which cells lie above a threshold, as nullable booleans: NA where there is no value."""
    positive = pd.array(values > threshold, dtype="boolean")
    positive[np.isnan(values)] = pd.NA
    return positive


def call_cells(cells: StateCells, gates: Sequence[Gate]) -> dict[str, Any]:
    """Return the calls of each marker that has a gate, by `Call.column`: "PD-1+", "PD-1^"."""
    calls: dict[str, Any] = {}
    for gate in gates:
        if gate.not_assessable is not None:
            continue
        positive = Call(gate.identity).column
        if gate.method == "table":
            calls[positive] = cells.calls[gate.marker]
        elif gate.threshold is not None:
            calls[positive] = call_positive(cells.values[gate.marker], gate.threshold)
        if gate.bright_threshold is not None and gate.marker in cells.values:
            calls[Call(gate.identity, bright=True).column] = call_positive(
                cells.values[gate.marker], gate.bright_threshold
            )
    return calls


def state_frame(cells: StateCells, gates: Sequence[Gate], states: Sequence[State]) -> pd.DataFrame:
    """Return a row per CD8+ cell: cell_id, a nullable boolean per call ("PD-1+", "PD-1^") and per state.

    What has no gate has no column. A state of one marker is the marker's own column.
    """
    calls = call_cells(cells, gates)
    by_marker = {gate.identity: gate for gate in gates}
    columns = dict(calls)
    for state in states:
        if why_not(state.rule, by_marker) is None:
            columns[state.name] = apply_rule(state.rule, calls)
    return pd.DataFrame({"cell_id": cells.cell_id, **columns})


def states_of_slide(
    slide_id: str,
    cells: StateCells,
    gates: Sequence[Gate],
    states: Sequence[State],
    areas: Areas,
    limits: Limits,
    flags: Sequence[Flag] = (),
) -> tuple[StatesSummary, pd.DataFrame]:
    """Measure the states of one slide, by zone and along the distance to the border.

    Returns
    -------
    The summary, and `state_frame`.
    """
    by_marker = {gate.identity: gate for gate in gates}
    frame = state_frame(cells, gates, states)
    reasons = {state.name: why_not(state.rule, by_marker) for state in states}
    shares = {
        state.name: NegativeShare() if reasons[state.name] else negative_share_of(state.rule, by_marker)
        for state in states
    }
    in_zone: dict[StateZone, NDArray[np.bool_]] = {
        zone: np.ones(len(cells), bool) if zone == "all" else cells.zone == zone for zone in STATE_ZONES
    }
    rows = []
    for zone in STATE_ZONES:
        for state in states:
            called = None if reasons[state.name] else frame[state.name]
            share = shares[state.name]
            rows.append(
                _in_zone(
                    state.name, zone, cells, in_zone[zone], called, share, reasons[state.name], areas, limits
                )
            )
    return (
        StatesSummary(
            slide_id=slide_id,
            histo_version=__version__,
            n_cd8=len(cells),
            n_unmeasured={
                gate.marker: int(np.isnan(cells.values[gate.marker]).sum())
                for gate in gates
                if gate.marker in cells.values
            },
            states=rows,
            profile=_profile(cells, frame, states, reasons, shares, areas, limits),
            measures=[
                _measures(zone, cells, in_zone[zone], frame, gates, areas, limits) for zone in STATE_ZONES
            ],
            flags=list(flags),
        ),
        frame,
    )


def _in_zone(
    state: str,
    zone: StateZone,
    cells: StateCells,
    inside: NDArray[np.bool_],
    called: Any,
    share: NegativeShare,
    reason: str | None,
    areas: Areas,
    limits: Limits,
) -> StateInZone:
    no_zone = _no_zone(zone, areas)
    if no_zone is not None or called is None:
        why = no_zone or reason or ""
        return StateInZone(
            state=state,
            zone=zone,
            n_cd8=None if no_zone is not None else int(inside.sum()),
            n_positive=None,
            area_mm2=areas.by_zone.get(zone),
            fraction=Estimate.missing(OF_CD8, why),
            fraction_by_blocks=Estimate.missing(OF_CD8, why),
            density=Estimate.missing(PER_MM2, why),
        )
    known = inside & called.notna().to_numpy()
    positive = called.fillna(False).to_numpy(bool)
    n_cd8, n_positive = int(known.sum()), int((known & positive).sum())
    area = areas.by_zone.get(zone)
    if area is None:
        density = Estimate.missing(PER_MM2, areas.reasons.get(zone, "no area is known"))
    elif zone == "all":
        density = poisson_density(n_positive, area, limits.level)
    else:
        density = zone_density(n_positive, area, min_area_mm2=limits.min_zone_area_mm2, level=limits.level)
    blocks = by_blocks(cells.x_um[known], cells.y_um[known], positive[known], limits.block_um)
    return StateInZone(
        state=state,
        zone=zone,
        n_cd8=n_cd8,
        n_positive=n_positive,
        area_mm2=area,
        fraction=state_fraction(
            n_positive,
            n_cd8,
            negative_share=share.value,
            n_negative=share.n_cells,
            min_cells=limits.min_cd8_cells,
            level=limits.level,
        ),
        fraction_by_blocks=clustered_fraction(
            *blocks,
            negative_share=share.value,
            n_negative=share.n_cells,
            min_cells=limits.min_cd8_cells,
            level=limits.level,
        ),
        density=density,
    )


def _no_zone(zone: StateZone, areas: Areas) -> str | None:
    """Return why cells cannot be counted in a zone, or None."""
    return None if zone == "all" or areas.by_zone.get(zone) is not None else areas.reasons[zone]


def _profile(
    cells: StateCells,
    frame: pd.DataFrame,
    states: Sequence[State],
    reasons: Mapping[str, str | None],
    shares: Mapping[str, NegativeShare],
    areas: Areas,
    limits: Limits,
) -> list[StateAtDistance] | None:
    if areas.by_distance is None:
        return None
    steps = []
    for state in states:
        if reasons[state.name] is not None:
            continue
        called = frame[state.name]
        known = called.notna().to_numpy()
        positive = called.fillna(False).to_numpy(bool)
        for low, high, area in areas.by_distance:
            inside = known & (cells.signed_distance_um >= low) & (cells.signed_distance_um < high)
            n_cd8, n_positive = int(inside.sum()), int((inside & positive).sum())
            steps.append(
                StateAtDistance(
                    state=state.name,
                    low_um=low,
                    high_um=high,
                    n_cd8=n_cd8,
                    n_positive=n_positive,
                    area_mm2=area,
                    fraction=state_fraction(
                        n_positive,
                        n_cd8,
                        negative_share=shares[state.name].value,
                        n_negative=shares[state.name].n_cells,
                        min_cells=limits.min_cd8_cells,
                        level=limits.level,
                    ),
                    density=poisson_density(n_positive, area, limits.level),
                )
            )
    return steps


def _measures(
    zone: StateZone,
    cells: StateCells,
    inside: NDArray[np.bool_],
    frame: pd.DataFrame,
    gates: Sequence[Gate],
    areas: Areas,
    limits: Limits,
) -> ZoneMeasures:
    no_zone = _no_zone(zone, areas)
    if no_zone is not None:
        return ZoneMeasures(
            zone=zone,
            progenitor_terminal_ratio=Estimate.missing(RATIO, no_zone),
            co_inhibitory_load=Estimate.missing(LOAD, no_zone),
            load_markers=[],
            h_score={gate.identity: Estimate.missing(H_SCORE, no_zone) for gate in gates},
            arcsinh_z={gate.identity: Estimate.missing(Z, no_zone) for gate in gates},
        )
    counted = frame[inside]
    load, load_markers = _load(counted, gates, limits)
    return ZoneMeasures(
        zone=zone,
        progenitor_terminal_ratio=_ratio(counted, limits),
        co_inhibitory_load=load,
        load_markers=load_markers,
        h_score={gate.identity: _h_score(gate, cells, inside, limits) for gate in gates},
        arcsinh_z={gate.identity: _z(gate, cells, inside, limits) for gate in gates},
    )


def _ratio(counted: pd.DataFrame, limits: Limits) -> Estimate:
    missing = [name for name in (PROGENITOR, TERMINAL) if name not in counted]
    if missing:
        return Estimate.missing(RATIO, "needs gates of PD-1, TIM-3 and TCF1")
    both = counted[[PROGENITOR, TERMINAL]].dropna()
    return count_ratio(
        int(both[PROGENITOR].sum()),
        int(both[TERMINAL].sum()),
        len(both),
        min_cells=limits.min_cd8_cells,
        level=limits.level,
        names=("progenitor", "terminal"),
    )


def _load(counted: pd.DataFrame, gates: Sequence[Gate], limits: Limits) -> tuple[Estimate, list[str]]:
    """Return the mean number of positive co-inhibitory receptors, and which were counted."""
    named = [gate for gate in gates if gate.is_checkpoint]
    used = [gate.identity for gate in named if why_no_call(Call(gate.identity), gate) is None]
    if not used:
        reason = "; ".join(f"{gate.identity}: {gate.not_assessable}" for gate in named)
        return Estimate.missing(LOAD, reason or "the panel has no co-inhibitory receptor"), []
    calls = counted[[Call(marker).column for marker in used]].dropna()
    load = mean_of_cells(
        calls.to_numpy(np.float64).sum(axis=1),
        unit=LOAD,
        highest=float(len(used)),
        min_cells=limits.min_cd8_cells,
        level=limits.level,
    )
    return load, used


def h_thresholds(gate: Gate) -> tuple[float, float, float] | str:
    """Return from where a cell is weak, moderate and strong: the gate, halfway, and the bright gate.

    Or why there are no such thresholds.
    """
    if gate.not_assessable is not None:
        return gate.not_assessable
    if gate.threshold is None:
        return "the table brings calls, no intensities"
    if gate.bright_threshold is None:
        return f"no bright gate: {gate.bright_not_assessable}"
    return gate.threshold, (gate.threshold + gate.bright_threshold) / 2, gate.bright_threshold


def _h_score(gate: Gate, cells: StateCells, inside: NDArray[np.bool_], limits: Limits) -> Estimate:
    thresholds = h_thresholds(gate)
    if isinstance(thresholds, str):
        return Estimate.missing(H_SCORE, thresholds)
    return h_score(
        _measured(gate, cells, inside), thresholds, min_cells=limits.min_cd8_cells, level=limits.level
    )


def _z(gate: Gate, cells: StateCells, inside: NDArray[np.bool_], limits: Limits) -> Estimate:
    if gate.cofactor is None or gate.negatives_median is None or gate.negatives_sd is None:
        return Estimate.missing(Z, "no control slides and no negative cells that fit are configured for it")
    return median_z(
        _measured(gate, cells, inside),
        cofactor=gate.cofactor,
        negatives_median=gate.negatives_median,
        negatives_sd=gate.negatives_sd,
        min_cells=limits.min_cd8_cells,
        level=limits.level,
    )


def _measured(gate: Gate, cells: StateCells, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    values = cells.values[gate.marker][inside]
    return values[np.isfinite(values)]
