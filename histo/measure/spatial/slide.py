"""The spatial measures of one slide: what is computed, in which unit, after whom, and the numbers."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo.errors import PointsError
from histo.measure.spatial.cross_g import auc_um, kaplan_meier, kaplan_meier_mean
from histo.measure.spatial.cross_k import auc_difference, cross_k, crossing
from histo.measure.spatial.envelope import cross_g_by_label, random_labelling
from histo.measure.spatial.hotspots import colocalisation, hot_spots, moran_i
from histo.measure.spatial.immunogradient import immunogradient
from histo.measure.spatial.measures import SPATIAL
from histo.measure.spatial.mixing import (
    entropy_bits,
    mixing_score,
    morisita_horn,
    percentage_above,
    square_areas_mm2,
    square_counts,
)
from histo.measure.spatial.nearest import ann_index, nearest_neighbour, nearest_other
from histo.measure.spatial.points import as_points
from histo.measure.spatial.window import MaskWindow
from histo.measure.summary import Estimate

MIN_CELLS = 20

_CONTACT_UM = 20.0
_K_RADII_UM = (20.0, 50.0, 100.0)
_G_RADII_UM = np.linspace(0, _CONTACT_UM, 201)
_LABELLING_RADII_UM = np.arange(4, _CONTACT_UM + 1, 2)
_CROSSING_RADII_UM = np.linspace(0, 100, 101)
_QUADRATS_UM = (50, 100, 200)
_ENTROPY_UM = 200.0
# SPIAT's threshold for a mixed square.
_MIXED_BITS = 0.75
_HOT_SPOT_UM = 250.0
# A square with less tissue has a density that says little; fewer squares have no hot spots.
_MIN_TISSUE_SHARE = 0.5
_MIN_SQUARES = 20


_UNITS: Final = {measure.name: measure.unit for measure in SPATIAL}


def spatial_measures(
    x_um: ArrayLike,
    y_um: ArrayLike,
    is_cd8: ArrayLike,
    in_tumour: ArrayLike,
    mask: NDArray[np.bool_],
    mpp: float,
    signed_distance_um: NDArray[np.float32] | None = None,
    *,
    n_permutations: int = 199,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return all spatial measures of a slide, in the order and under the names of `SPATIAL`.

    Tumour nuclei are those of the tumour region that are not CD8+. Cells off the mask are counted and left
    out. A measure that cannot be had is missing, with the reason: fewer than 20 CD8+ cells, fewer than 20
    tumour nuclei, no border.

    Parameters
    ----------
    x_um, y_um : (n,) nuclei of all kinds, um in the slide's frame.
    is_cd8 : (n,) bool.
    in_tumour : (n,) bool: the nucleus lies in the tumour region. It should be true of CD8+ cells there too:
        under random labelling they turn into tumour nuclei.
    mask : bool (rows, columns), assessed tissue.
    mpp : um per pixel of the mask.
    signed_distance_um : (rows, columns), distance to the tumour border, negative inside, NaN where not known;
        None where the slide has no border.
    n_permutations, seed : of random labelling; the same seed gives the same numbers.

    Raises
    ------
    PointsError : arrays of different lengths or shapes, positions that are not finite.
    """
    x, y, cd8, tumour_region = (np.asarray(column) for column in (x_um, y_um, is_cd8, in_tumour))
    lengths = {len(x), len(y), len(cd8), len(tumour_region)}
    if len(lengths) > 1:
        raise PointsError(
            f"columns of {sorted(lengths)} cells", fix="Give one position and class for each cell."
        )
    if signed_distance_um is not None and signed_distance_um.shape != mask.shape:
        raise PointsError(
            f"distances of shape {signed_distance_um.shape} for a mask of {mask.shape}",
            fix="Give both on one grid.",
        )
    if not mask.any():
        return _all_missing("no assessed tissue", len(x))
    window = MaskWindow(mask, mpp)
    points = as_points(np.stack([x, y], axis=1), "cells")
    on = window.contains(points)
    n_off = len(points) - int(on.sum())
    points, cd8, tumour_region = points[on], cd8[on].astype(bool), tumour_region[on].astype(bool)
    n_cd8 = int(cd8.sum())
    if n_cd8 < MIN_CELLS:
        return _all_missing(f"only {n_cd8} CD8+ cells in assessed tissue, {MIN_CELLS} needed", n_off)
    found: dict[str, float | str | None] = {"cells_off_tissue": n_off}
    tumour = points[tumour_region & ~cd8]
    found |= _crowding(points[cd8], tumour, window)
    found |= _across_the_edge(points[cd8], window, signed_distance_um)
    if len(tumour) < MIN_CELLS:
        why = f"only {len(tumour)} tumour nuclei in assessed tissue, {MIN_CELLS} needed"
    else:
        why = "not defined for these cells"
        found |= _distances(points[cd8], tumour, window)
        found |= _pairs(points[cd8], tumour, window)
        found |= _squares(points[cd8], tumour, window)
        found |= _labelling(points, cd8, tumour_region, window, n_permutations, seed)
    return {name: _estimate(name, found.get(name), why) for name in _UNITS}


