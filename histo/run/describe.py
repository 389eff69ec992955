"""What the summary says of a slide besides its measures: image, stain, failures, flags."""

from __future__ import annotations

from histo.config import Config
from histo.errors import TileReadError
from histo.measure.summary import (
    Cd8Agreement,
    Flag,
    ImageSummary,
    MarkerSummary,
    PanelSummary,
    StainSummary,
    TileFailure,
)
from histo.regions.annotations import Annotations
from histo.slide import Slide
from histo.slide.tiles import Tile
from histo.slide.tissue import Tissue
from histo.stain.check import stain_flags
from histo.stain.deconvolution import STAINS
from histo.stain.panel import PanelTransform
from histo.stain.space import BrightfieldTransform, StainTransform

# Slides coarser than this are analysed and flagged.
_COARSEST_MPP = 0.65
# Share of a class that CD8 intensity may put into the other one before a flag is raised.
_MAX_DISAGREEMENT = 0.2


def flags_of(
    slide: Slide,
    tissue: Tissue,
    stain: StainTransform,
    panel: PanelSummary | None,
    annotations: Annotations | None,
    failures: list[TileFailure],
    config: Config,
) -> list[Flag]:
    """Return what a reader of the slide's numbers must know."""
    flags = [*tissue.flags, *stain_flags(slide, tissue, stain, config.stain)]
    if max(slide.mpp) > _COARSEST_MPP:
        flags.append(
            (
                "coarse_pixels",
                f"pixels of {max(slide.mpp):.2f} um are coarser than the network was trained for "
                f"({_COARSEST_MPP} um at most): cells may be missed or merged",
            )
        )
    if panel is not None:
        flags += agreement_flags(panel.cd8_agreement)
    if annotations is not None:
        flags += annotations.flags
        if annotations.unmapped:
            names = ", ".join(annotations.unmapped)
            flags.append(("unmapped_annotations", f"annotations of these classes were not used: {names}"))
        flags += [("annotation_note", note) for note in annotations.notes]
    if failures:
        flags.append(
            ("unread_tiles", f"{len(failures)} parts of the slide could not be read; their area is left out")
        )
    return [Flag(code=code, message=message) for code, message in flags]


def image_summary(slide: Slide) -> ImageSummary:
    """Say what was read, and how."""
    return ImageSummary(
        width_px=slide.size_px[0],
        height_px=slide.size_px[1],
        mpp_x_um=slide.mpp[0],
        mpp_y_um=slide.mpp[1],
        mpp_source=slide.mpp_source,
        kind=slide.kind,
        channels=list(slide.channels),
        backend=slide.info.backend,
        decoder=slide.info.decoder,
        origin_px=slide.info.origin_px,
    )


def stain_summary(stain: StainTransform) -> StainSummary:
    """Say how pixels became stain amounts."""
    if isinstance(stain, BrightfieldTransform):
        return StainSummary(
            unit="optical density",
            white_point=stain.white_point,
            white_point_source=stain.white_point_source,
            vectors=dict(zip(STAINS, stain.vectors, strict=True)),
            vectors_source=dict(zip(STAINS[:2], stain.vectors_source, strict=True)),
            vectors_note=stain.note or None,
        )
    used = [(name, i) for i, name in enumerate(STAINS) if stain.channels[i] is not None]
    return StainSummary(
        unit="share of full scale",
        channels=stain_channels(stain),
        background={name: stain.background[i] for name, i in used},
        full_scale={name: stain.full_scale[i] for name, i in used},
    )


def panel_summary(
    panel: PanelTransform, stain: StainTransform, agreement: Cd8Agreement, config: Config
) -> PanelSummary:
    """Say which markers were measured, and what was taken from their channels before."""
    settings = config.panel
    fluorescence = panel.unit == "grey level"
    channels = stain_channels(stain)
    return PanelSummary(
        unit=panel.unit,
        upper_quantile=panel.upper_quantile,
        autofluorescence_channel=(
            channels["residual"] if channels is not None and settings.autofluorescence else None
        ),
        markers=[
            MarkerSummary(
                name=name,
                channel=channel,
                background=panel.background[place] if fluorescence else None,
                noise=panel.noise[place] if fluorescence else None,
                autofluorescence=settings.autofluorescence.get(name),
                spillover={
                    source: targets[name] for source, targets in settings.spillover.items() if name in targets
                },
            )
            for place, (name, channel) in enumerate(zip(panel.markers, panel.channels, strict=True))
        ],
        cd8_agreement=agreement,
    )


def agreement_flags(agreement: Cd8Agreement) -> list[tuple[str, str]]:
    """Return a flag where CD8 intensity would call many of the cells otherwise than the network did."""
    below, above = agreement.cd8_below.value, agreement.other_above.value
    if below is None or above is None or max(below, above) <= _MAX_DISAGREEMENT:
        return []
    return [
        (
            "cd8_calls_disagree",
            f"even at the CD8 intensity that separates them best, {below:.0%} of the CD8+ cells lie below it "
            f"and {above:.0%} of the other nuclei above: check the overlay",
        )
    ]


def stain_channels(stain: StainTransform) -> dict[str, str] | None:
    """Return stain to channel name; None for brightfield."""
    if isinstance(stain, BrightfieldTransform):
        return None
    return {
        name: channel for name, channel in zip(STAINS, stain.channels, strict=True) if channel is not None
    }


def tile_failure(tile: Tile, error: TileReadError, slide: Slide, mpp: float) -> TileFailure:
    """Say what could not be read, and where in level-0 pixels; `mpp` is that of the tile's grid."""
    scale_x, scale_y = mpp / slide.mpp[0], mpp / slide.mpp[1]
    core = tile.core
    return TileFailure(
        x_px=core.x * scale_x,
        y_px=core.y * scale_y,
        width_px=core.width * scale_x,
        height_px=core.height * scale_y,
        error=error.what,
    )
