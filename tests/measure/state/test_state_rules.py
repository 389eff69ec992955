from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo.errors import ConfigError
from histo.measure.state.names import identities, identity
from histo.measure.state.rules import Call, apply_rule, calls_in, conjunction, parse_rule


def calls(**values: list[bool | None]) -> dict[str, object]:
    return {
        f"{name[:-7]}^" if name.endswith("_bright") else f"{name}+": pd.array(cells, dtype="boolean")
        for name, cells in values.items()
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", [True, True, False, False]),
        ("A+", [True, True, False, False]),
        ("!A", [False, False, True, True]),
        ("A & !B", [False, True, False, False]),
        ("A&B|!A&!B", [True, False, False, True]),
        ("A & (B | !A)", [True, False, False, False]),
        ("!(A | B)", [False, False, False, True]),
        ("!!A", [True, True, False, False]),
    ],
)
def test_rules_bind_as_they_read(text: str, expected: list[bool]) -> None:
    cells = calls(A=[True, True, False, False], B=[True, False, True, False])
    assert list(apply_rule(parse_rule(text), cells)) == expected


def test_bright_is_a_call_of_its_own() -> None:
    rule = parse_rule("PD-1^ & !TIM-3")
    assert calls_in(rule) == (Call("PD-1", bright=True), Call("TIM-3"))
    assert [call.column for call in calls_in(rule)] == ["PD-1^", "TIM-3+"]


def test_a_missing_call_counts_only_where_it_decides() -> None:
    cells = calls(A=[None, None, False], B=[True, False, None])
    assert list(apply_rule(parse_rule("A & B"), cells)) == [pd.NA, False, False]
    assert list(apply_rule(parse_rule("A | B"), cells)) == [True, pd.NA, pd.NA]


def test_markers_of_a_rule_come_once_and_by_what_they_mean() -> None:
    rule = parse_rule("PDCD1 & HAVCR2 | CD279 & TCF7")
    assert [call.marker for call in calls_in(rule)] == ["PD-1", "TIM-3", "TCF1"]


def test_only_conjunctions_have_signs() -> None:
    assert conjunction(parse_rule("PD-1^ & TIM-3 & !TCF1")) == {"PD-1": "^", "TIM-3": "+", "TCF1": "-"}
    assert conjunction(parse_rule("PD-1 | TIM-3")) is None
    assert conjunction(parse_rule("!(PD-1 & TIM-3)")) is None


@pytest.mark.parametrize(
    ("text", "where"),
    [("", 1), ("PD-1 &", 7), ("& PD-1", 1), ("(PD-1", 6), ("PD-1)", 5), ("PD-1 TIM-3", 5), ("PD-1 ^", 5)],
)
def test_what_is_no_rule_says_where(text: str, where: int) -> None:
    with pytest.raises(ConfigError, match=f"at character {where}"):
        parse_rule(text)


@pytest.mark.parametrize(
    ("name", "marker"),
    [
        ("PD1", "PD-1"),
        ("pdcd1", "PD-1"),
        ("TCF-1", "TCF1"),
        ("GranzymeB", "GZMB"),
        ("granzyme_b", "GZMB"),
        ("Ki-67", "Ki67"),
        ("CD103", "CD103"),
        ("PD-L1", "PD-L1"),
        ("FOXP3", "FOXP3"),
    ],
)
def test_markers_by_any_of_their_names(name: str, marker: str) -> None:
    assert identity(name) == marker


def test_one_marker_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="'PD-1' and 'CD279' are both PD-1"):
        identities(["PD-1", "TIM-3", "CD279"])


NAMES = ("PD-1", "TIM-3", "TOX")
RULES = st.recursive(
    st.sampled_from(NAMES),
    lambda inner: st.one_of(
        inner.map(lambda rule: f"!({rule})"),
        st.tuples(inner, st.sampled_from("&|"), inner).map(
            lambda parts: f"({parts[0]}) {parts[1]} ({parts[2]})"
        ),
    ),
    max_leaves=8,
)


@given(RULES, st.lists(st.booleans(), min_size=3, max_size=3))
def test_rules_agree_with_python(text: str, values: list[bool]) -> None:
    by_name = dict(zip(NAMES, values, strict=True))
    python = text.replace("!", " not ").replace("&", " and ").replace("|", " or ")
    for name, value in by_name.items():
        python = python.replace(name, str(value))
    cells = {f"{name}+": pd.array([value], dtype="boolean") for name, value in by_name.items()}
    assert bool(apply_rule(parse_rule(text), cells)[0]) == eval(python)
