"""Which slides are pairs, and the landmarks of a pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histo.cohort.manifest import read_manifest
from histo.errors import ConfigError
from histo.sections.error import read_landmarks
from histo.sections.pairs import Pair, pairs_of_manifest, read_pairs


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_pairs_are_read_with_their_landmarks(tmp_path: Path) -> None:
    written(tmp_path / "points.csv", "")
    pairs = read_pairs(
        written(tmp_path / "pairs.csv", "slide;serial;marker;landmarks\na;b;PD-1;points.csv\na;c;TIM-3;\n")
    )
    assert pairs == [Pair("a", "b", "PD-1", tmp_path / "points.csv"), Pair("a", "c", "TIM-3")]


def test_every_mistake_is_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_pairs(
            written(
                tmp_path / "pairs.csv",
                "slide,serial,marker,landmarks\na,,PD-1,\na,a,PD-1,\na,b,PD-1,none.csv\na,b,PD-1,\n",
            )
        )
    for part in (
        "line 2: no serial",
        "line 3: slide and serial",
        "line 4: no file none.csv",
        "line 5: this pair",
    ):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="no column serial, marker"):
        read_pairs(written(tmp_path / "pairs.csv", "slide,other\na,b\n"))
    with pytest.raises(ConfigError, match="names no pair"):
        read_pairs(written(tmp_path / "pairs.csv", "slide,serial,marker\n"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_pairs(tmp_path / "absent.csv")


def test_a_manifest_pairs_the_slides_of_a_lesion(tmp_path: Path) -> None:
    text = "slide,patient,lesion,stain\na,P,L1,cd8_ihc\nb,P,L1,PD-1\nc,P,L1,TIM-3\nd,P,L2,CD8\ne,Q,L1,PD-1\n"
    manifest = read_manifest(written(tmp_path / "cohort.csv", text))
    assert pairs_of_manifest(manifest) == [Pair("a", "b", "PD-1"), Pair("a", "c", "TIM-3")]
    twice = read_manifest(written(tmp_path / "cohort.csv", text + "f,P,L1,CD8\n"))
    with pytest.raises(ConfigError, match=r"L1 has 2 CD8 slides \(a, f\)"):
        pairs_of_manifest(twice)
    none = read_manifest(written(tmp_path / "cohort.csv", "slide,lesion,stain\na,L1,CD8\n"))
    with pytest.raises(ConfigError, match="no lesion has a CD8 slide and another stain"):
        pairs_of_manifest(none)


def test_landmarks_are_checked(tmp_path: Path) -> None:
    head = "x_um,y_um,serial_x_um,serial_y_um\n"
    good = written(tmp_path / "good.csv", head + "1,2,3,4\n" * 4)
    assert np.array_equal(read_landmarks(good), [[1, 2, 3, 4]] * 4)
    with pytest.raises(ConfigError, match="only 1 landmarks, 4 needed"):
        read_landmarks(written(tmp_path / "few.csv", head + "1,2,3,4\n"))
    with pytest.raises(ConfigError, match="no numbers, in line 3"):
        read_landmarks(written(tmp_path / "bad.csv", head + "1,2,3,4\n1,2,x,4\n"))
    with pytest.raises(ConfigError, match="no column y_um"):
        read_landmarks(written(tmp_path / "column.csv", "x_um,serial_x_um,serial_y_um\n1,2,3\n"))
