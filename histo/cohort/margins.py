"""Core and outer margin again with other widths, from zone counts and the distance profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from histo.measure.summary import DistanceBin

_INNER_EDGE, _OUTER_EDGE = "core", "outer_margin"


def with_margins(
    slides: pd.DataFrame,
    profiles: Mapping[str, Sequence[DistanceBin]],
    margin_um: float,
    *,
    configured_um: float,
    min_area_mm2: float,
) -> pd.DataFrame:
    """Return slides whose core and outer margin are those of margins `margin_um` wide.

    What lies between the two widths is moved by the bins of the distance profile: deeper tissue, and what the
    profile no longer reaches, stays in the core. The zones themselves go by pixel and the bins by the exact
    distance of each cell, so that a cell on a limit may count otherwise.

    Parameters
    ----------
    slides : rows of a `CohortTable`. profiles : slide_id to its bins; slides without one are left out.
    configured_um : width of the margins in `slides`. min_area_mm2 : less area gives no density.
    """
    changed = []
    for row in slides.to_dict(orient="records"):
        bins = profiles.get(row["slide_id"])
        if bins is None:
            continue
        n, area = _sum(bins, -max(margin_um, configured_um), -min(margin_um, configured_um))
        sign = 1 if margin_um < configured_um else -1
        n_core = row["n_positive_core"] + sign * n
        area_core = row["area_core_mm2"] + sign * area
        n_outer, area_outer = _sum(bins, 0.0, margin_um)
        for zone, n_zone, area_zone in (
            (_INNER_EDGE, n_core, area_core),
            (_OUTER_EDGE, n_outer, area_outer),
        ):
            row[f"n_positive_{zone}"] = n_zone
            row[f"area_{zone}_mm2"] = area_zone
            row[f"density_{zone}_per_mm2"] = n_zone / area_zone if area_zone >= min_area_mm2 else None
        changed.append(row)
    frame = pd.DataFrame(changed, columns=slides.columns)
    numbers = [f"density_{zone}_per_mm2" for zone in (_INNER_EDGE, _OUTER_EDGE)]
    return frame.assign(**{name: pd.to_numeric(frame[name]) for name in numbers})


def fits(profiles: Mapping[str, Sequence[DistanceBin]], margin_um: float) -> bool:
    """Tell whether a width falls between bins of every profile, and within its reach."""
    return all(
        any(step.low_um == margin_um or step.high_um == margin_um for step in bins)
        or all(step.high_um <= margin_um for step in bins)
        for bins in profiles.values()
    )


def _sum(bins: Sequence[DistanceBin], low_um: float, high_um: float) -> tuple[int, float]:
    inside = [step for step in bins if step.low_um >= low_um and step.high_um <= high_um]
    return sum(step.n_cd8 for step in inside), sum(step.area_mm2 for step in inside)
