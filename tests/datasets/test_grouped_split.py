"""Patients stay together: the split of a dataset into train, validation and test."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from histo.datasets.image import AnnotatedImage, Item, Split
from histo.datasets.split import grouped_split
from histo.errors import DatasetError

PARTS: tuple[Split, ...] = ("train", "validation", "test")
_PIXELS = np.zeros((1, 1, 3), np.uint8)


def item(name: str, group: str, split: Split | None = None) -> Item:
    return Item(name, group, split, partial(AnnotatedImage, "brightfield", _PIXELS, 0.5))


def named(divided: dict[Split, tuple[Item, ...]]) -> dict[Split, list[str]]:
    return {part: [one.name for one in divided[part]] for part in PARTS}


@st.composite
def datasets(draw: st.DrawFn) -> list[Item]:
    pairs = draw(
        st.lists(
            st.tuples(st.integers(0, 7), st.sampled_from((None, "train", "validation", "test"))), max_size=40
        )
    )
    return [item(f"image {i}", f"patient {group}", split) for i, (group, split) in enumerate(pairs)]


SHARES = st.sampled_from((0.0, 0.1, 0.3, 0.45))


@given(items=datasets(), validation=SHARES, test=SHARES, seed=st.integers(0, 5))
def test_no_group_lies_in_two_parts(items: list[Item], validation: float, test: float, seed: int) -> None:
    in_test = {one.group for one in items if one.split == "test"}
    in_validation = {one.group for one in items if one.split == "validation"} - in_test
    rest = {one.group for one in items} - in_test - in_validation
    to_fill = (test > 0 and not in_test) + (validation > 0 and not in_validation)
    if to_fill and len(rest) <= to_fill:
        with pytest.raises(DatasetError, match="too few groups"):
            grouped_split(items, validation=validation, test=test, seed=seed)
        return
    divided = grouped_split(items, validation=validation, test=test, seed=seed)
    groups = {part: {one.group for one in divided[part]} for part in PARTS}
    assert sum(map(len, groups.values())) == len(set().union(*groups.values()))
    # A published part is kept as it is; another one is filled where it is asked for.
    if in_test:
        assert [one for one in items if one.split == "test"] == list(divided["test"])
    else:
        assert bool(groups["test"]) == (test > 0)
    if in_validation:
        published = [one for one in items if one.split == "validation" and one.group in in_validation]
        assert published == list(divided["validation"])
    else:
        assert bool(groups["validation"]) == (validation > 0)
    # All others are there, and something is left to train on.
    kept = {one.name for part in PARTS for one in divided[part]}
    assert all(one.name in kept for one in items if one.group in rest)
    assert bool(groups["train"]) == bool(rest)


@given(items=datasets(), seed=st.integers(0, 5), data=st.data())
def test_the_same_seed_gives_the_same_split_in_any_order(
    items: list[Item], seed: int, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(items))
    try:
        one = grouped_split(items, validation=0.2, test=0.2, seed=seed)
    except DatasetError:
        assume(False)
    other = grouped_split(shuffled, validation=0.2, test=0.2, seed=seed)
    assert {part: set(names) for part, names in named(one).items()} == {
        part: set(names) for part, names in named(other).items()
    }


def test_shares_are_met_where_groups_are_small() -> None:
    items = [item(f"{i}", f"patient {i // 2}") for i in range(200)]
    divided = grouped_split(items, validation=0.1, test=0.2, seed=1)
    assert [len(divided[part]) for part in PARTS] == [140, 20, 40]
    other = grouped_split(items, validation=0.1, test=0.2, seed=2)
    assert named(other) != named(divided)


def test_a_large_group_does_not_swallow_the_rest() -> None:
    items = [item(f"{i}", "large") for i in range(90)] + [item("s", "small"), item("t", "tiny")]
    for seed in range(10):
        divided = grouped_split(items, validation=0.1, test=0.0, seed=seed)
        assert {one.group for one in divided["validation"]} <= {"small", "tiny"}


def test_published_test_is_kept_and_validation_taken_from_train() -> None:
    items = [item(f"tr{i}", f"p{i}", "train") for i in range(10)]
    items += [item(f"te{i}", f"q{i}", "test") for i in range(5)]
    divided = grouped_split(items, validation=0.2, test=0.9 / 2, seed=0)
    assert named(divided)["test"] == [f"te{i}" for i in range(5)]
    assert len(divided["validation"]) == 2
    assert len(divided["train"]) == 8


def test_patients_published_in_two_parts_are_kept_from_training(caplog: pytest.LogCaptureFixture) -> None:
    items = [item("a", "p1", "train"), item("b", "p1", "test"), item("c", "p2", "train"), item("d", "p2")]
    with caplog.at_level(logging.WARNING):
        divided = grouped_split(items, validation=0, test=0, seed=0)
    assert named(divided) == {"train": ["c", "d"], "validation": [], "test": ["b"]}
    assert "1 items left out" in caplog.text


def test_too_few_groups() -> None:
    items = [item("a", "p1"), item("b", "p1"), item("c", "p2")]
    with pytest.raises(DatasetError, match=r"too few groups .* test and validation from: 2"):
        grouped_split(items, validation=0.2, test=0.2, seed=0)
    assert len(grouped_split(items, validation=0.2, test=0, seed=0)["validation"]) == 1
    assert named(grouped_split(items[:2], validation=0, test=0, seed=0))["train"] == ["a", "b"]


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (-0.1, 0.2), (float("nan"), 0.1), (1.0, 0.0)])
def test_shares_that_leave_nothing_are_refused(validation: float, test: float) -> None:
    with pytest.raises(DatasetError, match="leave nothing to train on"):
        grouped_split([item("a", "p1")], validation=validation, test=test, seed=0)
