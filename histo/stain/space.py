"""From a slide's pixels to stain space: nuclear, CD8 and residual, the same for both modalities."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histo.config import BrightfieldStain, FluorescenceStain
from histo.errors import ChannelError, SlideError
from histo.slide.background import dark_level, glass_level
from histo.slide.base import Slide
from histo.slide.survey import Survey
from histo.slide.tissue import Tissue, survey_od
from histo.stain.deconvolution import (
    AMOUNT_RANGE,
    STAINS,
    optical_density,
    stain_amounts,
    stain_matrix,
    unmix,
)
from histo.stain.sample import sample_tissue
from histo.stain.vectors import clear_of_third, estimate_vectors

WhitePointSource = Literal["config", "glass", "brightest tissue"]
VectorsSource = Literal["config", "estimated"]


@dataclass(frozen=True)
class BrightfieldTransform:
    """Colour deconvolution with one slide's white point and stain vectors.

    white_point : (red, green, blue) grey levels of bare glass.
    vectors : unit vectors of optical density, rows nuclear, CD8, residual.
    note : what could not be estimated, and how far vectors were turned for a third stain; else empty.
    """

    white_point: tuple[float, float, float]
    white_point_source: WhitePointSource
    vectors: tuple[tuple[float, float, float], ...]
    vectors_source: tuple[VectorsSource, VectorsSource]
    note: str = ""

    @property
    def unit(self) -> str:
        """Unit of the amounts."""
        return "optical density"

    def matrix(self) -> NDArray[np.float32]:
        """Return the vectors as (3, 3) float32."""
        return np.array(self.vectors, np.float32)

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return stain amounts (3, H, W) float32 of pixels (H, W, 3)."""
        return stain_amounts(pixels, self.white_point, self.matrix())


