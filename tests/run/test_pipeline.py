from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
import zarr
from slides import ArraySlide

from histo.cells.build import Detector, build_detector
from histo.cells.detect import CellDetector
from histo.cells.table import CD8, CELL_COLUMNS
from histo.cells.weights import load_weights
from histo.config import Config, load_config
from histo.errors import SlideError
from histo.measure.summary import SlideSummary
from histo.run.pipeline import SlideJob, analyse_slide
from histo.slide import Box
from histo.synthetic.field import render_field
from histo.synthetic.slide import RenderedSlide

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

NARROW = [
    "regions.inner_margin_um=150",
    "regions.outer_margin_um=150",
    "regions.min_border_length_um=300",
    "measure.min_zone_area_mm2=0.01",
]


def analyse(path: Path, folder: Path, detector: Detector, config: Config | None = None) -> SlideSummary:
    job = SlideJob(path=path, slide_id="small", folder=folder)
    return analyse_slide(job, config or load_config(None, NARROW), detector)[0]


@pytest.fixture(scope="session")
def done(
    rendered: RenderedSlide, detector: CellDetector, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SlideSummary, Path]:
    folder = tmp_path_factory.mktemp("results") / "small"
    return analyse(rendered.slide, folder, detector), folder


def test_counts_and_zones_are_near_the_truth(
    done: tuple[SlideSummary, Path], rendered: RenderedSlide
) -> None:
    summary, _ = done
    assert summary.n_cd8 == pytest.approx(rendered.truth["n_cd8"], rel=0.1)
    assert summary.tissue.assessed_area_mm2 == pytest.approx(rendered.truth["tissue_area_mm2"], rel=0.05)
    true = pd.read_parquet(rendered.cells)
    true = true[true["is_cd8"]]
    for zone, inside in {
        "core": true["signed_distance_um"] < -150,
        "inner_margin": true["signed_distance_um"].between(-150, 0),
        "outer_margin": true["signed_distance_um"].between(0, 150),
        "far": true["signed_distance_um"] > 150,
    }.items():
        assert summary.zones[zone].n_cd8 == pytest.approx(inside.sum(), rel=0.2), zone  # type: ignore[index]


def test_everything_promised_is_there(done: tuple[SlideSummary, Path]) -> None:
    _, folder = done
    assert sorted(path.name for path in folder.iterdir()) == [
        "cells.geojson.gz",
        "cells.parquet",
        "maps.zarr",
        "overlay.png",
        "regions.geojson",
        "regions.parquet",
        "report.html",
        "summary.json",
    ]


def test_tables_and_summary_count_the_same_cells(done: tuple[SlideSummary, Path]) -> None:
    summary, folder = done
    cells = geopandas.read_parquet(folder / "cells.parquet")
    assert list(cells.columns) == [*CELL_COLUMNS, "geometry"]
    assert list(cells["cell_id"]) == list(range(1, len(cells) + 1))
    counted = cells[cells["in_tissue"]]
    assert len(counted) == summary.n_cells
    assert (counted["cell_class"] == CD8).sum() == summary.n_cd8
    assert len(cells) - len(counted) == summary.n_cells_outside_assessed_tissue
    for zone, measured in summary.zones.items():
        assert (counted["zone"] == zone).sum() == measured.n_cells
    features = geopandas.read_file(f"/vsigzip/{folder / 'cells.geojson.gz'}")
    assert len(features) == len(cells)


def test_geojson_labels_and_table_agree_on_level0_pixels(
    done: tuple[SlideSummary, Path],
) -> None:
    summary, folder = done
    cells = pd.read_parquet(folder / "cells.parquet").set_index("cell_id")
    features = geopandas.read_file(f"/vsigzip/{folder / 'cells.geojson.gz'}")
    centroids = shapely.get_coordinates(shapely.centroid(features.geometry.to_numpy()))
    assert np.abs(centroids - cells[["x_px", "y_px"]].to_numpy()).max() < 2
    labels = zarr.open_group(folder / "maps.zarr", mode="r")["labels/cells/0"][:]
    sizes = np.bincount(labels.ravel())[1:]
    assert len(sizes) == len(cells)
    np.testing.assert_allclose(sizes * 0.25, cells["area_um2"], rtol=1e-5)
    row, column = np.nonzero(labels)
    sums = np.bincount(labels[row, column], column + 0.5)[1:] / sizes
    np.testing.assert_allclose(sums * 0.5 / summary.image.mpp_x_um, cells["x_px"], atol=1e-6)


