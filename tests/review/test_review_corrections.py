"""What corrections make of cells, regions and numbers, on a slide that the pipeline analysed."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import geopandas
import numpy as np
import pytest
from shapely.geometry import MultiPolygon, box

from histo.cells.table import CD8, OTHER
from histo.errors import ReviewError
from histo.regions.annotations import read_annotations
from histo.regions.place import place_regions
from histo.results.cells_parquet import read_cells
from histo.review.actions import (
    AddCell,
    CountFrame,
    DeleteCells,
    DrawRegion,
    Redo,
    Scribble,
    SetClass,
    SetGate,
    Sign,
    Undo,
)
from histo.review.cells import BLOCK_UM, TILE_UM
from histo.review.ground import draw
from histo.review.overlay import ADDED, CHANGED, DELETED, outline_tile, point_block
from histo.review.server import Desk
from histo.review.slide import SlideUnderReview, Who


def value(slide: SlideUnderReview, name: str, which: str = "new") -> float | None:
    number = next(number for number in slide.now().numbers if number.name == name)
    estimate = getattr(number, which)
    return None if estimate is None else estimate.value


def square(x: float, y: float, edge: float) -> tuple[tuple[float, float], ...]:
    return ((x, y), (x + edge, y), (x + edge, y + edge), (x, y + edge))


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "review" not in path.relative_to(folder).parts
    }


def cell_of(slide: SlideUnderReview, *, cd8: bool) -> int:
    cells = slide.cells
    return int(cells.cell_id[np.flatnonzero((cells.is_cd8 == cd8) & cells.in_tissue)[0]])


def test_without_corrections_every_number_is_that_of_the_run(slide: SlideUnderReview) -> None:
    assert slide.ground_notes() == ()
    numbers = slide.spatial_numbers()
    assert len(numbers) > 40
    for number in numbers:
        assert number.old == number.new, number.name


def test_deleting_adding_and_renaming_cells_changes_the_counts(slide: SlideUnderReview) -> None:
    n, n_cd8 = value(slide, "n_cells"), value(slide, "n_cd8")
    assert n is not None
    assert n_cd8 is not None
    slide.act(DeleteCells(cells=(cell_of(slide, cd8=True),)))
    assert (value(slide, "n_cells"), value(slide, "n_cd8")) == (n - 1, n_cd8 - 1)
    slide.act(SetClass(cells=(cell_of(slide, cd8=False),), cell_class=CD8))
    assert (value(slide, "n_cells"), value(slide, "n_cd8")) == (n - 1, n_cd8)
    inside = slide.cells.x_um[slide.cells.in_tissue][0], slide.cells.y_um[slide.cells.in_tissue][0]
    slide.act(AddCell(x_um=float(inside[0]), y_um=float(inside[1]), cell_class=CD8))
    assert (value(slide, "n_cells"), value(slide, "n_cd8")) == (n, n_cd8 + 1)
    # The old numbers stand beside the new ones.
    assert (value(slide, "n_cells", "old"), value(slide, "n_cd8", "old")) == (n, n_cd8)


def test_an_added_cell_can_be_renamed_and_deleted(slide: SlideUnderReview) -> None:
    n_cd8 = value(slide, "n_cd8")
    entry = slide.act(AddCell(x_um=400.0, y_um=250.0, cell_class=CD8))
    assert slide.cell_near(400.0, 250.0) == -entry.number
    slide.act(SetClass(cells=(-entry.number,), cell_class=OTHER))
    assert slide.cell(-entry.number)["cell_class"] == OTHER
    slide.act(DeleteCells(cells=(-entry.number,)))
    assert value(slide, "n_cd8") == n_cd8
    with pytest.raises(ReviewError, match="no such cell"):
        slide.cell(-entry.number)
    with pytest.raises(ReviewError, match="no such cell"):
        slide.act(DeleteCells(cells=(-entry.number,)))


def test_undo_gives_every_number_back_and_redo_the_corrected_ones(slide: SlideUnderReview) -> None:
    before = slide.now().numbers
    drawn = slide.act(DrawRegion(region="exclude", outline=square(300, 100, 150)))
    after = slide.now().numbers
    assert after != before
    slide.act(Undo(entry=drawn.number))
    assert slide.now().numbers == before
    slide.act(Redo(entry=drawn.number))
    assert slide.now().numbers == after


def test_an_excluded_square_takes_its_area_and_its_cells(slide: SlideUnderReview) -> None:
    area, n = value(slide, "assessed_area_mm2"), value(slide, "n_cells")
    assert area is not None
    assert n is not None
    # On the grid of 8 um, wholly in tissue.
    slide.act(DrawRegion(region="exclude", outline=square(320, 160, 80)))
    cells = slide.cells
    inside = (cells.x_um >= 320) & (cells.x_um < 400) & (cells.y_um >= 160) & (cells.y_um < 240)
    assert value(slide, "assessed_area_mm2") == pytest.approx(area - 0.0064, abs=1e-9)
    assert value(slide, "n_cells") == n - int((inside & cells.in_tissue).sum())
    place = slide.cell(int(cells.cell_id[np.flatnonzero(inside)[0]]))
    assert place["in_tissue"] is False
    assert place["region"] == "exclude"


def test_a_moved_border_moves_the_zones(slide: SlideUnderReview) -> None:
    before = slide.now().regions
    assert before.border is not None
    x = before.border.centroid.x
    slide.act(DrawRegion(region="tumour", outline=((0, 0), (x + 60, 0), (x + 60, 500), (0, 500))))
    after = slide.now().regions
    assert after.border is not None
    assert after.border.centroid.x > x + 40
    cells, corrected = slide.cells, slide.now().corrected
    both = ~np.isnan(cells.signed_distance_um) & ~np.isnan(corrected.signed_distance_um[: len(cells)])
    moved = corrected.signed_distance_um[: len(cells)][both] - cells.signed_distance_um[both]
    assert np.median(moved) < -20
    # Host tissue gave what became tumour.
    shapes = slide.polygons()
    assert shapes["host"].intersection(shapes["tumour"]).area < 1.0


def test_regions_go_out_and_come_back_with_the_same_numbers(
    slide: SlideUnderReview, results: Path, tmp_path: Path
) -> None:
    """Signed regions, given to the pipeline's reader as annotations, make the numbers that were signed."""
    slide.act(DrawRegion(region="exclude", outline=square(320, 160, 80)))
    slide.act(DrawRegion(region="tumour", mode="remove", outline=square(100, 50, 160)))
    slide.act(Sign(name="Dr A", verdict="accepted with corrections", comment="a fold"))
    (path,) = (slide.folder / "review").glob("regions-*.geojson")
    assert set(geopandas.read_file(path)["name"]) >= {"tumour", "host", "exclude"}
    tissue = slide.ground.tissue
    config = slide.config.regions
    again = place_regions(
        read_annotations(path, slide.slide, dict(config.names)),
        tissue=tissue.mask,
        assessed=tissue.assessed,
        coverage=tissue.coverage,
        mpp=tissue.mpp,
        config=config,
    )
    now = slide.now().regions
    # Corners are written to 0.01 px: a pixel of 8 um may fall to the other side.
    assert again.zone_area_mm2 == pytest.approx(now.zone_area_mm2, abs=2 * 64e-6)
    assert again.border_length_um == pytest.approx(now.border_length_um, rel=1e-3)


