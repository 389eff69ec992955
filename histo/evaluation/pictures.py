"""Pictures of what went wrong: an image with its true and its found cells."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from histo.cells.outlines import outlines
from histo.datasets.image import CD8_POSITIVE, AnnotatedImage
from histo.evaluation.find import Found
from histo.evaluation.matching import matched_pairs
from histo.evaluation.score import RADII_UM, CellGroup, ImageScore, truth_of
from histo.results.atomic import write_bytes
from histo.results.overlay import scale_bar_um

# They stand out from brown, blue, white and black, and from each other without colour vision: one is light,
# one is dark. Marks differ in shape as well.
_TRUE, _FOUND = "#ffe100", "#ff00c8"
# A picture is enlarged or reduced to a width between these.
_INCHES, _DPI = (7.0, 14.0), 110


@dataclass(frozen=True)
class Failure:
    """An image with errors.

    errors : cells missed and spurious within 4 um, or what the count is off by where only that is known.
    group : the cells that are looked at: CD8+ ones where their class is known, else all.
    edge_um : width of the margin that was not scored.
    """

    name: str
    image: AnnotatedImage
    found: Found
    score: ImageScore
    group: CellGroup
    errors: int
    edge_um: float = 0.0


def failure_of(
    name: str, image: AnnotatedImage, found: Found, score: ImageScore, edge_um: float = 0.0
) -> Failure | None:
    """Return what is wrong with an image; None where nothing is, or nothing is known."""
    groups: tuple[CellGroup, ...] = ("cd8", "all")
    for group in groups:
        part = score.groups[group]
        if part.matching is not None:
            matching = part.matching[RADII_UM[0]]
            errors = matching.false_positives + matching.false_negatives
        elif part.n_true is not None:
            errors = abs(part.n_found - part.n_true)
        else:
            continue
        return Failure(name, image, found, score, group, errors, edge_um) if errors else None
    return None


def write_failure(path: Path, failure: Failure) -> None:
    """Draw the image as it is, and beside it with true and found cells, as PNG.

    A cell that was found is marked with a dot, a missed one with a square, a spurious one with a cross; true
    outlines are yellow and whole, found ones magenta and dashed. What lies outside the dotted frame is not
    scored, though marked.

    Raises
    ------
    ResultsError : the file cannot be written.
    """
    image, found, group = failure.image, failure.found, failure.group
    height, width = image.pixels.shape[:2]
    shown = _shown(image)
    inches = float(np.clip(width / _DPI, *_INCHES))
    figure = Figure(figsize=(2 * inches, inches * min(2.0, height / width) + 1.1), dpi=_DPI)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    plain, marked = figure.subplots(1, 2)
    extent = (0.0, width * image.mpp, height * image.mpp, 0.0)
    for axes in (plain, marked):
        axes.imshow(shown, extent=extent, interpolation="nearest")
        axes.set_axis_off()
    _draw_cells(marked, failure)
    if failure.edge_um > 0:
        inner = (width * image.mpp - 2 * failure.edge_um, height * image.mpp - 2 * failure.edge_um)
        for colour, style in (("black", "solid"), ("white", "dotted")):
            corner = (failure.edge_um, failure.edge_um)
            marked.add_patch(Rectangle(corner, *inner, fill=False, edgecolor=colour, linestyle=style))
    marked.set_xlim(extent[0], extent[1])
    marked.set_ylim(extent[2], extent[3])
    _scale_bar(plain, width * image.mpp, height * image.mpp)
    figure.suptitle(_title(failure), fontsize=11)
    figure.legend(handles=_legend(group, len(found.points_um) > 0), loc="outside lower center", ncols=5)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())


def _shown(image: AnnotatedImage) -> NDArray[np.uint8]:
    """Return the picture as 8-bit colour; fluorescence as CD8 in green over nuclei in blue."""
    if image.kind == "brightfield":
        return np.asarray(image.pixels, np.uint8)
    planes = image.pixels[..., :2].astype(np.float32)
    low, high = np.percentile(planes, 2, axis=(0, 1)), np.percentile(planes, 99.7, axis=(0, 1))
    nuclear, cd8 = np.moveaxis(np.clip((planes - low) / np.maximum(high - low, 1e-6), 0, 1), 2, 0)
    colour = nuclear[..., None] * np.array([40, 90, 255]) + cd8[..., None] * np.array([0, 200, 90])
    return np.asarray(np.clip(np.rint(colour), 0, 255), np.uint8)


def _draw_cells(axes: Axes, failure: Failure) -> None:
    image, found = failure.image, failure.found
    only_cd8 = failure.group == "cd8"
    chosen = found.is_cd8 if only_cd8 else np.ones(len(found.is_cd8), bool)
    found_um = found.points_um[chosen]
    truth = truth_of(image, failure.name)
    if truth is None:
        _outline(axes, found.labels, chosen, image.mpp, _FOUND, dashed=True)
        _mark(axes, found_um, ".", _FOUND)
        return
    wanted = truth.classes == CD8_POSITIVE if only_cd8 else np.ones(len(truth.classes), bool)
    true_um = truth.points_um[wanted]
    if image.labels is not None:
        _outline(axes, image.labels, wanted, image.mpp, _TRUE)
    _outline(axes, found.labels, chosen, image.mpp, _FOUND, dashed=True)
    pairs = matched_pairs(found_um, true_um, RADII_UM[0])
    missed = np.ones(len(true_um), bool)
    missed[pairs[:, 1]] = False
    spurious = np.ones(len(found_um), bool)
    spurious[pairs[:, 0]] = False
    _mark(axes, true_um[~missed], ".", _TRUE)
    _mark(axes, true_um[missed], "s", _TRUE)
    if "precision" not in failure.score.groups[failure.group].reasons:
        _mark(axes, found_um[spurious], "x", _FOUND)


def _outline(
    axes: Axes, labels: NDArray[Any], chosen: NDArray[np.bool_], mpp: float, colour: str, dashed: bool = False
) -> None:
    """Draw the outlines of the labels chosen, label i at index i - 1."""
    number = np.concatenate([[0], np.where(chosen, np.arange(1, len(chosen) + 1), 0)])
    used = np.unique(number[labels])
    if used.max(initial=0) == 0:
        return
    dense = np.searchsorted(used[used > 0], number[labels]) + 1
    dense[number[labels] == 0] = 0
    rings = shapely.get_exterior_ring(outlines(dense, mpp=mpp))
    lines = [shapely.get_coordinates(ring) for ring in rings]
    style = "dashed" if dashed else "solid"
    axes.add_collection(LineCollection(lines, colors="black", linewidths=2.0, alpha=0.5))
    axes.add_collection(LineCollection(lines, colors=colour, linewidths=1.1, linestyles=style))


def _mark(axes: Axes, points_um: NDArray[np.float64], shape: str, colour: str) -> None:
    if len(points_um) == 0:
        return
    size = {".": 3.0, "s": 9.0, "x": 8.0}[shape]
    axes.plot(
        points_um[:, 0],
        points_um[:, 1],
        linestyle="none",
        marker=shape,
        markersize=size,
        markerfacecolor=colour if shape == "." else "none",
        markeredgecolor=colour,
        markeredgewidth=1.8 if shape != "." else 0.8,
        path_effects=[withStroke(linewidth=3.2, foreground="black")] if shape != "." else None,
    )


def _scale_bar(axes: Axes, width_um: float, height_um: float) -> None:
    length = scale_bar_um(width_um)
    x, y = 0.04 * width_um, 0.96 * height_um
    casing = [withStroke(linewidth=6, foreground="white")]
    axes.plot([x, x + length], [y, y], color="black", linewidth=4, path_effects=casing, solid_capstyle="butt")
    axes.text(
        x,
        y - 0.015 * height_um,
        f"{length:g} \N{MICRO SIGN}m",
        ha="left",
        va="bottom",
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def _title(failure: Failure) -> str:
    part = failure.score.groups[failure.group]
    what = {"cd8": "CD8+ cells", "other": "other nuclei", "all": "all cells"}[failure.group]
    true = "unknown" if part.n_true is None else part.n_true
    text = f"{failure.name}\n{what}: {part.n_found} found, {true} true"
    if part.matching is not None:
        matching = part.matching[RADII_UM[0]]
        text += f"; within {RADII_UM[0]:g} \N{MICRO SIGN}m: {matching.false_negatives} missed"
        if "precision" not in part.reasons:
            text += f", {matching.false_positives} spurious"
            if np.isfinite(matching.f1):
                text += f", F1 {matching.f1:.2f}"
    if part.segmentation is not None and np.isfinite(part.segmentation.pq):
        text += f", PQ {part.segmentation.pq:.2f}"
    return text


def _legend(group: CellGroup, any_found: bool) -> list[Line2D]:
    def entry(label: str, colour: str, **style: Any) -> Line2D:
        return Line2D([], [], color=colour, label=label, **style)

    casing = [withStroke(linewidth=3.2, foreground="black")]
    marked = {"linestyle": "none", "markerfacecolor": "none", "markeredgewidth": 1.8, "path_effects": casing}
    return [
        entry("true", _TRUE, path_effects=casing),
        entry("found", _FOUND, linestyle="dashed", path_effects=casing),
        entry("matched", _TRUE, linestyle="none", marker="o", markersize=4, markeredgecolor="black"),
        entry("missed", _TRUE, marker="s", markersize=9, **marked),
        entry("spurious", _FOUND, marker="x", markersize=8, **marked),
    ]
