"""The log: append-only, on the disk before it counts, whole after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from histo.errors import ReviewError
from histo.review.actions import (
    Action,
    AddCell,
    DeleteCells,
    DrawRegion,
    Entry,
    Redo,
    Reopen,
    SetClass,
    SetGate,
    Sign,
    Undo,
    check_action,
    standing,
)
from histo.review.log import LOG, append, read_log, signature_of

TRIANGLE = ((0.0, 0.0), (10.0, 0.0), (10.0, 10.0))
ANY: TypeAdapter[Action] = TypeAdapter(Action)


def add(folder: Path, *actions: Action, by: str = "Dr A", fingerprint: str = "f", **more: bool) -> None:
    for action in actions:
        append(folder, action, by=by, fingerprint=fingerprint, **more)


def corrections(folder: Path) -> list[int]:
    return [number for number, _ in standing(read_log(folder).entries, "f").corrections]


def test_entries_come_back_as_they_were_made(tmp_path: Path) -> None:
    actions: list[Action] = [
        DeleteCells(cells=(3, 4)),
        AddCell(x_um=1.5, y_um=2.5, cell_class="CD8+ cell"),
        SetClass(cells=(7,), cell_class="other nucleus"),
        DrawRegion(region="necrosis", outline=TRIANGLE),
        SetGate(marker="PD-1", threshold=120.0),
    ]
    add(tmp_path, *actions)
    log = read_log(tmp_path)
    assert [entry.action for entry in log.entries] == actions
    assert [entry.number for entry in log.entries] == [1, 2, 3, 4, 5]
    assert {entry.by for entry in log.entries} == {"Dr A"}
    assert all(entry.at_utc.endswith("+00:00") for entry in log.entries)
    assert log.notes == ()


def test_a_folder_without_a_log_has_an_empty_one(tmp_path: Path) -> None:
    assert read_log(tmp_path).entries == ()
    assert signature_of(tmp_path) is None


def test_undo_and_redo_are_entries_and_remove_nothing(tmp_path: Path) -> None:
    add(tmp_path, DeleteCells(cells=(1,)), DeleteCells(cells=(2,)), Undo(entry=1))
    assert corrections(tmp_path) == [2]
    add(tmp_path, Redo(entry=1))
    assert corrections(tmp_path) == [1, 2]
    assert len(read_log(tmp_path).entries) == 4


@pytest.mark.parametrize(
    ("action", "why"),
    [
        (Undo(entry=9), "no correction"),
        (Undo(entry=2), "no correction"),  # an undo itself
        (Undo(entry=1), "already taken back"),
        (Redo(entry=3), "not taken back"),
        (Reopen(reason="x"), "not signed"),
    ],
)
def test_what_cannot_follow_is_refused_and_leaves_no_trace(tmp_path: Path, action: Action, why: str) -> None:
    add(tmp_path, DeleteCells(cells=(1,)), Undo(entry=1), DeleteCells(cells=(2,)))
    before = (tmp_path / LOG).read_bytes()
    with pytest.raises(ReviewError, match=why):
        add(tmp_path, action)
    assert (tmp_path / LOG).read_bytes() == before


def test_a_signature_locks_until_it_is_reopened(tmp_path: Path) -> None:
    add(tmp_path, DeleteCells(cells=(1,)), Sign(name="Dr A", verdict="accepted"))
    assert signature_of(tmp_path) is not None
    for action in (DeleteCells(cells=(2,)), Undo(entry=1), Sign(name="Dr A", verdict="rejected")):
        with pytest.raises(ReviewError, match="signed by Dr A"):
            add(tmp_path, action)
    add(tmp_path, Reopen(reason="second look"), Undo(entry=1))
    assert signature_of(tmp_path) is None
    assert corrections(tmp_path) == []


@settings(max_examples=25)
@given(cut=st.integers(min_value=1, max_value=10_000))
def test_a_line_that_a_kill_cut_short_costs_nothing_else(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    add(
        folder,
        DeleteCells(cells=(1,)),
        DeleteCells(cells=(2,)),
        DrawRegion(region="tumour", outline=TRIANGLE),
    )
    path = folder / LOG
    data = path.read_bytes()
    last = len(data) - data[:-1].rindex(b"\n") - 1
    path.write_bytes(data[: len(data) - min(cut, last)])
    log = read_log(folder)
    # Without its line break alone, an entry is whole.
    whole = 3 if min(cut, last) == 1 else 2
    assert [entry.number for entry in log.entries] == [1, 2, 3][:whole]
    assert len(log.notes) == (0 if whole == 3 or min(cut, last) == last else 1)
    add(folder, DeleteCells(cells=(5,)))
    assert [entry.number for entry in read_log(folder).entries] == [1, 2, 3, 4][: whole + 1]
    # Nothing that was there is gone from the file.
    assert path.read_bytes().startswith(data[: len(data) - min(cut, last)])


def test_a_damaged_line_is_told_and_the_others_count(tmp_path: Path) -> None:
    add(tmp_path, DeleteCells(cells=(1,)), DeleteCells(cells=(2,)), DeleteCells(cells=(3,)))
    path = tmp_path / LOG
    lines = path.read_bytes().split(b"\n")
    lines[1] = b'{"number": 2, "action": \xff'
    path.write_bytes(b"\n".join(lines))
    log = read_log(tmp_path)
    assert [entry.number for entry in log.entries] == [1, 3]
    assert "line 2" in log.notes[0]


def test_corrections_of_cells_do_not_outlive_the_result_and_regions_do(tmp_path: Path) -> None:
    add(tmp_path, DeleteCells(cells=(1,)), DrawRegion(region="tumour", outline=TRIANGLE), fingerprint="old")
    now = standing(read_log(tmp_path).entries, "new")
    assert [number for number, _ in now.corrections] == [2]
    assert now.stale == 1


def test_readers_who_work_apart_neither_see_nor_lock_each_other(tmp_path: Path) -> None:
    add(
        tmp_path,
        DeleteCells(cells=(1,)),
        Sign(name="A", verdict="accepted"),
        by="A",
        blinded=True,
        alone=True,
    )
    add(tmp_path, DeleteCells(cells=(2,)), by="B", blinded=True, alone=True)
    log = read_log(tmp_path)
    assert log.notes == ()
    assert [n for n, _ in standing(log.of("A"), "f").corrections] == [1]
    assert [n for n, _ in standing(log.of("B"), "f").corrections] == [3]
    assert standing(log.of("B"), "f").signed is None


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "delete_cells", "cells": []},
        {"kind": "delete_cells", "cells": list(range(20_000))},
        {"kind": "add_cell", "x_um": float("nan"), "y_um": 0, "cell_class": "CD8+ cell"},
        {"kind": "add_cell", "x_um": 1e9, "y_um": 0, "cell_class": "CD8+ cell"},
        {"kind": "add_cell", "x_um": 1, "y_um": 0, "cell_class": "T cell"},
        {"kind": "set_class", "cells": [1], "cell_class": "CD8+ cell\n"},
        {"kind": "draw_region", "region": "../etc", "outline": TRIANGLE},
        {"kind": "draw_region", "region": "tumour", "outline": TRIANGLE[:2]},
        {"kind": "draw_region", "region": "tumour", "outline": [[0, 0], [1, 1], [2, 2]]},
        {"kind": "draw_region", "region": "tumour", "outline": [[k, k * k] for k in range(20_001)]},
        {"kind": "sign", "name": "  ", "verdict": "accepted"},
        {"kind": "sign", "name": "A\nB", "verdict": "accepted"},
        {"kind": "sign", "name": "A", "verdict": "perfect"},
        {"kind": "sign", "name": "A", "verdict": "accepted", "comment": "x" * 5000},
        {"kind": "reopen", "reason": ""},
        {"kind": "erase everything"},
        {"kind": "undo", "entry": 0},
        {"kind": "undo", "entry": 1, "more": 1},
    ],
)
def test_actions_are_checked(data: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ANY.validate_python(data)


def test_names_of_any_script_are_kept(tmp_path: Path) -> None:
    add(
        tmp_path,
        Sign(name="Bj\u00f6rk \u5f20\u4f1f", verdict="accepted", comment='"quoted"\nand more'),
        by="\u5f20\u4f1f",
    )
    (line,) = (tmp_path / LOG).read_text("utf-8").splitlines()
    assert json.loads(line)["by"] == "\u5f20\u4f1f"
    entry = read_log(tmp_path).entries[0]
    assert isinstance(entry, Entry)
    assert entry.action.kind == "sign"


def test_a_log_that_cannot_be_read_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / LOG).mkdir(parents=True)
    with pytest.raises(ReviewError, match="cannot be read"):
        read_log(tmp_path)
    with pytest.raises(ReviewError):
        check_action((), Redo(entry=1))
