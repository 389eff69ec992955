"""Adjusted p values, against R's p.adjust and their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histo.cohort.statistics.multiplicity import benjamini_hochberg, holm

p_lists = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12)


def test_as_in_r() -> None:
    # R 4.2.2: p.adjust(c(.01, .02, .03, .04, .05, .2), "BH"), and "holm".
    p = [0.01, 0.02, 0.03, 0.04, 0.05, 0.2]
    assert benjamini_hochberg(p) == pytest.approx([0.06, 0.06, 0.06, 0.06, 0.06, 0.2])
    assert holm(p) == pytest.approx([0.06, 0.1, 0.12, 0.12, 0.12, 0.2])


@settings(max_examples=10)
@given(p_lists)
def test_tests_that_could_not_be_made_stay_so_and_do_not_count(p_values: list[float | None]) -> None:
    made = [p for p in p_values if p is not None]
    for adjust in (benjamini_hochberg, holm):
        adjusted = adjust(p_values)
        assert [p is None for p in adjusted] == [p is None for p in p_values]
        assert [p for p in adjusted if p is not None] == pytest.approx(adjust(made))


@settings(max_examples=10)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_never_smaller_in_order_and_holm_the_stricter(p_values: list[float]) -> None:
    false_discovery = np.array(benjamini_hochberg(p_values), float)
    family_wise = np.array(holm(p_values), float)
    order = np.argsort(p_values, kind="stable")
    for adjusted in (false_discovery, family_wise):
        assert (adjusted >= np.array(p_values) - 1e-12).all()
        assert (np.diff(adjusted[order]) >= -1e-12).all()
        assert (adjusted <= 1).all()
    assert (family_wise >= false_discovery - 1e-12).all()


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_what_is_no_p_value_is_an_error(bad: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.1, bad])
