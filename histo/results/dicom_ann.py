"""Cells as DICOM Microscopy Bulk Simple Annotations, in the study of the slide that they were found on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import shapely

from histo import __version__
from histo.cells.table import CD8, OTHER
from histo.errors import ConfigError, ResultsError
from histo.measure.summary import SlideSummary
from histo.results.atomic import replacing
from histo.results.cells_parquet import GEOMETRY, read_cells
from histo.results.stored import stored_summary

# VL Whole Slide Microscopy Image Storage.
_WHOLE_SLIDE: Final = "1.2.840.10008.5.1.4.1.1.77.1.6"


def write_dicom_ann(folder: Path, path: Path, image: Path) -> int:
    """Write the cells of a slide as polygons with their areas: a group of CD8+ cells, one of other nuclei.

    Coordinates are pixels of the total pixel matrix of the slide's finest image. Patient, study and specimen
    are those of the image, as the standard demands; the series is a new one.

    Parameters
    ----------
    folder : of a slide's results. path : a `.dcm`. image : a DICOM file of the slide; the finest of its
        series is looked for beside it.

    Returns
    -------
    How many cells there are.

    Raises
    ------
    ConfigError : the package `highdicom` is not installed.
    ResultsError : the slide is no DICOM, or another one; results cannot be read, or the file not be written.
    """
    try:
        from highdicom import UID, AlgorithmIdentificationSequence
        from highdicom.ann import AnnotationGroup, Measurements, MicroscopyBulkSimpleAnnotations
        from pydicom.sr.codedict import codes
    except ImportError as error:
        raise ConfigError(
            f"highdicom cannot be used ({error})", fix="Install the package highdicom"
        ) from None
    summary = stored_summary(folder)
    source = _finest(image, summary)
    cells = read_cells(folder / "cells.parquet", ["cell_class", "area_um2", GEOMETRY])
    by_hand = any(flag.code == "corrected" for flag in summary.flags)
    algorithm = AlgorithmIdentificationSequence(
        name=summary.detector_name, family=codes.DCM.ArtificialIntelligence, version=summary.histo_version
    )
    mpp = np.array([summary.image.mpp_x_um, summary.image.mpp_y_um])
    groups: list[AnnotationGroup] = []
    for label, kind in ((CD8, codes.SCT.Cell), (OTHER, codes.SCT.Nucleus)):
        of_class = cells[cells["cell_class"] == label]
        if of_class.empty:
            continue
        groups.append(
            AnnotationGroup(
                number=len(groups) + 1,
                uid=UID(),
                label=label,
                annotated_property_category=codes.SCT.AnatomicalStructure,
                annotated_property_type=kind,
                graphic_type="POLYGON",
                # A ring ends before its first vertex comes again.
                graphic_data=[
                    (shapely.get_coordinates(outline)[:-1] / mpp).astype(np.float32)
                    for outline in of_class[GEOMETRY]
                ],
                algorithm_type="SEMIAUTOMATIC" if by_hand else "AUTOMATIC",
                algorithm_identification=algorithm,
                measurements=[
                    Measurements(
                        name=codes.SCT.Area,
                        unit=codes.UCUM.SquareMicrometer,
                        values=of_class["area_um2"].to_numpy(np.float32),
                    )
                ],
            )
        )
    if not groups:
        raise ResultsError("there is no cell to be written", path=folder)
    try:
        made = MicroscopyBulkSimpleAnnotations(
            source_images=[source],
            annotation_coordinate_type="2D",
            annotation_groups=groups,
            series_instance_uid=UID(),
            series_number=1,
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer="histo",
            manufacturer_model_name="histo",
            software_versions=__version__,
            device_serial_number=__version__,
            content_label="CELLS",
            content_description="Cells found by histo",
        )
    except (AttributeError, ValueError, TypeError) as error:
        raise ResultsError(
            f"the slide lacks what annotations must repeat of it ({error})", path=image
        ) from None
    with replacing(path) as part:
        made.save_as(part)
    return len(cells)


def _finest(image: Path, summary: SlideSummary) -> Any:
    """Return the header of the image whose pixels are the slide's level 0."""
    import pydicom

    fix = "Annotations can be written only for slides in DICOM"
    try:
        asked = pydicom.dcmread(image, stop_before_pixels=True)
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise ResultsError(f"the slide is no DICOM file ({error})", path=image, fix=fix) from None
    if asked.get("SOPClassUID") != _WHOLE_SLIDE:
        raise ResultsError("a DICOM file, but no whole-slide image", path=image, fix=fix)
    wanted = summary.image.width_px, summary.image.height_px
    for path in [image, *sorted(image.parent.iterdir())]:
        if not path.is_file():
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (OSError, pydicom.errors.InvalidDicomError):
            continue
        size = header.get("TotalPixelMatrixColumns"), header.get("TotalPixelMatrixRows")
        if header.get("SeriesInstanceUID") == asked.SeriesInstanceUID and size == wanted:
            return header
    raise ResultsError(
        f"no image of {wanted[0]} x {wanted[1]} px in the slide's series",
        path=image.parent,
        fix="Keep all files of the slide in one folder",
    )