def _estimate(name: str, value: float | str | None, why: str) -> Estimate:
    """Return a number, or why there is none: what was found out instead, or `why`."""
    unit = _UNITS[name]
    if isinstance(value, str):
        return Estimate.missing(unit, value)
    if value is None or not np.isfinite(value):
        return Estimate.missing(unit, why)
    return Estimate(value=float(value), unit=unit)


def _all_missing(reason: str, n_off: int) -> dict[str, Estimate]:
    values: dict[str, float | str | None] = {"cells_off_tissue": n_off}
    return {name: _estimate(name, values.get(name), reason) for name in _UNITS}


def _crowding(
    cd8: NDArray[np.float64], tumour: NDArray[np.float64], window: MaskWindow
) -> dict[str, float | str | None]:
    mean = kaplan_meier_mean(nearest_other(cd8), window.border_distance_um(cd8))
    found: dict[str, float | str | None] = {
        "cd8_ann_index": mean / ann_index(cd8, window.area_um2).expected_um
    }
    area = square_areas_mm2(window, _HOT_SPOT_UM)
    in_tissue = area >= _MIN_TISSUE_SHARE * _HOT_SPOT_UM**2 / 1e6
    if in_tissue.sum() < _MIN_SQUARES:
        few = f"only {int(in_tissue.sum())} squares of {_HOT_SPOT_UM:g} um with tissue, {_MIN_SQUARES} needed"
        names = ("cd8_moran_250um", "hot_spot_area_share", "hot_spot_colocalisation")
        return found | dict.fromkeys(names, few)
    density, tumour_density = (
        np.divide(square_counts(kind, window, _HOT_SPOT_UM), area, out=np.zeros(area.shape), where=area > 0)
        for kind in (cd8, tumour)
    )
    hot = hot_spots(density, in_tissue).hot
    shared = colocalisation(hot, hot_spots(tumour_density, in_tissue).hot, area)
    return found | {
        "cd8_moran_250um": moran_i(density, in_tissue),
        "hot_spot_area_share": float(area[hot].sum() / area[in_tissue].sum()),
        "hot_spot_colocalisation": "no hot spot of tumour nuclei" if shared is None else shared,
    }


def _distances(
    cd8: NDArray[np.float64], tumour: NDArray[np.float64], window: MaskWindow
) -> dict[str, float | str | None]:
    distance, _ = nearest_neighbour(cd8, tumour)
    g = kaplan_meier(distance, window.border_distance_um(cd8), _G_RADII_UM)
    return {
        "nearest_tumour_mean_um": float(distance.mean()),
        "nearest_tumour_median_um": float(np.median(distance)),
        "cross_g_20um": float(g[-1]),
        "cross_g_auc_20um": auc_um(_G_RADII_UM, g, _CONTACT_UM),
    }


