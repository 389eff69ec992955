from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr.io
import ome_zarr.reader
import pytest
import shapely
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ome_zarr_models.v05 import Image
from ome_zarr_models.v05.image_label import ImageLabel
from ome_zarr_models.v05.labels import Labels
from slides import ArraySlide

from histo.errors import ResultsError
from histo.regions.place import REGION_NAMES, ZONE_NAMES
from histo.results.label_map import LabelMapWriter
from histo.results.maps import MapsWriter, read_label_map
from histo.results.ome_zarr import halve, level_shapes, subsample
from histo.slide.geometry import Box

MPP = 0.5


def _slide(rows: int = 900, columns: int = 1300, channels: int = 3) -> ArraySlide:
    kind = np.uint8 if channels == 3 else np.uint16
    return ArraySlide(np.zeros((rows, columns, channels), kind), MPP)


def _write_all(path: Path, slide: ArraySlide, labels: NDArray[np.int32]) -> None:
    rng = np.random.default_rng(0)
    columns, rows = slide.grid_size(8.0)
    coarse = (rows, columns)
    overview = rng.integers(0, 255, (*coarse, len(slide.channels))).astype(slide.info.dtype)
    distance = rng.normal(0, 500, coarse).astype(np.float32)
    distance[:3] = np.nan
    with MapsWriter(path, slide, MPP, chunk_px=256) as maps:
        assert maps.labels is not None
        maps.labels.write(Box(0, 0, labels.shape[1], labels.shape[0]), labels)
        maps.write_overview(overview, 8.0)
        maps.write_regions(
            rng.integers(0, len(REGION_NAMES), coarse).astype(np.uint8),
            rng.integers(0, len(ZONE_NAMES), coarse).astype(np.uint8),
            8.0,
        )
        maps.write_distance(distance, 8.0)
        maps.write_density(np.full((8, 11), np.nan, np.float32), 64.0)


@pytest.mark.parametrize("channels", [3, 5])
def test_the_store_is_valid_ome_zarr_0_5(tmp_path: Path, channels: int) -> None:
    slide = _slide(channels=channels)
    path = tmp_path / "maps.zarr"
    _write_all(path, slide, np.full((900, 1300), 7, np.int32))
    assert [p.name for p in tmp_path.iterdir()] == ["maps.zarr"]

    root = Image.from_zarr(zarr.open_group(path, mode="r"))
    assert root.ome_attributes.version == "0.5"
    for name in ("density", "distance"):
        Image.from_zarr(zarr.open_group(path / name, mode="r"))
    labels = Labels.from_zarr(zarr.open_group(path / "labels", mode="r"))
    assert labels.label_paths == ["cells", "regions", "zones"]
    for name in labels.label_paths:
        label = ImageLabel.from_zarr(zarr.open_group(path / "labels" / name, mode="r"))
        assert label.ome_attributes.image_label is not None
        assert label.ome_attributes.image_label.source is not None
        assert label.ome_attributes.image_label.source.image == "../../"
    zones = json.loads((path / "labels" / "zones" / "zarr.json").read_text())
    properties = zones["attributes"]["ome"]["image-label"]["properties"]
    assert {p["label-value"]: p["name"] for p in properties} == dict(enumerate(ZONE_NAMES[1:], start=1))


def test_the_ome_zarr_reader_finds_image_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "maps.zarr"
    labels = np.arange(900 * 1300, dtype=np.int32).reshape(900, 1300)
    _write_all(path, _slide(), labels)
    location = ome_zarr.io.parse_url(path)
    assert location is not None
    nodes = list(ome_zarr.reader.Reader(location)())
    shapes = {node.zarr.basename(): [level.shape for level in node.data] for node in nodes if node.data}
    assert shapes["maps.zarr"][0] == (3, 57, 82)
    assert shapes["cells"] == [(900, 1300), (450, 650), (225, 325)]
    # As many levels as the cells have: the specification wants it.
    assert shapes["regions"] == shapes["zones"] == [(57, 82), (29, 41), (15, 21)]
    cells = next(node for node in nodes if node.zarr.basename() == "cells")
    np.testing.assert_array_equal(cells.data[0].compute(), labels)
    root = next(node for node in nodes if node.zarr.basename() == "maps.zarr")
    assert root.metadata["channel_names"] == ["red", "green", "blue"]


def test_coordinates_lay_all_arrays_over_each_other(tmp_path: Path) -> None:
    path = tmp_path / "maps.zarr"
    _write_all(path, _slide(), np.ones((900, 1300), np.int32))
    for group, mpp in (("", 8.0), ("labels/cells", 0.5), ("density", 64.0), ("distance", 8.0)):
        attributes = json.loads((path / group / "zarr.json").read_text())["attributes"]["ome"]
        multiscale = attributes["multiscales"][0]
        assert {a["unit"] for a in multiscale["axes"] if a["type"] == "space"} == {"micrometer"}
        for level, dataset in enumerate(multiscale["datasets"]):
            scale, translation = dataset["coordinateTransformations"]
            assert scale["scale"][-2:] == [mpp * 2**level] * 2
            # The left edge of pixel 0 is the left edge of the slide at every level.
            edge = np.array(translation["translation"][-2:]) - np.array(scale["scale"][-2:]) / 2
            np.testing.assert_allclose(edge, 0)