@pytest.mark.parametrize("working_mpp", [0.5, 0.4])
@pytest.mark.parametrize("slide_mpp", [0.25, 0.5, (0.5, 0.45)])
def test_outputs_agree_on_level0_pixels_of_a_slide_with_an_offset(
    slide_mpp: float | tuple[float, float],
    working_mpp: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    field = render_field(3, size_px=448, mpp=0.5)
    pixels = field.pixels if slide_mpp != 0.25 else field.pixels.repeat(2, axis=0).repeat(2, axis=1)
    slide = ArraySlide(pixels, slide_mpp, name="offset.svs")
    # The frame begins at (700, 300) of the file's own level 0: Aperio counts from the latter.
    slide.info = replace(slide.info, origin_px=(700, 300))
    path = tmp_path / "offset.svs"
    path.write_bytes(b"stands for the file")
    right_px, bottom_px = slide.size_px
    corners = [
        (700, 300),
        (700 + right_px // 2, 300),
        (700 + right_px // 2, 300 + bottom_px),
        (700, 300 + bottom_px),
    ]
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners)
    (tmp_path / "offset.xml").write_text(
        '<Annotations><Annotation Name="Tumor"><Regions><Region Type="0" NegativeROA="0"><Vertices>'
        f"{vertices}</Vertices></Region></Regions></Annotation></Annotations>"
    )
    monkeypatch.setattr("histo.run.pipeline.open_slide", lambda *_, **__: slide)
    weights = replace(load_weights("default"), mpp=working_mpp)
    config = load_config(None, [*NARROW, "regions.min_border_length_um=50"])
    summary = analyse(path, tmp_path / "small", CellDetector(weights, config.cells), config)
    folder = tmp_path / "small"
    assert summary.image.origin_px == (700, 300)
    mpp = np.array([summary.image.mpp_x_um, summary.image.mpp_y_um])
    cells = pd.read_parquet(folder / "cells.parquet").set_index("cell_id")
    assert len(cells) > 20
    np.testing.assert_allclose(cells[["x_px", "y_px"]] * mpp, cells[["x_um", "y_um"]])
    # Half of the frame is tumour: the border lies in its middle.
    middle_um = right_px // 2 * mpp[0]
    inside = cells["region"] == "tumour"
    assert (cells.loc[inside, "x_um"] < middle_um + 8).all()
    # The last row of the regions' grid may reach past the slide, and with its middle past the tumour.
    upper = cells["y_um"] < bottom_px * mpp[1] - 8
    assert (cells.loc[~inside & upper, "x_um"] > middle_um - 8).all()
    # Every outline of the GeoJSON covers the label of its cell, at the pixel that both call the centre of it.
    outlines = geopandas.read_file(f"/vsigzip/{folder / 'cells.geojson.gz'}").geometry.to_numpy()
    labels = zarr.open_group(folder / "maps.zarr", mode="r")["labels/cells/0"][:]
    inner_px = shapely.get_coordinates(shapely.point_on_surface(outlines))
    column, row = np.floor(inner_px * mpp / working_mpp).astype(int).T
    np.testing.assert_array_equal(labels[row, column], cells.index)


@pytest.mark.parametrize(
    "settings",
    [
        ["run.tile_um=128"],
        ["run.tile_um=200", "run.tile_offset_um=[72, 40]"],
        ["run.tile_um=128", "run.threads=5", "run.reader_threads=4", "run.read_ahead_tiles=7"],
    ],
)
def test_cells_do_not_depend_on_how_the_slide_is_cut(
    done: tuple[SlideSummary, Path],
    rendered: RenderedSlide,
    detector: CellDetector,
    tmp_path: Path,
    settings: list[str],
) -> None:
    summary, folder = done
    other = analyse(rendered.slide, tmp_path / "small", detector, load_config(None, NARROW + settings))
    assert other.n_cells == summary.n_cells
    assert other.n_cd8 == summary.n_cd8
    columns = ["x_um", "y_um", "area_um2", "cell_class", "zone"]
    left, right = (
        pd.read_parquet(f / "cells.parquet", columns=columns).sort_values(["y_um", "x_um"], ignore_index=True)
        for f in (folder, tmp_path / "small")
    )
    pd.testing.assert_frame_equal(left, right)


def test_a_finished_slide_is_kept_until_something_changes(
    done: tuple[SlideSummary, Path], rendered: RenderedSlide, detector: CellDetector, tmp_path: Path
) -> None:
    _, finished = done
    folder = tmp_path / "small"
    shutil.copytree(finished, folder)
    job = SlideJob(path=rendered.slide, slide_id="small", folder=folder)
    assert analyse_slide(job, load_config(None, NARROW), detector)[1]
    assert not analyse_slide(job, load_config(None, [*NARROW, "cells.min_area_um2=11"]), detector)[1]
    (folder / "summary.json").unlink()
    assert not analyse_slide(job, load_config(None, [*NARROW, "cells.min_area_um2=11"]), detector)[1]


def test_a_failed_second_run_leaves_the_first_result(
    done: tuple[SlideSummary, Path], rendered: RenderedSlide, detector: CellDetector, tmp_path: Path
) -> None:
    _, finished = done
    folder = tmp_path / "small"
    shutil.copytree(finished, folder)
    path = tmp_path / "small.tif"
    path.write_bytes(rendered.slide.read_bytes()[:2000])
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    with pytest.raises(SlideError):
        analyse(path, folder, detector)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_a_damaged_tile_is_counted_out_and_listed(
    rendered: RenderedSlide, detector: CellDetector, tmp_path: Path
) -> None:
    path = tmp_path / "small.tif"
    shutil.copy(rendered.slide, path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        index = page.tilewidth and (1 * -(-page.imagewidth // page.tilewidth) + 3)
        start, size = page.dataoffsets[index], page.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(start + 10)
        file.write(b"\x00" * (size - 10))
    summary = analyse(path, tmp_path / "small", detector)
    assert summary.tissue.failed_tiles
    assert 0 < summary.tissue.unread_area_mm2 < 0.5 * summary.tissue.tissue_area_mm2
    assert summary.n_cd8 > 0
    assert "unread_tiles" in {flag.code for flag in summary.flags}
    bad = Box(3 * 256, 256, 256, 256)
    cells = pd.read_parquet(tmp_path / "small" / "cells.parquet")
    inside = cells["x_px"].between(bad.x, bad.right) & cells["y_px"].between(bad.y, bad.bottom)
    assert not inside.any()


def test_the_classical_rule_goes_the_same_way(
    done: tuple[SlideSummary, Path], rendered: RenderedSlide, tmp_path: Path
) -> None:
    config = load_config(CONFIGS / "kather2018.yaml", NARROW)
    summary = analyse(rendered.slide, tmp_path / "rule", build_detector(config.cells), config)
    assert summary.detector_name == "rule kather2018"
    assert summary.fingerprint != done[0].fingerprint
    assert summary.n_cd8 > 0
    cells = pd.read_parquet(tmp_path / "rule" / "cells.parquet")
    # It has no probabilities: no value, rather than 0 or 1.
    assert cells["probability"].isna().all()
    assert (cells["cell_class"] == CD8).sum() >= summary.n_cd8
    shapes = geopandas.read_file(f"/vsigzip/{tmp_path / 'rule' / 'cells.geojson.gz'}")
    assert len(shapes) == len(cells)


def test_a_slide_of_glass_gives_an_empty_result(detector: CellDetector, tmp_path: Path) -> None:
    path = tmp_path / "glass.tif"
    noise = np.random.default_rng(0).normal(243, 1, (600, 800, 3)).astype(np.uint8)
    tifffile.imwrite(
        path, noise, photometric="rgb", tile=(256, 256), resolution=(20000, 20000), resolutionunit=3
    )
    summary = analyse(path, tmp_path / "small", detector)
    assert (summary.n_cells, summary.tissue.tissue_area_mm2) == (0, 0)
    assert summary.cd8_density.value is None
    assert summary.cd8_density.not_assessable == "no tissue found"
    assert len(geopandas.read_parquet(tmp_path / "small" / "cells.parquet")) == 0
