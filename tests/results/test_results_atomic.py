from __future__ import annotations

from pathlib import Path

import pytest

from histo.errors import ResultsError
from histo.results.atomic import commit, part_path, replacing, write_bytes, write_text


def test_text_is_utf8_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "alt")
    write_text(path, "µm²")
    assert path.read_bytes() == "µm²".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as part:
        part.write_text(str(part.write_text("half") / 0))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_run_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    part_path(path).write_bytes(b"left behind by a killed run")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    path, part = tmp_path / "m.zarr", tmp_path / "part"
    for folder, name in ((path, "old"), (part, "new")):
        folder.mkdir()
        (folder / name).touch()
    commit(part, path)
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["m.zarr"]


def test_no_folder_to_write_to_says_so(tmp_path: Path) -> None:
    path = tmp_path / "none" / "a.txt"
    with pytest.raises(ResultsError, match="cannot be written") as caught:
        write_text(path, "x")
    assert caught.value.path == path
    assert caught.value.fix
