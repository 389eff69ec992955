from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shapely
from numpy.typing import NDArray

from histo.cells.detect import CellDetector, TileCells
from histo.cells.table import CD8, CELL_CLASSES, DETECTION_COLUMNS, OTHER
from histo.cells.weights import Weights, load_weights
from histo.config import CellsConfig, StainVectors
from histo.slide.geometry import Box
from histo.slide.tiles import Tile
from histo.stain.deconvolution import stain_amounts, stain_matrix
from histo.synthetic.field import Field, FieldStyle, render_field

SIZE = 704


@pytest.fixture(scope="module")
def field() -> Field:
    return render_field(
        5, size_px=SIZE, mpp=0.5, style=FieldStyle(context="lymphoid", aggregate_fraction=0.4)
    )


@pytest.fixture(scope="module")
def stain(field: Field) -> NDArray[np.float32]:
    vectors = StainVectors(
        nuclear=tuple(field.stain_vectors[0].tolist()), cd8=tuple(field.stain_vectors[1].tolist())
    )
    return stain_amounts(field.pixels, field.white_point, stain_matrix(vectors))


@pytest.fixture(scope="module")
def detector() -> CellDetector:
    return CellDetector(load_weights(), CellsConfig())


def _tiles(core: tuple[int, int], offset: tuple[int, int], halo: int) -> list[Tile]:
    """Tiles whose cores cover the field, on the grid of 8."""
    boxes = [
        Box(x, y, *core) for y in range(-offset[1], SIZE, core[1]) for x in range(-offset[0], SIZE, core[0])
    ]
    return [
        Tile(i, b, Box(b.x - halo, b.y - halo, b.width + 2 * halo, b.height + 2 * halo))
        for i, b in enumerate(boxes)
    ]


