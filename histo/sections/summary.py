"""What is said of a pair of serial sections: the JSON on disk and the rows of `sections.csv`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from histo.measure.summary import Estimate

ErrorSource = Literal["landmarks", "inverse consistency and local agreement"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RegistrationSummary(_Record):
    """How well the second section lies over the first. All lengths um.

    error_um : the median that is held against `max_error_um`; error_90_um : the 90th percentile. Both of the
    landmarks where some were given, else of the windows whose error is known.
    reason : why the pair is refused; None where it is accepted.
    """

    slide_id: str
    serial_id: str
    marker: str
    verdict: Literal["accepted", "refused"]
    reason: str | None
    error_um: float | None
    error_90_um: float | None
    error_source: ErrorSource
    max_error_um: float
    n_landmarks: int
    landmark_median_um: float | None
    there_and_back_median_um: float | None
    residual_median_um: float | None
    n_windows: int
    verified_fraction: float
    similarity: float
    mirrored: bool
    rotation_deg: float
    # Affine part of slide to serial, um: serial = matrix @ (x, y) + offset
    matrix: tuple[tuple[float, float], tuple[float, float]]
    offset_um: tuple[float, float]
    picture_mpp_um: float
    slide_to_serial: str
    serial_to_slide: str


class ZoneCodensity(_Record):
    """CD8 and the marker in one zone of a pair, over the tiles that are used."""

    zone: str
    n_tiles: int
    area_mm2: float
    n_cd8: int
    n_marker: int
    n_bright: int | None
    cd8_density: Estimate
    marker_density: Estimate
    bright_density: Estimate
    spearman: Estimate
    pearson: Estimate
    enrichment: Estimate
    matched: Estimate


class PairResult(_Record):
    """A pair and what became of it."""

    slide_id: str
    serial_id: str
    marker: str
    status: Literal["done", "refused", "failed"]
    reason: str | None = None
    registration: RegistrationSummary | None = None
    zones: list[ZoneCodensity] = []
