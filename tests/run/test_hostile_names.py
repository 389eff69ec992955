"""Names of slides, whatever they are called: folders within the results folder, each its own."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from pathlib import Path, PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import make_summary
from pydantic import ValidationError

from histo.results.slides_table import SlideRow, path_text, read_slides_table, write_slides_table
from histo.run.names import safe_name, slide_ids

NAMES = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        ["", ".", "..", "...", " ", "a/../../b", "..\\..\\b", "\0", "CON", "nul.txt", "Lpt1", "a" * 300]  # noqa: RUF005
        + ["é" * 200, "\udcff", "slides.csv", "run.json", "A.LOG", "-rf", "~", "a\nb", "a:b", "\u202egpj.svs"]
    ),
)


@settings(max_examples=200)
@given(name=NAMES)
def test_a_name_is_one_folder_on_any_file_system(name: str) -> None:
    found = safe_name(name)
    assert found not in ("", ".", "..")
    assert len(PurePath(found).parts) == 1
    assert not set(found) & set('/\\:*?"<>|\0\n')
    assert found == found.strip(". ")
    assert len(found.encode()) <= 101
    assert found.partition(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9"}
    assert found not in {"slides.csv", "slides.parquet", "run.json", "run.log", "cohort.html", "states.csv"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / found).mkdir()
        assert [path.name for path in Path(folder).iterdir()] == [found]


@given(names=st.lists(NAMES.filter(lambda name: "/" not in name and name not in ("", ".", "..")), max_size=8))
def test_no_two_slides_share_a_folder_where_case_and_accents_do_not_count(names: list[str]) -> None:
    slides = [Path("slides") / str(place) / f"{name}.svs" for place, name in enumerate(names)]
    ids = slide_ids([slide for slide in slides if "\0" not in str(slide)])
    assert len({unicodedata.normalize("NFKC", name).casefold() for name in ids}) == len(ids)


def test_names_that_differ_by_case_or_encoding_are_told_apart() -> None:
    ids = slide_ids(
        [Path("A.svs"), Path("a.svs"), Path("b.svs"), Path("caf\u00e9.svs"), Path("cafe\u0301.svs")]
    )
    assert len({name.casefold() for name in ids}) == 5
    assert ids[2] == "b"


def test_a_slide_that_is_called_like_the_hash_of_another() -> None:
    twins = [Path("x/a.svs"), Path("y/a.svs")]
    ids = slide_ids([*twins, Path(f"{slide_ids(twins)[0]}.svs")])
    assert len(set(ids)) == 3


def test_a_path_of_bytes_that_are_no_letters_can_be_written(tmp_path: Path) -> None:
    path = os.fsdecode(b"/slides/\xff.svs")
    assert path_text(path) == "/slides/\\xff.svs"
    write_slides_table(tmp_path, [SlideRow.failed(safe_name(Path(path).stem), path, "damaged")])
    assert read_slides_table(tmp_path)["path"][0] == "/slides/\\xff.svs"


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "a\\b", "", ".hidden", "a\0"])
def test_results_that_name_a_slide_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="slide_id"):
        make_summary(name)