def test_values_without_tissue_are_nan_and_survive(tmp_path: Path) -> None:
    path = tmp_path / "maps.zarr"
    _write_all(path, _slide(), np.ones((900, 1300), np.int32))
    distance = zarr.open_array(path / "distance" / "0", mode="r")
    assert distance.dtype == np.float32
    values = np.asarray(distance[...])
    assert np.isnan(values[:3]).all()
    assert np.isfinite(values[3:]).all()
    assert np.isnan(np.asarray(zarr.open_array(path / "density" / "0", mode="r")[...])).all()


def test_an_empty_slide_and_one_without_label_map(tmp_path: Path) -> None:
    slide = _slide(40, 60)
    overview = np.full((3, 4, 3), 255, np.uint8)
    with MapsWriter(tmp_path / "a.zarr", slide, MPP) as maps:
        maps.write_overview(overview, 8.0)
    array = read_label_map(tmp_path / "a.zarr")
    assert array.shape == (40, 60)
    assert not np.asarray(array[...]).any()
    with MapsWriter(tmp_path / "b.zarr", slide, MPP, labels=False) as maps:
        assert maps.labels is None
        maps.write_overview(overview, 8.0)
    Image.from_zarr(zarr.open_group(tmp_path / "b.zarr", mode="r"))
    with pytest.raises(ResultsError, match="no label map"):
        read_label_map(tmp_path / "b.zarr")


def test_a_store_is_whole_or_not_there(tmp_path: Path) -> None:
    slide = _slide(40, 60)
    path = tmp_path / "maps.zarr"
    with pytest.raises(ValueError, match="write_overview"), MapsWriter(path, slide, MPP):
        pass
    assert list(tmp_path.iterdir()) == []
    for value in (1, 2):
        _write_all(path, slide, np.full((40, 60), value, np.int32))
    assert (np.asarray(read_label_map(path)[...]) == 2).all()
    assert [p.name for p in tmp_path.iterdir()] == ["maps.zarr"]


def test_the_same_maps_give_the_same_bytes(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 9, (900, 1300)).astype(np.int32)
    for name in ("a", "b"):
        _write_all(tmp_path / name / "maps.zarr", _slide(), labels)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*") if p.is_file())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


@st.composite
def _paintings(draw: st.DrawFn) -> tuple[tuple[int, int], list[tuple[Box, int]]]:
    shape = draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    boxes = draw(
        st.lists(
            st.builds(
                Box,
                st.integers(-20, 70),
                st.integers(-20, 70),
                st.integers(1, 40),
                st.integers(1, 40),
            ),
            max_size=12,
        )
    )
    return shape, [(box, draw(st.integers(0, 2**31))) for box in boxes]


@settings(max_examples=40)
@given(painting=_paintings(), order=st.randoms(use_true_random=False), held=st.integers(1, 4))
def test_any_order_of_tiles_equals_painting_the_whole(
    tmp_path_factory: pytest.TempPathFactory, painting: Any, order: Any, held: int
) -> None:
    shape, boxes = painting
    whole = np.zeros((200, 200), np.int32)
    pieces = []
    for box, seed in boxes:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 1000, (box.height, box.width)) * (rng.random((box.height, box.width)) < 0.4)
        pieces.append((box, labels))
        part = whole[box.y + 50 : box.bottom + 50, box.x + 50 : box.right + 50]
        np.maximum(part, labels, out=part, casting="unsafe")
    order.shuffle(pieces)
    path = tmp_path_factory.mktemp("labels") / "cells"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("histo.results.label_map._CHUNKS_HELD", held)
        writer = LabelMapWriter(path, shape, MPP, chunk_px=16)
        for box, labels in pieces:
            writer.write(box, labels)
        writer.close()
    written = np.asarray(zarr.open_array(path / "0", mode="r")[...])
    np.testing.assert_array_equal(written, whole[50 : 50 + shape[0], 50 : 50 + shape[1]])


