"""Every measure is described once, in the code and in the docs."""

from __future__ import annotations

from pathlib import Path

from histo.measure.catalogue import COMPARED, DENSITIES, EXCLUSION, FURTHER
from histo.measure.spatial.measures import SPATIAL, STRUCTURE

ROOT = Path(__file__).resolve().parents[2]
EVERY = {
    measure.name: measure for measure in (*DENSITIES, *EXCLUSION, *FURTHER, *COMPARED, *SPATIAL, *STRUCTURE)
}


def test_names_and_labels_are_told_apart():
    assert len({measure.label for measure in EVERY.values()}) == len(EVERY)


def test_the_docs_name_them_all():
    rows = [
        line for line in (ROOT / "docs" / "measures.md").read_text().splitlines() if line.startswith("| `")
    ]
    told = {row.split("`")[1]: row for row in rows}
    assert set(told) == set(EVERY)
    for name, measure in EVERY.items():
        assert f"| {measure.label} |" in told[name]
        assert f"| {measure.source} |" in told[name]


def test_what_a_cohort_compares_has_no_p_values():
    assert not any(measure.unit == "p" for measure in COMPARED)