@dataclass(frozen=True)
class FluorescenceTransform:
    """Channels scaled so that the background is 0 and a bright cell about 1.

    channels : names of the nuclear, CD8 and autofluorescence channels; the last None where there is none.
    indices : their positions on the channel axis; None likewise.
    background, full_scale : per channel, in the slide's grey levels: amount = (I - background) / full_scale.
    note : what the numbers rest on where a channel shows no signal; empty where all do.
    """

    channels: tuple[str, str, str | None]
    indices: tuple[int, int, int | None]
    background: tuple[float, float, float]
    full_scale: tuple[float, float, float]
    note: str = ""

    @property
    def unit(self) -> str:
        """Unit of the amounts."""
        return "share of full scale"

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return stain amounts (3, H, W) float32 of pixels (H, W, C)."""
        amounts = np.zeros((len(STAINS), *pixels.shape[:2]), np.float32)
        for plane, index, background, scale in zip(
            amounts, self.indices, self.background, self.full_scale, strict=True
        ):
            if index is not None:
                np.subtract(pixels[..., index], np.float32(background), out=plane, dtype=np.float32)
                plane /= np.float32(scale)
        return np.clip(amounts, *AMOUNT_RANGE, out=amounts)


StainTransform = BrightfieldTransform | FluorescenceTransform


def fit_stain(
    slide: Slide, survey: Survey, tissue: Tissue, config: BrightfieldStain | FluorescenceStain
) -> StainTransform:
    """Fit the way to stain space to one slide.

    Raises
    ------
    SlideError : the slide is of the other kind.
    ChannelError : a channel that the configuration names is not there, or several are that might be meant.
    """
    if slide.kind != config.kind:
        other = "fluorescence, e.g. configs/cd8_mif.yaml" if slide.kind == "fluorescence" else "brightfield"
        raise SlideError(
            f"this is a {slide.kind} slide and the configuration is for {config.kind}",
            path=slide.path,
            fix=f"Use a configuration whose stain.kind is {other}"
            + (", e.g. configs/cd8_ihc.yaml" if slide.kind == "brightfield" else ""),
        )
    if isinstance(config, BrightfieldStain):
        return _fit_brightfield(slide, survey, tissue, config)
    return _fit_fluorescence(slide, survey, tissue, config)


def _fit_brightfield(
    slide: Slide, survey: Survey, tissue: Tissue, config: BrightfieldStain
) -> BrightfieldTransform:
    expected = stain_matrix(config.vectors)
    brown = unmix(survey_od(survey), expected)[..., 1]
    pixels = sample_tissue(slide, tissue, brown)
    white, source = _white_point(survey, pixels, config)
    vectors = expected.astype(np.float64)
    estimated, turned = (False, False), ""
    if config.estimate_within_deg > 0:
        od = optical_density(pixels, white)
        found, estimated = estimate_vectors(od, vectors[:2], config.estimate_within_deg)
        # A cross product follows the two stains; a third stain that the protocol names stays, and the two are
        # kept clear of it.
        if config.vectors.residual is None:
            residual = _cross(found)
        else:
            residual = vectors[2]
            before, found = found, clear_of_third(od, found, residual, config.estimate_within_deg)
            degrees = np.degrees(np.arccos(np.clip((before * found).sum(axis=1), -1, 1)))
            turned = (
                f"turned into the plane of pixels without {config.residual_name or 'the third stain'}: "
                f"nuclear by {degrees[0]:.1f}, cd8 by {degrees[1]:.1f} degrees"
            )
        vectors = np.vstack([found, residual])
    sources: tuple[VectorsSource, ...] = tuple("estimated" if ok else "config" for ok in estimated)
    notes = [
        f"too little pure {name} stain to estimate its vector: taken as configured"
        for name, ok in zip(STAINS[:2], estimated, strict=True)
        if not ok and config.estimate_within_deg > 0
    ]
    if turned:
        notes.append(turned)
    rows = tuple((float(r), float(g), float(b)) for r, g, b in vectors)
    return BrightfieldTransform(white, source, rows, (sources[0], sources[1]), "; ".join(notes))


def _cross(pair: NDArray[np.float64]) -> NDArray[np.float64]:
    normal = np.cross(pair[0], pair[1])
    return np.asarray(normal / np.linalg.norm(normal), np.float64)


def _white_point(
    survey: Survey, pixels: NDArray[Any], config: BrightfieldStain
) -> tuple[tuple[float, float, float], WhitePointSource]:
    if config.white_point != "estimate":
        return config.white_point, "config"
    glass = glass_level(survey)
    source: WhitePointSource = "glass"
    if glass is None:
        # Gaps between cells let nearly all light through. The same pixels for all three colours: the
        # brightest of each colour would be noise, and tint the white.
        if len(pixels) == 0:
            pixels = survey.overview.reshape(-1, 3)
        brightness = pixels.astype(np.float32).sum(axis=1)
        glass = np.median(pixels[brightness >= np.percentile(brightness, 99)], axis=0)
        source = "brightest tissue"
    red, green, blue = (float(level) for level in glass)
    return (red, green, blue), source


def _fit_fluorescence(
    slide: Slide, survey: Survey, tissue: Tissue, config: FluorescenceStain
) -> FluorescenceTransform:
    nuclear, cd8 = find_channel(slide, config.nuclear), find_channel(slide, config.cd8)
    auto = None if config.autofluorescence is None else find_channel(slide, config.autofluorescence)
    if nuclear == cd8:
        raise ChannelError(
            f"{config.nuclear!r} and {config.cd8!r} both mean channel {slide.channels[cd8]!r}",
            path=slide.path,
            fix="Correct stain.nuclear or stain.cd8 in the config",
        )
    indices = (nuclear, cd8, auto)
    pixels = sample_channels(slide, survey, tissue, cd8)
    background, full_scale, notes = [], [], []
    for position, index in enumerate(indices):
        if index is None:
            background.append(0.0)
            full_scale.append(1.0)
            continue
        low, scale, seen = channel_scale(pixels[:, index], dense=position == 0)
        background.append(low)
        full_scale.append(scale)
        if not seen:
            notes.append(f"{slide.channels[index]}: no signal clearly above its background")
    return FluorescenceTransform(
        channels=(
            slide.channels[nuclear],
            slide.channels[cd8],
            None if auto is None else slide.channels[auto],
        ),
        indices=indices,
        background=(background[0], background[1], background[2]),
        full_scale=(full_scale[0], full_scale[1], full_scale[2]),
        note="; ".join(notes),
    )


def sample_channels(slide: Slide, survey: Survey, tissue: Tissue, cd8: int) -> NDArray[Any]:
    """Return (n, channels) pixels that the background of every channel is taken from.

    Of tissue, half of them where the channel `cd8` is brightest; of the whole slide where it has none.
    """
    pixels = sample_tissue(slide, tissue, survey.overview[..., cd8].astype(np.float32))
    return pixels if len(pixels) else survey.overview[(survey.coverage > 0.5) & ~survey.unread]


def channel_scale(values: NDArray[Any], *, dense: bool) -> tuple[float, float, bool]:
    """Return the background and full scale of a channel, and whether signal sets the scale.

    The scale ends at a high percentile of the tissue's pixels, but never below a multiple of their noise:
    where no cell is stained, noise must not be blown up to look like one. `dense`: the stain is in most
    cells, so that the spread of all pixels is signal; else it is noise and autofluorescence.
    """
    low, noise = dark_level(values)
    if len(values) == 0:
        return 0.0, 1.0, False
    floor = 10 * noise
    if not dense:
        spread = 1.4826 * float(np.median(np.abs(values.astype(np.float64) - low)))
        floor = max(floor, 6 * spread)
    if np.issubdtype(values.dtype, np.integer):
        floor = max(floor, 8.0)
    high = float(np.percentile(values, 99.0 if dense else 99.5)) - low
    if high > floor:
        return low, high, True
    return low, floor if floor > 0 else 1.0, False


def find_channel(slide: Slide, wanted: str) -> int:
    """Find a channel by its name: whole, then as a word, then as a part, without regard to case.

    A number is never cut: "CD8" is no part of "CD80" or "CD86".

    Raises
    ------
    ChannelError : no channel, or more than one, fits; those of the slide are listed.
    """
    name = wanted.strip().casefold()
    channels = [channel.strip().casefold() for channel in slide.channels]
    no_digit = r"(?![0-9])" if name[-1:].isdigit() else ""
    tests: tuple[Callable[[str], object], ...] = (
        lambda channel: channel == name,
        lambda channel: re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", channel),
        lambda channel: re.search(re.escape(name) + no_digit, channel),
    )
    listed = ", ".join(repr(channel) for channel in slide.channels)
    for test in tests if name else ():
        hits = [index for index, channel in enumerate(channels) if test(channel)]
        if len(hits) == 1:
            return hits[0]
        if hits:
            raise ChannelError(
                f"channel {wanted!r} may be any of " + ", ".join(repr(slide.channels[i]) for i in hits),
                path=slide.path,
                fix=f"Give the whole name in the config; the slide has {listed}",
            )
    raise ChannelError(
        f"there is no channel {wanted!r}",
        path=slide.path,
        fix=f"Name one of the slide's channels in the config: {listed}",
    )


def find_channels(slide: Slide, wanted: Mapping[str, str]) -> dict[str, int]:
    """Find several channels, given what each is for and its name; see `find_channel`.

    Raises
    ------
    ChannelError : every name that does not fit, in one error.
    """
    found: dict[str, int] = {}
    errors: dict[str, ChannelError] = {}
    for purpose, name in wanted.items():
        try:
            found[purpose] = find_channel(slide, name)
        except ChannelError as error:
            errors[purpose] = error
    if len(errors) == 1:
        raise next(iter(errors.values()))
    if errors:
        listed = ", ".join(repr(channel) for channel in slide.channels)
        raise ChannelError(
            "; ".join(f"{purpose}: {error.what}" for purpose, error in errors.items()),
            path=slide.path,
            fix=f"Name the slide's channels in the config: {listed}",
        )
    return found
