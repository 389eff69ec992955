"""The host margin: where host tissue begins again behind the fibrous rim of a tumour.

Round liver metastases of desmoplastic growth a rim of fibrous tissue lies between tumour and liver. What is
outside the tumour's border is then rim first and liver second; the border of the liver is a second reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiLineString, MultiPolygon

from histo.config import RegionsConfig
from histo.regions.border import SignedDistance, host_body, segments, tumour_border
from histo.regions.raster import pixels_under, rasterise

# A way that leaves the outline flatter than this (cosine with its normal) runs along it.
_STEEP = 0.25
# Places between a piece of host border and the tumour that are looked at.
_STEPS = np.linspace(0.05, 0.95, 19)


@dataclass(frozen=True, eq=False)
class HostMargin:
    """Host tissue near its border with the rim of a tumour.

    mask : (rows, columns) assessed host tissue within `outer_margin_um` of that border, outside the tumour.
    border : the stretches of the host tissue's outline that face the tumour across a rim; None where there
        are too few.
    border_length_um : their length, also where it is too short.
    not_assessable : why there is no host margin; None where there is.
    """

    mask: NDArray[np.bool_]
    border: MultiLineString | None
    border_length_um: float
    not_assessable: str | None


def find_host_margin(
    host: MultiPolygon,
    rim: MultiPolygon,
    tumour: MultiPolygon,
    *,
    counted: NDArray[np.bool_],
    host_pixels: NDArray[np.bool_],
    mpp: float,
    config: RegionsConfig,
) -> HostMargin:
    """Find the border of host tissue that faces a tumour across a rim, and the host tissue along it.

    A stretch of the host tissue's outline counts where other tissue lies outside it, the tumour is within
    `outer_margin_um`, the straight way to it crosses no host tissue and does not run along the outline, and
    there is a rim: annotated as such,
    or a gap wider than `border_tissue_within_um` between tumour and host.

    Parameters
    ----------
    host, rim : as annotated. tumour : what the tumour border goes round. All um in the slide's frame.
    counted : (rows, columns) assessed tissue. host_pixels : the part of it that is host, without portal
        tracts and vessels.
    mpp : um per pixel of both.
    """
    nothing = np.zeros(counted.shape, np.bool_)
    if host.is_empty or tumour.is_empty:
        what = "tumour" if tumour.is_empty else "host tissue"
        return HostMargin(
            nothing, None, 0.0, f"no {what} annotated: the border of the host tissue is not known"
        )
    body = host_body(host, tumour, config.border_tissue_within_um)
    outline = tumour_border(body, counted, mpp, config.border_tissue_within_um)
    start, end = segments(shapely.segmentize(shapely.get_parts(outline), mpp))
    facing = _faces(start, end, body, rim, tumour, counted.shape, mpp, config)
    pieces: Any = shapely.linestrings(np.stack([start[facing], end[facing]], axis=1))
    border = MultiLineString(list(shapely.get_parts(shapely.line_merge(shapely.multilinestrings(pieces)))))
    length = float(border.length)
    if length < max(config.min_border_length_um, mpp):
        reason = (
            f"too little rim between tumour and host tissue: {length:.0f} um, "
            f"{config.min_border_length_um:.0f} um needed"
            if length > 0
            else "no rim between tumour and host tissue"
        )
        return HostMargin(nothing, None, length, reason)
    row, column = np.nonzero(host_pixels & ~rasterise(tumour, (counted.shape[0], counted.shape[1]), mpp))
    x_um, y_um = (np.asarray((index + 0.5) * mpp, np.float64) for index in (column, row))
    distance = SignedDistance.of(border, body).unsigned(x_um, y_um)
    near = distance < config.outer_margin_um
    mask = nothing.copy()
    mask[row[near], column[near]] = True
    return HostMargin(mask, border, length, None)


def _faces(
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    body: MultiPolygon,
    rim: MultiPolygon,
    tumour: MultiPolygon,
    shape: tuple[int, ...],
    mpp: float,
    config: RegionsConfig,
) -> NDArray[np.bool_]:
    """Return which segments of the host outline face the tumour across a rim."""
    if len(start) == 0:
        return np.zeros(0, np.bool_)
    middle = shapely.points((start + end) / 2)
    ways: Any = shapely.shortest_line(middle, tumour)
    length: NDArray[np.float64] = np.asarray(shapely.length(ways))
    has_rim = length > config.border_tissue_within_um
    if not rim.is_empty:
        has_rim |= (length > 0) & (shapely.distance(middle, rim) <= mpp)
    has_rim &= length <= config.outer_margin_um
    ends = shapely.get_coordinates(ways).reshape(-1, 4)
    way, along_outline = ends[:, 2:] - ends[:, :2], end - start
    across = way[:, 0] * along_outline[:, 1] - way[:, 1] * along_outline[:, 0]
    steep = np.abs(across) > _STEEP * np.maximum(length, 1e-9) * np.linalg.norm(along_outline, axis=1)
    host = rasterise(body, (shape[0], shape[1]), mpp)
    along = shapely.get_coordinates(shapely.line_interpolate_point(ways[:, None], _STEPS, normalized=True))
    on_grid, under = pixels_under(along[:, 0], along[:, 1], shape, mpp)
    # The outline itself runs through pixels that are half host: a way may begin in one.
    crosses = (on_grid & host[under]).reshape(len(ways), len(_STEPS))
    far = length[:, None] * _STEPS > 1.5 * mpp
    return np.asarray(has_rim & steep & ~(crosses & far).any(axis=1), np.bool_)
