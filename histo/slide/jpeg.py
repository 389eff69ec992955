"""Is a JPEG tile whole? libjpeg fills what is missing with grey and only warns; a slide must not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.slide.levels import MAX_TILE_BYTES

# In entropy-coded data 0xFF is followed by 0x00 (stuffing), a restart marker (D0-D7) or a real marker.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_SEGMENT_END = re.compile(rb"(?=\xff[\xd0-\xd9])")
# Height and width of the first frame; width and height of a JPEG 2000 codestream.
_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..[\x08\x0c\x10](..)(..)", re.DOTALL)
_SIZ = re.compile(rb"\xff\x4f\xff\x51....(.{4})(.{4})", re.DOTALL)
_EOI, _SOS, _SOF2 = 0xD9, 0xDA, 0xC2
# Bytes that a decoder which still wants data would turn into other pixels than the grey of a missing block.
_SENTINEL = b"\xa5\x5a\x33\xc7" * 16


def structural_damage(data: bytes) -> str | None:
    """Return what is wrong with the markers of a JPEG stream, or None.

    Finds a stream that is not JPEG, is cut off, has a stray marker in its entropy-coded data, or asks for
    more memory than a tile takes.
    """
    if data[:2] != b"\xff\xd8":
        return "it does not start as a JPEG"
    frame = _FRAME.search(data)
    if frame is not None and _is_too_large(frame):
        return "its JPEG header states too many pixels"
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


def damage_2000(data: bytes) -> str | None:
    """Return what is wrong with a JPEG 2000 stream (cut off, or too large for a tile), or None."""
    if b"\xff\xd9" not in data[-16:]:
        return "its JPEG 2000 data is cut off"
    size = _SIZ.search(data)
    if size is not None and _is_too_large(size):
        return "its JPEG 2000 header states too many pixels"
    return None


def _is_too_large(sides: re.Match[bytes]) -> bool:
    return int.from_bytes(sides[1], "big") * int.from_bytes(sides[2], "big") * 4 > MAX_TILE_BYTES


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
