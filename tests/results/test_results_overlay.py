from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
from made_up import make_cells
from PIL import Image
from shapely.geometry import MultiLineString, MultiPolygon, box
from slides import ArraySlide

from histo.cells.table import CD8, OTHER
from histo.errors import ResultsError
from histo.results.overlay import Overlay, picture_mpp, scale_bar_um, write_overlay
from histo.slide.geometry import Box

MAGENTA = (255, 0, 200)


def _slide(rows: int = 400, columns: int = 600, mpp: float = 0.5, value: int = 200) -> ArraySlide:
    return ArraySlide(np.full((rows, columns, 3), value, np.uint8), mpp)


def _cell(x: float, y: float, name: str = CD8, counted: bool = True) -> pd.DataFrame:
    return pd.DataFrame({"x_um": [x], "y_um": [y], "cell_class": [name], "in_tissue": [counted]})


def test_the_picture_fits_and_small_fields_are_enlarged() -> None:
    big = ArraySlide(np.zeros((3001, 2000, 3), np.uint8), 0.5)
    overlay = Overlay(big, max_px=1000, mpp=8.0)
    assert overlay.mpp == pytest.approx(1.5005, rel=1e-6)
    assert max(overlay._picture.shape) <= 1000
    assert picture_mpp(_slide(100, 100), 2000) == pytest.approx(0.5 / 7)
    assert picture_mpp(_slide(1500, 1500), 2000) == 0.5


def test_a_cell_is_drawn_where_it_is() -> None:
    slide = _slide(1000, 1400)
    overlay = Overlay(slide, max_px=2000, mpp=8.0)
    outline = box(100, 200, 110, 208)
    overlay.add(_cell(105, 204), np.array([outline], object))
    drawn = np.abs(overlay.draw()[:1000].astype(int) - MAGENTA).sum(axis=2) < 120
    i, j = np.nonzero(drawn)
    # Level-0 pixels of the outline, half a line width to either side.
    assert (j.min(), j.max() + 1) == pytest.approx((200, 220), abs=2)
    assert (i.min(), i.max() + 1) == pytest.approx((400, 416), abs=2)
    assert not drawn[408, 210]


def test_dots_at_a_coarse_scale_stay_visible() -> None:
    slide = _slide(1000, 1400, mpp=10.0)
    overlay = Overlay(slide, max_px=700, mpp=8.0)
    assert not overlay.draws_outlines
    overlay.add(_cell(7000, 5000), np.array([box(6996, 4996, 7004, 5004)], object))
    overlay.add(_cell(2000, 2000, OTHER), np.array([box(1996, 1996, 2004, 2004)], object))
    picture = overlay.draw()
    assert tuple(picture[250, 350]) == MAGENTA
    assert (np.abs(picture[:500].astype(int) - MAGENTA).sum(axis=2) < 60).sum() >= 4
    assert tuple(picture[100, 100]) == (200, 200, 200)


def test_batches_do_not_matter() -> None:
    table, outlines = make_cells(80, width_um=180)
    pictures = []
    for step in (80, 7):
        overlay = Overlay(_slide(), max_px=2000, mpp=8.0)
        for start in reversed(range(0, 80, step)):
            overlay.add(table.iloc[start : start + step], outlines[start : start + step])
        pictures.append(overlay.draw())
    np.testing.assert_array_equal(*pictures)


def test_what_was_not_assessed_is_dimmed() -> None:
    assessed = np.ones((25, 38), bool)
    assessed[:, :10] = False
    overlay = Overlay(_slide(value=40), max_px=600, mpp=8.0, assessed=assessed)
    picture = overlay.draw()
    assert (picture[100, 50] > 150).all()
    assert (picture[100, 400] == 40).all()
    assert picture[100, 159, 0] != 40
    assert picture[100, 160, 0] == 40


