from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histo.cells.build import build_detector
from histo.cells.table import CD8
from histo.config import BrightfieldStain, Config, FluorescenceStain
from histo.datasets.image import AnnotatedImage
from histo.errors import SlideError, TileReadError
from histo.evaluation.find import find_cells
from histo.evaluation.rendered import rendered_dataset
from histo.evaluation.stain import prepare, stain_of
from histo.run.detect import detect_tiles
from histo.slide import Box, open_slide
from histo.slide.survey import survey_slide
from histo.slide.tiles import plan_tiles
from histo.slide.tissue import detect_tissue
from histo.stain.space import fit_stain

Draw = Callable[..., AnnotatedImage]


@pytest.fixture(scope="module")
def field() -> AnnotatedImage:
    return rendered_dataset(1, first_seed=11, size_px=256).items[0].load()


@pytest.mark.parametrize("mpp", [0.5, 0.61])
def test_stain_space_is_that_of_inference(field: AnnotatedImage, tmp_path: Path, mpp: float) -> None:
    Image.fromarray(field.pixels).save(tmp_path / "field.png")
    slide = open_slide(tmp_path / "field.png", mpp=field.mpp)
    config = Config()
    survey = survey_slide(slide, config.tissue.mpp_um)
    tissue = detect_tissue(survey, "brightfield", config.tissue)
    columns, rows = slide.grid_size(mpp)
    pixels = slide.read(Box(0, 0, columns, rows), mpp)
    expected = fit_stain(slide, survey, tissue, config.stain)(pixels)
    np.testing.assert_array_equal(stain_of(replace(field, white_point=None), mpp), expected, strict=True)


def test_a_known_white_point_is_used_where_it_would_be_estimated(field: AnnotatedImage) -> None:
    assert prepare(field).stain.white_point == field.white_point  # type: ignore[union-attr]
    fixed = BrightfieldStain(white_point=(255, 255, 255))
    assert prepare(field, fixed).stain.white_point == (255, 255, 255)  # type: ignore[union-attr]


def test_fluorescence_without_autofluorescence_has_none(field: AnnotatedImage) -> None:
    item = rendered_dataset(2, first_seed=10, kind="both", size_px=128).items[1]
    image = item.load()
    assert image.kind == "fluorescence"
    with_auto = stain_of(image, 0.5)
    assert with_auto[2].any()
    plain = replace(image, pixels=image.pixels * np.array([1, 1, 0], np.uint16))
    without = stain_of(plain, 0.5)
    assert not without[2].any()
    np.testing.assert_array_equal(without[:2], with_auto[:2], strict=True)


def test_a_protocol_of_the_other_kind_is_refused(field: AnnotatedImage) -> None:
    with pytest.raises(SlideError, match="brightfield"):
        prepare(field, FluorescenceStain(kind="fluorescence", nuclear="DAPI", cd8="CD8"))


def test_cells_are_found_where_they_lie_whatever_the_tiles(
    draw_image: Draw, threshold_detector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    cells = [
        (x + rng.uniform(-2, 2), y + rng.uniform(-2, 2), bool(rng.integers(2)))
        for x in np.arange(8, 190, 14)
        for y in np.arange(8, 140, 14)
    ]
    image = draw_image((400, 300), cells)
    whole = find_cells(image, threshold_detector)
    assert len(threshold_detector.tiles) == 1
    assert len(whole.points_um) == len(cells)
    # Found label i is point i, and covers the true disc.
    for place, (x, y) in enumerate(whole.points_um):
        assert whole.labels[int(y / 0.5), int(x / 0.5)] == place + 1
    np.testing.assert_array_equal(whole.labels > 0, image.labels > 0)
    true = np.array(cells)
    nearest = np.linalg.norm(whole.points_um[:, None] - true[None, :, :2], axis=2).argmin(axis=1)
    np.testing.assert_array_equal(whole.is_cd8, true[nearest, 2].astype(bool))
    monkeypatch.setattr("histo.evaluation.find._TILE_UM", 48.0)
    cut = find_cells(image, threshold_detector)
    assert len(threshold_detector.tiles) > 8
    np.testing.assert_array_equal(cut.labels > 0, whole.labels > 0)
    order = [np.lexsort(found.points_um.T) for found in (cut, whole)]
    np.testing.assert_allclose(cut.points_um[order[0]], whole.points_um[order[1]])


@pytest.mark.parametrize("mpp", [0.25, 1.0])
def test_found_labels_lie_on_the_pixels_of_the_image(
    draw_image: Draw, threshold_detector: Any, mpp: float
) -> None:
    cells = [(30.0, 40.0, True), (60.0, 20.0, False), (70.0, 60.0, True)]
    image = draw_image((round(100 / mpp), round(80 / mpp)), cells, mpp=mpp)
    found = find_cells(image, threshold_detector)
    assert found.labels.shape == image.pixels.shape[:2]
    assert sorted(found.is_cd8.tolist()) == [False, True, True]
    overlap = ((found.labels > 0) & (image.labels > 0)).sum() / (image.labels > 0).sum()
    assert overlap > 0.9


def test_rendered_fields_are_as_asked_for() -> None:
    both = rendered_dataset(4, first_seed=7, kind="both", size_px=64)
    assert [item.name for item in both.items] == [
        "brightfield 7", "fluorescence 8", "brightfield 9", "fluorescence 10",
    ]  # fmt: skip
    images = [item.load() for item in both.items]
    assert [image.kind for image in images] == ["brightfield", "fluorescence"] * 2
    assert all(image.labels is not None and image.labels.max() == len(image.classes) for image in images)
    np.testing.assert_array_equal(images[0].pixels, both.items[0].load().pixels)


def test_the_cells_found_are_those_that_inference_finds(field: AnnotatedImage, tmp_path: Path) -> None:
    Image.fromarray(field.pixels).save(tmp_path / "field.png")
    config = Config()
    detector = build_detector(config.cells)
    with open_slide(tmp_path / "field.png", mpp=field.mpp) as slide:
        survey = survey_slide(slide, config.tissue.mpp_um)
        tissue = detect_tissue(survey, "brightfield", config.tissue)
        stain = fit_stain(slide, survey, tissue, config.stain)
        plan = plan_tiles(
            slide, tissue, mpp=detector.mpp, tile_um=64, halo_px=detector.halo_px, multiple=detector.multiple
        )
        tables = [
            cells.table
            for _, cells in detect_tiles(slide, plan, stain, detector, config.run, None)
            if not isinstance(cells, TileReadError)
        ]
    expected = pd.concat(tables)
    found = find_cells(replace(field, white_point=None), detector, config.stain)
    assert found.assessed == 1
    assert len(found.points_um) == len(expected) > 50
    order = np.lexsort(found.points_um.T)
    expected = expected.iloc[np.lexsort(expected[["x_um", "y_um"]].to_numpy().T)]
    np.testing.assert_allclose(found.points_um[order], expected[["x_um", "y_um"]].to_numpy(), atol=1e-9)
    np.testing.assert_array_equal(found.is_cd8[order], expected["cell_class"] == CD8)
