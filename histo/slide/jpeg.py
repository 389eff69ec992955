"""Is a JPEG tile whole? libjpeg fills what is missing with grey and only warns; a slide must not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# In entropy-coded data 0xFF is followed by 0x00 (stuffing), a restart marker (D0-D7) or a real marker.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_SEGMENT_END = re.compile(rb"(?=\xff[\xd0-\xd9])")
_EOI, _SOS, _SOF2 = 0xD9, 0xDA, 0xC2
# Bytes that a decoder which still wants data would turn into other pixels than the grey of a missing block.
_SENTINEL = b"\xa5\x5a\x33\xc7" * 16


def structural_damage(data: bytes) -> str | None:
    """Return what is wrong with the markers of a JPEG stream, or None.

    Finds a stream that is not JPEG, is cut off, or has a stray marker in its entropy-coded data.
    """
    if data[:2] != b"\xff\xd8":
        return "it does not start as a JPEG"
    start, progressive = _scan_start(data)
    if start is None:
        return "its JPEG header is cut off or damaged"
    # The usual stream at the speed of memchr: every 0xFF is stuffed but that of the end marker.
    if data.endswith(b"\xff\xd9") and data.count(b"\xff", start) == data.count(b"\xff\x00", start) + 1:
        return None
    for match in _MARKER.finditer(data, start):
        marker = match[1][0]
        if marker == _EOI:
            return None
        if not progressive:
            return "its JPEG data holds a stray marker"
    return "its JPEG data is cut off"


def missing_blocks(data: bytes, pixels: NDArray[Any], decode: Callable[[bytes], NDArray[Any]]) -> bool:
    """Tell whether a decoded JPEG holds blocks that the stream had no data for.

    libjpeg leaves such blocks at mid-grey (128). Only where one is seen is the stream decoded again, with
    extra bytes before every restart and end marker: a whole stream does not look at them, a short one gives
    other pixels. Not found: a stream that is short by less than one block, or damaged yet long enough.

    Parameters
    ----------
    data : the JPEG stream, structurally sound.
    pixels : (height, width, channels) as `decode` gave them for `data`.
    decode : from stream to pixels.
    """
    centres = pixels[4::8, 4::8] if min(pixels.shape[:2]) > 4 else pixels
    grey = centres[..., 0] == 128
    if not grey.any() or not np.any(np.all(centres[grey] == 128, axis=-1)):
        return False
    start, progressive = _scan_start(data)
    if start is None or progressive:
        return False
    probe = data[:start] + _SEGMENT_END.sub(_SENTINEL, data[start:])
    return not np.array_equal(decode(probe), pixels)


def _scan_start(data: bytes) -> tuple[int | None, bool]:
    """Return where the first entropy-coded data starts, and whether the stream is progressive."""
    position, progressive = 2, False
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None, progressive
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _EOI or length < 2:
            return None, progressive
        progressive |= marker == _SOF2
        position += 2 + length
        if marker == _SOS:
            return position, progressive
    return None, progressive
