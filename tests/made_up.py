"""Invented cells and summaries for the tests of what lands on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from histo.cells.table import CD8, CELL_COLUMNS, OTHER, cell_columns, cell_frame, marker_columns
from histo.measure.summary import (
    ZONES,
    DistanceBin,
    Estimate,
    ExclusionSummary,
    Flag,
    ImageSummary,
    SlideSummary,
    StainSummary,
    TileFailure,
    TissueSummary,
    ZoneSummary,
)


def make_cells(
    n: int,
    *,
    first_id: int = 1,
    seed: int = 0,
    width_um: float = 500.0,
    n_vertices: int = 10,
    markers: Sequence[str] = (),
) -> tuple[pd.DataFrame, NDArray[np.object_]]:
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, n_vertices, endpoint=False)
    centre = rng.uniform(10, width_um, (n, 2))
    radius = rng.uniform(3, 5, (n, n_vertices, 1))
    outlines = shapely.polygons(
        centre[:, None] + np.stack([np.cos(angle), np.sin(angle)], axis=-1)[None] * radius
    )
    columns: dict[str, NDArray[Any]] = {name: rng.uniform(0, 1, n) for name in CELL_COLUMNS}
    columns |= {name: rng.normal(100, 300, n) for name in marker_columns(markers)}
    columns["cell_id"] = np.arange(first_id, first_id + n)
    columns["x_um"], columns["y_um"] = centre.T
    columns["x_px"], columns["y_px"] = centre.T * 4
    columns["cell_class"] = np.array([CD8, OTHER], object)[rng.integers(0, 2, n)]
    columns["region"] = np.array(["tumour", "host", ""], object)[rng.integers(0, 3, n)]
    columns["zone"] = np.array(["core", "far", ""], object)[rng.integers(0, 3, n)]
    columns["in_tissue"] = rng.integers(0, 2, n).astype(bool)
    columns["area_um2"] = shapely.area(outlines)
    distance = rng.normal(0, 500, n)
    distance[::3] = np.nan
    columns["signed_distance_um"] = distance
    return cell_frame(columns, cell_columns(markers)), outlines


def make_summary(slide_id: str = "slide-1", *, assessable: bool = True, **changes: Any) -> SlideSummary:
    reason = "no tumour annotation"
    missing = Estimate.missing("1/mm2", reason)
    zones = {}
    for zone, n, area in zip(ZONES, (812, 503, 1540, 96), (6.2, 2.9, 3.3, 1.1), strict=True):
        density = Estimate(
            value=n / area,
            low=(n - 2 * math.sqrt(n)) / area,
            high=(n + 2 * math.sqrt(n)) / area,
            unit="1/mm2",
        )
        zones[zone] = ZoneSummary(
            n_cells=n * 9 if assessable else None,
            n_cd8=n if assessable else None,
            area_mm2=area if assessable else None,
            cd8_density=density if assessable else missing,
            cd8_density_by_blocks=(
                Estimate(value=n / area, low=0.7 * n / area, high=1.4 * n / area, unit="1/mm2")
                if assessable
                else missing
            ),
            cd8_fraction=Estimate(value=1 / 9, unit="1") if assessable else missing,
        )
    values: dict[str, Any] = {
        "slide_id": slide_id,
        "path": f"/slides/{slide_id}.svs",
        "fingerprint": "f" * 64,
        "histo_version": "0.1.0",
        "config_name": "cd8_ihc",
        "config_sha256": "a" * 64,
        "detector_name": "network default",
        "detector_sha256": "b" * 64,
        "annotations": "slide-1.geojson" if assessable else None,
        "image": ImageSummary(
            width_px=81234,
            height_px=60321,
            mpp_x_um=0.25,
            mpp_y_um=0.27,
            mpp_source="metadata",
            kind="brightfield",
            channels=["red", "green", "blue"],
            backend="tifffile",
            decoder="libjpeg-turbo",
            origin_px=(0, 0),
        ),
        "tissue": TissueSummary(
            tissue_area_mm2=14.5,
            assessed_area_mm2=13.5,
            excluded_area_mm2={"pen": 0.4, "out_of_focus": 0.55},
            unread_area_mm2=0.05,
            n_tiles=310,
            failed_tiles=[
                TileFailure(x_px=2048, y_px=1024, width_px=1024, height_px=1024, error="cannot be decoded")
            ],
        ),
        "stain": StainSummary(
            unit="optical density",
            white_point=(243.0, 242.0, 245.0),
            white_point_source="glass",
            vectors={"nuclear": (0.65, 0.70, 0.29), "cd8": (0.27, 0.57, 0.78)},
            vectors_source={"nuclear": "estimated", "cd8": "config"},
        ),
        "n_cells": 61234,
        "n_cd8": 2951,
        "n_cells_outside_assessed_tissue": 311,
        "cd8_density": Estimate(value=218.6, low=210.8, high=226.6, unit="1/mm2"),
        "cd8_fraction": Estimate(value=0.0482, low=0.0465, high=0.0499, unit="1"),
        "zones": zones,
        "exclusion": ExclusionSummary(
            border_length_um=11200.0 if assessable else None,
            inner_margin_um=500.0,
            outer_margin_um=500.0,
            log2_core_outer=(
                Estimate(value=-1.83, low=-1.95, high=-1.70, unit="log2 ratio")
                if assessable
                else Estimate.missing("log2 ratio", reason)
            ),
            phenotype="excluded" if assessable else None,
            phenotype_not_assessable=None if assessable else reason,
            phenotype_rule="Kather 2018",
            phenotype_cutoff_per_mm2=294.9,
        ),
        "distance_profile": _profile() if assessable else None,
        "measures": {
            "infiltration_fraction": (
                Estimate(value=0.22, low=0.2, high=0.24, unit="fraction of density")
                if assessable
                else missing
            ),
            "log2_epithelium_stroma": Estimate.missing("log2 ratio", "no stroma is marked inside the tumour"),
        },
        "flags": [Flag(code="unread_tiles", message="1 tile could not be read.")] if assessable else [],
    }
    return SlideSummary(**{**values, **changes})


def _profile() -> list[DistanceBin]:
    return [
        DistanceBin(
            low_um=low,
            high_um=low + 50,
            n_cd8=30,
            area_mm2=area,
            cd8_density=(
                Estimate(value=30 / area, low=20 / area, high=43 / area, unit="1/mm2")
                if area
                else Estimate.missing("1/mm2", "no tissue")
            ),
        )
        for low, area in ((-100.0, 0.2), (-50.0, 0.0), (0.0, 0.3), (50.0, 0.4))
    ]
