"""What may be said of a state: every name and description of one is made, or checked, here.

One checkpoint marker shows "checkpoint-positive" cells. "Exhaustion-compatible" needs PD-1 together with
TIM-3, LAG-3, TOX or CD39; "progenitor" and "terminal" need TCF1. That a cell is exhausted is never said.
"""

from __future__ import annotations

import re
from typing import Final

from histo.errors import ConfigError
from histo.measure.state.names import CHECKPOINTS
from histo.measure.state.rules import Rule, conjunction

_COMPATIBLE: Final = ("TIM-3", "LAG-3", "TOX", "CD39")
_FORBIDDEN: Final = re.compile(
    r"exhaust(?!ion[- ]compatible)|dysfunction|\bt?p?ex\b|\btp?ex|anerg|senescen", re.I
)
LIMITS: Final = (
    "Markers on an image show which molecules a cell carries, not what it can do. PD-1 alone is found on "
    "activated cells as well. Exhaustion-compatible means that the markers of a cell fit exhaustion, which "
    "is a matter of function and was not measured."
)


def phenotype_of(rule: Rule) -> str | None:
    """Return a conjunction as it is written in the field, "CD8+PD-1+TIM-3+TCF1-"; None for other rules."""
    signs = conjunction(rule)
    if signs is None:
        return None
    return (
        "CD8+"
        + "".join(f"{marker}{' bright ' if sign == '^' else sign}" for marker, sign in signs.items()).strip()
    )


def describe_state(name: str, rule: Rule) -> str:
    """Say what cells of a state are, in the words that its markers allow."""
    phenotype = phenotype_of(rule) or f"CD8+ cells that meet the rule of {name!r}"
    kinds = [
        word for word in ("exhaustion-compatible", "progenitor", "terminal") if word in allowed_words(rule)
    ]
    if "progenitor" in kinds:
        return f"{phenotype}: progenitor phenotype"
    if "terminal" in kinds:
        return f"{phenotype}: terminal phenotype, exhaustion-compatible"
    if kinds:
        return f"{phenotype}: exhaustion-compatible"
    if "checkpoint-positive" in allowed_words(rule):
        return f"{phenotype}: checkpoint-positive"
    return phenotype


def allowed_words(rule: Rule) -> frozenset[str]:
    """Return which of the words with a condition a rule's markers allow.

    progenitor : PD-1+ and TCF1+, without TIM-3+. terminal : PD-1+, TIM-3+ and TCF1-.
    exhaustion-compatible : PD-1+ with TIM-3, LAG-3, TOX or CD39 positive.
    checkpoint-positive : any co-inhibitory receptor positive.
    """
    signs = conjunction(rule)
    if signs is None:
        return frozenset()
    positive = {marker for marker, sign in signs.items() if sign != "-"}
    words = set()
    if positive & set(CHECKPOINTS):
        words.add("checkpoint-positive")
    if "PD-1" in positive:
        if positive & set(_COMPATIBLE):
            words.add("exhaustion-compatible")
        if "TCF1" in positive and "TIM-3" not in positive:
            words.add("progenitor")
        if "TIM-3" in positive and signs.get("TCF1") == "-":
            words.add("terminal")
    return frozenset(words)


def check_state_name(name: str, rule: Rule) -> None:
    """Refuse a name that says more than the rule's markers show.

    Raises ConfigError: "exhausted" and its like in any name; "exhaustion-compatible", "progenitor",
    "terminal" and "checkpoint-positive" where the markers do not allow them.
    """
    if _FORBIDDEN.search(name):
        raise ConfigError(
            f"a state cannot be called {name!r}: no marker on an image shows exhaustion",
            fix='Call it by its markers, e.g. "PD-1+TIM-3+"; with PD-1 and TIM-3, LAG-3, TOX or CD39 a name '
            'may say "exhaustion-compatible"',
        )
    said = name.casefold().replace("exhaustion compatible", "exhaustion-compatible")
    allowed = allowed_words(rule)
    needs = {
        "exhaustion-compatible": "PD-1 with TIM-3, LAG-3, TOX or CD39",
        "progenitor": "PD-1+ and TCF1+, and not TIM-3+",
        "terminal": "PD-1+, TIM-3+ and TCF1-",
        "checkpoint-positive": "a co-inhibitory receptor",
    }
    for word, need in needs.items():
        if word in said and word not in allowed:
            raise ConfigError(f"the state {name!r} needs {need} in its rule", fix="Call it by its markers")


def label_of(rule: Rule) -> str:
    """Return the name of a default state: "PD-1+TIM-3+TCF1-", "PD-1 bright"."""
    signs = conjunction(rule)
    if signs is None:
        raise ValueError("only a conjunction has such a name")
    return "".join(f"{marker}{' bright' if sign == '^' else sign}" for marker, sign in signs.items())
