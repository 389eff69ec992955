"""The summary of one slide: the JSON on disk and the row in `slides.csv`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Zone = Literal["core", "inner_margin", "outer_margin", "far"]
ZONES: tuple[Zone, ...] = ("core", "inner_margin", "outer_margin", "far")
Phenotype = Literal["inflamed", "excluded", "desert"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Record):
    """A number with its interval, or no number and the reason why not. Never 0 for "unknown"."""

    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str
    not_assessable: str | None = None

    @model_validator(mode="after")
    def _value_or_reason(self) -> Estimate:
        if (self.value is None) == (self.not_assessable is None):
            raise ValueError("an estimate has either a value or a reason for having none")
        return self

    @classmethod
    def missing(cls, unit: str, reason: str) -> Estimate:
        """Return an estimate without a value."""
        return cls(value=None, unit=unit, not_assessable=reason)


class Flag(_Record):
    """Something a reader of the numbers must know. `code` is stable, `message` is for people."""

    code: str
    message: str


class ImageSummary(_Record):
    """What was read, and how."""

    width_px: int
    height_px: int
    mpp_x_um: float
    mpp_y_um: float
    mpp_source: Literal["flag", "manifest", "metadata"]
    kind: Literal["brightfield", "fluorescence"]
    channels: list[str]
    backend: str
    decoder: str
    origin_px: tuple[int, int]


class TileFailure(_Record):
    """A tile that could not be read: its core in level-0 pixels, and why. It is counted out of the area."""

    x_px: float
    y_px: float
    width_px: float
    height_px: float
    error: str


class TissueSummary(_Record):
    """Areas in mm2. assessed = tissue - excluded - unread."""

    tissue_area_mm2: float
    assessed_area_mm2: float
    excluded_area_mm2: dict[str, float]  # by cause: pen, out_of_focus, bubble, necrosis, exclude
    unread_area_mm2: float
    n_tiles: int
    failed_tiles: list[TileFailure]


class StainSummary(_Record):
    """How pixels became stain amounts."""

    unit: Literal["optical density", "share of full scale"]
    # Brightfield
    white_point: tuple[float, float, float] | None = None
    white_point_source: str | None = None  # glass, brightest tissue, config
    vectors: dict[str, tuple[float, float, float]] | None = None
    vectors_source: dict[str, str] | None = None  # by stain: estimated, config
    vectors_note: str | None = None  # angle to the configured vectors, or why they were kept
    # Fluorescence: channel name, background and full-scale intensity by stain
    channels: dict[str, str] | None = None
    background: dict[str, float] | None = None
    full_scale: dict[str, float] | None = None


class MarkerSummary(_Record):
    """One marker, and what was taken from its channel before it was measured."""

    name: str
    channel: str
    # Fluorescence: the grey level that counts as 0, and the standard deviation of what lies below it.
    background: float | None = None
    noise: float | None = None
    # Share of the autofluorescence channel that was subtracted, and of the signal of other markers.
    autofluorescence: float | None = None
    spillover: dict[str, float] = {}


class Cd8Agreement(_Record):
    """The CD8 calls of a slide against the CD8 intensity in the ring of its cells.

    The cut is the intensity that separates the two classes best; the shares are what it separates wrongly.
    """

    n_cd8: int
    n_other: int
    cut: Estimate
    cd8_below: Estimate
    other_above: Estimate


class PanelSummary(_Record):
    """The markers that every cell was measured for."""

    unit: Literal["grey level", "optical density"]
    upper_quantile: float
    autofluorescence_channel: str | None = None
    markers: list[MarkerSummary]
    cd8_agreement: Cd8Agreement


class ZoneSummary(_Record):
    """Counts and densities of one zone."""

    n_cells: int | None
    n_cd8: int | None
    area_mm2: float | None
    cd8_density: Estimate
    # The same density, its interval from a bootstrap over blocks of tissue: wider where cells cluster.
    cd8_density_by_blocks: Estimate
    cd8_fraction: Estimate


class ExclusionSummary(_Record):
    """Where the CD8+ cells stand."""

    border_length_um: float | None
    inner_margin_um: float
    outer_margin_um: float
    log2_core_outer: Estimate
    phenotype: Phenotype | None
    phenotype_not_assessable: str | None
    phenotype_rule: str
    phenotype_cutoff_per_mm2: float


class DistanceBin(_Record):
    """CD8+ cells at one range of signed distance to the tumour border (negative inside the tumour)."""

    low_um: float
    high_um: float
    n_cd8: int
    area_mm2: float
    cd8_density: Estimate


# A name of a folder, and no way out of where it lies.
SlideId = Annotated[str, Field(pattern=r"^[^./\\\x00][^/\\\x00]*$")]


class SlideSummary(_Record):
    """Everything known of one slide."""

    slide_id: SlideId
    path: str
    fingerprint: str
    histo_version: str
    config_name: str
    config_sha256: str
    detector_name: str  # "network ..." or "rule ..."
    detector_sha256: str
    annotations: str | None
    image: ImageSummary
    tissue: TissueSummary
    stain: StainSummary
    # None where the configuration names no markers beside CD8.
    panel: PanelSummary | None = None
    # Cells in assessed tissue; those outside of it are counted apart.
    n_cells: int
    n_cd8: int
    n_cells_outside_assessed_tissue: int
    cd8_density: Estimate
    cd8_fraction: Estimate
    zones: dict[Zone, ZoneSummary]
    exclusion: ExclusionSummary
    # None where zones cannot be assessed.
    distance_profile: list[DistanceBin] | None = None
    # Further measures of exclusion and of pattern by name; `histo.measure.catalogue` says what each is.
    measures: dict[str, Estimate]
    flags: list[Flag]
