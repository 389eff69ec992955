"""The overlay: the slide with what was found on it, as one picture that a pathologist can look at."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from math import ceil, floor, log10
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

from histo.cells.table import CD8
from histo.compiled import compiled
from histo.errors import TileReadError
from histo.regions.place import ZONE_NAMES
from histo.results.atomic import write_bytes
from histo.results.maps import ZONE_COLOURS
from histo.slide.base import Slide
from histo.slide.geometry import Box
from histo.slide.resample import area_average

Colour = tuple[int, int, int]
Picture = NDArray[np.uint8]

# Found cells, and lines, must stand out from brown, blue, white and black alike.
_CD8_COLOUR: Final[Colour] = (255, 0, 200)
_UNCOUNTED_COLOUR: Final[Colour] = (130, 130, 130)
_OTHER_COLOUR: Final[Colour] = (0, 150, 255)
_BORDER_COLOUR: Final[Colour] = (255, 225, 0)
_OUTLINE_COLOUR: Final[Colour] = (255, 255, 255)
_CASING_COLOUR: Final[Colour] = (0, 0, 0)
# Fluorescence: what each stain is shown as.
_STAIN_COLOURS: Final = {"nuclear": (40, 90, 255), "cd8": (255, 230, 0), "residual": (0, 110, 0)}

# Cells are drawn as outlines where a picture pixel is at most this long, else as dots.
_OUTLINE_MPP: Final = 1.0
# A small field is enlarged to about this many pixels.
_SMALL_PX: Final = 700
_BLOCK_PX: Final = 2048
_POINTS: Final = 200_000
# Ships with matplotlib; Pillow's own font has no micro sign.
_FONT: Final = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


class Overlay:
    """A picture of a slide that cells are painted on as they come; memory is that of the picture.

    What it shows does not depend on how the cells were batched.

    Parameters
    ----------
    slide : read by blocks; parts that cannot be read are grey.
    max_px : longer side of the picture.
    assessed : (rows, columns) at `mpp`, True where tissue was assessed; the rest is dimmed. None: all was.
    mpp : um per pixel of `assessed`, `zones` and `overview`.
    tumour, border : tumour and tumour border, um in the slide's frame.
    zones : (rows, columns), places in `ZONE_NAMES`; tinted.
    overview : (rows, columns, channels), the slide at `mpp`, where somebody has read it already; used instead
        of the slide where it is fine enough.
    stains : stain (nuclear, cd8, residual) to channel name, for fluorescence; None shows the mean of all
        channels in grey.
    """

    def __init__(
        self,
        slide: Slide,
        *,
        max_px: int,
        mpp: float,
        assessed: NDArray[np.bool_] | None = None,
        tumour: BaseGeometry | None = None,
        border: BaseGeometry | None = None,
        zones: NDArray[np.uint8] | None = None,
        overview: NDArray[Any] | None = None,
        stains: Mapping[str, str] | None = None,
    ) -> None:
        self.mpp = picture_mpp(slide, max_px)
        columns, rows = slide.grid_size(self.mpp)
        shape = rows, columns
        if overview is not None and mpp <= self.mpp:
            pixels, unread = _shrink(overview, mpp, self.mpp, shape), np.zeros(shape, bool)
        else:
            pixels, unread = _read(slide, self.mpp)
        inside = np.ones(shape, bool) if assessed is None else _sample(assessed, mpp, self.mpp, shape)
        if slide.kind == "brightfield":
            self._picture = pixels[..., :3].astype(np.uint8)
            dim_to = 235
        else:
            self._picture = _composite(pixels, slide.channels, stains, inside)
            dim_to = 40
        dimmed = self._picture[~inside].astype(np.uint16)
        self._picture[~inside] = (dimmed * 2 + dim_to * 3) // 5
        self._picture[unread] = 128
        self._legend: list[tuple[Colour, str]] = []
        if zones is not None:
            self._tint_zones(_sample(zones, mpp, self.mpp, shape))
        self._draw_lines(tumour, border)
        # How much of each pixel is covered, 0 to 255; painted at the end, so that the order does not matter.
        self._counted, self._uncounted, self._other = (np.zeros(shape, np.uint8) for _ in range(3))
        self._drawn = [False, False, False]

    @property
    def draws_outlines(self) -> bool:
        """Whether cells are drawn as outlines; else as dots."""
        return self.mpp <= _OUTLINE_MPP

    def add(self, table: pd.DataFrame, outlines: NDArray[np.object_] | None = None) -> None:
        """Draw cells.

        Parameters
        ----------
        table : `x_um`, `y_um`, `cell_class`, `in_tissue` of the cell table.
        outlines : (n,) shapely polygons in um; None draws dots.
        """
        positive = table["cell_class"].to_numpy() == CD8
        counted = table["in_tissue"].to_numpy(dtype=bool)
        as_outlines = outlines is not None and self.draws_outlines
        layers = (
            (self._counted, positive & counted),
            (self._uncounted, positive & ~counted),
            # At a coarse scale, the other nuclei would hide the tissue.
            (self._other, ~positive if as_outlines else np.zeros(len(table), bool)),
        )
        for k, (layer, chosen) in enumerate(layers):
            if not chosen.any():
                continue
            self._drawn[k] = True
            if as_outlines and outlines is not None:
                radius = 0.45 if layer is self._other else 0.6 + max(layer.shape) / 4000
                _stroke(layer, shapely.get_exterior_ring(outlines[chosen]), self.mpp, radius)
            else:
                xy = table.loc[chosen, ["x_um", "y_um"]].to_numpy(dtype=np.float64) / self.mpp
                _dots(layer, xy, max(1.5, 4.0 / self.mpp))

    def draw(self) -> Picture:
        """Return the picture so far: uint8 (rows, columns, 3), with scale bar and legend underneath."""
        picture = self._picture.copy()
        _blend(picture, self._other, _OTHER_COLOUR, 0.6)
        _blend(picture, self._uncounted, _UNCOUNTED_COLOUR, 1.0)
        _blend(picture, self._counted, _CD8_COLOUR, 1.0)
        cells = [
            (_CD8_COLOUR, CD8),
            (_UNCOUNTED_COLOUR, f"{CD8} not counted"),
            (_OTHER_COLOUR, "other nucleus"),
        ]
        legend = [item for item, drawn in zip(cells, self._drawn, strict=True) if drawn] + self._legend
        return _with_caption(picture, self.mpp, legend)

    def save(self, path: Path) -> None:
        """Write the picture as PNG; raises ResultsError where it cannot be written."""
        buffer = BytesIO()
        # Tissue hardly compresses: higher levels take twice the time for 2 % of the size.
        Image.fromarray(self.draw()).save(buffer, "PNG", compress_level=1)
        write_bytes(path, buffer.getvalue())

    def _tint_zones(self, zones: NDArray[np.uint8]) -> None:
        edge = np.zeros(zones.shape, bool)
        edge[:, 1:] |= zones[:, 1:] != zones[:, :-1]
        edge[1:] |= zones[1:] != zones[:-1]
        edge = ndimage.binary_dilation(edge, iterations=1 + round(max(zones.shape) / 1500)) & (zones > 0)
        for code, name in enumerate(ZONE_NAMES):
            here = zones == code
            if not name or not here.any():
                continue
            _blend(self._picture, np.where(here, 255, 0).astype(np.uint8), ZONE_COLOURS[name], 0.07)
            _blend(self._picture, np.where(here & edge, 255, 0).astype(np.uint8), ZONE_COLOURS[name], 0.8)
            self._legend.append((ZONE_COLOURS[name], name.replace("_", " ")))

    def _draw_lines(self, tumour: BaseGeometry | None, border: BaseGeometry | None) -> None:
        thickness = max(self._picture.shape) / 1000
        outline = None if tumour is None else tumour.boundary
        for line, radius, colour, label in (
            (outline, 0.5 + 0.4 * thickness, _OUTLINE_COLOUR, "tumour outline"),
            (border, 0.8 + 1.1 * thickness, _BORDER_COLOUR, "tumour border"),
        ):
            if line is None or line.is_empty:
                continue
            parts = np.asarray(shapely.get_parts(line), object)
            for extra, layer in ((1.0, _CASING_COLOUR), (0.0, colour)):
                cover = np.zeros(self._picture.shape[:2], np.uint8)
                _stroke(cover, parts, self.mpp, radius + extra)
                _blend(self._picture, cover, layer, 1.0)
            self._legend.append((colour, label))


def write_overlay(
    path: Path,
    slide: Slide,
    table: pd.DataFrame,
    outlines: NDArray[np.object_] | None = None,
    *,
    max_px: int = 2000,
    mpp: float = 8.0,
    **shown: Any,
) -> None:
    """Draw one overlay from cells that are all at hand; see `Overlay`, which takes `shown`."""
    overlay = Overlay(slide, max_px=max_px, mpp=mpp, **shown)
    overlay.add(table, outlines)
    overlay.save(path)


def picture_mpp(slide: Slide, max_px: int) -> float:
    """Return um per pixel of a picture that fits `max_px`: the slide's own at the finest.

    A field of a few hundred pixels is enlarged by a whole number.
    """
    own, longest_um = max(slide.mpp), max(slide.size_um)
    fitting = longest_um / max_px
    if fitting >= own:
        return fitting
    return own / max(1, floor(min(_SMALL_PX, max_px) * own / longest_um))


def _read(slide: Slide, mpp: float) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read the whole slide at `mpp` by blocks of bounded source pixels, and tell what could not be read."""
    columns, rows = slide.grid_size(mpp)
    level = slide.info.levels[slide.level_for(mpp)]
    factor = mpp / min(m * d for m, d in zip(slide.mpp, level.downsample, strict=True))
    edge = max(1, int(_BLOCK_PX / max(1.0, factor)))
    pixels = np.zeros((rows, columns, len(slide.channels)), slide.info.dtype)
    unread = np.zeros((rows, columns), bool)
    for y in range(0, rows, edge):
        for x in range(0, columns, edge):
            box = Box(x, y, min(edge, columns - x), min(edge, rows - y))
            where = np.s_[box.y : box.bottom, box.x : box.right]
            try:
                pixels[where] = slide.read(box, mpp)
            except TileReadError:
                unread[where] = True
    return pixels, unread


