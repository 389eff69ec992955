"""Out to QuPath and back: the same numbers where nothing was edited, else those of the edit."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import zarr
from rich.console import Console
from shapely.affinity import translate
from shapely.geometry import mapping, shape

from histo.cells.table import CD8, OTHER
from histo.config import load_config
from histo.errors import AnnotationError, ConfigError, ResultsError, ReviewError
from histo.measure.summary import SlideSummary
from histo.results.ome_zarr import subsample
from histo.results.stored import stored_config
from histo.review.actions import Action, AddCell, DeleteCells, DrawRegion, Scribble, SetClass, Undo
from histo.review.log import append
from histo.run.corrected import remeasure_folder
from histo.run.remeasure import load_parts, remeasure

Features = list[dict[str, Any]]
QUIET = Console(quiet=True)


def cells_of(results: Path) -> Features:
    with gzip.open(results / "small" / "cells.geojson.gz") as file:
        features: Features = json.load(file)["features"]
    return features


def regions_of(results: Path) -> Features:
    features: Features = json.loads((results / "small" / "regions.geojson").read_text())["features"]
    return features


def save(path: Path, features: Features) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def drawn(name: str, kind: str, coordinates: Any) -> dict[str, Any]:
    """An annotation as a person draws it in QuPath."""
    return {
        "type": "Feature",
        "id": "0b3f9d1e-7a51-4c6e-9a6c-2f1f3a0c8d11",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


def square(x: float, y: float, side: float) -> list[list[list[float]]]:
    return [[[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]]


def again(results: Path, out: Path, **files: Path) -> SlideSummary:
    (summary,) = remeasure_folder(results, out, console=QUIET, **files)
    return summary


def stored(results: Path) -> SlideSummary:
    return SlideSummary.model_validate_json((results / "small" / "summary.json").read_bytes())


def as_it_was(features: Features) -> Features:
    return features


def as_qupath_writes(features: Features) -> Features:
    """Other vertices first, and coordinates as 32-bit numbers."""
    for feature in features:
        if feature["geometry"]["type"] == "Polygon":
            (ring,) = feature["geometry"]["coordinates"]
            turned = [*ring[2:-1], *ring[:3]]
            feature["geometry"]["coordinates"] = [np.asarray(turned, np.float32).tolist()]
    return features


def as_old_qupath_writes(features: Features) -> Features:
    """Without ids, and measurements as a list."""
    for feature in features:
        feature["id"] = "PathDetectionObject"
        properties = feature["properties"]
        properties["measurements"] = [{"name": k, "value": v} for k, v in properties["measurements"].items()]
    return features


@pytest.mark.parametrize("written", [as_it_was, as_qupath_writes, as_old_qupath_writes])
def test_what_comes_back_unedited_gives_exactly_the_same(
    results: Path, tmp_path: Path, written: Callable[[Features], Features]
) -> None:
    both = save(tmp_path / "small.geojson", regions_of(results) + written(cells_of(results)))
    out = tmp_path / "again"
    assert again(results, out, cells=both, regions=both) == stored(results)
    for name in ("summary.json", "cells.geojson.gz", "regions.geojson", "regions.parquet", "report.html"):
        assert (out / "small" / name).read_bytes() == (results / "small" / name).read_bytes(), name
    assert (out / "slides.csv").read_bytes() == (results / "slides.csv").read_bytes()
    tables = [geopandas.read_parquet(folder / "small" / "cells.parquet") for folder in (results, out)]
    pd.testing.assert_frame_equal(*tables)
    before, after = (zarr.open_group(folder / "small" / "maps.zarr", mode="r") for folder in (results, out))
    for name in ("labels/cells/0", "labels/zones/0", "labels/tissue/1", "density/0", "distance/0"):
        np.testing.assert_array_equal(before[name][...], after[name][...])


def test_edited_cells_give_the_numbers_of_the_edit(results: Path, tmp_path: Path) -> None:
    before, features = stored(results), cells_of(results)
    counted = [
        f
        for f in features
        if f["properties"].get("metadata", {}).get("Zone") == "core"
        and f["properties"]["measurements"]["In assessed tissue"]
    ]
    cd8 = [f for f in counted if f["properties"]["classification"]["name"] == CD8]
    others = [f for f in counted if f["properties"]["classification"]["name"] == OTHER]
    gone = [f["id"] for f in cd8[:3]]
    for feature in cd8[3:5]:
        feature["properties"]["classification"] = {"name": OTHER}
    others[0]["properties"]["classification"] = {"name": CD8}
    # Beside a cell that is counted in the core; one drawn, one marked by a point.
    x, y = others[1]["geometry"]["coordinates"][0][0]
    kept = [f for f in features if f["id"] not in gone]
    file = save(
        tmp_path / "small.geojson",
        [*kept, drawn("CD8+ cell", "Polygon", square(x, y, 12)), drawn(OTHER, "MultiPoint", [[x, y]])],
    )
    after = again(results, tmp_path / "again", cells=file)
    assert after.n_cd8 == before.n_cd8 - 3 - 2 + 1 + 1
    assert after.n_cells == before.n_cells - 3 + 2
    core, was = after.zones["core"], before.zones["core"]
    assert (core.n_cd8, core.area_mm2) == (was.n_cd8 - 3, was.area_mm2)  # type: ignore[operator]
    assert core.cd8_density.value == pytest.approx(core.n_cd8 / core.area_mm2)  # type: ignore[operator]
    assert after.zones["far"] == before.zones["far"]
    assert after.fingerprint != before.fingerprint
    (flag,) = [flag for flag in after.flags if flag.code == "corrected"]
    assert "3 deleted, 2 added, 3 given another class" in flag.message

    folder = tmp_path / "again" / "small"
    cells = pd.read_parquet(folder / "cells.parquet").set_index("cell_id")
    old = pd.read_parquet(results / "small" / "cells.parquet").set_index("cell_id")
    outline, point = cells.iloc[-2], cells.iloc[-1]
    assert list(cells.index[-2:]) == [old.index.max() + 1, old.index.max() + 2]
    assert outline["area_um2"] == 36
    # What was not measured is not known.
    assert np.isnan([outline["cd8_ring_mean"], outline["probability"], point["area_um2"]]).all()
    unedited = cells.index[:-2][cells["probability"].iloc[:-2].notna()]
    pd.testing.assert_frame_equal(cells.loc[unedited], old.loc[unedited], check_index_type=False)
    # The label map knows the new cells, at every level.
    group = zarr.open_group(folder / "maps.zarr", mode="r")["labels/cells"]
    labels = np.asarray(group["0"][...])
    assert set(np.unique(labels)) <= {0, *cells.index}
    assert labels[labels == cells.index[-2]].size > 0
    for level in list(group.array_keys())[1:]:
        np.testing.assert_array_equal(group[level][...], subsample(labels, int(level)))


def test_corrected_results_can_be_corrected_again(results: Path, tmp_path: Path) -> None:
    features = cells_of(results)
    first = again(results, tmp_path / "one", cells=save(tmp_path / "a.geojson", features[4:]))
    second = again(
        tmp_path / "one", tmp_path / "two", cells=save(tmp_path / "b.geojson", cells_of(tmp_path / "one")[4:])
    )
    at_once = again(results, tmp_path / "three", cells=save(tmp_path / "c.geojson", features[8:]))
    assert second.zones == at_once.zones
    assert second.n_cells != first.n_cells
    # The same command again replaces what it wrote.
    assert again(results, tmp_path / "three", cells=tmp_path / "c.geojson") == at_once


def test_edited_regions_give_the_numbers_of_the_edit(results: Path, tmp_path: Path) -> None:
    before, features = stored(results), regions_of(results)
    cells = pd.read_parquet(results / "small" / "cells.parquet")
    # Away from the border, on the grid of 8 um (mpp 0.5): what it takes is known exactly.
    tumour = shape(next(f for f in features if f["properties"]["name"] == "tumour")["geometry"])
    x, y = (round(v / 16) * 16 for v in tumour.representative_point().coords[0])
    edited = [*features, drawn("Necrosis", "Polygon", square(x - 96, y - 96, 192))]
    after = again(results, tmp_path / "again", regions=save(tmp_path / "small.geojson", edited))
    inside = (
        cells["x_px"].between(x - 96, x + 96) & cells["y_px"].between(y - 96, y + 96) & cells["in_tissue"]
    )
    assert inside.sum() > 0
    assert after.n_cells == before.n_cells - inside.sum()
    taken = after.tissue.excluded_area_mm2["necrosis"]
    assert taken == pytest.approx(96**2 / 1e6, rel=0.02)
    assert after.tissue.assessed_area_mm2 == pytest.approx(before.tissue.assessed_area_mm2 - taken)
    assert after.exclusion.border_length_um == before.exclusion.border_length_um

    # The tumour moved by 60 um: cells change zones, none is lost.
    for feature in edited[:-1]:
        if feature["properties"]["name"] == "tumour":
            feature["geometry"] = mapping(translate(shape(feature["geometry"]), -120))
    moved = again(results, tmp_path / "moved", regions=save(tmp_path / "moved.geojson", edited[:-1]))
    assert moved.n_cells == before.n_cells
    assert moved.zones["core"].area_mm2 < before.zones["core"].area_mm2  # type: ignore[operator]
    assert moved.exclusion != before.exclusion
    told = next(flag.message for flag in moved.flags if flag.code == "corrected")
    assert told.endswith("regions: tumour changed")

    # No tumour left: no zones, with the reason.
    rest = [f for f in edited[:-1] if f["properties"]["name"] == "host"]
    none = again(results, tmp_path / "none", regions=save(tmp_path / "none.geojson", rest))
    assert none.zones["core"].cd8_density.value is None
    assert none.cd8_density == before.cd8_density


def test_the_pure_function_needs_no_file(results: Path) -> None:
    parts = load_parts(results / "small")
    config = stored_config(results)
    assert remeasure(parts, config).summary == parts.summary
    quick = config.model_copy(update={"measure": config.measure.model_copy(update={"spatial": False})})
    assert remeasure(parts, quick).summary.zones == parts.summary.zones


def test_settings_of_how_another_version_worked_may_be_unknown(results: Path, tmp_path: Path) -> None:
    record = json.loads((results / "run.json").read_text())
    record["config"]["run"]["batch_size"] = 8
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert stored_config(tmp_path) == stored_config(results)
    record["config"]["cells"]["batch_size"] = 8
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="batch_size"):
        stored_config(tmp_path)


def test_what_was_corrected_in_the_review_counts(results: Path, tmp_path: Path) -> None:
    reviewed, out = tmp_path / "reviewed", tmp_path / "out"
    shutil.copytree(results, reviewed)
    before = load_parts(reviewed / "small")
    called = before.cells[(before.cells["cell_class"] == CD8) & before.cells["in_tissue"]]
    gone, other, spared = (int(cell) for cell in called["cell_id"].iloc[:3])
    place = called.iloc[4]

    def act(action: Action) -> int:
        folder, fingerprint = reviewed / "small", before.summary.fingerprint
        return append(folder, action, by="Dr A", fingerprint=fingerprint)[1].number

    act(DeleteCells(cells=(gone,)))
    act(SetClass(cells=(other,), cell_class=OTHER))
    act(Undo(entry=act(DeleteCells(cells=(spared,)))))
    x, y = float(place["x_um"]) + 2, float(place["y_um"]) + 2
    act(AddCell(x_um=x, y_um=y, cell_class=CD8))
    act(DeleteCells(cells=(-act(AddCell(x_um=x, y_um=y, cell_class=CD8)),)))
    act(SetClass(cells=(-act(AddCell(x_um=x + 1, y_um=y, cell_class=CD8)),), cell_class=OTHER))
    (summary,) = remeasure_folder(reviewed, out, review=True, console=QUIET)
    assert summary.n_cd8 == before.summary.n_cd8 - 2 + 1
    assert summary.n_cells == before.summary.n_cells - 1 + 2
    assert "1 deleted, 2 added, 1 given another class" in summary.flags[-1].message
    # Without being asked for, it does not.
    (summary,) = remeasure_folder(reviewed, tmp_path / "plain", console=QUIET)
    assert summary.n_cd8 == before.summary.n_cd8

    square = ((100.0, 100.0), (300.0, 100.0), (300.0, 300.0), (100.0, 300.0))
    act(DrawRegion(region="exclude", outline=square))
    (summary,) = remeasure_folder(reviewed, tmp_path / "drawn", review=True, console=QUIET)
    lost = before.summary.tissue.assessed_area_mm2 - summary.tissue.assessed_area_mm2
    assert 0 < lost <= 0.04 + 1e-3
    assert "regions, in the review: exclude changed" in summary.flags[-1].message

    act(Scribble(region="tumour", line=((10.0, 10.0), (20.0, 20.0))))
    with pytest.raises(ReviewError, match=r"scribbled.*--regions"):
        remeasure_folder(reviewed, tmp_path / "scribbled", review=True, console=QUIET)


def test_what_was_corrected_blinded_or_on_another_result_does_not_count(
    results: Path, tmp_path: Path
) -> None:
    reviewed = tmp_path / "reviewed"
    shutil.copytree(results, reviewed)
    before = load_parts(reviewed / "small")
    first, second = (int(cell) for cell in before.cells["cell_id"].iloc[:2])
    append(reviewed / "small", DeleteCells(cells=(first,)), by="Dr A", fingerprint="earlier")
    append(
        reviewed / "small",
        DeleteCells(cells=(second,)),
        by="Dr B",
        fingerprint=before.summary.fingerprint,
        blinded=True,
        alone=True,
    )
    (summary,) = remeasure_folder(reviewed, tmp_path / "out", review=True, console=QUIET)
    assert summary == before.summary


def test_files_that_do_not_fit_are_refused(results: Path, tmp_path: Path) -> None:
    features = cells_of(results)
    strange_cell = {"objectType": "detection", "classification": {"name": "Tumor cell"}}
    strange = [
        *features[:5],
        {**drawn("Tumor cell", "Polygon", square(100, 100, 9)), "properties": strange_cell},
        drawn(CD8, "Polygon", square(-500, 10, 5)),
        drawn(CD8, "Polygon", square(100, 100, 900)),
    ]
    with pytest.raises(AnnotationError) as error:
        again(results, tmp_path / "a", cells=save(tmp_path / "x.geojson", strange))
    for told in ("1 cells of the class 'Tumor cell'", "1 cells outside", "1 cells larger than 5000 um2"):
        assert told in str(error.value)
    for text, told in (
        ("{}", "not GeoJSON"),
        ("nonsense", "not GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "no cell in it"),
        ("[" * 100_000, "nested"),
    ):
        (tmp_path / "bad.geojson").write_text(text)
        with pytest.raises(AnnotationError, match=told):
            again(results, tmp_path / "a", cells=tmp_path / "bad.geojson")
    with pytest.raises(AnnotationError, match="no region in it"):
        again(results, tmp_path / "a", regions=save(tmp_path / "cells.geojson", features))
    with pytest.raises(AnnotationError, match="cannot be read"):
        again(
            results, tmp_path / "a", regions=save(tmp_path / "line.geojson", [drawn("tumour", "Polygon", 3)])
        )
    folder = tmp_path / "files"
    folder.mkdir()
    with pytest.raises(ConfigError, match="no file of any slide"):
        again(results, tmp_path / "a", cells=folder)
    save(folder / "another.geojson", features)
    with pytest.raises(ConfigError, match=r"files of no slide: another\.geojson"):
        again(results, tmp_path / "a", cells=folder)
    with pytest.raises(ConfigError, match="a folder of their own"):
        again(results, results)
    with pytest.raises(ConfigError, match="not empty"):
        again(results, folder)
    with pytest.raises(ConfigError, match="configuration of this folder"):
        again(folder, tmp_path / "a")


def test_results_of_an_earlier_version_are_refused(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old" / "small"
    shutil.copytree(results / "small", folder)
    shutil.rmtree(folder / "maps.zarr" / "labels" / "tissue")
    with pytest.raises(ResultsError, match="no map of the tissue"):
        load_parts(folder)
    (folder / "regions.parquet").write_bytes(b"PAR1")
    with pytest.raises(ResultsError, match="the regions cannot be read"):
        load_parts(folder)


def test_without_annotations_the_reason_stays(results: Path, tmp_path: Path) -> None:
    parts = load_parts(results / "small")
    bare = remeasure(replace(parts, annotations=None), load_config(None, [])).summary
    assert bare.exclusion.phenotype_not_assessable == "no annotations: the tumour border is not known"
