from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from histo.cells.layers import tensor_shapes
from histo.cells.network import CellNet
from histo.cells.table import CELL_CLASSES
from histo.cells.weights import CLASSES, Weights, load_weights, save_weights
from histo.errors import WeightsError
from histo.stain.deconvolution import STAINS


def _header(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="np") as file:
        header: dict[str, Any] = json.loads(file.metadata()["histo"])
    return header


def _rewrite(source: Path, target: Path, **changes: Any) -> Path:
    tensors = safetensors.numpy.load_file(source)
    header = {**_header(source), **changes}
    safetensors.numpy.save_file(tensors, target, metadata={"histo": json.dumps(header)})
    return target


def test_what_is_saved_is_read_back(random_weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "new" / "w.safetensors"
    saved = save_weights(random_weights, path)
    read = load_weights(str(path))
    assert read.sha256 == saved.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (read.width, read.mpp, read.centre_threshold, read.name) == (8, 0.5, 0.4, "random")
    assert read.training == {"test": {"f1": None}}
    for name, values in random_weights.state.items():
        assert read.state[name].dtype == values.dtype
        np.testing.assert_array_equal(read.state[name], values, strict=True)
    assert list(tmp_path.rglob("*")) == [path.parent, path]


def test_the_shipped_weights_are_good_for_what_the_package_does() -> None:
    weights = load_weights("default")
    assert weights.mpp == 0.5
    assert weights.classes == CLASSES == ("background", *CELL_CLASSES)
    assert weights.stains == STAINS
    assert 0 < weights.centre_threshold < 1
    assert sum(values.nbytes for values in weights.state.values()) < 5e6
    assert not weights.network().training


def test_a_missing_file_says_what_may_be_given(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="default") as error:
        load_weights(str(tmp_path / "none.safetensors"))
    assert error.value.path == tmp_path / "none.safetensors"


def test_damaged_files_are_refused(random_weights: Weights, tmp_path: Path) -> None:
    good = tmp_path / "w.safetensors"
    save_weights(random_weights, good)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-1000])
    text = tmp_path / "text.safetensors"
    text.write_text("not tensors")
    for path in (cut, text):
        with pytest.raises(WeightsError, match="cannot be read"):
            load_weights(str(path))


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(3)}, path)
    with pytest.raises(WeightsError, match="not weights of this package"):
        load_weights(str(path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 99),
        ("classes", ["background", "tumour cell", "other nucleus"]),
        ("stains", ["red", "green", "blue"]),
        ("amount_range", [0.0, 1.0]),
        ("format", "something else"),
    ],
)
def test_weights_for_something_else_are_refused(
    random_weights: Weights, tmp_path: Path, key: str, value: Any
) -> None:
    good = tmp_path / "w.safetensors"
    save_weights(random_weights, good)
    with pytest.raises(WeightsError, match=key if key != "format" else "not weights"):
        load_weights(str(_rewrite(good, tmp_path / "bad.safetensors", **{key: value})))


@pytest.mark.parametrize("changes", [{"width": 16}, {"width": None}, {"mpp": "wide"}, {"training": 3}])
def test_a_header_that_does_not_fit_is_refused(
    random_weights: Weights, tmp_path: Path, changes: dict[str, Any]
) -> None:
    good = tmp_path / "w.safetensors"
    save_weights(random_weights, good)
    with pytest.raises(WeightsError) as error:
        load_weights(str(_rewrite(good, tmp_path / "bad.safetensors", **changes)))
    assert error.value.path is not None


def test_tensors_of_another_width_are_refused(random_weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="do not fit a network of width 12") as error:
        save_weights(replace(random_weights, width=12), tmp_path / "w.safetensors")
    assert error.value.path is not None


@pytest.mark.parametrize("change", ["missing", "more", "shape"])
def test_tensors_that_no_network_has_are_named(random_weights: Weights, tmp_path: Path, change: str) -> None:
    good = tmp_path / "w.safetensors"
    save_weights(random_weights, good)
    tensors = safetensors.numpy.load_file(good)
    if change == "missing":
        del tensors["head.bias"]
    elif change == "more":
        tensors["tail.bias"] = tensors["head.bias"]
    else:
        tensors["head.bias"] = tensors["head.bias"][:-1].copy()
    bad = tmp_path / "bad.safetensors"
    safetensors.numpy.save_file(tensors, bad, metadata={"histo": json.dumps(_header(good))})
    with pytest.raises(
        WeightsError, match=rf"1 tensors do not fit .*{'tail' if change == 'more' else 'head'}"
    ):
        load_weights(str(bad))


@pytest.mark.parametrize("width", [1, 4, 8, 17, 32])
def test_the_tensors_are_those_of_the_network_of_torch(width: int) -> None:
    state = CellNet(width).state_dict()
    assert tensor_shapes(width) == {name: tuple(tensor.shape) for name, tensor in state.items()}
