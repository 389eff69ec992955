"""A picture to look at: the sections in a checkerboard, their nuclei over each other, and the error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from histo.results.atomic import replacing
from histo.sections.config import SectionsConfig
from histo.sections.error import LocalError
from histo.sections.mapping import Mapping
from histo.sections.picture import NuclearPicture
from histo.slide.survey import Survey

_SIDE_PX = 1000
_SQUARES = 8


def write_overlay(
    path: Path,
    first: Survey,
    second: Survey,
    picture: NuclearPicture,
    moved: NDArray[np.float32],
    there: Mapping,
    error: LocalError,
    tiles: pd.DataFrame | None,
    config: SectionsConfig,
) -> None:
    """Write the picture of a pair as PNG.

    Parameters
    ----------
    first, second : surveys of the slides. picture, moved : nuclear stain of the first, and of the second on
    its grid. tiles : those cut; None where the pair is refused.
    """
    width, height = picture.size_um
    side = 5.2
    figure = Figure(figsize=(3 * side + 1, side * height / width + 1.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    extent = (0.0, width / 1000, height / 1000, 0.0)
    panels[0].imshow(_checkerboard(first, second, there, picture.size_um), extent=extent)
    panels[0].set_title("the two slides in a checkerboard")
    step = max(1, max(picture.nuclear.shape) // _SIDE_PX)
    one, two = (_seen(values)[::step, ::step] for values in (picture.nuclear, moved))
    panels[1].imshow(np.stack([1 - two, 1 - one, 1 - (one + two) / 2], axis=2).clip(0, 1), extent=extent)
    panels[1].set_title("nuclei: first magenta, second cyan, both dark")
    panels[2].imshow(1 - 0.25 * one, cmap="gray", vmin=0, vmax=1, extent=extent)
    known = ~np.isnan(error.error_um)
    x, y = error.x_um / 1000, error.y_um / 1000
    if tiles is not None and len(tiles):
        out = tiles[~tiles["used"]]
        panels[2].plot(
            out["x_um"] / 1000, out["y_um"] / 1000, "x", color="0.3", markersize=4, label="tile not used"
        )
        panels[2].legend(loc="lower right", fontsize="small")
    dots = panels[2].scatter(
        x[known],
        y[known],
        c=error.error_um[known],
        s=14,
        cmap="viridis",
        vmin=0,
        vmax=2 * config.max_error_um,
    )
    figure.colorbar(dots, ax=panels[2], label="error, um", shrink=0.7)
    panels[2].set_title(f"error where it is known; {config.max_error_um:g} um allowed")
    for panel in panels:
        panel.set_xlim(extent[0], extent[1])
        panel.set_ylim(extent[2], extent[3])
        panel.set_xlabel("mm")
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _seen(nuclear: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.sqrt(np.clip(nuclear, 0, 1)), np.float32)


def _checkerboard(
    first: Survey, second: Survey, there: Mapping, size_um: tuple[float, float]
) -> NDArray[np.uint8]:
    step = max(first.mpp, max(size_um) / _SIDE_PX)
    columns, rows = (int(length / step) for length in size_um)
    y, x = np.mgrid[0:rows, 0:columns]
    points = (np.column_stack([x.ravel(), y.ravel()]) + 0.5) * step
    square = max(size_um) / _SQUARES
    odd = ((points // square).sum(axis=1) % 2).astype(bool)
    pixels = _sampled(first, points)
    pixels[odd] = _sampled(second, there(points[odd]))
    return pixels.reshape(rows, columns, 3)


def _sampled(survey: Survey, points: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the colours (n, 3) of a survey at points; of fluorescence, its first channels stretched."""
    overview = _colours(survey.overview)
    where = points[:, ::-1].T / survey.mpp - 0.5
    planes = [
        ndimage.map_coordinates(plane, where, order=1, mode="constant", cval=float(np.median(plane)))
        for plane in np.moveaxis(overview, 2, 0).astype(np.float32)
    ]
    return np.stack(planes, axis=1).clip(0, 255).astype(np.uint8)


def _colours(overview: NDArray[Any]) -> NDArray[np.uint8]:
    if overview.dtype == np.uint8 and overview.shape[2] == 3:
        return overview
    channels = overview[..., :3].astype(np.float32)
    channels = np.pad(channels, ((0, 0), (0, 0), (0, 3 - channels.shape[2])))
    highest = np.maximum(np.percentile(channels, 99.5, axis=(0, 1)), 1e-6)
    return np.asarray((255 * channels / highest).clip(0, 255), np.uint8)
