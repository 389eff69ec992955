"""Where the regions of a slide come from: annotations, the tissue classifier, or a tumour marker."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import shapely
from shapely.geometry import MultiPolygon

from histo.config import BrightfieldStain, Config, FluorescenceStain, RegionName
from histo.errors import ClassifierError
from histo.regions.annotations import Annotations, region_named
from histo.regions.channel import channel_amount, tumour_in_channel
from histo.regions.classifier import TUMOUR, TissueClassifier, load_classifier
from histo.regions.classify import classify, regions_of
from histo.regions.features import CELL_UM
from histo.regions.shapes import as_multipolygon
from histo.regions.windows import ClassifiedSlide, channels_of, prepare
from histo.slide.base import Slide
from histo.slide.survey import Survey
from histo.slide.tissue import Tissue
from histo.stain.space import StainTransform


def find_regions(
    slide: Slide,
    survey: Survey,
    tissue: Tissue,
    stain: StainTransform,
    annotations: Annotations | None,
    config: Config,
    classifier: TissueClassifier | None,
) -> Annotations | None:
    """Return the regions of a slide: those annotated, and, where no tumour is, those found.

    Regions that are annotated go before those of the same name that are found.

    Parameters
    ----------
    annotations : None where the slide has none.
    classifier : the one that the configuration names; None where it names none.

    Raises
    ------
    ClassifierError : the classifier is for another kind of slide or finer pixels.
    ChannelError : the slide has no such channel as the configuration names.
    """
    if annotations is not None and TUMOUR in annotations.polygons_um:
        return annotations
    if classifier is not None:
        found = _classified(prepared(slide, tissue, stain, config, classifier), config, classifier)
    elif config.regions.tumour_channel is not None:
        found = _stained(slide, survey, tissue, stain, config, config.regions.tumour_channel)
    else:
        return annotations
    if annotations is None:
        return found
    return Annotations(
        polygons_um={**found.polygons_um, **annotations.polygons_um},
        source=annotations.source,
        unmapped=tuple(sorted({*annotations.unmapped, *found.unmapped})),
        notes=annotations.notes,
        flags=found.flags,
        why_no_tumour=found.why_no_tumour,
    )


def load_configured(config: Config) -> TissueClassifier | None:
    """Return the classifier that a configuration names; None where it names none."""
    path = config.regions.classifier
    return None if path is None else load_classifier(Path(path))


def prepared(
    slide: Slide, tissue: Tissue, stain: StainTransform, config: Config, classifier: TissueClassifier
) -> ClassifiedSlide:
    """Prepare a slide for a classifier.

    Raises
    ------
    ClassifierError : it was trained on slides of another kind or with other channels, or the slide's pixels
        are too coarse.
    """
    channels = channels_of(stain, residual_name_of(config.stain))
    for what, own, wanted in (
        ("kind of slide", slide.kind, classifier.kind),
        ("channels", ", ".join(channels), ", ".join(classifier.channels)),
    ):
        if own != wanted:
            raise ClassifierError(
                f"the tissue classifier was trained on another {what}: {wanted}, not {own}",
                path=slide.path,
                fix="Train one on slides like this, with the same configuration",
            )
    return prepare(slide, stain, tissue, channels)


def residual_name_of(stain: BrightfieldStain | FluorescenceStain) -> str | None:
    """Return what the residual stain is, where it is one."""
    return stain.residual_name if isinstance(stain, BrightfieldStain) else None


def _classified(of: ClassifiedSlide, config: Config, classifier: TissueClassifier) -> Annotations:
    raster = classify(classifier, of, threads=config.run.reader_threads)
    pieces: dict[RegionName, list[MultiPolygon]] = {}
    unmapped: list[str] = []
    for name, polygons in regions_of(raster, classifier.classes, CELL_UM).items():
        region = region_named(
            [name], {**{ours: ours for ours in get_args(RegionName)}, **config.regions.names}
        )
        if region is None:
            unmapped.append(name)
        else:
            pieces.setdefault(region, []).append(polygons)
    return Annotations(
        polygons_um={name: as_multipolygon(shapely.union_all(parts)) for name, parts in pieces.items()},
        source=Path(config.regions.classifier or ""),
        unmapped=tuple(unmapped),
        flags=(
            (
                "classified_regions",
                f"regions come from a tissue classifier ({classifier.sha256[:8]}), not from annotations; "
                f"{classifier.cross_validation.sentence()}",
            ),
        ),
        why_no_tumour="the tissue classifier finds no tumour: the tumour border is not known",
    )


def _stained(
    slide: Slide, survey: Survey, tissue: Tissue, stain: StainTransform, config: Config, name: str
) -> Annotations:
    fixed = config.regions.tumour_channel_threshold
    found = tumour_in_channel(channel_amount(slide, survey, stain, name), tissue, fixed)
    if found.threshold is None or found.reason is not None:
        message = f"no tumour found in channel {name!r}: {found.reason}"
    else:
        source = "found on this slide" if fixed is None else "of the configuration"
        message = (
            f"the tumour is the tissue with channel {name!r} above {found.threshold:.4g} ({source}), "
            "not annotated"
        )
    return Annotations(
        polygons_um=found.polygons_um,
        source=slide.path,
        flags=(("tumour_channel", message),),
        why_no_tumour=message,
    )
