"""Weights of any bytes: read, or refused with a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hostile import damage, seeds_are_read, survives_damage
from hypothesis import given
from hypothesis import strategies as st

from histo.cells.weights import Weights, load_weights, save_weights
from histo.errors import WeightsError


@pytest.mark.parametrize("reader", ["weights"])
@damage
@given(random=st.randoms(use_true_random=False))
def test_damaged_files_are_read_or_refused(reader: str, random: Random) -> None:
    survives_damage(reader, random)


@pytest.mark.parametrize("reader", ["weights"])
def test_whole_ones_are_read(reader: str) -> None:
    assert seeds_are_read(reader)


def test_a_pickle_named_safetensors_is_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "a.safetensors", tmp_path / "was-here"
    path.write_bytes(b"cposix\nsystem\n(S'touch %s'\ntR." % str(mark).encode())
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(str(path))
    assert not mark.exists()


def test_a_path_with_a_nul_is_an_error_of_ours() -> None:
    with pytest.raises(WeightsError, match="null byte"):
        load_weights("a\0b")


@pytest.mark.parametrize(
    "changes", [{"mpp": 0.0}, {"mpp": float("nan")}, {"centre_threshold": 1.5}, {"width": 257}]
)
def test_numbers_that_no_network_has(
    tmp_path: Path, random_weights: Weights, changes: dict[str, float]
) -> None:
    with pytest.raises(WeightsError, match="header of the weights is damaged"):
        save_weights(replace(random_weights, **changes), tmp_path / "a.safetensors")


def test_weights_that_are_no_numbers(tmp_path: Path, random_weights: Weights) -> None:
    state = {name: values.copy() for name, values in random_weights.state.items()}
    next(iter(state.values())).flat[0] = np.nan
    with pytest.raises(WeightsError, match="not finite"):
        save_weights(replace(random_weights, state=state), tmp_path / "a.safetensors")
