"""From a slide's pixels to the amounts of its markers: background, autofluorescence, spill-over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from histo.config import Config, FluorescenceStain
from histo.errors import ChannelError, ConfigError
from histo.panel import PanelConfig
from histo.slide.background import dark_level
from histo.slide.base import Slide
from histo.slide.survey import Survey
from histo.slide.tissue import Tissue
from histo.stain.space import FluorescenceTransform, StainTransform, find_channels, sample_channels

# Beyond this condition number, noise is blown up more than spill-over is taken out.
_MAX_CONDITION: Final = 100.0


@dataclass(frozen=True)
class PanelTransform:
    """How the amounts of markers follow from pixels: linear, never clipped.

    The amount of a marker is the sum over planes of weight * (value - background). For fluorescence the
    planes are channels of the slide and amounts are grey levels; for brightfield they are the stain amounts
    (nuclear, CD8, residual) and amounts are optical densities.

    markers, channels : name and channel of each of the k markers.
    planes : (u,) positions on the last axis of the pixels, those of the markers first.
    background, noise : (u,) level that counts as 0, and the standard deviation of what lies below it.
    weights : (u, k).
    upper_quantile : which quantile is measured as "upper".
    """

    unit: Literal["grey level", "optical density"]
    markers: tuple[str, ...]
    channels: tuple[str, ...]
    planes: tuple[int, ...]
    background: tuple[float, ...]
    noise: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    upper_quantile: float

    def amount(self, pixels: NDArray[Any], marker: int) -> NDArray[np.float32]:
        """Return the amount (p,) of the marker at a place in `markers` in pixels (p, C)."""
        total = np.zeros(len(pixels), np.float32)
        # One plane after the other: a matrix product may round differently with the number of pixels.
        for plane, background, weights in zip(self.planes, self.background, self.weights, strict=True):
            if weights[marker] != 0:
                above = pixels[:, plane].astype(np.float32) - np.float32(background)
                total += np.float32(weights[marker]) * above
        return total


def panel_channels(slide: Slide, stain: FluorescenceStain, panel: PanelConfig) -> dict[str, int]:
    """Return the channel of each marker, and of "nuclear", "CD8" and "autofluorescence".

    Raises
    ------
    ChannelError : names that do not fit, all of them; or two markers in one channel.
    """
    wanted = {"nuclear": stain.nuclear, "CD8": stain.cd8}
    if stain.autofluorescence is not None:
        wanted["autofluorescence"] = stain.autofluorescence
    found = find_channels(
        slide,
        {f"stain.{name.lower()}": channel for name, channel in wanted.items()}
        | {marker.name: marker.channel for marker in panel.markers},
    )
    by_channel: dict[int, list[str]] = {}
    for marker in panel.markers:
        by_channel.setdefault(found[marker.name], []).append(marker.name)
    shared = [
        f"{' and '.join(names)} both mean channel {slide.channels[index]!r}"
        for index, names in by_channel.items()
        if len(names) > 1
    ]
    if shared:
        raise ChannelError("; ".join(shared), path=slide.path, fix="Correct panel.markers in the config")
    # A marker that is called CD8 is what spill-over from "CD8" means.
    return {name: found[f"stain.{name.lower()}"] for name in wanted} | {
        marker.name: found[marker.name] for marker in panel.markers
    }


def fit_panel(
    slide: Slide, survey: Survey, tissue: Tissue, stain: StainTransform, config: Config
) -> PanelTransform | None:
    """Fit the way to the amounts of the configured markers to one slide; None where none are configured.

    Parameters
    ----------
    stain : as fitted to the slide with the same configuration.

    Raises
    ------
    ChannelError : see `panel_channels`.
    ConfigError : the spill-over cannot be undone.
    """
    markers = config.panel.markers
    if not markers:
        return None
    if not isinstance(config.stain, FluorescenceStain):
        places = [config.stain.place_of(marker.channel) for marker in markers]
        planes = [place for place in places if place is not None]
        unknown = [marker.channel for marker, at in zip(markers, places, strict=True) if at is None]
        if unknown:
            raise ChannelError(
                f"no stain of this brightfield protocol: {', '.join(map(repr, unknown))}",
                path=slide.path,
                fix="Give a third stain as stain.vectors.residual with stain.residual_name in the config",
            )
        return PanelTransform(
            unit="optical density",
            markers=tuple(marker.name for marker in markers),
            channels=tuple(marker.channel for marker in markers),
            planes=tuple(planes),
            background=(0.0,) * len(planes),
            noise=(0.0,) * len(planes),
            weights=_rows(np.eye(len(planes))),
            upper_quantile=config.panel.upper_quantile,
        )
    assert isinstance(stain, FluorescenceTransform)
    channels = panel_channels(slide, config.stain, config.panel)
    names = [marker.name for marker in markers]
    sources = [
        *names,
        *config.panel.spillover,
        *(["autofluorescence"] if config.panel.autofluorescence else []),
    ]
    # Planes of the markers first, in their order.
    planes = list(dict.fromkeys(channels[name] for name in sources))
    place = {name: planes.index(channels[name]) for name in sources}
    weights = compensation(config.panel, place, len(planes))[:, : len(names)]
    sample = sample_channels(slide, survey, tissue, stain.indices[1])
    levels = [dark_level(sample[:, plane]) for plane in planes]
    return PanelTransform(
        unit="grey level",
        markers=tuple(names),
        channels=tuple(slide.channels[channels[name]] for name in names),
        planes=tuple(planes),
        background=tuple(level for level, _ in levels),
        noise=tuple(noise for _, noise in levels),
        weights=_rows(weights),
        upper_quantile=config.panel.upper_quantile,
    )


def compensation(panel: PanelConfig, place: dict[str, int], n: int) -> NDArray[np.float64]:
    """Return the weights (n, n) that turn what planes show above background into what stains them.

    First a share of the autofluorescence plane is taken from the planes of `panel.autofluorescence`. What is
    left is taken to be the sum of a plane's own signal and of shares of the others' (linear mixing, as in
    compensation of flow cytometry: Bagwell and Adams 1993, Ann N Y Acad Sci 677:167), and solved for it.

    Parameters
    ----------
    place : marker (or "nuclear", "CD8", "autofluorescence") to plane.

    Raises
    ------
    ConfigError : a channel would spill into itself, twice into another, or the system has no stable solution.
    """
    own = np.eye(n)
    for name, share in panel.autofluorescence.items():
        if place[name] == place["autofluorescence"]:
            raise ConfigError(
                f"panel.autofluorescence: {name} is measured in that channel itself",
                fix="Take it out of panel.autofluorescence",
            )
        own[place["autofluorescence"], place[name]] = -share
    mixing = np.eye(n)
    for source, targets in panel.spillover.items():
        for target, share in targets.items():
            if mixing[place[source], place[target]] != 0:
                raise ConfigError(
                    f"panel.spillover: {source} to {target} is within one channel, or said twice",
                    fix="Correct panel.spillover",
                )
            mixing[place[source], place[target]] = share
    if np.linalg.cond(mixing) > _MAX_CONDITION:
        raise ConfigError(
            "panel.spillover mixes the markers so much that they cannot be told apart",
            fix="Measure the shares again on slides with a single stain",
        )
    # Rows are vectors: shown = own signal @ mixing.
    return np.asarray(own @ np.linalg.inv(mixing), np.float64)


def _rows(matrix: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)