def _shrink(pixels: NDArray[Any], mpp: float, target_mpp: float, shape: tuple[int, int]) -> NDArray[Any]:
    scale = target_mpp / mpp
    if abs(scale - round(scale)) < 1e-6:
        scale = float(round(scale))
    missing = [max(0, ceil(n * scale) - have) for n, have in zip(shape, pixels.shape, strict=False)]
    padded = np.pad(pixels, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
    if scale.is_integer():
        whole = int(scale)
        padded = padded[: shape[0] * whole, : shape[1] * whole]
    return area_average(padded, Box(0, 0, shape[1], shape[0]), (scale, scale), (0, 0))


def _sample(values: NDArray[Any], mpp: float, target_mpp: float, shape: tuple[int, int]) -> NDArray[Any]:
    """Take the value under the centre of each pixel of another grid."""
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * target_mpp / mpp).astype(np.int64), have - 1)
        for n, have in zip(shape, values.shape, strict=True)
    )
    sampled: NDArray[Any] = values[rows[:, None], columns]
    return sampled


def _composite(
    pixels: NDArray[Any],
    channels: tuple[str, ...],
    stains: Mapping[str, str] | None,
    inside: NDArray[np.bool_],
) -> Picture:
    """Add up channels in the colours of their stains; contrast from percentiles of the assessed tissue."""
    shown = {name: _STAIN_COLOURS[stain] for stain, name in (stains or {}).items() if name in channels}
    total = np.zeros((*pixels.shape[:2], 3), np.float32)
    if not shown:
        grey = _stretch(pixels.astype(np.float32).mean(axis=2), inside)
        total += grey[..., None] * 255
    for name, colour in shown.items():
        amount = _stretch(pixels[..., channels.index(name)].astype(np.float32), inside)
        total += amount[..., None] * np.asarray(colour, np.float32)
    return np.clip(np.rint(total), 0, 255).astype(np.uint8)


