"""From cells and regions to the measures of a slide."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shapely.geometry import MultiPolygon, Point, box

from histo.cells.table import CD8, CELL_COLUMNS, OTHER, cell_frame, empty_cells
from histo.config import MeasureConfig, RegionsConfig
from histo.measure.density import poisson_density, wilson_fraction
from histo.measure.slide import PROFILE_REACH_UM, distance_profile, measure_slide
from histo.measure.summary import ZONES, ZoneSummary
from histo.measure.tally import PROFILE_BIN_UM, Tally
from histo.regions.annotations import Annotations
from histo.regions.place import place_cells, place_regions

CONFIG = MeasureConfig()


def regions_of(tumour, tissue=None, config=None):
    tissue = np.ones((500, 500), bool) if tissue is None else tissue
    annotations = (
        None if tumour is None else Annotations({"tumour": MultiPolygon([tumour])}, Path("a.geojson"))
    )
    return place_regions(
        annotations,
        tissue=tissue,
        assessed=tissue,
        coverage=np.ones(tissue.shape, np.float32),
        mpp=8.0,
        config=config or RegionsConfig(),
    )


def cells_at(regions, x, y, cd8):
    place = place_cells(regions, x, y)
    columns = {name: np.zeros(len(x), dtype) for name, dtype in CELL_COLUMNS.items()}
    columns |= {
        "x_um": x,
        "y_um": y,
        "cell_class": np.where(cd8, CD8, OTHER).astype(object),
        "in_tissue": place.in_tissue,
        "region": place.region,
        "zone": place.zone,
        "signed_distance_um": place.signed_distance_um,
    }
    return cell_frame(columns, CELL_COLUMNS)


@pytest.fixture(scope="module")
def disc():
    return regions_of(Point(2000, 2000).buffer(1000, quad_segs=90))


@pytest.fixture(scope="module")
def cells(disc):
    """20,000 cells, CD8+ only outside the tumour: the excluded pattern."""
    rng = np.random.default_rng(5)
    x, y = rng.uniform(0, 4000, (2, 20_000))
    outside = np.hypot(x - 2000, y - 2000) > 1000
    return cells_at(disc, x, y, outside & (rng.random(20_000) < 0.5))


class TestTally:
    def test_counts(self, cells):
        tally = Tally()
        tally.add(cells)
        assert tally.n_cells == 20_000
        assert tally.n_cd8 == (cells["cell_class"] == CD8).sum()
        for zone in ZONES:
            inside = cells[cells["zone"] == zone]
            assert tally.in_zone(zone) == (len(inside), (inside["cell_class"] == CD8).sum())

    def test_pieces_in_any_order_make_the_same_counts(self, cells):
        whole, pieces = Tally(), Tally()
        whole.add(cells)
        shuffled = cells.sample(frac=1, random_state=1)
        for start in range(0, 20_000, 777):
            pieces.add(shuffled.iloc[start : start + 777])
        pieces.add(empty_cells())
        assert vars(whole) == vars(pieces)

    def test_cells_outside_assessed_tissue_are_counted_apart(self, cells):
        changed = cells.assign(in_tissue=np.arange(20_000) % 4 != 0)
        tally = Tally()
        tally.add(changed)
        assert (tally.n_cells, tally.n_outside) == (15_000, 5_000)
        assert sum(tally.in_zone(zone)[0] for zone in ZONES) == 15_000

    def test_bins_of_distance(self):
        table = pd.DataFrame(
            {
                "in_tissue": [True] * 6,
                "cell_class": [CD8] * 5 + [OTHER],
                "zone": ["core"] * 6,
                "signed_distance_um": np.array([-0.1, 0.0, 49.9, 50.0, np.nan, 10.0], np.float32),
            }
        )
        tally = Tally()
        tally.add(table)
        assert [tally.cd8_in_bin(k) for k in (-2, -1, 0, 1, 2)] == [0, 1, 2, 1, 0]

    def test_unknown_zone(self):
        with pytest.raises(KeyError):
            Tally().in_zone("moon")


class TestMeasureSlide:
    def test_excluded_pattern(self, disc, cells):
        tally = Tally()
        tally.add(cells)
        found = measure_slide(tally, disc, tissue_area_mm2=16.0, config=CONFIG)
        assert found.cd8_density == poisson_density(tally.n_cd8, 16.0, 0.95)
        assert found.cd8_fraction == wilson_fraction(tally.n_cd8, 20_000, 0.95)
        # 20,000 cells on 16 mm2, half of those outside CD8+.
        assert found.zones["outer_margin"].cd8_density.value == pytest.approx(625, rel=0.05)
        assert found.zones["far"].cd8_fraction.value == pytest.approx(0.5, abs=0.02)
        assert found.zones["core"].n_cd8 == 0
        assert found.zones["core"].cd8_density.value == 0
        assert sum(zone.n_cells for zone in found.zones.values()) == found.n_cells
        assert found.exclusion.phenotype == "excluded"
        assert found.exclusion.phenotype_not_assessable is None
        assert found.exclusion.log2_core_outer.value == pytest.approx(-np.log2(626), abs=0.1)
        assert found.exclusion.border_length_um == pytest.approx(2000 * np.pi, rel=0.01)

    def test_zone_too_small(self, disc, cells):
        tally = Tally()
        tally.add(cells)
        config = MeasureConfig(min_zone_area_mm2=1.0)
        found = measure_slide(tally, disc, tissue_area_mm2=16.0, config=config)
        core = found.zones["core"]
        assert core.area_mm2 == pytest.approx(np.pi / 4, rel=0.01)
        assert core.n_cells is not None
        assert "0.78" in core.cd8_density.not_assessable
        assert found.exclusion.phenotype is None
        assert "tumour core" in found.exclusion.phenotype_not_assessable
        assert "tumour core" in found.exclusion.log2_core_outer.not_assessable

    def test_less_area_where_some_was_unread(self, disc, cells):
        tally = Tally()
        tally.add(cells)
        half = replace(disc, coverage=disc.coverage / 2)
        found = measure_slide(tally, half, tissue_area_mm2=16.0, config=CONFIG)
        assert found.cd8_density.value == pytest.approx(tally.n_cd8 / 8.0)
        assert found.zones["far"].area_mm2 == pytest.approx(disc.zone_area_mm2["far"] / 2)

    @pytest.mark.parametrize("tumour", [None, box(-100, -100, 4100, 4100)])
    def test_without_zones_the_whole_is_still_told(self, tumour):
        regions = regions_of(tumour)
        rng = np.random.default_rng(0)
        x, y = rng.uniform(0, 4000, (2, 1000))
        tally = Tally()
        tally.add(cells_at(regions, x, y, np.arange(1000) < 300))
        found = measure_slide(tally, regions, tissue_area_mm2=16.0, config=CONFIG)
        assert found.cd8_density.value == pytest.approx(300 / 16)
        assert found.cd8_fraction.value == pytest.approx(0.3)
        reason = regions.not_assessable
        for zone in ZONES:
            measured = found.zones[zone]
            assert isinstance(measured, ZoneSummary)
            assert (measured.n_cells, measured.n_cd8, measured.area_mm2) == (None, None, None)
            assert measured.cd8_density.not_assessable == reason
            assert measured.cd8_fraction.not_assessable == reason
        assert found.exclusion.phenotype is None
        assert found.exclusion.phenotype_not_assessable == reason
        assert found.exclusion.log2_core_outer.not_assessable == reason
        assert found.exclusion.border_length_um is None
        assert found.distance_profile is None

    @pytest.mark.parametrize(
        ("tissue_area", "reason"), [(0.0, "no tissue found"), (3.0, "no assessed tissue")]
    )
    def test_empty_slide(self, tissue_area, reason):
        regions = regions_of(None, tissue=np.zeros((500, 500), bool))
        tally = Tally()
        tally.add(empty_cells())
        found = measure_slide(tally, regions, tissue_area_mm2=tissue_area, config=CONFIG)
        assert found.n_cells == 0
        assert found.cd8_density.value is None
        assert reason in found.cd8_density.not_assessable
        assert reason in found.cd8_fraction.not_assessable

    def test_no_cells_is_a_density_of_zero(self, disc):
        found = measure_slide(Tally(), disc, tissue_area_mm2=16.0, config=CONFIG)
        assert found.cd8_density.value == 0
        assert found.cd8_density.high > 0
        assert found.cd8_fraction.not_assessable == "no nuclei"
        assert found.exclusion.phenotype == "desert"


class TestDistanceProfile:
    def test_flat_law_gives_a_flat_profile(self, disc):
        rng = np.random.default_rng(1)
        n = 300_000
        x, y = rng.uniform(0, 4000, (2, n))
        tally = Tally()
        tally.add(cells_at(disc, x, y, np.ones(n, bool)))
        bins = distance_profile(tally, disc, 0.95)
        truth = n / 16
        inside = [bin_ for bin_ in bins if bin_.area_mm2 > 0.1]
        assert len(inside) > 30
        for bin_ in inside:
            assert bin_.cd8_density.value == pytest.approx(truth, rel=0.06)
        covered = [bin_.cd8_density.low <= truth <= bin_.cd8_density.high for bin_ in inside]
        assert np.mean(covered) > 0.8

    def test_bins_join_and_areas_are_rings(self, disc):
        bins = distance_profile(Tally(), disc, 0.95)
        assert all(a.high_um == b.low_um for a, b in pairwise(bins))
        assert bins[0].low_um == -1000
        assert bins[-1].high_um == PROFILE_REACH_UM
        # The ring from 1000 to 1050 um round the centre.
        first = next(bin_ for bin_ in bins if bin_.low_um == 0)
        assert first.area_mm2 == pytest.approx(np.pi * (1.05**2 - 1), rel=0.02)
        assert sum(b.area_mm2 for b in bins if b.high_um <= 0) == pytest.approx(np.pi, rel=0.01)
        assert {bin_.high_um - bin_.low_um for bin_ in bins} == {PROFILE_BIN_UM}
