"""Markers beside CD8 in rendered slides: who carries them, how strongly, and how they reach the camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histo.errors import ConfigError
from histo.slide.geometry import Box
from histo.synthetic.noise import FloatArray, as_float, noise
from histo.synthetic.optics import Lamp, blurred, draw_lamp
from histo.synthetic.scene import Ground, Signals, exposed
from histo.synthetic.stamp import NUCLEUS, WHOLE_CELL, Cells, stamp
from histo.synthetic.tissue import GLASS, TUMOUR

Chromogen = Literal["red", "magenta", "teal"]

# Optical density in red, green, blue of the second chromogen of a duplex with DAB.
CHROMOGENS: Final[dict[Chromogen, tuple[float, float, float]]] = {
    # Fast Red: of "FastRed FastBlue DAB" in Landini's Colour Deconvolution for ImageJ, and in scikit-image.
    "red": (0.21393921, 0.85112669, 0.47794022),
    # No published vectors were found. Estimated from the colour: magenta absorbs green, teal absorbs red.
    "magenta": (0.25, 0.90, 0.35),
    "teal": (0.92, 0.37, 0.15),
}

# What a cell is, for markers.
OTHER_CELL, CD8_CELL, LYMPHOCYTE = range(3)


class ZoneFractions(NamedTuple):
    """A fraction of CD8+ cells in each zone."""

    core: float
    inner_margin: float
    outer_margin: float
    far: float


Fraction = float | ZoneFractions


class Amounts(NamedTuple):
    """Log-normal amounts; a CD8 membrane has about 1."""

    median: float
    spread: float


_POSITIVE, _NEGATIVE = Amounts(0.7, 0.35), Amounts(0.03, 0.5)


@dataclass(frozen=True)
class RenderedMarker:
    """A marker of a panel.

    name : of the channel and, with "+", of the truth's column. place : membrane, nucleus, or the cytoplasm of
    tumour cells (keratin; then nothing but the camera's part below counts).
    fraction : of CD8+ cells that carry it. among : by marker named before it, the fraction of the cells that
    carry that one; of several that a cell carries the last counts.
    of_lymphocytes : fraction of the CD8-negative lymphocytes that carry it. No other cell does.
    positive, negative : amounts in cells with and without it.
    autofluorescence : share of the tissue's glow that its channel sees.
    spill : from "nuclear", "CD8" or a marker, the share of that signal that its channel sees.
    """

    name: str
    place: Literal["membrane", "nucleus", "epithelium"] = "membrane"
    fraction: Fraction = 0.0
    among: Mapping[str, Fraction] = field(default_factory=dict)
    of_lymphocytes: float = 0.0
    positive: Amounts = _POSITIVE
    negative: Amounts = _NEGATIVE
    autofluorescence: float = 0.1
    spill: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RenderedPanel:
    """Markers beside CD8.

    markers : each a channel of a fluorescence slide; of a brightfield slide one, on membranes.
    chromogen : of that one. batch : seed of lamp, filters and camera, which slides of one batch share.
    slide_spread : how much staining differs between slides of a batch (spread of the log).
    """

    markers: tuple[RenderedMarker, ...]
    chromogen: Chromogen | None = None
    batch: int = 0
    slide_spread: float = 0.05


def check_panel(panel: RenderedPanel, kind: str) -> None:
    """Raise ConfigError for a panel that cannot be rendered; every mistake is told."""
    names = [marker.name for marker in panel.markers]
    mistakes = []
    if not names:
        mistakes.append("it has no marker")
    if len(set(names)) < len(names) or {"nuclear", "CD8"} & set(names):
        mistakes.append('every marker needs a name of its own, and none is called "nuclear" or "CD8"')
    if kind == "fluorescence" and panel.chromogen is not None:
        mistakes.append("a chromogen is for brightfield")
    if kind == "brightfield":
        if panel.chromogen not in CHROMOGENS:
            mistakes.append(f"brightfield needs a chromogen: {', '.join(CHROMOGENS)}")
        if len(names) > 1 or any(marker.place != "membrane" for marker in panel.markers):
            mistakes.append("brightfield has room for one marker, on membranes")
    for index, marker in enumerate(panel.markers):
        shares = [marker.fraction, *marker.among.values(), marker.of_lymphocytes]
        if not all(0 <= value <= 1 for share in shares for value in _by_zone(share)):
            mistakes.append(f"{marker.name}: fractions must be 0 to 1")
        if unknown := set(marker.among) - set(names[:index]):
            mistakes.append(f"{marker.name}: no marker before it is called {', '.join(sorted(unknown))}")
        if unknown := set(marker.spill) - ({"nuclear", "CD8", *names} - {marker.name}):
            mistakes.append(f"{marker.name}: no other signal is called {', '.join(sorted(unknown))}")
    if mistakes:
        raise ConfigError("the panel cannot be rendered: " + "; ".join(mistakes))


def _by_zone(fraction: Fraction) -> ZoneFractions:
    return fraction if isinstance(fraction, ZoneFractions) else ZoneFractions(*(fraction,) * 4)


@dataclass(frozen=True)
class MarkerCells:
    """What the cells of a slide carry.

    positive : (m, n) bool. amount, ring_gaps, ring_phase : (m, n) float32, the last two of the membrane.
    """

    positive: NDArray[np.bool_]
    amount: FloatArray
    ring_gaps: FloatArray
    ring_phase: FloatArray

    def take(self, index: NDArray[np.intp]) -> MarkerCells:
        """Return those of some cells."""
        return MarkerCells(**{name: values[:, index] for name, values in vars(self).items()})


def draw_marker_cells(
    seed: int,
    panel: RenderedPanel,
    lineage: NDArray[np.int8],
    zone: NDArray[np.intp],
    visible: NDArray[np.bool_],
) -> MarkerCells:
    """Draw which cells carry which marker, in exactly the fractions asked for, and how much of it.

    Parameters
    ----------
    seed : of the slide; a generator of its own, so that cells are those of the slide without markers.
    lineage : (n,) OTHER_CELL, CD8_CELL or LYMPHOCYTE. zone : (n,) index into the zones.
    visible : (n,) whether it is a cell at all, and no speck; only these have any amount.
    """
    rng = np.random.default_rng([seed, 11])
    n, m = len(lineage), len(panel.markers)
    positive = np.zeros((m, n), bool)
    amount = np.zeros((m, n), np.float32)
    for index, marker in enumerate(panel.markers):
        chances = np.asarray(_by_zone(marker.fraction))[zone]
        # Cells in groups that share a fraction: exact counts, so that truth is what was asked for.
        group = zone.astype(np.int64)
        for before, other in enumerate(panel.markers[:index]):
            if other.name in marker.among:
                carried = positive[before]
                share = np.asarray(_by_zone(marker.among[other.name]))[zone]
                chances = np.where(carried, share, chances)
                group = np.where(carried, len(ZoneFractions._fields) * (before + 1) + zone, group)
        for kind, chance in ((CD8_CELL, chances), (LYMPHOCYTE, np.full(n, marker.of_lymphocytes))):
            members = np.flatnonzero((lineage == kind) & visible)
            positive[index, members] = _exactly(rng, chance[members], group[members])
        drawn = rng.standard_normal((2, n)).clip(-2.5, 2.5)
        levels = [
            np.log(level.median) + level.spread * z
            for level, z in zip((marker.positive, marker.negative), drawn, strict=True)
        ]
        stained = np.exp(np.where(positive[index], *levels) + panel.slide_spread * rng.standard_normal())
        amount[index] = np.where(visible, stained, 0)
    gaps, phase = rng.uniform(0, 0.5, (m, n)), rng.uniform(0, 2 * np.pi, (m, n))
    return MarkerCells(positive, amount, gaps.astype(np.float32), phase.astype(np.float32))


def _exactly(
    rng: np.random.Generator, chance: NDArray[np.float64], group: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Choose in each group as many as its chance (one for all of the group) says, rounded at random."""
    chosen = np.zeros(len(chance), bool)
    for each in np.unique(group):
        members = np.flatnonzero(group == each)
        wanted = int(chance[members[0]] * len(members) + rng.random())
        chosen[rng.permutation(members)[:wanted]] = True
    return chosen


def marker_layer(
    cells: Cells, carried: MarkerCells, index: int, marker: RenderedMarker, box: Box, mpp: float
) -> FloatArray:
    """Paint a marker of the cells of a window: (H, W) amounts."""
    here = carried.amount[index] > 0
    some = cells.take(here)
    amount, zero = carried.amount[index][here], np.zeros(len(some), np.float32)
    if marker.place == "nucleus":
        painted = replace(
            some, ring=zero, brown=zero, cytoplasm=zero, brown_nucleus=amount, label=_label(some, NUCLEUS)
        )
        return stamp(painted, box, mpp).brown
    # A lymphocyte has its membrane near; of other cells what sticks unspecifically is close to the nucleus.
    small = (some.length_um > 0) & (some.length_um < 1.6 * some.nucleus_length_um)
    painted = replace(
        some,
        length_um=np.where(small, some.length_um, 1.2 * some.nucleus_length_um),
        width_um=np.where(small, some.width_um, 1.2 * some.nucleus_width_um),
        ring=amount,
        ring_width_um=np.full(len(some), 0.8, np.float32),
        ring_gaps=carried.ring_gaps[index][here],
        ring_phase=carried.ring_phase[index][here],
        brown=0.15 * amount,
        brown_nucleus=zero,
        cytoplasm=zero,
        label=_label(some, WHOLE_CELL),
    )
    return stamp(painted, box, mpp).brown


def _label(cells: Cells, value: int) -> NDArray[np.int8]:
    return np.full(len(cells), value, np.int8)


def chromogen_layer(
    amount: FloatArray, tissue: FloatArray, ground: Ground, blur_um: float, box: Box, mpp: float
) -> FloatArray:
    """Painted amounts to the second chromogen on the slide: grainy, bounded, blurred, with a faint haze."""
    grain = np.float32(0.14) * noise(box, 0.7 / mpp, ground.offset, 24)
    grain = grain + np.float32(0.24) * noise(box, 1.5 / mpp, ground.offset, 25)
    laid = np.float32(1.9) * (1 - np.exp(amount * np.maximum(1 + grain, 0.05) * np.float32(-1 / 1.9)))
    laid += tissue * np.float32(0.012)
    return blurred(laid, blur_um / mpp)


def batch_lamp(panel: RenderedPanel) -> Lamp:
    """Draw lamp and camera of a batch: nuclear, CD8, autofluorescence, then each marker."""
    rng = np.random.default_rng([panel.batch, 12])
    lamp = replace(draw_lamp(rng), photons=float(rng.uniform(400, 3000)))
    m = len(panel.markers)
    floor = rng.uniform(0.01, 0.08, m)
    slope = rng.uniform(-0.4, 0.4, m) * floor
    gain = lamp.gain[1] * np.exp(rng.uniform(-0.7, 0.7, m))
    phase = rng.uniform(0, 2 * np.pi, m)
    return replace(
        lamp,
        floor=(*lamp.floor, *floor.tolist()),
        slope=(*lamp.slope, *slope.tolist()),
        phase=(*lamp.phase, *phase.tolist()),
        gain=(*lamp.gain, *gain.tolist()),
    )


def fluoresce_panel(
    signals: Signals,
    layers: list[FloatArray],
    panel: RenderedPanel,
    lamp: Lamp,
    ground: Ground,
    box: Box,
    mpp: float,
) -> NDArray[np.uint16]:
    """Signals of a window to (H, W, 3 + m) uint16: nuclear, CD8, autofluorescence, and each marker.

    Parameters
    ----------
    layers : what `marker_layer` or `epithelial_layer` painted of each marker. lamp : of `batch_lamp`.
    """
    source = {"nuclear": signals.nuclear, "CD8": signals.cd8}
    source |= {marker.name: layer for marker, layer in zip(panel.markers, layers, strict=True)}
    channels = [*signals.channels(lamp)]
    for marker, layer in zip(panel.markers, layers, strict=True):
        seen = layer + np.float32(marker.autofluorescence) * signals.auto
        for name, share in marker.spill.items():
            seen = seen + np.float32(share) * source[name]
        channels.append(as_float(seen))
    return exposed(np.stack(channels, axis=-1), lamp, ground, box, mpp)


def epithelial_layer(
    cytoplasm: FloatArray, weights: FloatArray, ground: Ground, box: Box, mpp: float
) -> FloatArray:
    """Keratin: the cytoplasm of tumour cells, (H, W)."""
    grain = np.float32(0.15) * noise(box, 1.5 / mpp, ground.offset, 26)
    body = np.clip(cytoplasm, 0, 1) * (weights[TUMOUR] / np.maximum(1 - weights[GLASS], 0.05)).clip(0, 1)
    return as_float(np.float32(0.8) * body * (1 + grain))


def panel_settings(panel: RenderedPanel, lamp: Lamp) -> dict[str, Any]:
    """Return `panel.autofluorescence` and `panel.spillover` of a configuration that undoes what was rendered.

    Shares of grey levels: signals times the channels' gains.
    """
    gain = {"nuclear": lamp.gain[0], "CD8": lamp.gain[1]}
    gain |= {marker.name: value for marker, value in zip(panel.markers, lamp.gain[3:], strict=True)}
    spillover: dict[str, dict[str, float]] = {}
    for marker in panel.markers:
        for name, share in marker.spill.items():
            spillover.setdefault(name, {})[marker.name] = round(share * gain[marker.name] / gain[name], 5)
    glow = {m.name: round(m.autofluorescence * gain[m.name] / lamp.gain[2], 5) for m in panel.markers}
    return {"autofluorescence": glow, "spillover": spillover}