def _pairs(
    cd8: NDArray[np.float64], tumour: NDArray[np.float64], window: MaskWindow
) -> dict[str, float | str | None]:
    k = cross_k(cd8, tumour, window, _K_RADII_UM, correction="translation")
    found: dict[str, float | str | None] = {}
    for r, ratio, l_um in zip(_K_RADII_UM, k.k_um2 / k.theoretical_um2, k.l_um, strict=True):
        found[f"cross_k_ratio_{r:g}um"] = ratio
        found[f"cross_l_minus_r_{r:g}um"] = l_um - r
    outwards = cross_k(tumour, cd8, window, _CROSSING_RADII_UM, correction="border")
    found["cross_k_auc_difference_100um"] = auc_difference(
        outwards.r_um, outwards.k_um2, outwards.theoretical_um2
    )
    crosses = crossing(outwards)
    found["cross_k_crossing_100um"] = "cross-K does not cross its theory once" if crosses is None else crosses
    mixing = mixing_score(cd8, tumour, _CONTACT_UM)
    alone = "no two CD8+ cells within 20 um of each other"
    found["mixing_score_20um"] = alone if mixing.score is None else mixing.score
    found["mixing_score_normalised_20um"] = alone if mixing.normalised is None else mixing.normalised
    return found


def _squares(
    cd8: NDArray[np.float64], tumour: NDArray[np.float64], window: MaskWindow
) -> dict[str, float | str | None]:
    found: dict[str, float | str | None] = {}
    for size in _QUADRATS_UM:
        found[f"morisita_horn_{size}um"] = morisita_horn(
            square_counts(cd8, window, size), square_counts(tumour, window, size)
        )
    counts = np.stack([square_counts(kind, window, _ENTROPY_UM) for kind in (cd8, tumour)], axis=-1)
    by_square = entropy_bits(counts[counts.sum(axis=-1) > 0])
    found["entropy_bits"] = float(entropy_bits([len(cd8), len(tumour)]))
    found["entropy_200um_bits"] = float(by_square.mean())
    found["mixed_squares_200um_percent"] = percentage_above(by_square, _MIXED_BITS)
    return found


def _labelling(
    points: NDArray[np.float64],
    cd8: NDArray[np.bool_],
    tumour_region: NDArray[np.bool_],
    window: MaskWindow,
    n_permutations: int,
    seed: int,
) -> dict[str, float | str | None]:
    # Enough of them under any labels, so that no permutation is without.
    inner = window.border_distance_um(points) >= _CONTACT_UM
    n_inner = min(int(inner[cd8].sum()), int(inner.mean() * cd8.sum()))
    if n_inner < MIN_CELLS:
        reason = f"only {n_inner} CD8+ cells {_CONTACT_UM:g} um from the edge of tissue, {MIN_CELLS} needed"
        return {name: reason for name in _UNITS if "_random" in name}
    curve_of = cross_g_by_label(points, tumour_region, window, _LABELLING_RADII_UM)
    result = random_labelling(curve_of, cd8, n_permutations=n_permutations, seed=seed)
    return {
        "cross_g_20um_to_random": float(result.observed[-1] / result.mean[-1])
        if result.mean[-1] > 0
        else None,
        "cross_g_20um_random_z": float(result.effect[-1]),
        "cross_g_20um_random_p": float(result.p_pointwise[-1]),
        "cross_g_random_p": result.p_global,
    }


def _across_the_edge(
    cd8: NDArray[np.float64], window: MaskWindow, signed_distance_um: NDArray[np.float32] | None
) -> dict[str, float | str | None]:
    names = ("immunogradient_centre_of_mass", "immunodrop")
    if signed_distance_um is None or np.isnan(signed_distance_um).all():
        return dict.fromkeys(names, "no tumour border")
    # NaN compares as not below 0.
    result = immunogradient(cd8, window, signed_distance_um < 0)
    reason = "the ranks across the tumour edge lack tissue or CD8+ cells"
    return {
        name: reason if value is None else value
        for name, value in zip(names, (result.centre_of_mass, result.immunodrop), strict=True)
    }
