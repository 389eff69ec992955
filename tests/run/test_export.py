"""Results for other programs, read back as those programs read them."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from rich.console import Console
from typer.testing import CliRunner

from histo.cells.table import CD8
from histo.cli import app
from histo.datasets.image import CD8_POSITIVE
from histo.datasets.open import open_dataset
from histo.errors import AnnotationError, ConfigError, DatasetError, ResultsError
from histo.evaluation.find import find_cells
from histo.results.dicom_ann import write_dicom_ann
from histo.results.stored import stored_summary
from histo.run.export import export_slides, export_training
from histo.slide import Box, open_slide

QUIET = Console(quiet=True)
OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"


def table_of(results: Path) -> Any:
    return geopandas.read_parquet(results / "small" / "cells.parquet")


def test_ome_xml_holds_every_cell_in_level0_pixels(results: Path, tmp_path: Path) -> None:
    assert export_slides(results, tmp_path, "omero", console=QUIET) == 0
    root = ElementTree.parse(tmp_path / "small.ome.xml").getroot()
    assert root.tag == f"{OME}OME"
    rois = root.findall(f"{OME}ROI")
    cells, mpp = table_of(results), stored_summary(results / "small").image.mpp_x_um
    assert len({roi.get("ID") for roi in rois}) == len(rois)
    assert {roi.get("Name") for roi in rois} >= {"tumour", "tumour border", "host", CD8, "other nucleus"}
    drawn = [roi.find(f"{OME}Union/{OME}Polygon") for roi in rois[-len(cells) :]]
    for shape, (_, cell) in zip(drawn, cells.iterrows(), strict=True):
        assert shape is not None
        points = [[float(v) for v in xy.split(",")] for xy in str(shape.get("Points")).split()]
        assert shape.get("Text") == f"{cell.cell_class} {cell.cell_id}"
        np.testing.assert_allclose(np.array(points) * mpp, cell.geometry.exterior.coords[:-1], atol=0.01)


def test_dsa_annotation_is_as_large_image_wants_it(results: Path, tmp_path: Path) -> None:
    """Against the schema of large_image (girder_annotation, models/annotation.py), as far as it is used."""
    assert export_slides(results / "small", tmp_path, "dsa", only_cd8=True, console=QUIET) == 0
    annotation = json.loads((tmp_path / "small.json").read_text())
    assert set(annotation) == {"name", "description", "elements"}
    allowed = {"type", "points", "closed", "holes", "label", "group", "lineColor", "lineWidth"}
    for element in annotation["elements"]:
        assert set(element) <= allowed
        assert element["type"] == "polyline"
        assert set(element["label"]) == {"value"}
        for ring in (element["points"], *element.get("holes", [])):
            assert len(ring) >= 2
            assert all(len(point) == 3 and point[2] == 0 for point in ring)
    n_cd8 = (table_of(results)["cell_class"] == CD8).sum()
    assert sum(element["group"] == CD8 for element in annotation["elements"]) == n_cd8
    assert not any(element["group"] == "other nucleus" for element in annotation["elements"])


def dicom_image(path: Path, size_px: tuple[int, int], **other: Any) -> None:
    """The header of a whole-slide image, as far as annotations need it."""
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    data.SOPInstanceUID = pydicom.uid.generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3", "1.2.4", "1.2.5"
    data.Modality = "SM"
    data.PatientID = data.PatientName = "made^up"
    data.PatientBirthDate = data.PatientSex = data.AccessionNumber = data.StudyID = ""
    data.StudyDate = data.StudyTime = ""
    data.ContainerIdentifier = "1"
    data.SpecimenDescriptionSequence = data.IssuerOfTheContainerIdentifierSequence = []
    data.ContainerTypeCodeSequence = []
    data.AcquisitionContextSequence = []
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = size_px
    for name, value in other.items():
        setattr(data, name, value)
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)


def test_dicom_annotations_refer_to_the_finest_image(results: Path, tmp_path: Path) -> None:
    hd_ann = pytest.importorskip("highdicom").ann
    image = stored_summary(results / "small").image
    folder = tmp_path / "dicom"
    folder.mkdir()
    dicom_image(folder / "coarse.dcm", (10, 10))
    dicom_image(folder / "fine.dcm", (image.width_px, image.height_px))
    (folder / "notes.txt").write_text("no DICOM")
    cells = table_of(results)
    # Any file of the slide names it.
    n = write_dicom_ann(results / "small", tmp_path / "ann.dcm", folder / "coarse.dcm")
    assert n == len(cells)
    read = hd_ann.annread(tmp_path / "ann.dcm")
    import pydicom

    assert read.ReferencedImageSequence[0].ReferencedSOPInstanceUID == (
        pydicom.dcmread(folder / "fine.dcm").SOPInstanceUID
    )
    assert (read.StudyInstanceUID, read.PatientID) == ("1.2.3", "made^up")
    group = next(g for g in read.get_annotation_groups() if g.label == CD8)
    found = group.get_graphic_data(coordinate_type="2D")
    cd8 = cells[cells["cell_class"] == CD8]
    assert len(found) == len(cd8)
    for xy, outline in zip(found, cd8.geometry, strict=True):
        np.testing.assert_allclose(xy * image.mpp_x_um, outline.exterior.coords[:-1], atol=1e-3)
    _, areas, _ = group.get_measurements()
    np.testing.assert_allclose(areas[:, 0], cd8["area_um2"], rtol=1e-6)


def test_dicom_annotations_need_the_dicom_slide(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    folder = tmp_path / "dicom"
    folder.mkdir()
    with pytest.raises(ResultsError, match="no DICOM file"):
        write_dicom_ann(results / "small", tmp_path / "ann.dcm", Path(stored_summary(results / "small").path))
    dicom_image(folder / "other.dcm", (10, 10))
    with pytest.raises(ResultsError, match="no image of 2000 x 1200 px"):
        write_dicom_ann(results / "small", tmp_path / "ann.dcm", folder / "other.dcm")
    dicom_image(folder / "ct.dcm", (2000, 1200), SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    with pytest.raises(ResultsError, match="no whole-slide image"):
        write_dicom_ann(results / "small", tmp_path / "ann.dcm", folder / "ct.dcm")
    # As a user meets it: told for each slide, exit code 1.
    ended = CliRunner().invoke(app, ["export", str(results), "--dicom-ann", str(tmp_path / "out")])
    assert ended.exit_code == 1
    assert not list((tmp_path / "out").iterdir())


def test_spatialdata_reads_the_store(results: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("spatialdata") is None:
        with pytest.raises(ConfigError, match="spatialdata"):
            export_slides(results, tmp_path, "spatialdata", console=QUIET)
        pytest.skip("spatialdata is not installed: it needs Python 3.12 or newer")
    import spatialdata

    assert export_slides(results, tmp_path, "spatialdata", mpp=1.0, console=QUIET) == 0
    data = spatialdata.read_zarr(tmp_path / "small.zarr")
    cells, summary = table_of(results), stored_summary(results / "small")
    assert set(data.images) == {"slide"}
    assert set(data.labels) == {"cell_labels", "region_labels", "zone_labels", "tissue_labels"}
    assert set(data.shapes) == {"cells", "regions", "borders"}
    assert set(data.coordinate_systems) == {"um", "px"}
    for system, mpp in (("um", 1.0), ("px", summary.image.mpp_x_um)):
        extent = spatialdata.get_extent(data["slide"], coordinate_system=system)
        assert extent["x"] == pytest.approx((0, 1000 / mpp))
        ours = spatialdata.transform(data["cells"], to_coordinate_system=system)
        np.testing.assert_allclose(ours.geometry.area.to_numpy() * mpp**2, cells.geometry.area, rtol=1e-9)
    table = data["table"]
    assert list(table.obs["cell_id"]) == list(data["cells"].index) == list(cells["cell_id"])
    assert list(table.obs["cell_class"]) == list(cells["cell_class"])
    np.testing.assert_array_equal(np.asarray(table[:, "cd8_ring_mean"].X)[:, 0], cells["cd8_ring_mean"])
    labels = np.asarray(data["cell_labels"]["scale0"]["image"])
    assert set(np.unique(labels)) == {0, *cells["cell_id"]}
    with open_slide(Path(summary.path)) as slide:
        columns, rows = slide.grid_size(1.0)
        pixels = np.moveaxis(slide.read(Box(0, 0, columns, rows), 1.0), -1, 0)
    np.testing.assert_array_equal(np.asarray(data["slide"]["scale0"]["image"]), pixels)
    assert data.attrs["histo"]["n_cd8"] == summary.n_cd8


def reviewed(path: Path, x: float, y: float, width: float, height: float, name: str = "Reviewed") -> Path:
    box = shapely.box(x, y, x + width, y + height)
    feature = {
        "type": "Feature",
        "geometry": json.loads(shapely.to_geojson(box)),
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def test_reviewed_areas_become_a_dataset(results: Path, tmp_path: Path, detector: Any) -> None:
    area = reviewed(tmp_path / "small.geojson", 300, 200, 1200, 700)
    out = tmp_path / "set"
    export_training(results, out, area, licence="our own", console=QUIET)
    dataset = open_dataset("folder", out)
    assert dataset.licence == "our own"
    assert {item.group for item in dataset.items} == {"small"}
    images = [item.load() for item in dataset.items]
    # 1200 x 700 px of 0.5 um in fields of 512 px at most.
    assert len(images) == 6
    assert sum(image.pixels.shape[0] * image.pixels.shape[1] for image in images) == 1200 * 700
    summary, cells = stored_summary(results / "small"), table_of(results)
    inside = (cells["x_px"].between(300, 1500)) & (cells["y_px"].between(200, 900))
    n_cd8 = sum(int((image.classes == CD8_POSITIVE).sum()) for image in images if image.classes is not None)
    # Cells at the edges of fields are there in pieces.
    assert n_cd8 == pytest.approx((inside & (cells["cell_class"] == CD8)).sum(), rel=0.2)
    for image in images:
        assert image.background_known
        assert image.white_point == summary.stain.white_point
    # The pixels are those that inference reads, so the cells of the results are found in them.
    found = find_cells(images[0], detector)
    assert images[0].points_um is not None
    assert len(found.points_um) == pytest.approx(len(images[0].points_um), rel=0.1)


def test_of_other_shapes_only_what_was_reviewed_is_cut(results: Path, tmp_path: Path) -> None:
    disc = shapely.Point(900, 600).buffer(500)
    feature = {
        "type": "Feature",
        "geometry": json.loads(shapely.to_geojson(disc)),
        "properties": {"classification": {"name": "reviewed"}},
    }
    (tmp_path / "small.geojson").write_text(json.dumps(feature))
    export_training(results, tmp_path / "set", tmp_path / "small.geojson", licence="", console=QUIET)
    images = [item.load() for item in open_dataset("folder", tmp_path / "set").items]
    area = sum(image.pixels.shape[0] * image.pixels.shape[1] for image in images)
    assert 0.5 * disc.area < area < disc.area


def test_what_cannot_be_exported_is_told(results: Path, tmp_path: Path) -> None:
    def training(area: Path, out: Path = tmp_path / "set") -> None:
        export_training(results, out, area, licence="", console=QUIET)

    with pytest.raises(AnnotationError, match="in which area every cell was looked at"):
        training(reviewed(tmp_path / "a.geojson", 300, 200, 500, 500, name="tumour"))
    (tmp_path / "b.geojson").write_text("no")
    with pytest.raises(AnnotationError, match="not GeoJSON"):
        training(tmp_path / "b.geojson", tmp_path / "other")
    with pytest.raises(DatasetError, match="holds a field of 48 um"):
        training(reviewed(tmp_path / "c.geojson", 300, 200, 90, 90), tmp_path / "third")
    with pytest.raises(DatasetError, match="not empty"):
        training(tmp_path / "c.geojson", tmp_path)
    with pytest.raises(ResultsError):
        export_slides(tmp_path, tmp_path, "dsa", console=QUIET)
    for arguments, told in (
        ([], "nothing to export"),
        (["--dsa", str(tmp_path)], "no results named"),
        ([str(results), "--training", str(tmp_path)], "go together"),
    ):
        ended = CliRunner().invoke(app, ["export", *arguments])
        assert isinstance(ended.exception, ConfigError)
        assert told in str(ended.exception)


def test_a_slide_that_is_gone_stops_no_other(results: Path, tmp_path: Path) -> None:
    copied = tmp_path / "results"
    shutil.copytree(results, copied)
    (copied / "small" / "regions.geojson").unlink()
    assert export_slides(copied, tmp_path / "out", "dsa", console=QUIET) == 1
    assert not (tmp_path / "out" / "small.json").exists()


def test_geopandas_reads_cells_and_regions(results: Path) -> None:
    cells = geopandas.read_file(f"/vsigzip/{results / 'small' / 'cells.geojson.gz'}")
    regions = geopandas.read_parquet(results / "small" / "regions.parquet")
    assert len(cells) == len(table_of(results))
    assert set(regions["region"]) == {"tumour", "host"}
    assert regions.crs is None
    assert isinstance(regions, pd.DataFrame)
