"""Rendered slides: files that others open, truth that fits the law, no seams."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import openslide
import pandas as pd
import pytest
import shapely
import tifffile
from scipy import ndimage

from histo.errors import ConfigError
from histo.slide import open_slide
from histo.slide.geometry import Box
from histo.synthetic.slide import (
    FLUORESCENCE_CHANNELS,
    SlideSpec,
    ZoneDensities,
    render_slide,
    render_window,
)

# Small, with every zone present: the tumour is deeper than 500 um.
SPEC = SlideSpec(
    slide_id="small",
    seed=4,
    size_um=(2000.0, 800.0),
    mpp=0.6,
    phenotype="excluded",
    densities=ZoneDensities(100, 300, 900, 200),
    tumour_fraction=0.42,
)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    return render_slide(SPEC, tmp_path_factory.mktemp("slide"))


def test_openslide_and_tifffile_read_it(rendered):
    width, height = SPEC.size_px
    with openslide.OpenSlide(rendered.slide) as slide:
        assert slide.dimensions == (width, height)
        assert slide.level_dimensions[1] == (width // 4, height // 4)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.6, rel=1e-5)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_Y]) == pytest.approx(0.6, rel=1e-5)
        fine = np.asarray(slide.read_region((width // 3, height // 3), 0, (512, 256)).convert("RGB"), float)
        coarse = np.asarray(
            slide.read_region((width // 3 // 4 * 4, height // 3 // 4 * 4), 1, (128, 64)).convert("RGB"), float
        )
    assert np.abs(fine.mean(axis=(0, 1)) - coarse.mean(axis=(0, 1))).max() < 3
    with tifffile.TiffFile(rendered.slide) as tiff:
        assert tiff.pages[0].tile[:2] == (256, 256)
        assert tiff.pages[0].compression == tifffile.COMPRESSION.JPEG
        assert tiff.pages[0].tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER


def test_our_own_reader_agrees_on_the_pixel_size(rendered):
    with open_slide(rendered.slide) as slide:
        assert slide.mpp == pytest.approx((0.6, 0.6), rel=1e-5)
        assert slide.kind == "brightfield"
        assert slide.size_px == SPEC.size_px


def test_file_shows_the_rendered_pixels(rendered):
    """Up to what JPEG loses."""
    box = Box(900, 500, 300, 200)
    exact = render_window(SPEC, box).astype(float)
    with open_slide(rendered.slide) as slide:
        stored = slide.read(box, SPEC.mpp).astype(float)
    assert np.abs(stored - exact).mean() < 6


@pytest.mark.parametrize("kind", ["brightfield", "fluorescence"])
def test_windows_join_without_a_seam(kind):
    spec = replace(SPEC, kind=kind)
    whole = render_window(spec, Box(1000, 300, 300, 200))
    left, right = render_window(spec, Box(1000, 300, 130, 200)), render_window(spec, Box(1130, 300, 170, 200))
    joined = np.concatenate([left, right], axis=1).astype(int)
    difference = np.abs(joined - whole.astype(int))
    # Rounding to whole grey levels may fall either way.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_threads_do_not_change_the_file(rendered, tmp_path):
    again = render_slide(SPEC, tmp_path, threads=1)
    assert again.truth == rendered.truth
    pd.testing.assert_frame_equal(pd.read_parquet(again.cells), pd.read_parquet(rendered.cells))
    with tifffile.TiffFile(again.slide) as one, tifffile.TiffFile(rendered.slide) as two:
        difference = one.pages[0].asarray().astype(int) - two.pages[0].asarray().astype(int)
    assert np.abs(difference).max() <= 2


def test_counts_follow_the_law_within_poisson(rendered):
    cells = pd.read_parquet(rendered.cells)
    for name, density in SPEC.cd8_per_mm2._asdict().items():
        zone = rendered.truth["zones"][name]
        expected = density * zone["area_mm2"]
        assert zone["n_cd8"] == ((cells.zone == name) & cells.is_cd8).sum()
        assert zone["area_mm2"] > 0.1
        assert abs(zone["n_cd8"] - expected) < 4 * np.sqrt(expected) + 1
    areas = sum(zone["area_mm2"] for zone in rendered.truth["zones"].values())
    assert areas == pytest.approx(rendered.truth["tissue_area_mm2"], rel=0.01)
    assert rendered.truth["phenotype"] == "excluded"


def test_zones_are_distances_to_the_annotated_tumour(rendered):
    cells = pd.read_parquet(rendered.cells)
    features = json.loads(rendered.annotations.read_text())["features"]
    shapes = {f["properties"]["classification"]["name"]: f for f in features}
    tumour = shapely.make_valid(shapely.from_geojson(json.dumps(shapes["Tumor"]["geometry"])))
    sample = cells.sample(400, random_state=1)
    x, y = sample.x_um.to_numpy() / SPEC.mpp, sample.y_um.to_numpy() / SPEC.mpp
    inside = shapely.contains_xy(tumour, x, y)
    off_border = sample.signed_distance_um.abs() > 2
    np.testing.assert_array_equal(
        inside[off_border], sample.zone.isin(["core", "inner_margin"]).to_numpy()[off_border]
    )
    edges = {
        "core": (-np.inf, -500),
        "inner_margin": (-500, 0),
        "outer_margin": (0, 500),
        "far": (500, np.inf),
    }
    for name, (low, high) in edges.items():
        distances = cells.signed_distance_um[cells.zone == name]
        assert distances.between(low, high).all()


def test_annotations_are_laid_out_as_qupath_reads_them(rendered):
    features = json.loads(rendered.annotations.read_text())
    assert features["type"] == "FeatureCollection"
    names = {f["properties"]["classification"]["name"] for f in features["features"]}
    assert names == {"Tumor", "Liver"}
    width, height = SPEC.size_px
    for feature in features["features"]:
        assert feature["properties"]["objectType"] == "annotation"
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert shape.is_valid
        x0, y0, x1, y1 = shape.bounds
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
    assert rendered.annotations.stem == rendered.slide.stem


def test_true_cells_are_where_the_brown_is(rendered):
    cells = pd.read_parquet(rendered.cells)
    with tifffile.TiffFile(rendered.slide) as tiff:
        pixels = tiff.pages[0].asarray().astype(float)
    od = -np.log10(np.maximum(pixels, 1) / rendered.truth["white_point"])
    amounts = od @ np.linalg.inv(rendered.truth["stain_vectors"])
    brown = ndimage.uniform_filter(amounts[..., 1], 9)

    def at(part):
        row = (part.y_um / SPEC.mpp).astype(int).clip(0, brown.shape[0] - 1)
        return brown[row, (part.x_um / SPEC.mpp).astype(int).clip(0, brown.shape[1] - 1)]

    positive, negative = at(cells[cells.is_cd8]), at(cells[~cells.is_cd8])
    # Probability that a positive is browner than a negative.
    order = np.searchsorted(np.sort(negative), positive) / len(negative)
    assert order.mean() > 0.98


def test_cells_keep_apart(rendered):
    cells = pd.read_parquet(rendered.cells)
    points = cells.loc[cells.is_cd8, ["x_um", "y_um"]].to_numpy()
    from scipy.spatial import cKDTree

    nearest = cKDTree(points).query(points, k=2)[0][:, 1]
    assert (nearest > 3).mean() > 0.98


def test_a_nodule_has_its_border_all_round(tmp_path):
    spec = SlideSpec(
        slide_id="nodule",
        size_um=(900, 800),
        mpp=1.0,
        tumour="nodule",
        tumour_fraction=0.5,
        host="bowel wall",
    )
    slide = render_slide(spec, tmp_path)
    features = json.loads(slide.annotations.read_text())["features"]
    tumour = next(f for f in features if f["properties"]["name"] == "Tumor")
    length = shapely.from_geojson(json.dumps(tumour["geometry"])).length * spec.mpp
    assert slide.truth["border_length_um"] == pytest.approx(length, rel=0.01)
    assert {f["properties"]["name"] for f in features} == {"Tumor", "Bowel"}


def test_fluorescence_is_an_ome_tiff(tmp_path):
    spec = SlideSpec(slide_id="mif", size_um=(1100, 1050), mpp=1.0, kind="fluorescence")
    slide = render_slide(spec, tmp_path)
    with tifffile.TiffFile(slide.slide) as tiff:
        assert tiff.is_ome
        series = tiff.series[0]
        assert series.axes == "CYX"
        assert series.dtype == np.uint16
        assert len(series.levels) == 2
        assert 'PhysicalSizeX="1.0"' in tiff.ome_metadata
    with open_slide(slide.slide) as opened:
        assert opened.kind == "fluorescence"
        assert opened.channels == FLUORESCENCE_CHANNELS
        assert opened.mpp == pytest.approx((1.0, 1.0))
        stored = opened.read(Box(300, 300, 200, 150), 1.0)
    np.testing.assert_array_equal(stored, render_window(spec, Box(300, 300, 200, 150)))


def test_nothing_is_left_where_rendering_fails(tmp_path, monkeypatch):
    import histo.synthetic.slide as module

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(module, "encode_tiles", broken)
    with pytest.raises(OSError, match="disk full"):
        render_slide(replace(SPEC, size_um=(600, 500), mpp=1.0), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mpp": 9.0}, "um/px"),
        ({"size_um": (300.0, 300.0)}, "no room"),
        ({"tumour_fraction": 1.5}, "tumour_fraction"),
        ({"densities": ZoneDensities(1, 2, 3, 9000)}, "8000 per mm2"),
        ({"jpeg_quality": 0}, "jpeg_quality"),
    ],
)
def test_bad_spec(tmp_path, change, says):
    with pytest.raises(ConfigError, match=says):
        render_slide(replace(SPEC, **change), tmp_path)
