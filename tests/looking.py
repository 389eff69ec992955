"""What comes before regions: a slide looked over, and a classifier trained on strokes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from histo.config import Config
from histo.regions.classifier import MIN_AREA_UM2, SMOOTHING_UM, TissueClassifier
from histo.regions.find import prepared
from histo.regions.windows import ClassifiedSlide
from histo.run.regions import train_regions
from histo.slide import Slide
from histo.slide.survey import Survey, survey_slide
from histo.slide.tissue import Tissue, detect_tissue
from histo.stain.space import StainTransform, fit_stain

CONFIG = Config()


@dataclass(frozen=True)
class Looked:
    """A slide and what is known of it before regions are."""

    slide: Slide
    survey: Survey
    tissue: Tissue
    stain: StainTransform

    def ready(self, classifier: TissueClassifier) -> ClassifiedSlide:
        return prepared(self.slide, self.tissue, self.stain, CONFIG, classifier)


def look(slide: Slide, config: Config = CONFIG) -> Looked:
    survey = survey_slide(slide, config.tissue.mpp_um)
    tissue = detect_tissue(survey, slide.kind, config.tissue)
    return Looked(slide, survey, tissue, fit_stain(slide, survey, tissue, config.stain))


def train(slides: list[Path], annotations: Path, out: Path, config: Config = CONFIG) -> TissueClassifier:
    return train_regions(
        slides,
        annotations,
        out,
        config,
        line_width_um=20.0,
        smoothing_um=SMOOTHING_UM,
        min_area_um2=MIN_AREA_UM2,
        console=Console(quiet=True),
    )
