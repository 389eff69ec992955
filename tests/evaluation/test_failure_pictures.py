from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histo.datasets.image import AnnotatedImage
from histo.errors import ResultsError
from histo.evaluation.find import Found
from histo.evaluation.pictures import failure_of, write_failure
from histo.evaluation.score import score_image

Draw = Callable[..., AnnotatedImage]
TRUE, FOUND = (255, 225, 0), (255, 0, 200)


def found_in(drawn: AnnotatedImage, places: list[tuple[float, float, bool]]) -> Found:
    assert drawn.labels is not None
    xy = np.array([(x, y) for x, y, _ in places]).reshape(-1, 2)
    return Found(drawn.labels, xy, np.array([cd8 for *_, cd8 in places], bool), 1.0)


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) < 40).sum())


def test_the_picture_shows_missed_and_spurious_cells_on_its_right_half(
    draw_image: Draw, tmp_path: Path
) -> None:
    image = draw_image((160, 120), [(20.0, 20.0, True), (60.0, 40.0, True)])
    places = [(20.0, 20.0, True), (40.0, 15.0, True)]
    found = found_in(draw_image((160, 120), places), places)
    failure = failure_of("two wrong", image, found, score_image(image, found))
    assert failure is not None
    assert (failure.errors, failure.group) == (2, "cd8")
    write_failure(tmp_path / "a.png", failure)
    with Image.open(tmp_path / "a.png") as file:
        picture = np.asarray(file.convert("RGB"))
    top, middle = picture.shape[0] // 7, picture.shape[1] // 2
    left, right = picture[top : 6 * top, :middle], picture[top : 6 * top, middle:]
    assert near(left, TRUE) == near(left, FOUND) == 0
    assert near(right, TRUE) > 100
    assert near(right, FOUND) > 100


def test_an_image_without_an_error_is_no_failure(draw_image: Draw) -> None:
    places = [(20.0, 20.0, True), (60.0, 40.0, False)]
    image = draw_image((160, 120), places)
    found = found_in(image, places)
    assert failure_of("good", image, found, score_image(image, found)) is None


def test_errors_are_those_that_can_be_known(draw_image: Draw) -> None:
    places = [(20.0, 20.0, True), (60.0, 40.0, False)]
    image = draw_image((160, 120), places)
    found = found_in(draw_image((160, 120), places[:1]), places[:1])

    def errors(**changes: object) -> tuple[int, str] | None:
        changed = replace(image, **changes)
        failure = failure_of("x", changed, found, score_image(changed, found))
        return None if failure is None else (failure.errors, failure.group)

    assert errors(classes=np.array([1, 1], np.uint8)) == (1, "cd8")
    assert errors(labels=None, classes=None, n_cd8=4) == (3, "cd8")
    assert errors(classes=None) == (1, "all")
    assert errors(labels=None, classes=None) is None


@pytest.mark.parametrize("kind", ["points", "count", "fluorescence", "nothing found"])
def test_every_kind_of_image_can_be_drawn(draw_image: Draw, tmp_path: Path, kind: str) -> None:
    places = [(20.0, 20.0, True), (60.0, 40.0, True)]
    image = draw_image((160, 120), places)
    found = found_in(draw_image((160, 120), places[:1]), places[:1])
    if kind == "points":
        image = replace(image, labels=None, points_um=np.array(places)[:, :2])
    elif kind == "count":
        image = replace(image, labels=None, classes=None, n_cd8=2)
    elif kind == "fluorescence":
        image = replace(image, kind="fluorescence", pixels=image.pixels.astype(np.uint16) * 100)
    else:
        found = found_in(draw_image((160, 120), []), [])
    failure = failure_of(kind, image, found, score_image(image, found))
    assert failure is not None
    write_failure(tmp_path / "a.png", failure)
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 300


def test_a_folder_that_is_not_there_is_told(draw_image: Draw, tmp_path: Path) -> None:
    image = draw_image((160, 120), [(20.0, 20.0, True)])
    found = found_in(draw_image((160, 120), []), [])
    failure = failure_of("x", image, found, score_image(image, found))
    assert failure is not None
    with pytest.raises(ResultsError):
        write_failure(tmp_path / "absent" / "a.png", failure)
