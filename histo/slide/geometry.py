"""Boxes on a pixel grid."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Box:
    """A rectangle of whole pixels on a grid: left, top, width, height. May reach outside the slide."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column that is no longer inside."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row that is no longer inside."""
        return self.y + self.height

    def intersect(self, other: Box) -> Box:
        """Return the common part; its width or height is 0 where there is none."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        return Box(x, y, max(0, min(self.right, other.right) - x), max(0, min(self.bottom, other.bottom) - y))