def test_the_results_of_the_run_are_never_changed(slide: SlideUnderReview, results: Path) -> None:
    before = hashes(results)
    slide.act(DeleteCells(cells=(cell_of(slide, cd8=True),)))
    slide.act(DrawRegion(region="necrosis", outline=square(300, 200, 100)))
    slide.act(Sign(name="Dr A", verdict="rejected"))
    assert hashes(results) == before


def test_what_lies_outside_or_is_not_there_is_refused(slide: SlideUnderReview) -> None:
    for action, why in (
        (AddCell(x_um=5000.0, y_um=1.0, cell_class=CD8), "outside the slide"),
        (DrawRegion(region="tumour", outline=square(5000, 5000, 10)), "outside the slide"),
        (DeleteCells(cells=(999_999,)), "no such cell"),
        (SetClass(cells=(-3,), cell_class=CD8), "no such cell"),
    ):
        with pytest.raises(ReviewError, match=why):
            slide.act(action)
    assert slide.entries == ()


def test_every_cell_is_in_one_tile_and_one_block(slide: SlideUnderReview) -> None:
    cells, now = slide.cells, slide.now()
    slide.act(DeleteCells(cells=(cell_of(slide, cd8=True),)))
    slide.act(SetClass(cells=(cell_of(slide, cd8=False),), cell_class=CD8))
    slide.act(AddCell(x_um=400.0, y_um=250.0, cell_class=CD8))
    now = slide.now()
    n_cells, flags = 0, 0
    for row in range(2):
        for column in range(2):
            data = outline_tile(cells, now.corrected, column, row, {})
            n, m = struct.unpack_from("<II", data)
            assert len(data) == 8 + 18 * n + 4 * m
            x = np.frombuffer(data, "<f4", n, 8 + 4 * n)
            assert ((x >= 0) & (x < TILE_UM)).all()
            flags |= int(np.bitwise_or.reduce(np.frombuffer(data, np.uint8, n, 8 + 15 * n), initial=0))
            n_cells += n
    assert n_cells == len(cells) + 1
    assert flags & DELETED
    assert flags & CHANGED
    assert flags & ADDED
    data = point_block(cells, now.corrected, 0, 0, {})
    (n,) = struct.unpack_from("<I", data)
    assert n == len(cells) + 1
    assert len(data) == 4 + 9 * n
    x = (np.frombuffer(data, "<u2", n, 4) + 0.5) * BLOCK_UM / 65_536
    assert np.allclose(x[:-1], cells.x_um, atol=BLOCK_UM / 65_536)
    # Beside the slide there is nothing, not the next row.
    for column, row in ((7, 7), (1, 0), (0, 1), (-1, 0)):
        assert point_block(cells, now.corrected, column, row, {}) == struct.pack("<I", 0)
    assert outline_tile(cells, now.corrected, 8, 0, {}) == struct.pack("<II", 0, 0)


