"""Where cells stand to a tumour region that its own cells span: inside, in either margin, or outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from histo.measure.spatial.nearest import nearest_other
from histo.regions.from_cells import CellRegion

Structure = Literal["infiltrated", "internal_margin", "external_margin", "stromal", "border"]
STRUCTURES: Final[tuple[Structure, ...]] = get_args(Structure)
# Layers of cells that make a margin (SPIAT).
MARGIN_LAYERS: Final = 5


def structure_of_cells(
    points_um: NDArray[np.float64],
    is_tumour: NDArray[np.bool_],
    region: CellRegion,
    *,
    margin_um: float | None = None,
) -> NDArray[np.str_]:
    """Return in which of `STRUCTURES` each cell stands, SPIAT's `define_structure`.

    Cells that are corners of the region are its border. Others are in a margin where the nearest border cell
    is nearer than `margin_um`; beyond, they are "infiltrated" inside the region and "stromal" outside.

    Parameters
    ----------
    points_um : (n, 2) positions of all cells, um.
    is_tumour : (n,) which of them are tumour cells. region : of `points_um[is_tumour]`, with a border.
    margin_um : None: 5 times the mean distance of a cell to the next one.

    Raises
    ------
    ValueError : the region has no border.
    """
    is_border = np.zeros(len(points_um), bool)
    is_border[is_tumour] = region.is_border
    if not is_border.any():
        raise ValueError("the tumour cells span no region")
    if margin_um is None:
        margin_um = MARGIN_LAYERS * float(nearest_other(points_um).mean())
    distance = cKDTree(points_um[is_border]).query(points_um)[0]
    shapely.prepare(region.polygons_um)
    inside = shapely.contains_xy(region.polygons_um, points_um)
    place = np.where(inside, "infiltrated", "stromal")
    place = np.where(distance < margin_um, np.where(inside, "internal_margin", "external_margin"), place)
    return np.where(is_border, "border", place)


def share_in_structures(
    structure: NDArray[np.str_], of_interest: NDArray[np.bool_], *, fewest_cells: int = 1
) -> Mapping[Structure, float | None]:
    """Return the share of the cells of each structure that are of interest; None where it has fewer cells.

    SPIAT's `calculate_proportions_of_cells_in_structure`, relative to all cells in the structure.
    """
    shares: dict[Structure, float | None] = {}
    for name in STRUCTURES:
        here = structure == name
        shares[name] = float(of_interest[here].mean()) if here.sum() >= fewest_cells else None
    return shares
