"""What a measure of a slide is, in words: for tables, reports and comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scale = Literal["log2", "linear"]


@dataclass(frozen=True)
class Measure:
    """A measure of a slide.

    name : as in `summary.json` and `slides.csv`. label : short, for people. unit : of its value.
    meaning : what it is. higher_means : what a higher value says. source : of the definition.
    scale : how groups are compared: "log2" of value + `offset`, or the value itself.
    """

    name: str
    label: str
    unit: str
    meaning: str
    higher_means: str
    source: str
    scale: Scale = "linear"
    offset: float = 0.0