def test_outlines_of_a_tile_are_those_of_the_run(slide: SlideUnderReview) -> None:
    data = outline_tile(slide.cells, slide.now().corrected, 0, 0, {})
    n, m = struct.unpack_from("<II", data)
    ids = np.frombuffer(data, "<i4", n, 8)
    x, y = (np.frombuffer(data, "<f4", n, 8 + 4 * n * k) for k in (1, 2))
    count = np.frombuffer(data, np.uint8, n, 8 + 17 * n)
    steps = np.frombuffer(data, "<i2", 2 * m, 8 + 18 * n).reshape(m, 2)
    first = np.concatenate([[0], np.cumsum(count.astype(int))])
    table = read_cells(slide.folder / "cells.parquet", ["cell_id", "geometry"]).set_index("cell_id")
    for k in range(0, n, 37):
        outline = np.array(table.loc[ids[k], "geometry"].exterior.coords)
        found = steps[first[k] : first[k + 1]] / 64 + [x[k], y[k]]
        assert np.abs(found - outline).max() < 0.02


def test_drawing_adds_and_takes_away() -> None:
    host = MultiPolygon([box(0, 0, 100, 100)])
    one = DrawRegion(region="tumour", outline=square(0, 0, 50))
    drawn = draw({"host": host}, [one])
    assert drawn["tumour"].area == 2500
    assert drawn["host"].area == 7500
    drawn = draw({"host": host}, [one, DrawRegion(region="necrosis", outline=square(0, 0, 50))])
    assert drawn["tumour"].area == drawn["necrosis"].area == 2500
    drawn = draw({"host": host}, [one, DrawRegion(region="tumour", mode="remove", outline=square(0, 0, 60))])
    assert set(drawn) == {"host"}
    # A bow tie is an outline too.
    bow = DrawRegion(region="tumour", outline=((0, 0), (10, 10), (10, 0), (0, 20)))
    assert draw({}, [bow])["tumour"].is_valid


def test_reading_alone_hides_what_others_did(results: Path) -> None:
    (name,) = (path.parent.name for path in results.glob("*/summary.json"))
    shared = Desk(results, Who("Dr A")).slide(name)
    shared.act(DeleteCells(cells=(cell_of(shared, cd8=True),)))
    desk = Desk(results, Who("Dr B", alone=True))
    (case,) = (case for case in desk.cases.values() if case.slide_id == name)
    blind = desk.slide(case.key)
    assert blind.entries == ()
    assert value(blind, "n_cd8") == value(blind, "n_cd8", "old")


