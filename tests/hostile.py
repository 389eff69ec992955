"""Damaged files in the tests beside each reader; what is damaged and how is in `fuzz`."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from random import Random

from fuzz.mutate import mutate
from fuzz.readers import READERS, refusal
from hypothesis import HealthCheck, settings

# A fixed choice of damage: what is found by luck belongs to the long runs.
damage = settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


@cache
def _seeds(name: str) -> list[bytes]:
    return READERS[name].seeds()


def is_read(name: str, data: bytes) -> bool:
    """Tell whether a reader takes bytes; AssertionError where it does not say why it refuses them."""
    with tempfile.TemporaryDirectory() as folder:
        return refusal(READERS[name], data, Path(folder)) is None


def seeds_are_read(name: str) -> bool:
    """Tell whether all valid files are read: damage to what is no good anyway tells nothing."""
    return all(is_read(name, seed) for seed in _seeds(name))


def survives_damage(name: str, random: Random) -> None:
    """Read a damaged file: anything but an error of ours is passed on."""
    is_read(name, mutate(random.choice(_seeds(name)), random))
