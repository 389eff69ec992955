"""Results for other programs: what `histo export` does with its options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from shapely.geometry import MultiPolygon

from histo.cells.table import CD8, CELL_CLASSES
from histo.datasets.corrected import CorrectedDataset, ReviewedSlide
from histo.errors import AnnotationError, ConfigError, ResultsError, SlideError
from histo.measure.summary import SlideSummary
from histo.regions.annotations import annotations_in, unpacked
from histo.regions.geojson import read_geojson
from histo.results.cells_parquet import GEOMETRY, read_cells
from histo.results.dicom_ann import write_dicom_ann
from histo.results.slides_table import read_slides_table
from histo.results.stored import slide_files, stored_summaries, stored_summary
from histo.results.viewers import write_dsa, write_ome_xml
from histo.slide import Slide, open_slide

# Class of the annotations that say where every cell was looked at.
REVIEWED: Final = "reviewed"
Target = Literal["spatialdata", "omero", "dsa", "dicom_ann"]
_SUFFIXES: Final[dict[Target, str]] = {
    "spatialdata": ".zarr",
    "omero": ".ome.xml",
    "dsa": ".json",
    "dicom_ann": ".dcm",
}
_MAX_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class StoredSlide:
    """A slide's results."""

    folder: Path
    summary: SlideSummary

    def open(self) -> Slide:
        """Open the slide as it was analysed; raises SlideError where it is not there any more."""
        image = self.summary.image
        return open_slide(
            Path(self.summary.path), mpp=None if image.mpp_source == "metadata" else image.mpp_x_um
        )


def stored_slides(source: Path) -> list[StoredSlide]:
    """Return the finished slides of a results folder, or the one slide whose folder it is.

    Raises
    ------
    ResultsError : there are none, or their summaries cannot be read.
    """
    if (source / "summary.json").is_file():
        return [StoredSlide(source, stored_summary(source))]
    return [StoredSlide(source / summary.slide_id, summary) for summary in stored_summaries(source)]


def export_slides(
    source: Path,
    out: Path,
    target: Target,
    *,
    mpp: float = 1.0,
    only_cd8: bool = False,
    console: Console | None = None,
) -> int:
    """Write one file or store per slide into `out`; return how many slides failed.

    Parameters
    ----------
    source : a results folder, or the folder of one slide in it.
    target : what to write: `<slide>.zarr`, `.ome.xml`, `.json` or `.dcm`.
    mpp : um per pixel of the image in a SpatialData store.
    only_cd8 : leave out other nuclei, for OMERO and DSA, which are slow with hundreds of thousands of shapes.

    Raises
    ------
    ResultsError, ConfigError : there are no results, or `out` cannot be written. A slide that cannot be
        exported is told of, and stops no other.
    """
    console = console or Console(stderr=True)
    classes = (CD8,) if only_cd8 else CELL_CLASSES
    n_failed = 0
    slides = stored_slides(source)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write there ({error.strerror})", path=out, fix="Name another folder"
        ) from None
    for stored in slides:
        name = stored.summary.slide_id
        path = out / f"{name}{_SUFFIXES[target]}"
        try:
            if target == "spatialdata":
                from histo.results.spatialdata import write_spatialdata

                with stored.open() as slide:
                    write_spatialdata(stored.folder, path, slide, mpp)
            elif target == "dicom_ann":
                write_dicom_ann(stored.folder, path, Path(stored.summary.path))
            else:
                {"omero": write_ome_xml, "dsa": write_dsa}[target](stored.folder, path, classes)
        except (ResultsError, SlideError) as error:
            n_failed += 1
            console.print(f"  [red]failed[/red] {name}: {error}", highlight=False, soft_wrap=True)
            continue
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    return n_failed


def export_training(
    source: Path, out: Path, reviewed: Path, *, licence: str, console: Console | None = None
) -> None:
    """Write corrected slides as a dataset that `train.py` takes (`folder`).

    Parameters
    ----------
    source : results folder, its cells as they were corrected (`histo measure`, `histo review`).
    out : folder of the dataset; must be empty or not there.
    reviewed : GeoJSON with annotations of the class "Reviewed" round the areas in which every cell was looked
        at; or a folder of such, named like the slides. Slides without one are left out.
    licence : of the dataset.

    Raises
    ------
    HistoError : results, slides or files that cannot be used.
    """
    console = console or Console(stderr=True)
    slides = {slide.summary.slide_id: slide for slide in stored_slides(source)}
    files = slide_files(reviewed, {name: slide.summary for name, slide in slides.items()})
    patients = _patients(source)
    with CorrectedDataset(out, licence=licence) as dataset:
        for name, path in files.items():
            summary = slides[name].summary
            cells = read_cells(slides[name].folder / "cells.parquet", ["cell_class", GEOMETRY])
            with slides[name].open() as slide:
                written = dataset.add(
                    ReviewedSlide(
                        slide_id=name,
                        group=patients.get(name, name),
                        slide=slide,
                        cells=cells,
                        reviewed=read_reviewed(path, summary),
                        white_point=summary.stain.white_point,
                        channels=_channels(summary),
                    )
                )
            console.print(
                f"  {name}: {written.n_fields} fields, {written.covered:.0%} of the reviewed area; "
                f"{written.n_cells} cells, {written.n_cd8} of them CD8+",
                highlight=False,
            )


def read_reviewed(path: Path, summary: SlideSummary) -> MultiPolygon:
    """Read the areas of a slide in which every cell was looked at, in um.

    Raises
    ------
    AnnotationError : the file cannot be read, or names no such area.
    """
    fix = "Draw annotations of the class Reviewed round them in QuPath and export them as GeoJSON"
    try:
        drawing = read_geojson(unpacked(path, _MAX_BYTES, too_much="Export the areas alone"))
    except (ValueError, OverflowError) as error:
        raise AnnotationError(f"not GeoJSON ({error})", path=path, fix=fix) from None
    image = summary.image
    found = annotations_in(
        drawing,
        path,
        {REVIEWED: "other"},
        size_px=(image.width_px, image.height_px),
        mpp=(image.mpp_x_um, image.mpp_y_um),
        slide_name=summary.slide_id,
    ).polygons_um.get("other")
    if found is None:
        raise AnnotationError("it does not say in which area every cell was looked at", path=path, fix=fix)
    return found


def _channels(summary: SlideSummary) -> dict[str, str] | None:
    """Return which channel is which, by the names that datasets use."""
    if summary.stain.channels is None:
        return None
    return {
        {"residual": "autofluorescence"}.get(stain, stain): channel
        for stain, channel in summary.stain.channels.items()
    }


def _patients(source: Path) -> dict[str, str]:
    """Return the patient of each slide of a results folder that names one."""
    if (source / "summary.json").is_file():
        return {}
    table = read_slides_table(source)
    known = table[table["patient"].notna()]
    return dict(zip(known["slide_id"].astype(str), known["patient"].astype(str), strict=True))
