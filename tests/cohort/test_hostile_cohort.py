"""Manifests and results of any bytes: read, or refused with a reason."""

from __future__ import annotations

from random import Random

import pytest
from hostile import damage, seeds_are_read, survives_damage
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("reader", ["manifest", "summary", "slides_table", "states"])
@damage
@given(random=st.randoms(use_true_random=False))
def test_damaged_files_are_read_or_refused(reader: str, random: Random) -> None:
    survives_damage(reader, random)


@pytest.mark.parametrize("reader", ["manifest", "summary", "slides_table", "states"])
def test_whole_ones_are_read(reader: str) -> None:
    assert seeds_are_read(reader)
