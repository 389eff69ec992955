"""Cell tables of others as a cohort table: measures that positions and classes alone can give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from histo.cohort.manifest import Manifest
from histo.cohort.summary import Exclusion
from histo.cohort.table import COUNTS, IDENTITY, CohortTable, identity, numbers
from histo.measure.catalogue import COMPARED_SPATIAL, OVERALL_DENSITY
from histo.measure.measure import Measure
from histo.measure.spatial.slide import spatial_measures
from histo.tables.cells import CellTable, pieces_of

# Cells no further apart than twice this lie in one piece of tissue.
_REACH_UM = 30.0
_MASK_MPP_UM = 5.0
_MEASURES: tuple[Measure, ...] = (OVERALL_DENSITY, *COMPARED_SPATIAL)


def cohort_of_cells(
    table: CellTable, source: Path, manifest: Manifest | None = None, *, permutations: int = 199
) -> CohortTable:
    """Measure every image of a cell table, and place it in the cohort by a manifest.

    Such a table has no tissue mask: the tissue is taken to be what lies within 30 um of a cell. It has no
    tumour border either: zones, and all that rests on them, are NA. An image with parts (TMA cores, analysis
    regions) is measured part by part, and a part is a slide here.

    Parameters
    ----------
    manifest : slides are the names of images; None takes patients from the table, and no site.
    permutations : of random labelling.
    """
    rows: list[dict[str, Any]] = []
    excluded: list[Exclusion] = []
    covariates: dict[str, None] = {}
    for name, image, cells in pieces_of(table.frame):
        patients = cells["patient"].dropna().unique()
        own: dict[str, Any] = dict.fromkeys(IDENTITY)
        own |= {"slide_id": name, "patient": str(patients[0]) if len(patients) == 1 else None}
        if manifest is not None:
            entry = manifest.rows.get(image) or manifest.rows.get(name)
            if entry is None:
                excluded.append(Exclusion(name=name, reason="not in the manifest"))
                continue
            covariates |= dict.fromkeys(entry.covariates)
            own |= {key: value for key, value in identity(name, entry).items() if value}
        rows.append({**own, **_measured(cells, permutations)})
    names = [measure.name for measure in _MEASURES]
    slides = pd.DataFrame(rows, columns=[*IDENTITY, *COUNTS, *names, *covariates])
    notes = (
        "This is a table of cells without tissue mask and tumour border: areas are those within "
        f"{_REACH_UM:g} um of a cell, and zones are not assessable.",
        *table.notes,
    )
    return CohortTable(
        slides=numbers(slides, [*COUNTS, *names]),
        measures=_MEASURES,
        excluded=tuple(excluded),
        source=source.name,
        manifest=None if manifest is None else manifest.path.name,
        covariates=tuple(covariates),
        notes=notes,
        positive_name="CD8+",
    )


def _measured(cells: pd.DataFrame, permutations: int) -> Mapping[str, float | None]:
    x, y = cells["x_um"].to_numpy(np.float64), cells["y_um"].to_numpy(np.float64)
    x, y = x - x.min() + 2 * _REACH_UM, y - y.min() + 2 * _REACH_UM
    is_cd8 = cells["is_cd8"].fillna(False).to_numpy(bool)
    is_tumour = cells["is_tumour"].fillna(False).to_numpy(bool)
    mask = _tissue(x, y)
    found = spatial_measures(x, y, is_cd8, is_tumour, mask, _MASK_MPP_UM, n_permutations=permutations)
    area_mm2 = float(mask.sum()) * _MASK_MPP_UM**2 / 1e6
    density = None if cells["is_cd8"].isna().all() else float(is_cd8.sum()) / area_mm2
    return {"density_per_mm2": density, **{name: estimate.value for name, estimate in found.items()}}


def _tissue(x_um: NDArray[np.float64], y_um: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the pixels within reach of a cell."""
    shape = (
        int((y_um.max() + 2 * _REACH_UM) / _MASK_MPP_UM) + 1,
        int((x_um.max() + 2 * _REACH_UM) / _MASK_MPP_UM) + 1,
    )
    empty = np.ones(shape, bool)
    empty[(y_um / _MASK_MPP_UM).astype(int), (x_um / _MASK_MPP_UM).astype(int)] = False
    near: NDArray[np.bool_] = ndimage.distance_transform_edt(empty) * _MASK_MPP_UM <= _REACH_UM
    return near
