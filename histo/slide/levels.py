"""What backends share: geometry of stored levels, pixel types, RGB detection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RGB = ("red", "green", "blue")
# No panel has more; a number above it is damage, and would be believed with memory.
MAX_CHANNELS = 512
# One stored tile, strip or chunk above this, decoded, is no tile.
MAX_TILE_BYTES = 1 << 28


def downsample(size0: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """Return how many level-0 pixels one pixel of a level spans, (x, y).

    A writer that halves drops or adds the odd last row, so 4443 px become 2221: where both sides are within
    one pixel of the same whole factor, that factor is meant, not the ratio of the sizes.
    """
    factor = round(size0[0] / size[0])
    if factor >= 1 and all(abs(small - large / factor) < 1 for large, small in zip(size0, size, strict=True)):
        return float(factor), float(factor)
    return size0[0] / size[0], size0[1] / size[1]


def served_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that reads give for a stored type: uint8, uint16 or float32."""
    if dtype == np.bool_:
        return np.dtype(np.uint8)
    if dtype.kind == "u" and dtype.itemsize in (1, 2):
        return np.dtype(f"u{dtype.itemsize}")
    return np.dtype(np.float32)


def is_rgb(
    names: Sequence[str], colours: Sequence[tuple[int, int, int] | None], dtype: np.dtype[Any]
) -> bool:
    """Tell whether three channels are the planes of one 8-bit colour picture, by their names or colours."""
    if len(names) != 3 or dtype != np.uint8:
        return False
    short = tuple(name.strip().lower()[:1] for name in names)
    full = tuple(name.strip().lower() for name in names)
    if full == RGB or (short == ("r", "g", "b") and all(len(name) == 1 for name in full)):
        return True
    pure = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    unnamed = all(not name or name.startswith("channel") for name in full)
    return unnamed and tuple(colours) == pure


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return channel names that can be asked for: "channel 0" for none, " (2)" after a name seen before."""
    out: list[str] = []
    for index, name in enumerate(names):
        plain = name or f"channel {index}"
        seen = sum(earlier == name for earlier in names[:index]) if name else 0
        out.append(f"{plain} ({seen + 1})" if seen else plain)
    return out


def over_background(rgba: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Lay 8-bit RGBA pixels (straight alpha) over a background colour; (height, width, 3)."""
    alpha = rgba[..., 3:].astype(np.uint16)
    if alpha.size == 0 or alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    back = np.asarray(background, dtype=np.uint16)
    mixed = rgba[..., :3] * alpha + back * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)
