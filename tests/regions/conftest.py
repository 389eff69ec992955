"""Small rendered slides, and a tissue classifier trained on three strokes a class of one of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from histo.config import Config
from histo.regions.classifier import MIN_AREA_UM2, SMOOTHING_UM, TissueClassifier
from histo.regions.find import prepared
from histo.regions.windows import ClassifiedSlide
from histo.run.regions import train_regions
from histo.slide import Slide, open_slide
from histo.slide.survey import Survey, survey_slide
from histo.slide.tissue import Tissue, detect_tissue
from histo.stain.space import StainTransform, fit_stain
from histo.synthetic.scribbles import write_scribbles
from histo.synthetic.slide import RenderedSlide, SlideSpec, render_slide

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


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> list[RenderedSlide]:
    """A metastasis to learn from; a primary and a metastasis, stained otherwise."""
    folder = tmp_path_factory.mktemp("cohort")
    return [
        render_slide(
            SlideSpec(
                slide_id=name, seed=seed, size_um=(1500.0, 1000.0), mpp=1.0, host=host, phenotype=phenotype
            ),
            folder,
        )
        for name, seed, host, phenotype in (
            ("learnt", 42, "liver", "desert"),
            ("bowel", 41, "bowel wall", "inflamed"),
            ("liver", 40, "liver", "excluded"),
        )
    ]


@pytest.fixture(scope="session")
def strokes(cohort: list[RenderedSlide], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scribbles(cohort[0], tmp_path_factory.mktemp("strokes") / "learnt.geojson")


@pytest.fixture(scope="session")
def classifier_path(
    cohort: list[RenderedSlide], strokes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("classifier") / "tissue.safetensors"
    train([cohort[0].slide], strokes.parent, out)
    return out


@pytest.fixture(scope="session")
def looked(cohort: list[RenderedSlide]) -> list[Looked]:
    return [look(open_slide(rendered.slide)) for rendered in cohort]