def test_a_gate_of_this_slide_moves_its_share(results: Path) -> None:
    (name,) = (path.parent.name for path in results.glob("*/summary.json"))
    gate = {"marker": "CK", "column": "cd8_ring_mean", "threshold": 0.3}
    (results / "gates.json").write_text(json.dumps({"gates": [gate]}))
    slide = Desk(results, Who("Dr A")).slide(name)
    share = value(slide, "positive_fraction_CK")
    assert share == value(slide, "positive_fraction_CK", "old")
    assert share is not None
    cells = slide.cells
    counted = cells.is_cd8 & cells.in_tissue
    assert share == pytest.approx(float((cells.markers["CK"][counted] > 0.3).mean()))
    bit = np.frombuffer(point_block(cells, slide.now().corrected, 0, 0, slide.gates()), np.uint8)[
        -len(cells) :
    ]
    assert (bit == (cells.markers["CK"] > 0.3)).all()
    slide.act(SetGate(marker="CK", threshold=0.5))
    assert slide.histogram("cd8_ring_mean")["gate"] == 0.5
    assert value(slide, "positive_fraction_CK") < share
    assert value(slide, "positive_fraction_CK", "old") == share
    slide.act(SetGate(marker="CK", threshold=None))
    assert value(slide, "positive_fraction_CK") == share
    with pytest.raises(ReviewError, match="no gate"):
        slide.act(SetGate(marker="PD-1", threshold=1.0))


def test_counting_frames_lie_in_tissue_and_show_the_model_last(slide: SlideUnderReview) -> None:
    told = slide.frames(100.0)
    frames = told["frames"]
    assert 3 <= len(frames) <= 10
    assert told == slide.frames(100.0)
    for k, (x, y) in enumerate(frames):
        for other_x, other_y in frames[:k]:
            assert abs(x - other_x) >= 100 or abs(y - other_y) >= 100
    cells = slide.cells
    true = []
    for k, (x, y) in enumerate(frames, start=1):
        assert slide.frames(100.0)["model"] is None
        inside = cells.is_cd8 & (cells.x_um >= x) & (cells.x_um < x + 100)
        inside &= (cells.y_um >= y) & (cells.y_um < y + 100)
        true.append(int(inside.sum()))
        marks = tuple(zip(cells.x_um[inside].tolist(), cells.y_um[inside].tolist(), strict=True))
        slide.act(CountFrame(frame=k, x_um=x, y_um=y, edge_um=100.0, marks=marks))
    told = slide.frames(100.0)
    assert told["model"] == told["reader"] == true
    assert told["ratio"]["value"] == pytest.approx(1)
    # A count corrects nothing, and is not taken back.
    assert slide.now().standing.corrections == ()
    with pytest.raises(ReviewError, match="no correction"):
        slide.act(Undo(entry=1))
    with pytest.raises(ReviewError, match="outside its frame"):
        slide.act(CountFrame(frame=1, x_um=0, y_um=0, edge_um=100.0, marks=((500.0, 1.0),)))
    assert slide.frames(999.0)["frames"] == []


def test_scribbles_find_the_tumour_anew(slide: SlideUnderReview) -> None:
    before = slide.now()
    true = slide.polygons()["tumour"]
    border = before.regions.border
    assert border is not None
    x = border.centroid.x
    first = slide.act(Scribble(region="tumour", line=((x - 200, 120), (x - 120, 250), (x - 200, 400))))
    # One tissue alone tells nothing: the regions stay, and it is said.
    slide.now()
    assert "nothing to tell it from" in slide.ground_notes()[0]
    assert slide.now().numbers == before.numbers
    slide.act(Scribble(region="host", line=((x + 200, 100), (x + 120, 250), (x + 200, 420))))
    after = slide.now()
    assert slide.ground_notes() == ()
    found = slide.polygons()
    assert set(found) == {"tumour", "host"}
    overlap = found["tumour"].intersection(true).area / found["tumour"].union(true).area
    assert overlap > 0.7
    assert after.numbers != before.numbers
    # What is drawn afterwards lies on top of what was found.
    slide.act(DrawRegion(region="exclude", outline=square(320, 160, 80)))
    assert slide.polygons()["exclude"].area == 6400
    slide.act(Undo(entry=first.number))
    slide.act(Undo(entry=2))
    slide.act(Undo(entry=3))
    assert slide.now().numbers == before.numbers
    with pytest.raises(ReviewError, match="outside the slide"):
        slide.act(Scribble(region="tumour", line=((9000, 1), (9001, 1))))
