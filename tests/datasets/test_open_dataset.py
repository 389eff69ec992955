"""The one way in to all datasets, and what is said of their licences."""

from __future__ import annotations

from pathlib import Path

import pytest

from histo.datasets.image import Dataset
from histo.datasets.open import DATASETS, licence_warning, open_dataset
from histo.errors import DatasetError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DatasetError, match=r"no dataset is named 'nuclic'. Give one of nuclick, lysto"):
        open_dataset("nuclic", Path())


@pytest.mark.parametrize("name", DATASETS)
def test_missing_root(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder") as caught:
        open_dataset(name, tmp_path / "none", mpp=0.5)
    assert caught.value.path == tmp_path / "none"


@pytest.mark.parametrize("name", DATASETS)
def test_empty_folder_says_what_was_expected(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"not the layout of .+\. \w+"):
        open_dataset(name, tmp_path, mpp=0.5)


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_is_documented(name: str) -> None:
    assert f"`{name}`" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("commercial", "said"), [(True, None), (False, "forbids commercial use"), (None, "it is not known")]
)
def test_licence_warning(commercial: bool | None, said: str | None) -> None:
    warning = licence_warning(Dataset("x", [], "CC BY-NC-SA 4.0", commercial))
    if said is None:
        assert warning is None
    else:
        assert warning is not None
        assert said in warning
        assert "CC BY-NC-SA 4.0" in warning
