"""Every reader of files that users bring, and what it may do with any bytes: read them, or refuse them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from fuzz import seeds
from made_up import make_summary
from slides import ArraySlide

from histo.cells.network import CellNet, state_arrays
from histo.cells.weights import Weights, load_weights, save_weights
from histo.cohort.config import CohortConfig
from histo.cohort.manifest import read_manifest
from histo.cohort.states_table import read_states
from histo.cohort.table import cohort_of_results
from histo.config import Config, RegionsConfig, read_settings
from histo.datasets.own_folder import own_folder
from histo.errors import HistoError, SlideError
from histo.regions.annotations import read_annotations
from histo.regions.classifier import CrossValidation, TissueClassifier, load_classifier, save_classifier
from histo.regions.features import feature_names
from histo.regions.scribbles import read_scribbles
from histo.results.slides_table import SlideRow, write_slides_table
from histo.sections.config import SectionsConfig
from histo.sections.error import read_landmarks
from histo.sections.pairs import read_pairs
from histo.slide import Box, open_slide
from histo.tables.mapping import TableMapping
from histo.tables.open import open_table

_REGIONS = RegionsConfig().names
_CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"


@dataclass(frozen=True)
class Reader:
    """seeds : valid files. read : writes bytes below an empty folder and reads them."""

    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], object]


def refusal(reader: Reader, data: bytes, folder: Path) -> HistoError | None:
    """Read bytes; return the error that refuses them, None where they are read.

    Any other exception is passed on; an error that does not say where and what to do is an AssertionError.
    """
    refused: HistoError | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(data, folder)
    except HistoError as error:
        refused = error
    if refused is not None:
        text = str(refused)
        assert refused.what, "an error without a reason"
        assert refused.path is not None, f"no place: {text}"
        assert refused.fix, f"nothing that helps: {text}"
        # What is told goes to consoles, logs and tables.
        assert len(text) < 6_000, f"{len(text)} characters: {text[:200]}"
        text.encode()
    return refused


def _written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _slide(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        _look_at(_written(folder, name, data))

    return read


def _look_at(path: Path) -> None:
    """Read corners and a survey of a slide."""
    # The pixel size of the file's own first: it is parsed, too.
    with suppress(SlideError):
        open_slide(path).close()
    with open_slide(path, mpp=0.5) as slide:
        columns, rows = slide.grid_size(8.0)
        slide.read(Box(0, 0, min(columns, 64), min(rows, 64)), 8.0)
        for level in slide.info.levels:
            mpp = 0.5 * level.downsample[0]
            slide.read(Box(-2, -2, 40, 40), mpp)
            slide.read(Box(level.size_px[0] - 20, level.size_px[1] - 20, 40, 40), mpp)


def _zarr(data: bytes, folder: Path) -> None:
    parts = [*data.split(seeds.FILES, 2), b"", b""][:3]
    second = b'"zarr_format": 2' in parts[1]
    attributes, array, chunk = (
        (".zattrs", "0/.zarray", "0/0.0.0") if second else ("zarr.json", "0/zarr.json", "0/c/0/0/0")
    )
    for name, part in zip((attributes, array, chunk), parts, strict=True):
        _written(folder / "a.zarr", name, part)
    _look_at(folder / "a.zarr")


@cache
def _array_slide() -> ArraySlide:
    slide = ArraySlide(np.full((400, 300, 3), 255, np.uint8), mpp=(0.5, 0.25))
    offsets = {f"hamamatsu.{axis}OffsetFromSlideCentre": "0" for axis in "XY"}
    slide.info.properties.update(offsets)  # type: ignore[attr-defined]
    return slide


def _annotations(data: bytes, folder: Path) -> None:
    path = _written(folder, "a.geojson", data)
    with suppress(HistoError):
        read_scribbles(path, _array_slide(), _REGIONS, 20.0)
    read_annotations(path, _array_slide(), _REGIONS)


def _pairs(data: bytes, folder: Path) -> None:
    _written(folder, "landmarks.csv", seeds.LANDMARKS)
    read_pairs(_written(folder, "pairs.csv", data))


def _config(data: bytes, folder: Path) -> None:
    path = _written(folder, "config.yaml", data)
    first = None
    for model in (CohortConfig, SectionsConfig, TableMapping):
        with suppress(HistoError):
            read_settings(model, path, ())
    try:
        read_settings(Config, path, ()).fingerprint()
    except HistoError as error:
        first = error
    if first is not None:
        raise first


def _config_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(_CONFIGS.glob("cd8_*.yaml"))]


def _weights_seeds() -> list[bytes]:
    weights = Weights(state_arrays(CellNet(4)), 4, 0.5, 0.4, "random", training={"a": 1})
    return [seeds.written(lambda path: save_weights(weights, path), "a.safetensors")]


def _weights(data: bytes, folder: Path) -> None:
    load_weights(str(_written(folder, "a.safetensors", data)))


def _classifier_seeds() -> list[bytes]:
    n = len(feature_names(("nuclear", "residual")))
    classifier = TissueClassifier(
        classes=("tumour", "stroma"),
        kind="brightfield",
        channels=("nuclear", "residual"),
        coefficient=np.ones((n, 2), np.float32),
        intercept=np.array([0, -np.inf], np.float32),
        cross_validation=CrossValidation(scheme=None, by_class={}, by_slide={}, confusion={}),
        training={"slides": ["a.svs"]},
    )
    return [seeds.written(lambda path: save_classifier(classifier, path), "a.safetensors")]


def _classifier(data: bytes, folder: Path) -> None:
    load_classifier(_written(folder, "a.safetensors", data))


def _table(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        path = _written(folder, name, data)
        mapping = TableMapping(allow_no_cd8=True, columns={"intensities": {"PD1": "Cell: PD1 mean"}})  # type: ignore[arg-type]
        with suppress(HistoError):
            open_table(path, mpp=0.5, mapping=mapping)
        open_table(path, mpp=0.5)

    return read


def _results(data: bytes, folder: Path) -> None:
    write_slides_table(folder, [SlideRow.from_summary(make_summary("slide-1"))])
    _written(folder, "slide-1/summary.json", data)
    cohort_of_results(folder)


def _slides_table(data: bytes, folder: Path) -> None:
    _written(folder, "slides.parquet", data)
    _written(folder, "slide-1/summary.json", make_summary("slide-1").model_dump_json().encode())
    cohort_of_results(folder)


def _slides_table_seeds() -> list[bytes]:
    row = SlideRow.from_summary(make_summary("slide-1"))
    return [seeds.written(lambda path: write_slides_table(path.parent, [row]), "slides.parquet")]


_STATES = (
    b"slide_id,state,zone,n_cd8,n_positive,area_mm2\nslide-1,PD-1+,all,100,20,3.5\n'=x,PD-1+,core,100,20,\n"
)
_GATE = {
    "marker": "PD-1",
    "identity": "PD-1",
    "column": "PD-1_ring_mean",
    "is_checkpoint": True,
    "method": "Otsu",
    "threshold": 4.5,
    "n_cells": 100,
    "numbers": {"ashman_d": 3.1},
    "flags": [{"code": "a", "message": "b"}],
}
_GATES = {
    "histo_version": "0.1.0",
    "source": "a",
    "slides": ["slide-1"],
    "control_slides": [],
    "min_cd8_cells": 20,
    "confidence_level": 0.95,
    "gates": [_GATE],
    "states": [{"name": "PD-1+", "rule": "PD-1 & !TCF1", "description": "PD-1 positive"}],
    "limits": "none",
    "flags": [],
}


def _states(data: bytes, folder: Path) -> None:
    gates, _, counts = data.partition(seeds.FILES)
    _written(folder, "gates.json", gates)
    _written(folder, "states.csv", counts)
    read_states(folder)


def _own_labels(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        _written(folder, "images/a.png", seeds.pictures()[0])
        _written(folder, f"labels/{name}", data)
        _written(folder, "dataset.yaml", b"mpp: 0.5\n")
        for item in own_folder(folder).items:
            item.load()

    return read


def _own_settings(data: bytes, folder: Path) -> None:
    _written(folder, "images/a.png", seeds.pictures()[0])
    _written(folder, "labels/a.csv", b"x_px,y_px,class\n3,4,CD8\n")
    settings, _, groups = data.partition(seeds.FILES)
    _written(folder, "dataset.yaml", settings)
    _written(folder, "groups.csv", groups)
    for item in own_folder(folder).items:
        item.load()


_SETTINGS = (
    b"mpp: 0.5\nlicence: own\nkind: brightfield\nclasses: {CD8: cd8_positive}\ngroups: groups.csv\n"
    + seeds.FILES
    + b"image,group,split\na.png,p1,train\n"
)

READERS = {
    "tiff": Reader(seeds.tiffs, _slide("a.tif")),
    "picture": Reader(seeds.pictures, _slide("a.png")),
    "zarr": Reader(seeds.zarrs, _zarr),
    "annotations": Reader(seeds.annotations, _annotations),
    "manifest": Reader(
        lambda: [seeds.MANIFEST, seeds.MANIFEST.replace(b",", b";")],
        lambda data, folder: read_manifest(_written(folder, "a.csv", data)),
    ),
    "pairs": Reader(lambda: [seeds.PAIRS], _pairs),
    "landmarks": Reader(
        lambda: [seeds.LANDMARKS], lambda data, folder: read_landmarks(_written(folder, "a.csv", data))
    ),
    "config": Reader(_config_seeds, _config),
    "weights": Reader(_weights_seeds, _weights),
    "classifier": Reader(_classifier_seeds, _classifier),
    "table": Reader(seeds.cell_tables, _table("a.csv")),
    "parquet": Reader(lambda: [seeds.parquet_table()], _table("a.parquet")),
    "summary": Reader(lambda: [make_summary().model_dump_json().encode()], _results),
    "slides_table": Reader(_slides_table_seeds, _slides_table),
    "states": Reader(lambda: [json.dumps(_GATES).encode() + seeds.FILES + _STATES], _states),
    "own_geojson": Reader(lambda: [seeds.cells()], _own_labels("a.geojson")),
    "own_csv": Reader(lambda: [b"x_px,y_px,class\n3,4,unknown\n5.5,6,ignore\n"], _own_labels("a.csv")),
    "own_labels": Reader(
        lambda: [
            seeds.written(
                lambda path: seeds.tifffile.imwrite(path, seeds.pixels(24, 30, dtype=np.uint16)), "a.tif"
            )
        ],
        _own_labels("a.tif"),
    ),
    "own_settings": Reader(lambda: [_SETTINGS], _own_settings),
}
