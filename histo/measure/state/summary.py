"""What is known of gates and states: the JSON of a batch, and of each of its slides."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from histo.measure.summary import ZONES, Estimate, Flag, Zone

StateZone = Literal["all"] | Zone
STATE_ZONES: Final[tuple[StateZone, ...]] = ("all", *ZONES)
# In order of trust; "table": cells were called by the program that wrote the table.
GateMethod = Literal[
    "control slides",
    "negative cells",
    "manual",
    "table",
    "mixture",
    "Otsu",
    "other nuclei",
    "one population",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SensitivityCurve(_Record):
    """The share of cells above each threshold: of CD8+ cells, and of cells to compare them with.

    reference : which those are ("control slides", "negative cells", "other nuclei"); None for none.
    """

    threshold: list[float]
    fraction: list[float]
    reference: str | None = None
    reference_fraction: list[float] | None = None


class Gate(_Record):
    """The threshold of one marker for a whole batch: positive is what lies above it.

    marker, identity : as the panel calls it, and what that means (`histo.measure.state.names`).
    threshold : None for the table's own calls, and where there is no gate; then `not_assessable` says why.
    manual_threshold : as configured, also where something else was trusted more.
    negative_share : share of negative cells that is expected above the gate; None where that is not known.
    n_reference : negative cells that tell it; 0 where it follows from the CD8+ cells.
    fraction : of the batch's CD8+ cells above the gate.
    numbers : what the method rests on, by name.
    bright_threshold, bright_method : of the second, higher gate.
    negatives_median, negatives_sd, cofactor : of negative cells on an arcsinh scale, which z-scores refer to.
    """

    marker: str
    identity: str
    column: str
    is_checkpoint: bool
    method: GateMethod | None
    threshold: float | None
    not_assessable: str | None = None
    manual_threshold: float | None = None
    n_cells: int
    n_reference: int = 0
    negative_share: float | None = None
    fraction: float | None = None
    numbers: dict[str, float] = {}
    bright_threshold: float | None = None
    bright_method: str | None = None
    bright_not_assessable: str | None = None
    cofactor: float | None = None
    negatives_median: float | None = None
    negatives_sd: float | None = None
    curve: SensitivityCurve | None = None
    flags: list[Flag] = []


class StateDefinition(_Record):
    """A state: its rule, what may be said of its cells, and why it cannot be assessed, if so."""

    name: str
    rule: str
    description: str
    not_assessable: str | None = None


class BatchGates(_Record):
    """`gates.json`: what a batch was gated by."""

    histo_version: str
    source: str
    slides: list[str]
    control_slides: list[str]
    min_cd8_cells: int
    confidence_level: float
    gates: list[Gate]
    states: list[StateDefinition]
    limits: str
    flags: list[Flag]


class StateInZone(_Record):
    """One state in one zone of a slide.

    n_cd8 : CD8+ cells in the zone of which the rule's markers could be called. fraction_by_blocks : the same
    fraction, its interval for cells that cluster.
    """

    state: str
    zone: StateZone
    n_cd8: int | None
    n_positive: int | None
    area_mm2: float | None
    fraction: Estimate
    fraction_by_blocks: Estimate
    density: Estimate


class StateAtDistance(_Record):
    """One state at one range of signed distance to the tumour border (negative inside the tumour)."""

    state: str
    low_um: float
    high_um: float
    n_cd8: int
    n_positive: int
    area_mm2: float
    fraction: Estimate
    density: Estimate


class ZoneMeasures(_Record):
    """Measures of the CD8+ cells of one zone that are no single state.

    co_inhibitory_load : mean number of positive co-inhibitory receptors, of those in `load_markers`.
    h_score : 0 to 300, by marker. arcsinh_z : of the median CD8+ cell against negative cells, by marker.
    """

    zone: StateZone
    progenitor_terminal_ratio: Estimate
    co_inhibitory_load: Estimate
    load_markers: list[str]
    h_score: dict[str, Estimate]
    arcsinh_z: dict[str, Estimate]


class StatesSummary(_Record):
    """`states.json`: the states of one slide. `profile` is None where there is no tumour border."""

    slide_id: str
    histo_version: str
    n_cd8: int
    n_unmeasured: dict[str, int]  # by marker: CD8+ cells without a value
    states: list[StateInZone]
    profile: list[StateAtDistance] | None
    measures: list[ZoneMeasures]
    flags: list[Flag]