def _read(stain: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
    """The stain under a box, nothing outside the field."""
    out = np.zeros((3, box.height, box.width), np.float32)
    inside = box.intersect(Box(0, 0, SIZE, SIZE))
    x, y = inside.x - box.x, inside.y - box.y
    out[:, y : y + inside.height, x : x + inside.width] = stain[
        :, inside.y : inside.bottom, inside.x : inside.right
    ]
    return out


def _detect(
    detector: CellDetector, stain: NDArray[np.float32], core: tuple[int, int], offset: tuple[int, int]
) -> list[tuple[Tile, TileCells]]:
    tiles = _tiles(core, offset, detector.halo_px)
    return [(tile, detector.detect(_read(stain, tile.read), tile)) for tile in tiles]


def _whole(found: list[tuple[Tile, TileCells]]) -> pd.DataFrame:
    tables = [
        cells.table.assign(wkb=shapely.to_wkb(cells.outlines, hex=True))
        for _, cells in found
        if len(cells.table)
    ]
    return pd.concat(tables).drop(columns="cell_id").sort_values(["y_um", "x_um"], ignore_index=True)


@pytest.fixture(scope="module")
def reference(detector: CellDetector, stain: NDArray[np.float32]) -> list[tuple[Tile, TileCells]]:
    return _detect(detector, stain, (704, 704), (0, 0))


def test_cells_are_found(reference: list[tuple[Tile, TileCells]], field: Field) -> None:
    table = reference[0][1].table
    assert list(table) == list(DETECTION_COLUMNS)
    assert len(table) > 300
    n_cd8 = int((table["cell_class"] == CD8).sum())
    assert n_cd8 == pytest.approx(field.is_cd8.sum(), rel=0.2)


def test_the_balance_of_a_protocol_moves_the_calls(
    reference: list[tuple[Tile, TileCells]], stain: NDArray[np.float32]
) -> None:
    counts = []
    for logit in (-6.0, 6.0):
        detector = CellDetector(load_weights(), CellsConfig(cd8_logit=logit))
        table = _whole(_detect(detector, stain, (704, 704), (0, 0)))
        counts.append(int((table["cell_class"] == CD8).sum()))
    plain = int((reference[0][1].table["cell_class"] == CD8).sum())
    assert counts[0] < plain < counts[1]


def test_a_cd8_cell_needs_cd8_in_its_ring_where_that_is_asked_for(
    reference: list[tuple[Tile, TileCells]], stain: NDArray[np.float32]
) -> None:
    plain = reference[0][1].table
    called = plain["cell_class"] == CD8
    rings = np.sort(plain.loc[called, "cd8_ring_mean"].to_numpy(np.float64))
    limit = float(rings[len(rings) // 2 - 1 : len(rings) // 2 + 1].mean())
    detector = CellDetector(load_weights(), CellsConfig(min_cd8_ring=limit))
    table = _detect(detector, stain, (704, 704), (0, 0))[0][1].table
    pale = called & (plain["cd8_ring_mean"] < limit)
    assert 0 < pale.sum() < called.sum()
    assert (table.loc[called & ~pale, "cell_class"] == CD8).all()
    assert (table.loc[~called | pale, "cell_class"] == OTHER).all()
    # The network gave no probability of that.
    np.testing.assert_array_equal(table["probability"].isna(), pale)
    columns = plain.columns.drop(["cell_class", "probability"])
    pd.testing.assert_frame_equal(table[columns], plain[columns])


@pytest.mark.parametrize(
    ("core", "offset"), [((256, 320), (0, 0)), ((352, 352), (136, 248)), ((704, 64), (8, 16))]
)
def test_cells_do_not_depend_on_the_tiles(
    detector: CellDetector,
    stain: NDArray[np.float32],
    reference: list[tuple[Tile, TileCells]],
    core: tuple[int, int],
    offset: tuple[int, int],
) -> None:
    whole, cut = _whole(reference), _whole(_detect(detector, stain, core, offset))
    assert len(whole) == len(cut)
    exact = ["x_um", "y_um", "area_um2", "cell_class", "wkb"]
    pd.testing.assert_frame_equal(whole[exact], cut[exact], check_exact=True)
    pd.testing.assert_frame_equal(whole, cut, check_exact=False, rtol=1e-5, atol=1e-6)


def test_labels_table_and_outlines_agree(reference: list[tuple[Tile, TileCells]]) -> None:
    tile, cells = reference[0]
    n = len(cells.table)
    assert cells.labels.shape == (tile.read.height, tile.read.width)
    assert cells.labels.dtype == np.int32
    np.testing.assert_array_equal(cells.table["cell_id"], np.arange(1, n + 1))
    area = np.bincount(cells.labels.ravel(), minlength=n + 1)[1:] * 0.25
    np.testing.assert_allclose(cells.table["area_um2"], area)
    rows, columns = np.indices(cells.labels.shape)
    for name, index, start in (("x_um", columns, tile.read.x), ("y_um", rows, tile.read.y)):
        mean = np.bincount(cells.labels.ravel(), index.ravel(), n + 1)[1:] / (area * 4)
        np.testing.assert_allclose(cells.table[name], (mean + start + 0.5) * 0.5)
    assert shapely.is_valid(cells.outlines).all()
    np.testing.assert_allclose(shapely.area(cells.outlines), area, rtol=0.15)
    points = shapely.points(cells.table["x_um"], cells.table["y_um"])
    assert shapely.contains_properly(cells.outlines, points).mean() > 0.98
    assert cells.table["cell_class"].isin(CELL_CLASSES).all()
    assert cells.table["probability"].between(0, 1).all()


def test_each_centroid_lies_in_its_core(detector: CellDetector, stain: NDArray[np.float32]) -> None:
    for tile, cells in _detect(detector, stain, (256, 256), (64, 64)):
        # The grid pixel of the centroid; halves go up.
        for name, start, size in (("x_um", tile.core.x, 256), ("y_um", tile.core.y, 256)):
            pixel = np.floor(cells.table[name] / 0.5 + 1e-9)
            assert pixel.between(start, start + size - 1).all()
        order = np.lexsort((cells.table["x_um"], cells.table["y_um"]))
        np.testing.assert_array_equal(order, np.arange(len(order)))


def test_cd8_cells_have_more_cd8_in_their_ring(reference: list[tuple[Tile, TileCells]]) -> None:
    table = reference[0][1].table
    ring = table.groupby("cell_class")["cd8_ring_mean"].mean()
    assert ring[CD8] > 2 * ring[CELL_CLASSES[1]]


def test_bfloat16_finds_nearly_the_same_cells(
    stain: NDArray[np.float32], reference: list[tuple[Tile, TileCells]]
) -> None:
    fast = CellDetector(load_weights(), CellsConfig(), precision="bfloat16")
    count = len(_detect(fast, stain, (704, 704), (0, 0))[0][1].table)
    assert count == pytest.approx(len(reference[0][1].table), rel=0.02)


def test_empty_glass_has_no_cells(detector: CellDetector) -> None:
    tile = _tiles((704, 704), (0, 0), detector.halo_px)[0]
    cells = detector.detect(np.zeros((3, tile.read.height, tile.read.width), np.float32), tile)
    assert len(cells.table) == len(cells.outlines) == 0
    assert list(cells.table) == list(DETECTION_COLUMNS)
    assert not cells.labels.any()


def test_the_configured_threshold_beats_the_stored_one(random_weights: Weights) -> None:
    assert CellDetector(random_weights, CellsConfig()).centre_threshold == 0.4
    assert CellDetector(random_weights, CellsConfig(centre_threshold=0.7)).centre_threshold == 0.7


@pytest.mark.parametrize(
    ("core", "read", "message"),
    [
        (Box(96, 96, 64, 64), Box(0, 0, 256, 248), r"array is \(3, 256, 256\)"),
        (Box(100, 96, 64, 64), Box(4, 0, 256, 256), "grid of 8"),
        (Box(96, 88, 64, 64), Box(0, 0, 256, 256), "halo of 88"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(
    random_weights: Weights, core: Box, read: Box, message: str
) -> None:
    detector = CellDetector(random_weights, CellsConfig())
    with pytest.raises(ValueError, match=message):
        detector.detect(np.zeros((3, 256, 256), np.float32), Tile(0, core, read))


@pytest.mark.parametrize("shape", [(4, 256, 256), (1, 3, 256, 256)])
def test_an_array_of_another_shape_is_refused(random_weights: Weights, shape: tuple[int, ...]) -> None:
    tile = Tile(0, Box(96, 96, 64, 64), Box(0, 0, 256, 256))
    with pytest.raises(ValueError, match="stain amounts"):
        CellDetector(random_weights, CellsConfig()).detect(np.zeros(shape, np.float32), tile)
