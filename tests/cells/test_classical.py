"""The classical rule: against the program that it is written after, drawn nuclei, and itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from histo.cells.build import build_detector
from histo.cells.classical import KATHER2018, ClassicalDetector, ClassicalRule, find_nuclei
from histo.cells.detect import CellDetector, TileCells
from histo.cells.table import CD8, DETECTION_COLUMNS
from histo.config import CellsConfig, StainVectors
from histo.slide import open_slide
from histo.slide.geometry import Box
from histo.slide.tiles import Tile
from histo.stain.deconvolution import stain_amounts, stain_matrix
from histo.synthetic.field import FieldStyle, render_field

SIZE = 480


def _stain(pixels: NDArray[Any], white: ArrayLike, vectors: StainVectors) -> NDArray[np.float32]:
    return stain_amounts(pixels, white, stain_matrix(vectors))


@pytest.fixture(scope="module")
def stain() -> NDArray[np.float32]:
    field = render_field(5, size_px=SIZE, mpp=0.5, style=FieldStyle(context="margin"))
    nuclear, cd8 = (tuple(row.tolist()) for row in field.stain_vectors[:2])
    return _stain(field.pixels, field.white_point, StainVectors(nuclear=nuclear, cd8=cd8))


@pytest.fixture(scope="module")
def detector() -> ClassicalDetector:
    return ClassicalDetector(KATHER2018, CellsConfig())


def _read(stain: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
    """The stain under a box, nothing outside the field."""
    out = np.zeros((3, box.height, box.width), np.float32)
    inside = box.intersect(Box(0, 0, stain.shape[2], stain.shape[1]))
    x, y = inside.x - box.x, inside.y - box.y
    out[:, y : y + inside.height, x : x + inside.width] = stain[
        :, inside.y : inside.bottom, inside.x : inside.right
    ]
    return out


def _detect(
    detector: ClassicalDetector,
    stain: NDArray[np.float32],
    core: tuple[int, int],
    offset: tuple[int, int] = (0, 0),
) -> list[TileCells]:
    halo = detector.halo_px
    height, width = stain.shape[1:]
    boxes = [
        Box(x, y, *core)
        for y in range(-offset[1], height, core[1])
        for x in range(-offset[0], width, core[0])
    ]
    found: list[TileCells] = []
    for i, b in enumerate(boxes):
        tile = Tile(i, b, Box(b.x - halo, b.y - halo, b.width + 2 * halo, b.height + 2 * halo))
        found.append(detector.detect(_read(stain, tile.read), tile))
    return found


def _table(found: list[TileCells]) -> pd.DataFrame:
    tables = [
        cells.table.assign(wkb=shapely.to_wkb(cells.outlines, hex=True))
        for cells in found
        if len(cells.table)
    ]
    return pd.concat(tables).drop(columns="cell_id").sort_values(["y_um", "x_um"], ignore_index=True)


@pytest.fixture(scope="module")
def whole(detector: ClassicalDetector, stain: NDArray[np.float32]) -> pd.DataFrame:
    return _table(_detect(detector, stain, (SIZE, SIZE)))


# QuPath 0.3.2 on the same crop, by its author: petebankhead/2022-qupath-cell-detection, folder "Ki67 cell
# detection", OS-2-ndpi-results.tsv. On the optical density sum, sigma 2 um, 10 to 400 um2, no background.
@pytest.mark.parametrize(
    ("threshold", "n_cells", "above_02", "above_05"), [(0.2, 1323, 16.55, 11.87), (0.4, 1066, 20.54, 14.73)]
)
def test_it_counts_what_qupath_counts(
    data_dir: Path, threshold: float, n_cells: int, above_02: float, above_05: float
) -> None:
    with open_slide(data_dir / "ihc" / "ki67_os2_ndpi.ome.tif") as slide:
        columns, rows = slide.grid_size(0.5)
        pixels = slide.read(Box(0, 0, columns, rows), 0.5)
    vectors = StainVectors()
    weights = tuple(stain_matrix(vectors).sum(axis=1).tolist())
    rule = ClassicalRule("os2", weights, 0.0, 2.0, 2.0, threshold, (10.0, 400.0), 0.0, 0.2)
    stain = _stain(pixels, (255.0, 255.0, 255.0), vectors)
    table = _table(_detect(ClassicalDetector(rule, CellsConfig(max_area_um2=500)), stain, (columns, rows)))
    assert len(table) == pytest.approx(n_cells, rel=0.08)
    assert (table["cell_class"] == CD8).mean() * 100 == pytest.approx(above_02, abs=1)
    nuclei = find_nuclei(stain, rule, 0.5)
    dab = ndimage.mean(stain[1], nuclei, np.unique(nuclei)[1:])
    assert (dab > 0.5).mean() * 100 == pytest.approx(above_05, abs=1)


@pytest.mark.parametrize(
    ("core", "offset"), [((240, 240), (0, 0)), ((170, 250), (57, 31)), ((500, 90), (3, 40))]
)
def test_cells_do_not_depend_on_the_tiles(
    detector: ClassicalDetector,
    stain: NDArray[np.float32],
    whole: pd.DataFrame,
    core: tuple[int, int],
    offset: tuple[int, int],
) -> None:
    assert len(whole) > 200
    assert set(whole["cell_class"]) == {CD8, "other nucleus"}
    pd.testing.assert_frame_equal(whole, _table(_detect(detector, stain, core, offset)), rtol=1e-5)


def test_the_table_is_that_of_every_detector_without_probabilities(
    detector: ClassicalDetector, stain: NDArray[np.float32]
) -> None:
    cells = _detect(detector, stain, (SIZE, SIZE))[0]
    assert list(cells.table) == list(DETECTION_COLUMNS)
    assert cells.table["probability"].isna().all()
    area = np.bincount(cells.labels.ravel())[1:] * 0.25
    np.testing.assert_allclose(cells.table["area_um2"], area)
    assert shapely.is_valid(cells.outlines).all()


def _nuclei(
    size: int, centres: list[tuple[int, int]], radius: float, nuclear: float, cd8: list[float]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    rows, columns = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.int32)
    amounts = np.full((3, size, size), 0.02, np.float32)
    for number, ((x, y), brown) in enumerate(zip(centres, cd8, strict=True), start=1):
        disc = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        labels[disc] = number
        amounts[0][disc], amounts[1][disc] = nuclear, brown
    return ndimage.gaussian_filter(amounts, (0, 1, 1)), labels


def test_drawn_nuclei_come_back_and_brown_ones_are_positive(detector: ClassicalDetector) -> None:
    centres = [(60, 60), (120, 60), (60, 120), (120, 120)]
    stain, labels = _nuclei(180, centres, 8.0, 0.5, [0.0, 0.12, 0.18, 0.6])
    found = find_nuclei(stain, KATHER2018, 0.5)
    assert len(np.unique(found)) == 5
    # Intersection over union of all nuclei with what was drawn.
    assert ((found > 0) & (labels > 0)).sum() / ((found > 0) | (labels > 0)).sum() > 0.8
    table = _detect(detector, stain, (180, 180))[0].table
    np.testing.assert_allclose(table["x_um"], [30.25, 60.25, 30.25, 60.25], atol=0.3)
    np.testing.assert_allclose(table["y_um"], [30.25, 30.25, 60.25, 60.25], atol=0.3)
    # 0.14 in the nucleus is the limit.
    assert (table["cell_class"] == CD8).tolist() == [False, False, True, True]


def test_a_cell_is_its_nucleus_and_a_margin() -> None:
    drawn, _ = _nuclei(120, [(60, 60)], 8.0, 0.5, [0.0])
    areas = []
    for expansion in (0.0, 1.5, 5.0):
        rule = replace(KATHER2018, expansion_um=expansion)
        areas.append(
            float(
                _detect(ClassicalDetector(rule, CellsConfig()), drawn, (120, 120))[0]
                .table["area_um2"]
                .iloc[0]
            )
        )
    radii = np.sqrt(np.array(areas) / np.pi)
    np.testing.assert_allclose(np.diff(radii), [1.5, 3.5], atol=0.25)


def test_touching_nuclei_part(detector: ClassicalDetector) -> None:
    stain, _ = _nuclei(160, [(60, 80), (75, 80), (90, 80)], 8.0, 0.5, [0.0, 0.0, 0.0])
    assert len(_detect(detector, stain, (160, 160))[0].table) == 3


@pytest.mark.parametrize(("radius", "nuclear"), [(2.0, 0.8), (8.0, 0.04), (14.0, 0.5)])
def test_small_faint_and_large_nuclei_are_none(radius: float, nuclear: float) -> None:
    stain, _ = _nuclei(160, [(80, 80)], radius, nuclear, [0.0])
    assert not find_nuclei(stain, KATHER2018, 0.5).any()


def test_background_is_subtracted_and_too_much_of_it_refused() -> None:
    stain, _ = _nuclei(220, [(110, 110)], 8.0, 0.5, [0.0])
    plain = find_nuclei(stain, KATHER2018, 0.5)
    assert plain.any()
    # An even haze changes nothing; without the subtraction it would raise every mean.
    hazy = stain + np.float32(0.3)
    np.testing.assert_array_equal(find_nuclei(hazy, KATHER2018, 0.5), plain)
    faint = stain * np.float32(0.1)
    rule = replace(KATHER2018, background_radius_um=0.0)
    assert not find_nuclei(faint, rule, 0.5).any()
    assert find_nuclei(faint + np.float32(0.3), rule, 0.5).any()
    assert not find_nuclei(stain + np.float32(2.1), KATHER2018, 0.5).any()


def test_bare_glass_has_no_cells(detector: ClassicalDetector) -> None:
    cells = _detect(detector, np.zeros((3, 64, 64), np.float32), (64, 64))[0]
    assert len(cells.table) == len(cells.outlines) == 0
    assert list(cells.table) == list(DETECTION_COLUMNS)


def test_a_tile_without_its_halo_is_refused(detector: ClassicalDetector) -> None:
    tile = Tile(0, Box(100, 100, 64, 64), Box(0, 0, 264, 264))
    with pytest.raises(ValueError, match="halo of 100"):
        detector.detect(np.zeros((3, 264, 264), np.float32), tile)


def test_a_configuration_names_the_detector() -> None:
    rule = build_detector(CellsConfig(detector="kather2018"))
    network = build_detector(CellsConfig(precision="float32"))
    assert isinstance(rule, ClassicalDetector)
    assert rule.rule is KATHER2018
    assert isinstance(network, CellDetector)
    assert rule.name == "rule kather2018"
    assert network.name == "network cd8"
    other = ClassicalDetector(replace(KATHER2018, positive_above=0.25), CellsConfig())
    assert len({rule.sha256, network.sha256, other.sha256}) == 3
