"""Laying one section over another: made-up pictures whose true way is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from serial_pictures import MPP, moved_picture, noise_picture

from histo.sections.coarse import coarse_guesses
from histo.sections.config import SectionsConfig
from histo.sections.error import LocalError, local_error
from histo.sections.lay import refusal
from histo.sections.mapping import Mapping, tabulate
from histo.sections.picture import NuclearPicture
from histo.sections.register import register, resampled

POINTS = np.random.default_rng(0).uniform([450, 300], [1070, 740], (300, 2))


@pytest.mark.parametrize(("angle", "mirrored"), [(40.0, False), (201.0, True)])
def test_any_rotation_and_mirror_image_is_found_and_found_again(angle: float, mirrored: bool) -> None:
    first = noise_picture(1)
    moved = moved_picture(first, angle, mirrored=mirrored)
    best = coarse_guesses(first, moved.picture, flips=True)[0]
    assert best.mirrored == mirrored
    assert abs(best.angle_deg - angle) <= 1
    found = register(first, moved.picture, grid_um=400, flips=True)
    mapping = tabulate(found.transform, first.size_um)
    assert np.median(np.hypot(*(mapping(POINTS) - moved(POINTS)).T)) < 0.5 * MPP
    assert found.mirrored == mirrored
    if mirrored:
        again = register(first, moved.picture, grid_um=400, flips=True)
        assert np.array_equal(tabulate(again.transform, first.size_um).table, mapping.table)


def judged(first: NuclearPicture, second: NuclearPicture) -> tuple[LocalError, float | None, str | None]:
    """Lay one over the other: the error, its median where it is known, and why the pair is refused."""
    there, back = (
        register(*pictures, grid_um=400, flips=False) for pictures in ((first, second), (second, first))
    )
    error = local_error(
        first,
        resampled(second, first, there.transform),
        tabulate(there.transform, first.size_um),
        tabulate(back.transform, second.size_um),
    )
    known = error.error_um[~np.isnan(error.error_um)]
    median = float(np.median(known)) if len(known) else None
    return error, median, refusal(error, median, SectionsConfig())


def test_error_is_small_where_it_fits_and_unrelated_tissue_is_refused() -> None:
    first = noise_picture(1)
    error, median, refused = judged(first, moved_picture(first, -30.0).picture)
    assert refused is None
    assert median is not None
    assert median < MPP
    assert error.verified_fraction > 0.9
    error, _, refused = judged(first, noise_picture(2))
    assert refused is not None
    # Both have one outline, and were laid over each other by it: that alone does not count.
    assert error.verified_fraction < SectionsConfig().min_verified


def test_unrelated_tissue_with_a_border_in_common_is_refused() -> None:
    half = np.where(np.arange(190) < 95, 0.5, 1.0).astype(np.float32)
    first, second = (replace(part, nuclear=part.nuclear * half) for part in map(noise_picture, (1, 2)))
    error, _, refused = judged(first, second)
    assert refused is not None
    # Nearly nowhere do enough windows look alike for a tile to be used.
    assert np.mean(np.isnan(error.error_um)) > 0.9


def test_a_mapping_is_inverted_and_goes_on_beyond_its_table() -> None:
    y, x = np.mgrid[0:40, 0:60] * 24.0
    bent = 10 * np.sin(x / 200) + 5 * np.cos(y / 150)
    mapping = Mapping(24.0, np.stack([0.9 * y + bent + 50, -1.05 * x + bent + 2000]))
    points = np.random.default_rng(1).uniform([100, 100], [1300, 800], (200, 2))
    assert np.abs(mapping.inverse(mapping(points)) - points).max() < 0.1
    assert np.median(mapping.stretch(points)) == pytest.approx(0.945, rel=0.02)
    far = mapping(np.array([[5000.0, 400.0]]))[0]
    assert far[1] == pytest.approx(-1.05 * 5000 + 2000, abs=60)
