"""Where the tables of known programs keep the intensity of a marker, and HALO the thresholds it used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from histo.panel import Compartment
from histo.tables.file import TableFile, key
from histo.tables.layouts import Format

# What programs call the compartments, in the order in which they are looked for. Neither measures a ring.
_HALO: Final[Mapping[Compartment, tuple[str, ...]]] = {
    "nucleus": ("nucleus",),
    "ring": ("membrane", "cytoplasm"),
    "cell": ("cell",),
}
_INFORM: Final[Mapping[Compartment, tuple[str, ...]]] = {
    "nucleus": ("nucleus",),
    "ring": ("membrane", "cytoplasm"),
    "cell": ("entire cell",),
}
_DYE: Final = re.compile(
    r"Dye \d+:(?P<name>[^;]+);(?P<settings>.*?)(?=Dye \d+:|phenotype_name:|$)", re.DOTALL
)
_THRESHOLD: Final = re.compile(r"dye_(?P<part>nuclei|cyto|membrane)_positive_threshold:(?P<value>[-+.\deE]+)")
_PARTS: Final = {"nuclei": "nucleus", "cyto": "cytoplasm", "membrane": "membrane"}


def intensity_header(table: TableFile, fmt: Format, channel: str, compartment: Compartment) -> str | None:
    """Return the column of a marker's mean intensity in a compartment, or None where it is not known.

    Parameters
    ----------
    channel : what the table calls the marker or its dye: "PD1" of HALO's "PD1 (Opal 650)", "Cy3" of inForm.
        In other tables, the column itself.
    compartment : "ring" is the membrane where the program measured one, else the cytoplasm.
    """
    wanted = key(channel)
    if fmt not in ("halo", "inform"):
        found = [name for name in table.names if name == channel] or [
            name for name in table.names if key(name) == wanted
        ]
        return found[0] if len(found) == 1 else None
    for part in (_HALO if fmt == "halo" else _INFORM)[compartment]:
        if fmt == "halo":
            pattern = rf"{re.escape(wanted)}( .*)? {part} intensity"
        else:
            pattern = rf"{part} {re.escape(wanted)}( .*)? mean\b.*"
        found = [name for name in table.names if re.fullmatch(pattern, key(name))]
        if len(found) == 1:
            return found[0]
    return None


def halo_thresholds(inputs: str) -> dict[str, dict[str, float]]:
    """Return HALO's thresholds by dye ("PD1 (Opal 650)") and compartment, from the column Analysis Inputs.

    HALO calls a cell positive for a dye where any of its compartments is above its threshold.
    """
    return {
        dye["name"].strip(): {
            _PARTS[found["part"]]: float(found["value"]) for found in _THRESHOLD.finditer(dye["settings"])
        }
        for dye in _DYE.finditer(inputs)
    }
