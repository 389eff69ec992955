"""Rules over markers, such as "PD-1 & TIM-3 & !TCF1"; "PD-1^" is PD-1 bright."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from histo.errors import ConfigError
from histo.measure.state.names import identity

_MAX_NESTED: Final = 50
_TOKEN: Final = re.compile(r"\s*(?:(?P<sign>[&|!()])|(?P<name>[^\s&|!()^+]+)(?P<bright>\^)?\+?)")


@dataclass(frozen=True)
class Call:
    """A marker that is positive, or bright."""

    marker: str
    bright: bool = False

    @property
    def column(self) -> str:
        """Name of its column: "PD-1+", or "PD-1^" for bright."""
        return f"{self.marker}{'^' if self.bright else '+'}"


@dataclass(frozen=True)
class Not:
    """What is not so."""

    of: Rule


@dataclass(frozen=True)
class All:
    """What is so in every part."""

    parts: tuple[Rule, ...]


@dataclass(frozen=True)
class Any_:
    """What is so in one part at least."""

    parts: tuple[Rule, ...]


Rule = Call | Not | All | Any_


def parse_rule(text: str) -> Rule:
    """Return the rule that a text states: "&", "|", "!", parentheses, markers, and "^" after a bright one.

    "!" binds most, then "&", then "|". Markers are named as `identity` does; a "+" after one changes nothing.

    Raises
    ------
    ConfigError : the text is no rule; it says where.
    """
    if text.count("(") + text.count("!") > _MAX_NESTED:
        raise ConfigError(
            f"{text[:80]!r} ... is no rule: it has more than {_MAX_NESTED} parentheses and negations",
            fix="Write it shorter",
        )
    tokens = []
    position = 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise _no_rule(text, position, "a marker, &, |, ! or a parenthesis")
        tokens.append(match)
        position = match.end()
    parser = _Parser(text, tokens)
    rule = parser.either()
    if parser.sign() is not None or parser.at < len(tokens):
        raise _no_rule(text, parser.position(), "& or |")
    return rule


class _Parser:
    def __init__(self, text: str, tokens: list[re.Match[str]]) -> None:
        self.text, self.tokens, self.at = text, tokens, 0

    def sign(self) -> str | None:
        return self.tokens[self.at]["sign"] if self.at < len(self.tokens) else None

    def position(self) -> int:
        return self.tokens[self.at].start() if self.at < len(self.tokens) else len(self.text)

    def either(self) -> Rule:
        parts = self._joined("|", self.both)
        return parts[0] if len(parts) == 1 else Any_(parts)

    def both(self) -> Rule:
        parts = self._joined("&", self.one)
        return parts[0] if len(parts) == 1 else All(parts)

    def _joined(self, sign: str, part: Callable[[], Rule]) -> tuple[Rule, ...]:
        parts = [part()]
        while self.sign() == sign:
            self.at += 1
            parts.append(part())
        return tuple(parts)

    def one(self) -> Rule:
        sign = self.sign()
        if sign == "!":
            self.at += 1
            return Not(self.one())
        if sign == "(":
            self.at += 1
            rule = self.either()
            if self.sign() != ")":
                raise _no_rule(self.text, self.position(), "a closing parenthesis")
            self.at += 1
            return rule
        if sign is not None or self.at == len(self.tokens):
            raise _no_rule(self.text, self.position(), "a marker")
        token = self.tokens[self.at]
        self.at += 1
        return Call(identity(token["name"]), token["bright"] is not None)


def calls_in(rule: Rule) -> tuple[Call, ...]:
    """Return every call that a rule needs, in its order."""
    if isinstance(rule, Call):
        return (rule,)
    if isinstance(rule, Not):
        return calls_in(rule.of)
    return tuple(dict.fromkeys(call for part in rule.parts for call in calls_in(part)))


def apply_rule(rule: Rule, calls: Mapping[str, Any]) -> Any:
    """Return for each cell whether a rule holds; NA where a missing call decides (Kleene's logic).

    Parameters
    ----------
    calls : (n,) nullable booleans by `Call.column`.
    """
    if isinstance(rule, Call):
        return calls[rule.column]
    if isinstance(rule, Not):
        return ~apply_rule(rule.of, calls)
    values = apply_rule(rule.parts[0], calls)
    for part in rule.parts[1:]:
        other = apply_rule(part, calls)
        values = values & other if isinstance(rule, All) else values | other
    return values


def conjunction(rule: Rule) -> Mapping[str, str] | None:
    """Return the sign ("+", "-", "^") of each marker where a rule asks for all of them at once, else None."""
    signs: dict[str, str] = {}
    for part in rule.parts if isinstance(rule, All) else (rule,):
        inner = part.of if isinstance(part, Not) else part
        if not isinstance(inner, Call) or (isinstance(part, Not) and inner.bright) or inner.marker in signs:
            return None
        signs[inner.marker] = "-" if isinstance(part, Not) else "^" if inner.bright else "+"
    return signs


def _no_rule(text: str, position: int, wanted: str) -> ConfigError:
    return ConfigError(
        f"{text!r} is no rule: {wanted} is missing at character {position + 1}",
        fix='Write e.g. "PD-1 & TIM-3 & !TCF1"; "PD-1^" is PD-1 bright',
    )
