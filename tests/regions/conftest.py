"""Small rendered slides, and a tissue classifier trained on three strokes a class of one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from looking import Looked, look, train

from histo.slide import open_slide
from histo.synthetic.scribbles import write_scribbles
from histo.synthetic.slide import RenderedSlide, SlideSpec, render_slide


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