def _stretch(values: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    chosen = values[inside] if inside.any() else values.ravel()
    low, high = np.nanpercentile(chosen, [5, 99.7])
    stretched = (values - np.float32(low)) / np.float32(max(high - low, 1e-6))
    shown: NDArray[np.float32] = np.nan_to_num(np.clip(stretched, 0, 1))
    return shown


def _stroke(cover: Picture, lines: NDArray[np.object_], mpp: float, radius: float) -> None:
    """Draw lines (um) of a width of 2 * `radius` pixels, as dots close to each other."""
    xy, line = shapely.get_coordinates(lines, return_index=True)
    xy /= mpp
    joined = line[1:] == line[:-1]
    start, step = xy[:-1][joined], np.diff(xy, axis=0)[joined]
    near = (np.maximum(start, start + step) >= -radius - 1).all(axis=1) & (
        np.minimum(start, start + step) <= np.array(cover.shape[::-1]) + radius + 1
    ).all(axis=1)
    start, step = start[near], step[near]
    n = np.maximum(1, np.ceil(np.hypot(step[:, 0], step[:, 1]) * 2)).astype(np.int64)
    ends = np.cumsum(n)
    for first in range(0, len(n), _POINTS // 8):
        some = slice(first, first + _POINTS // 8)
        count = n[some]
        which = np.repeat(np.arange(len(count)), count)
        place = np.arange(count.sum()) - np.repeat(ends[some] - count - (ends[first] - n[first]), count)
        along = (place / count[which])[:, None]
        _dots(cover, start[some][which] + along * step[some][which], radius)


def _dots(cover: Picture, xy: NDArray[np.float64], radius: float) -> None:
    """Draw discs of `radius` pixels with soft edges; where they overlap, the greater cover counts."""
    height, width = cover.shape
    reach = ceil(radius + 0.5)
    flat = cover.reshape(-1)
    for first in range(0, len(xy), _POINTS):
        x, y = xy[first : first + _POINTS].T
        column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                j, i = column + dx, row + dy
                share = radius + 0.5 - np.hypot(j + 0.5 - x, i + 0.5 - y)
                seen = (share > 0) & (j >= 0) & (j < width) & (i >= 0) & (i < height)
                amount = np.rint(np.minimum(share[seen], 1) * 255).astype(np.uint8)
                np.maximum.at(flat, i[seen] * width + j[seen], amount)


@compiled
def _blend(picture: Picture, cover: Picture, colour: Colour, opacity: float) -> None:
    """Lay a colour over the picture, where and as much as `cover` says (0 to 255)."""
    for y in range(cover.shape[0]):
        for x in range(cover.shape[1]):
            if cover[y, x]:
                share = np.float32(cover[y, x]) * np.float32(opacity / 255)
                for channel in range(3):
                    under = np.float32(picture[y, x, channel]) * (np.float32(1) - share)
                    picture[y, x, channel] = np.uint8(np.rint(under + np.float32(colour[channel]) * share))


def scale_bar_um(width_um: float) -> float:
    """Return 1, 2 or 5 times a power of ten: the longest that is at most a fifth of the width."""
    most = width_um / 5
    power = 10.0 ** floor(log10(most))
    return next(k * power for k in (5, 2, 1) if k * power <= most * (1 + 1e-9))


def _with_caption(picture: Picture, mpp: float, legend: list[tuple[Colour, str]]) -> Picture:
    """Put scale bar and legend on a white strip underneath, where they hide no tissue."""
    height, width = picture.shape[:2]
    full_width = max(width, 480)
    size = min(40, max(14, full_width // 75))
    font = ImageFont.truetype(_FONT, size)
    pad, line = size, 2 * size
    bar_um = scale_bar_um(width * mpp)
    bar_px = bar_um / mpp
    bar_label = f"{bar_um / 1000:g} mm" if bar_um >= 1000 else f"{bar_um:g} \N{MICRO SIGN}m"

    # Lay the items out in lines first: their number gives the height.
    x, y = pad + bar_px + size / 2 + font.getlength(bar_label) + 2 * size, 0
    placed = []
    for colour, text in legend:
        needed = 1.5 * size + font.getlength(text) + 1.5 * size
        if x + needed > full_width and x > pad:
            x, y = pad, y + line
        placed.append((x, y, colour, text))
        x += needed
    canvas = Image.new("RGB", (full_width, height + y + line), (255, 255, 255))
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    middle = height + line / 2
    draw.rectangle((pad, middle - size / 6, pad + bar_px, middle + size / 6), fill=(0, 0, 0))
    draw.text((pad + bar_px + size / 2, middle), bar_label, fill=(0, 0, 0), font=font, anchor="lm")
    for x, y, colour, text in placed:
        draw.rectangle(
            (x, middle + y - size / 2, x + size, middle + y + size / 2), fill=colour, outline=(90, 90, 90)
        )
        draw.text((x + 1.5 * size, middle + y), text, fill=(0, 0, 0), font=font, anchor="lm")
    return np.asarray(canvas)
