from __future__ import annotations

import gzip
import json
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from histo.cells.table import CD8, CELL_COLUMNS, OTHER, cell_columns, cell_frame
from histo.results.corrections import AddedCell, CellCorrections, correct_cells, read_cell_corrections
from histo.results.geojson import CellGeoJsonWriter

MPP = (0.25, 0.5)
SIZE_PX = (4000, 2000)


def made_up(n: int, markers: tuple[str, ...] = ()) -> pd.DataFrame:
    """Cells in a row, 20 um apart, squares of 8 um."""
    x = 20.0 * np.arange(1, n + 1)
    columns = {
        name: np.zeros(n) if dtype.kind != "O" else np.full(n, "", object)
        for name, dtype in cell_columns(markers).items()
    }
    columns |= {
        "cell_id": np.arange(1, n + 1),
        "x_um": x,
        "y_um": np.full(n, 50.0),
        "cell_class": np.where(np.arange(n) % 2, CD8, OTHER).astype(object),
        "probability": np.full(n, 0.8),
        "area_um2": np.full(n, 64.0),
    }
    cells = cell_frame(columns, cell_columns(markers))
    return cells.assign(geometry=shapely.box(x - 4, 46.0, x + 4, 54.0))


def went_out(cells: pd.DataFrame, path: Path) -> list[dict[str, object]]:
    with CellGeoJsonWriter(path, MPP, "slide") as writer:
        writer.write(cells.drop(columns="geometry"), cells["geometry"].to_numpy(object))
    with gzip.open(path) as file:
        features: list[dict[str, object]] = json.load(file)["features"]
    return features


FATES = st.lists(st.sampled_from(["stays", "gone", "class", "moved"]), min_size=12, max_size=12)


@settings(max_examples=30)
@given(FATES, st.randoms(use_true_random=False))
def test_what_was_edited_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, fates: list[str], random: Random
) -> None:
    folder = tmp_path_factory.mktemp("edited")
    cells = made_up(12)
    features = went_out(cells, folder / "out.geojson.gz")
    kept = []
    for feature, fate in zip(features, fates, strict=True):
        properties, geometry = feature["properties"], feature["geometry"]
        assert isinstance(properties, dict)
        assert isinstance(geometry, dict)
        if fate == "class":
            was = properties["classification"]["name"]
            properties["classification"] = {"name": OTHER if was == CD8 else CD8}
        if fate == "moved":
            geometry["coordinates"] = [[[x + 8, y] for x, y in geometry["coordinates"][0]]]
        if fate != "gone":
            kept.append(feature)
    if not kept:
        return
    random.shuffle(kept)
    path = folder / "in.geojson"
    path.write_text(json.dumps(kept))
    found = read_cell_corrections(path, cells, slide_id="slide", mpp=MPP, size_px=SIZE_PX)
    ids = {fate: {i + 1 for i, f in enumerate(fates) if f == fate} for fate in set(fates)}
    assert found.deleted == ids.get("gone", set())
    assert set(found.classes) == ids.get("class", set())
    assert set(found.redrawn) == ids.get("moved", set())
    assert not found.added
    corrected = correct_cells(cells, found).astype({"cell_id": int}).set_index("cell_id")
    assert list(corrected.index) == [i for i in range(1, 13) if i not in found.deleted]
    for cell in found.redrawn:
        # 8 px of 0.25 um.
        assert corrected.loc[cell, "x_um"] == cells["x_um"][cell - 1] + 2
    unchanged = [i for i in corrected.index.tolist() if fates[i - 1] == "stays"]
    pd.testing.assert_frame_equal(
        corrected.loc[unchanged], cells.astype({"cell_id": int}).set_index("cell_id").loc[unchanged]
    )


def test_what_was_measured_stays_only_with_its_cell() -> None:
    cells = made_up(4, ("PD-1",))
    corrections = CellCorrections(
        deleted=frozenset({1}),
        classes={2: OTHER},
        redrawn={3: shapely.box(0, 0, 5, 4)},
        added=[AddedCell(CD8, shapely.box(10, 10, 16, 16)), AddedCell(OTHER, shapely.Point(7, 8))],
    )
    assert str(corrections) == "1 deleted, 2 added, 1 given another class, 1 redrawn"
    assert corrections
    assert not CellCorrections()
    found = correct_cells(cells, corrections).set_index("cell_id")
    assert list(found.index) == [2, 3, 4, 5, 6]
    assert list(found.columns) == [*list(cells.columns)[1:]]
    assert dict(found.dtypes) == dict(cells.set_index("cell_id").dtypes)
    assert np.isnan(found.loc[2, "probability"])
    assert found.loc[2, "cd8_ring_mean"] == 0
    assert found.loc[3, ["x_um", "y_um", "area_um2"]].tolist() == [2.5, 2, 20]
    for cell in (3, 5, 6):
        assert found.loc[cell, ["cd8_ring_mean", "PD-1_ring_mean"]].isna().all()
    assert found.loc[6, ["x_um", "y_um"]].tolist() == [7, 8]
    assert found.loc[6, "geometry"].area == pytest.approx(np.pi * 9, rel=0.05)
    assert set(CELL_COLUMNS) <= {"cell_id", *found.columns}


@pytest.mark.parametrize(
    "corrections",
    [CellCorrections(deleted=frozenset({9})), CellCorrections(classes={1: "tumour"})],
)
def test_corrections_of_no_cell_or_class_are_errors(corrections: CellCorrections) -> None:
    with pytest.raises(ValueError, match="no"):
        correct_cells(made_up(2), corrections)
