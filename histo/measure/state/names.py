"""One name for each marker that states are told by, however a panel spells it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from histo.errors import ConfigError

# Ours, and other names: the protein's, the gene's (HGNC), the cluster of differentiation.
_ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "PD-1": ("PD1", "PDCD1", "CD279"),
    "TIM-3": ("TIM3", "HAVCR2", "CD366"),
    "LAG-3": ("LAG3", "CD223"),
    "TIGIT": (),
    "CTLA-4": ("CTLA4", "CD152"),
    "TOX": (),
    "TCF1": ("TCF-1", "TCF7"),
    "CD39": ("ENTPD1",),
    "CD103": ("ITGAE",),
    "GZMB": ("GranzymeB", "Granzyme-B"),
    "Ki67": ("Ki-67", "MKI67"),
}
_PLAIN: Final = {
    alias.replace("-", "").casefold(): name
    for name, aliases in _ALIASES.items()
    for alias in (name, *aliases)
}
# Co-inhibitory receptors: one of them alone is "checkpoint-positive".
CHECKPOINTS: Final = ("PD-1", "TIM-3", "LAG-3", "TIGIT", "CTLA-4")


def identity(name: str) -> str:
    """Return the marker that a name means ("PDCD1" is "PD-1"); a name that is not known means itself."""
    plain = "".join(letter for letter in name if letter not in "-_. ").casefold()
    return _PLAIN.get(plain, name)


def is_known(name: str) -> bool:
    """Tell whether a marker has a meaning of its own for the states."""
    return identity(name) in _ALIASES


def identities(names: Iterable[str]) -> Mapping[str, str]:
    """Return the marker that each name of a panel means.

    Raises ConfigError where two of them mean the same.
    """
    named: dict[str, str] = {}
    for name in names:
        marker = identity(name)
        if marker in named:
            raise ConfigError(
                f"{named[marker]!r} and {name!r} are both {marker}", fix="Keep one of them in the panel"
            )
        named[marker] = name
    return {name: marker for marker, name in named.items()}
