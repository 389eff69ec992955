"""A folder of `histo states`, made from tables of others, as a cohort table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from histo.cohort.manifest import Manifest
from histo.cohort.of_zones import cohort_of_zones
from histo.cohort.states_table import CohortStates, read_states
from histo.cohort.table import CohortTable
from histo.measure.summary import ZONES
from histo.tables.zones import ZoneCount, ZoneSlide, ZoneTable, zone_frame


def cohort_of_states(folder: Path, manifest: Manifest | None = None) -> CohortTable:
    """Read the states of a folder that has no slides of ours; see `read_states` for errors.

    CD8+ cells and areas by zone, where the table had them, give the densities. Zones are taken as they are:
    no smallest area is asked for.
    """
    states = read_states(folder)
    table = ZoneTable(frame=zone_frame(_slides(states)), source_format="states")
    cohort = cohort_of_zones(table, folder.resolve(), manifest)
    return replace(cohort, states=states, positive_name="CD8+")


def _slides(states: CohortStates) -> list[ZoneSlide]:
    # Every state of a slide counts CD8+ cells of which its markers are known: the most is all that are.
    most = states.counts.groupby(["slide_id", "zone"], sort=False)[["n_cd8", "area_mm2"]].max()
    slides = []
    for name in dict.fromkeys(states.counts["slide_id"]):
        zones = {}
        for zone in ZONES:
            n, area = most.loc[(name, zone)] if (name, zone) in most.index else (float("nan"),) * 2
            if n == n:
                zones[zone] = ZoneCount(n_positive=int(n), area_mm2=float(area) if area == area else None)
        slides.append(ZoneSlide(slide_id=name, zones=zones))
    return slides
