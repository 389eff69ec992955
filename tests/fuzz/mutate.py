"""Damage to files: bytes turned, cut and doubled, numbers and words swapped for hostile ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

# Whole values: what a field of text (JSON, XML, CSV, YAML) can be swapped for.
_VALUES = (
    b"0 -1 1 1e999 -1e999 NaN Infinity nan inf 1e308 5e-324 0.0000001 99999999999999999999 4294967296 "
    b'2147483648 65536 -2147483649 null true false [] {} [[]] [{}] "" "a" "\\u0000" ".." "../../x" '
    b'"/etc/passwd" "C:\\\\x" \' " \\ , ; : < > & &a; *a &a ~ ! | @ % #REF! =1+1 \xff \xfe\xff '
    b"\x00 \xc3 \xef\xbb\xbf \xed\xa0\x80 2001-99-99 !!int !!python/name:os.system <<: 1:2:3 \xce\xbc"
).split(b" ")
_LONG = (
    b"9" * 400,
    b"[" * 3000,
    b'{"a":' * 1500,
    b"a" * 5000,
    b"<a>" * 1500,
    b"- " * 1500,
    b"\n" * 50,
    b" " * 50,
)
_TOKEN = re.compile(rb'"[^"\n]{0,80}"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|[A-Za-z_]{2,}')
# Numbers as binary fields hold them.
_NUMBERS = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0xFFFFFFFF,
    10**6,
    1 << 40,
    (1 << 63) - 1,
)


def mutate(data: bytes, random: Random) -> bytes:
    """Return a damaged copy: one to four kinds of damage, one after the other."""
    for _ in range(random.choice((1, 1, 2, 4))):
        data = random.choice(_KINDS)(data, random)
    return data


def _turn(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 3, 20))):
        if out:
            out[_place(out, random)] = random.randrange(256)
    return bytes(out)


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _take_out(data: bytes, random: Random) -> bytes:
    start = random.randrange(len(data) + 1)
    return data[:start] + data[start + random.choice((1, 2, 8, 100)) :]


def _double(data: bytes, random: Random) -> bytes:
    start = random.randrange(len(data) + 1)
    span = data[start : start + random.choice((1, 8, 64, 400))]
    return data[:start] + span * random.choice((2, 2, 100)) + data[start + len(span) :]


def _insert(data: bytes, random: Random) -> bytes:
    start = random.randrange(len(data) + 1)
    return data[:start] + random.choice(random.choice((_VALUES, _VALUES, _LONG))) + data[start:]


def _swap(data: bytes, random: Random) -> bytes:
    """Swap a number, a quoted text or a word for a hostile value, or for another of the file."""
    tokens = [match.span() for match in _TOKEN.finditer(data)]
    if not tokens:
        return _turn(data, random)
    for start, end in sorted(random.sample(tokens, min(len(tokens), random.choice((1, 1, 3)))), reverse=True):
        other = random.choice(tokens)
        value = random.choice((random.choice(_VALUES), data[slice(*other)], random.choice(_LONG)))
        if data[start : start + 1] == b'"' and random.random() < 0.5:
            value = b'"' + value.replace(b'"', b"") + b'"'
        data = data[:start] + value + data[end:]
    return data


def _number(data: bytes, random: Random) -> bytes:
    """Put a striking number over bytes, in either order: lengths, offsets and counts stand there."""
    width = random.choice((1, 2, 4, 8))
    if len(data) < width:
        return data
    start = _place(data[: len(data) - width + 1], random)
    value = random.choice(_NUMBERS) & ((1 << 8 * width) - 1)
    return data[:start] + value.to_bytes(width, random.choice(("little", "big"))) + data[start + width :]


def _place(data: bytes | bytearray, random: Random) -> int:
    """Return a place; headers stand at the start or the end, and are met more often."""
    near = min(len(data), 512)
    return random.choice(
        (random.randrange(len(data)), random.randrange(near), len(data) - 1 - random.randrange(near))
    )


_KINDS: tuple[Callable[[bytes, Random], bytes], ...] = (
    _turn,
    _cut,
    _take_out,
    _double,
    _insert,
    _swap,
    _swap,
    _swap,
    _number,
    _number,
)