@pytest.mark.parametrize("shape", [(513, 1), (1, 1100), (1025, 700), (600, 2049)])
def test_every_level_is_the_finest_sampled_at_pixel_centres(tmp_path: Path, shape: tuple[int, int]) -> None:
    labels = np.arange(1, shape[0] * shape[1] + 1, dtype=np.int32).reshape(shape)
    writer = LabelMapWriter(tmp_path / "cells", shape, MPP, chunk_px=64)
    for y in range(0, shape[0], 300):
        for x in range(0, shape[1], 300):
            part = labels[y : y + 300, x : x + 300]
            writer.write(Box(x, y, part.shape[1], part.shape[0]), part)
    writer.close()
    for level, expected in enumerate(level_shapes(shape)):
        read = np.asarray(zarr.open_array(tmp_path / "cells" / str(level), mode="r")[...])
        assert read.shape == expected
        np.testing.assert_array_equal(read, subsample(labels, level))
        step = 2**level
        i, j = (n // 2 for n in expected)
        assert (
            read[i, j]
            == labels[min(i * step + step // 2, shape[0] - 1), min(j * step + step // 2, shape[1] - 1)]
        )
    assert max(expected) <= 512


def test_only_touched_chunks_are_stored(tmp_path: Path) -> None:
    writer = LabelMapWriter(tmp_path / "cells", (640, 640), MPP, chunk_px=64)
    labels = np.zeros((80, 80), np.int32)
    labels[30:40, 30:40] = 5
    writer.write(Box(64 * 3 - 8, 64 * 4 - 8, 80, 80), labels)
    writer.close()
    stored = sorted(p.relative_to(tmp_path).as_posix() for p in (tmp_path / "cells" / "0" / "c").rglob("*"))
    assert [p for p in stored if (tmp_path / p).is_file()] == ["cells/0/c/4/3"]


def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    def peak(edge: int) -> int:
        tile = np.kron(np.arange(1, 65, dtype=np.int32).reshape(8, 8), np.ones((20, 20), np.int32))
        tracemalloc.start()
        writer = LabelMapWriter(tmp_path / str(edge), (edge, edge), MPP, chunk_px=128)
        for y in range(0, edge, 128):
            for x in range(0, edge, 128):
                writer.write(Box(x - 16, y - 16, 160, 160), tile)
        writer.close()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(256)
    # 24 chunks of 128 x 128 are 1.6 MB; the larger map alone would be 9.4 MB.
    small, large = peak(768), peak(1536)
    assert large < 1.3 * small
    assert large < 5_000_000


def test_a_map_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    writer = LabelMapWriter(tmp_path / "cells", (64, 64), MPP, chunk_px=64)
    with pytest.raises(ValueError, match="box"):
        writer.write(Box(0, 0, 3, 4), np.zeros((3, 4), np.int32))
    with pytest.raises(ValueError, match="power of two"):
        LabelMapWriter(tmp_path / "other", (64, 64), MPP, chunk_px=100)
    writer.write(Box(500, 500, 4, 4), np.ones((4, 4), np.int32))
    writer.close()


def test_halving_averages_and_keeps_an_odd_edge() -> None:
    values = np.array([[[0, 2, 10], [2, 4, 20], [7, 7, 30]]], np.uint8)
    np.testing.assert_array_equal(halve(values), [[[2, 15], [7, 30]]])


def test_outline_geojson_pixels_and_label_pixels_agree(tmp_path: Path) -> None:
    """A cell on a slide with unequal pixels: the same place in um, in level-0 pixels and in the label map."""
    import gzip

    from made_up import make_cells

    from histo.results.cells_parquet import CellParquetWriter, read_cells
    from histo.results.geojson import CellGeoJsonWriter

    slide_mpp, grid_mpp = (0.25, 0.4), 0.5
    slide = ArraySlide(np.zeros((500, 800, 3), np.uint8), slide_mpp)
    columns, rows = slide.grid_size(grid_mpp)
    table, _ = make_cells(3)
    outlines = np.array([shapely.box(20 + 50 * k, 30 + 40 * k, 28 + 50 * k, 36 + 40 * k) for k in range(3)])
    y, x = np.mgrid[:rows, :columns]
    labels = np.zeros((rows, columns), np.int32)
    for cell_id, outline in zip(table["cell_id"], outlines, strict=True):
        labels[shapely.contains_xy(outline, (x + 0.5) * grid_mpp, (y + 0.5) * grid_mpp)] = cell_id
    with (
        MapsWriter(tmp_path / "maps.zarr", slide, grid_mpp) as maps,
        CellGeoJsonWriter(tmp_path / "cells.geojson.gz", slide.mpp, "s") as geojson,
        CellParquetWriter(tmp_path / "cells.parquet") as parquet,
    ):
        assert maps.labels is not None
        maps.labels.write(Box(0, 0, columns, rows), labels)
        maps.write_overview(np.zeros((25, 25, 3), np.uint8), 8.0)
        geojson.write(table, outlines)
        parquet.write(table, outlines)

    features = json.loads(gzip.decompress((tmp_path / "cells.geojson.gz").read_bytes()))["features"]
    written = np.asarray(read_label_map(tmp_path / "maps.zarr")[...])
    shapes = read_cells(tmp_path / "cells.parquet", ["geometry"])["geometry"]
    for feature, outline, cell_id in zip(features, shapes, table["cell_id"], strict=True):
        in_pixels = shapely.geometry.shape(feature["geometry"])
        i, j = np.nonzero(written == cell_id)
        in_grid = shapely.box(j.min(), i.min(), j.max() + 1, i.max() + 1)
        np.testing.assert_allclose(np.array(in_grid.bounds) * grid_mpp, outline.bounds)
        np.testing.assert_allclose(
            np.array(in_pixels.bounds) * (slide_mpp * 2), outline.bounds, atol=0.01 * max(slide_mpp)
        )
