"""Which states are told of a batch: those of its markers, and the rules of its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

from histo.errors import ConfigError
from histo.measure.state.names import identities, identity, is_known
from histo.measure.state.rules import All, Call, Not, Rule, calls_in, parse_rule
from histo.measure.state.summary import Gate
from histo.measure.state.words import check_state_name, describe_state, label_of
from histo.panel import Marker, StatesConfig

PROGENITOR: Final = "PD-1+TCF1+"
TERMINAL: Final = "PD-1+TIM-3+TCF1-"
# Beside each marker alone; told where the panel has all their markers.
_DEFAULT_RULES: Final = (
    "PD-1^",
    "PD-1 & TIM-3",
    "PD-1 & TCF1",
    "PD-1 & TIM-3 & !TCF1",
    "PD-1 & TOX",
    "PD-1 & LAG-3",
    "CD39 & CD103",
    "PD-1 & Ki67",
)


@dataclass(frozen=True)
class State:
    """A state by its name and rule; `text` is the rule as written."""

    name: str
    rule: Rule
    text: str

    @property
    def description(self) -> str:
        """What may be said of its cells."""
        return describe_state(self.name, self.rule)


def states_of(markers: Sequence[Marker], config: StatesConfig) -> list[State]:
    """Return the states that are told with some markers.

    Each marker alone that tells states (a checkpoint or state by its role, or one that is known as such),
    then the usual combinations, then the configured rules; these go before a usual one of the same name.

    Raises
    ------
    ConfigError : a rule cannot be read, names a marker that is not in the panel, or has a name that says more
        than its markers show; every mistake is listed.
    """
    present = set(identities([marker.name for marker in markers]).values())
    states: dict[str, State] = {}
    for marker in markers:
        if marker.role in ("checkpoint", "state") or is_known(marker.name):
            rule = parse_rule(marker.name)
            states[label_of(rule)] = State(label_of(rule), rule, marker.name)
    for text in _DEFAULT_RULES:
        rule = parse_rule(text)
        if all(call.marker in present for call in calls_in(rule)):
            states[label_of(rule)] = State(label_of(rule), rule, text)
    mistakes = []
    for name, text in config.rules.items():
        try:
            rule = parse_rule(text)
            unknown = sorted({call.marker for call in calls_in(rule)} - present)
            if unknown:
                raise ConfigError(f"the rule of {name!r} names {', '.join(unknown)}, not in the panel")
            check_state_name(name, rule)
        except ConfigError as error:
            mistakes.append(str(error))
        else:
            states[name] = State(name, rule, text)
    if mistakes:
        raise ConfigError("; ".join(mistakes), fix="Correct states.rules")
    return list(states.values())


def check_markers(markers: Sequence[Marker], config: StatesConfig) -> None:
    """Raise ConfigError where settings name markers that are not in the panel, or one marker twice."""
    present = identities([marker.name for marker in markers])
    mistakes = []
    for setting in ("gates", "min_gates", "bright_gates", "bright_multiples", "negatives"):
        names = getattr(config, setting)
        unknown = [name for name in names if identity(name) not in present.values()]
        if unknown:
            mistakes.append(f"states.{setting} names {', '.join(unknown)}, not in the panel")
        identities(list(names))
    both = sorted(
        {identity(name) for name in config.bright_gates} & set(map(identity, config.bright_multiples))
    )
    if both:
        mistakes.append(f"{', '.join(both)} has both a bright gate and a bright multiple: leave out either")
    if mistakes:
        raise ConfigError("; ".join(mistakes), fix="The panel has " + (", ".join(present) or "no markers"))


def why_not(rule: Rule, gates: Mapping[str, Gate]) -> str | None:
    """Return why a rule cannot be assessed with some gates (by identity), or None."""
    reasons = []
    for call in calls_in(rule):
        reason = why_no_call(call, gates[call.marker])
        if reason is not None:
            reasons.append(f"{call.column}: {reason}")
    return "; ".join(reasons) or None


class NegativeShare(NamedTuple):
    """A share of negative cells, and how many of these tell it; inf where it is taken as it is."""

    value: float = 0.0
    n_cells: float = inf


def negative_share_of(rule: Rule, gates: Mapping[str, Gate]) -> NegativeShare:
    """Return at most how many of the cells that are not in a state are counted as if they were, by its gates.

    A cell that is not "A & B" lacks one of them, so that the larger share bounds both; for "A | B" they add
    up. Of cells that are wrongly called negative nothing is known: "!" adds nothing.
    """
    if isinstance(rule, Call):
        gate = gates[rule.marker]
        if rule.bright or not gate.negative_share:
            return NegativeShare()
        return NegativeShare(gate.negative_share, gate.n_reference or inf)
    if isinstance(rule, Not):
        return NegativeShare()
    shares = [negative_share_of(part, gates) for part in rule.parts]
    if isinstance(rule, All):
        return max(shares, key=lambda share: (share.value, -share.n_cells))
    return NegativeShare(
        min(sum(share.value for share in shares), 0.5), min(share.n_cells for share in shares)
    )


def why_no_call(call: Call, gate: Gate) -> str | None:
    """Return why a marker cannot be called positive (or bright), or None."""
    if gate.not_assessable is not None:
        return gate.not_assessable
    if call.bright:
        return gate.bright_not_assessable
    return None
