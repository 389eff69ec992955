"""What may be said: science.md asks for these words and no others."""

from __future__ import annotations

import pytest

from histo.errors import ConfigError
from histo.measure.state.definitions import check_markers, states_of
from histo.measure.state.rules import parse_rule
from histo.measure.state.words import LIMITS, allowed_words, check_state_name, describe_state
from histo.panel import Marker, StatesConfig

ALL = ("PD-1", "TIM-3", "LAG-3", "TOX", "TCF1", "CD39", "CD103", "GZMB", "Ki67")


def markers(*names: str) -> list[Marker]:
    return [Marker(name=name, channel=name) for name in names]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("PD-1", "CD8+PD-1+: checkpoint-positive"),
        ("PD-1^", "CD8+PD-1 bright: checkpoint-positive"),
        ("TIM-3", "CD8+TIM-3+: checkpoint-positive"),
        ("PD-1 & TIM-3", "CD8+PD-1+TIM-3+: exhaustion-compatible"),
        ("PD-1 & CD39", "CD8+PD-1+CD39+: exhaustion-compatible"),
        ("PD-1 & TCF1", "CD8+PD-1+TCF1+: progenitor phenotype"),
        ("PD-1 & TIM-3 & !TCF1", "CD8+PD-1+TIM-3+TCF1-: terminal phenotype, exhaustion-compatible"),
        ("PD-1 & Ki67", "CD8+PD-1+Ki67+: checkpoint-positive"),
        ("PD-1 & !TIM-3", "CD8+PD-1+TIM-3-: checkpoint-positive"),
        ("TIM-3 & LAG-3", "CD8+TIM-3+LAG-3+: checkpoint-positive"),
        ("TOX", "CD8+TOX+"),
        ("CD39 & CD103", "CD8+CD39+CD103+"),
        ("PD-1 | TIM-3", "CD8+ cells that meet the rule of 'x'"),
    ],
)
def test_what_is_said_of_a_rule(rule: str, said: str) -> None:
    assert describe_state("x", parse_rule(rule)) == said


def test_nothing_that_is_said_says_exhausted() -> None:
    said = [state.description for state in states_of(markers(*ALL), StatesConfig())]
    assert not any("exhausted" in text.casefold() for text in (*said, LIMITS))
    for word, needed in (("exhaustion-compatible", "PD-1"), ("progenitor", "TCF1"), ("terminal", "TCF1")):
        assert all(needed in text for text in said if word in text)
        assert any(word in text for text in said)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("exhausted", "PD-1 & TIM-3 & LAG-3"),
        ("T cell exhaustion", "PD-1 & TIM-3"),
        ("Tex", "PD-1 & TIM-3"),
        ("Tpex", "PD-1 & TCF1"),
        ("dysfunctional", "PD-1^"),
        ("exhaustion-compatible", "PD-1"),
        ("exhaustion-compatible", "TIM-3 & LAG-3"),
        ("exhaustion-compatible", "PD-1 & !TIM-3"),
        ("progenitor", "PD-1"),
        ("terminal", "PD-1 & TIM-3"),
        ("checkpoint-positive", "GZMB"),
    ],
)
def test_names_that_say_too_much_are_refused(name: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=name):
        check_state_name(name, parse_rule(rule))


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("exhaustion-compatible", "PD-1 & LAG-3"),
        ("progenitor", "PD-1 & TCF1 & !TIM-3"),
        ("terminal", "PD-1 & TIM-3 & !TCF1"),
        ("texture", "GZMB"),
        ("double", "PD-1 & TIM-3"),
    ],
)
def test_names_that_fit_are_taken(name: str, rule: str) -> None:
    check_state_name(name, parse_rule(rule))


def test_allowed_words_of_a_rule_with_or_are_none() -> None:
    assert allowed_words(parse_rule("PD-1 & TIM-3 | PD-1 & LAG-3")) == frozenset()


def test_default_states_are_those_of_the_panel() -> None:
    names = [state.name for state in states_of(markers(*ALL), StatesConfig())]
    assert set(names) >= {
        "PD-1+",
        "PD-1 bright",
        "PD-1+TIM-3+",
        "PD-1+TCF1+",
        "PD-1+TIM-3+TCF1-",
        "TOX+",
        "PD-1+TOX+",
        "LAG-3+",
        "PD-1+LAG-3+",
        "CD39+",
        "CD39+CD103+",
        "GZMB+",
        "Ki67+",
        "PD-1+Ki67+",
    }
    few = [state.name for state in states_of(markers("PDCD1", "HAVCR2", "CK"), StatesConfig())]
    assert few == ["PD-1+", "TIM-3+", "PD-1 bright", "PD-1+TIM-3+"]


def test_configured_rules_come_after_and_every_mistake_is_listed() -> None:
    config = StatesConfig(rules={"double": "PD1 & TIM3"})
    state = states_of(markers("PD-1", "TIM-3"), config)[-1]
    assert (state.name, state.description) == ("double", "CD8+PD-1+TIM-3+: exhaustion-compatible")
    bad = StatesConfig(rules={"a": "PD-1 &", "b": "TOX", "exhausted": "PD-1"})
    with pytest.raises(ConfigError, match=r"'PD-1 &' is no rule.*names TOX, not in the panel.*'exhausted'"):
        states_of(markers("PD-1"), bad)


def test_settings_of_markers_that_are_not_there_are_listed() -> None:
    config = StatesConfig(
        gates={"TOX": 1.0},
        bright_gates={"PD1": 5.0},
        bright_multiples={"PD-1": 3.0},
        negatives={"CD3": "other"},
    )
    with pytest.raises(ConfigError, match=r"gates names TOX.*negatives names CD3.*PD-1 has both"):
        check_markers(markers("PD-1"), config)