def test_lines_and_zones_are_drawn_and_named() -> None:
    tumour = MultiPolygon([box(50, 50, 250, 150)])
    border = MultiLineString([shapely.LineString([(50, 50), (250, 50)])])
    zones = np.zeros((25, 38), np.uint8)
    zones[8:14, 8:30] = 1
    overlay = Overlay(_slide(value=60), max_px=600, mpp=8.0, tumour=tumour, border=border, zones=zones)
    assert [name for _, name in overlay._legend] == ["core", "tumour outline", "tumour border"]
    picture = overlay.draw()
    # Yellow on the border, white on the rest of the outline.
    assert tuple(picture[100, 300]) == (255, 225, 0)
    assert picture[300, 300].min() > 150


def test_parts_that_cannot_be_read_are_grey_and_the_rest_is_there() -> None:
    pixels = np.full((3000, 6000, 3), 200, np.uint8)
    slide = ArraySlide(pixels, 0.5, broken=[Box(0, 0, 100, 100)])
    picture = Overlay(slide, max_px=600, mpp=8.0).draw()
    assert (picture[10, 10] == 128).all()
    assert (picture[250, 550] == 200).all()


def test_reads_are_bounded_on_a_slide_without_pyramid() -> None:
    sizes = []
    pixels = np.zeros((6000, 6000, 3), np.uint8)
    slide = ArraySlide(pixels, 0.5, on_read=lambda _, read: sizes.append(read.width * read.height))
    Overlay(slide, max_px=300, mpp=8.0)
    assert max(sizes) < 2100**2
    # Each pixel about once.
    assert sum(sizes) < 1.1 * 6000**2


def test_an_overview_that_is_fine_enough_spares_reading() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 255, (50, 70, 3)).astype(np.uint8)
    pixels = np.kron(blocks, np.ones((32, 32, 1), np.uint8))
    slide = ArraySlide(pixels, 0.5)
    overview = slide.read(Box(0, 0, 140, 100), 8.0)
    read = Overlay(slide, max_px=70, mpp=8.0).draw()
    before = slide.n_pixels_read
    np.testing.assert_allclose(
        Overlay(slide, max_px=70, mpp=8.0, overview=overview).draw().astype(int), read.astype(int), atol=1
    )
    assert slide.n_pixels_read == before


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_fluorescence_is_a_composite(dtype: type) -> None:
    pixels = np.zeros((300, 400, 3), dtype)
    pixels[:150, :, 0] = 1000
    pixels[:, :200, 2] = 7
    slide = ArraySlide(pixels, 0.5, channels=["DAPI", "other", "CD8"], kind="fluorescence")
    picture = Overlay(slide, max_px=400, mpp=8.0, stains={"nuclear": "DAPI", "cd8": "CD8"}).draw()
    assert tuple(picture[20, 380]) == (40, 90, 255)
    assert tuple(picture[280, 20]) == (255, 230, 0)
    assert tuple(picture[280, 380]) == (0, 0, 0)
    assert np.ptp(Overlay(slide, max_px=400, mpp=8.0).draw()[:300, :, 0]) > 200


def test_scale_bars_have_nice_lengths() -> None:
    assert [scale_bar_um(w) for w in (5000, 4999, 1200, 130, 9)] == [1000, 500, 200, 20, 1]


def test_it_is_a_png_and_errors_are_told(tmp_path: Path) -> None:
    table, outlines = make_cells(5, width_um=100)
    write_overlay(tmp_path / "overlay.png", _slide(), table, outlines, max_px=500)
    with Image.open(tmp_path / "overlay.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == 500
    with pytest.raises(ResultsError, match="cannot be written"):
        write_overlay(tmp_path / "none" / "overlay.png", _slide(), table, outlines)


def test_a_real_slide(data_dir: Path, tmp_path: Path) -> None:
    import tifffile

    pixels = tifffile.imread(data_dir / "ihc" / "ki67_os2_ndpi.ome.tif")
    slide = ArraySlide(pixels[:600, :600], 0.23)
    table, outlines = make_cells(40, width_um=120)
    write_overlay(tmp_path / "overlay.png", slide, table, outlines)
    with Image.open(tmp_path / "overlay.png") as picture:
        shown = np.asarray(picture)[:600, :600].astype(int)
    # Between the outlines the slide is as it was.
    same = (shown == pixels[:600, :600]).all(axis=2)
    assert 0.8 < same.mean() < 1
