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
from histo.measure.catalogue import FURTHER
from histo.measure.density import poisson_density, wilson_fraction
from histo.measure.points import PointCollector
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


def placed(**polygons):
    tissue = np.ones((500, 500), bool)
    return place_regions(
        Annotations({name: MultiPolygon([shape]) for name, shape in polygons.items()}, Path("a.geojson")),
        tissue=tissue,
        assessed=tissue,
        coverage=np.ones(tissue.shape, np.float32),
        mpp=8.0,
        config=RegionsConfig(),
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


def measured(cells, regions, *, tissue_area_mm2=16.0, config=CONFIG):
    tally, collector = Tally(), PointCollector()
    for start in range(0, len(cells), 6000):
        tally.add(cells[start : start + 6000])
        collector.add(cells[start : start + 6000])
    return measure_slide(tally, collector.points(), regions, tissue_area_mm2=tissue_area_mm2, config=config)


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
        found = measured(cells, disc)
        assert found.cd8_density == poisson_density(found.n_cd8, 16.0, 0.95)
        assert found.cd8_fraction == wilson_fraction(found.n_cd8, 20_000, 0.95)
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
        found = measured(cells, disc, config=MeasureConfig(min_zone_area_mm2=1.0))
        core = found.zones["core"]
        assert core.area_mm2 == pytest.approx(np.pi / 4, rel=0.01)
        assert core.n_cells is not None
        assert "0.78" in core.cd8_density.not_assessable
        assert found.exclusion.phenotype is None
        assert "tumour core" in found.exclusion.phenotype_not_assessable
        assert "tumour core" in found.exclusion.log2_core_outer.not_assessable

    def test_less_area_where_some_was_unread(self, disc, cells):
        half = replace(disc, coverage=disc.coverage / 2)
        found = measured(cells, half)
        assert found.cd8_density.value == pytest.approx(found.n_cd8 / 8.0)
        assert found.zones["far"].area_mm2 == pytest.approx(disc.zone_area_mm2["far"] / 2)

    @pytest.mark.parametrize("tumour", [None, box(-100, -100, 4100, 4100)])
    def test_without_zones_the_whole_is_still_told(self, tumour):
        regions = regions_of(tumour)
        rng = np.random.default_rng(0)
        x, y = rng.uniform(0, 4000, (2, 1000))
        found = measured(cells_at(regions, x, y, np.arange(1000) < 300), regions)
        assert found.cd8_density.value == pytest.approx(300 / 16)
        assert found.cd8_fraction.value == pytest.approx(0.3)
        reason = regions.not_assessable
        for zone in ZONES:
            told = found.zones[zone]
            assert isinstance(told, ZoneSummary)
            assert (told.n_cells, told.n_cd8, told.area_mm2) == (None, None, None)
            assert told.cd8_density.not_assessable == reason
            assert told.cd8_fraction.not_assessable == reason
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
        found = measured(empty_cells(), regions, tissue_area_mm2=tissue_area)
        assert found.n_cells == 0
        assert found.cd8_density.value is None
        assert reason in found.cd8_density.not_assessable
        assert reason in found.cd8_fraction.not_assessable

    def test_no_cells_at_all(self, disc):
        found = measured(empty_cells(), disc)
        assert found.cd8_density.value == 0
        assert found.cd8_density.high > 0
        assert found.cd8_fraction.not_assessable == "no nuclei"
        # No density of 0 for a zone in which nothing was found, not even other nuclei.
        assert "only 0 cells" in found.zones["core"].cd8_density.not_assessable
        assert found.exclusion.phenotype is None

    def test_no_cd8_cells_is_a_density_of_zero(self, disc):
        rng = np.random.default_rng(3)
        x, y = rng.uniform(0, 4000, (2, 5000))
        found = measured(cells_at(disc, x, y, np.zeros(5000, bool)), disc)
        assert found.zones["core"].cd8_density.value == 0
        assert found.exclusion.phenotype == "desert"
        assert found.measures["infiltration_fraction"].not_assessable.startswith("no CD8+ cell")

    def test_few_cells_in_a_zone(self, disc, cells):
        inside = cells["zone"] == "core"
        thinned = cells[~inside | (np.cumsum(inside) <= 19)]
        found = measured(thinned, disc)
        assert found.zones["core"].n_cells == 19
        assert "only 19 cells" in found.zones["core"].cd8_density.not_assessable
        assert (
            measured(thinned, disc, config=MeasureConfig(min_zone_cells=19)).zones["core"].cd8_density.value
            == 0
        )

    def test_interval_by_blocks_holds_the_same_density_and_is_wider_where_cells_cluster(self, disc):
        rng = np.random.default_rng(7)
        centres = rng.uniform(0, 4000, (60, 2))
        points = (centres[:, None] + rng.normal(0, 60, (60, 200, 2))).reshape(-1, 2)
        x, y = points[((points > 0) & (points < 4000)).all(axis=1)].T
        found = measured(cells_at(disc, x, y, np.ones(len(x), bool)), disc)
        for zone in ("outer_margin", "far"):
            exact, blocks = found.zones[zone].cd8_density, found.zones[zone].cd8_density_by_blocks
            assert blocks.value == pytest.approx(exact.value, rel=1e-6)
            assert blocks.high - blocks.low > 3 * (exact.high - exact.low)


class TestFurtherMeasures:
    def test_every_measure_is_in_the_catalogue_and_in_its_order(self, disc, cells):
        found = measured(cells, disc, config=MeasureConfig(inflamed_tiles=True)).measures
        assert list(found) == [measure.name for measure in FURTHER]
        units = {measure.name: measure.unit for measure in FURTHER}
        assert {name: estimate.unit for name, estimate in found.items()} == units

    def test_without_a_border_the_same_names_have_reasons(self):
        rng = np.random.default_rng(0)
        regions = regions_of(None)
        x, y = rng.uniform(0, 4000, (2, 1000))
        found = measured(cells_at(regions, x, y, np.arange(1000) < 300), regions)
        assert list(found.measures) == [m.name for m in FURTHER if m.name != "inflamed_tile_share"]
        assert found.measures["log2_core_far"].not_assessable == regions.not_assessable
        # What needs no border is still there.
        assert found.measures["cd8_ann_index"].value == pytest.approx(1, abs=0.1)

    def test_exclusion_is_seen_by_each(self, disc, cells):
        found = measured(cells, disc).measures
        assert found["infiltration_fraction"].value == 0
        assert found["log2_core_far"].value < -8
        assert found["log2_outer_far"].value == pytest.approx(0, abs=0.3)
        assert found["immunodrop"].not_assessable is not None or found["immunodrop"].value > 5

    def test_epithelium_against_stroma(self):
        tumour, stroma = Point(2000, 2000).buffer(1000), Point(2000, 2000).buffer(600)
        regions = placed(tumour=tumour, stroma=stroma)
        rng = np.random.default_rng(4)
        x, y = rng.uniform(0, 4000, (2, 40_000))
        in_stroma = np.hypot(x - 2000, y - 2000) < 600
        cd8 = rng.random(40_000) < np.where(in_stroma, 0.4, 0.1)
        ratio = measured(cells_at(regions, x, y, cd8), regions).measures["log2_epithelium_stroma"]
        assert ratio.low < -2 < ratio.high

    def test_host_margin_portal_tracts_and_vessels_are_told_apart(self):
        regions = placed(
            tumour=box(0, 0, 2000, 4000),
            host=box(2200, 0, 4000, 4000),
            portal=box(3000, 1000, 3400, 2000),
        )
        rng = np.random.default_rng(6)
        x, y = rng.uniform(0, 4000, (2, 60_000))
        in_portal = (x > 3000) & (x < 3400) & (y > 1000) & (y < 2000)
        in_margin = (x > 2200) & (x < 2700)
        cd8 = rng.random(60_000) < np.select([in_portal, in_margin], [0.5, 0.2], 0.02)
        found = measured(cells_at(regions, x, y, cd8), regions)
        per_mm2 = 60_000 / 16
        assert found.measures["density_host_margin_per_mm2"].value == pytest.approx(0.2 * per_mm2, rel=0.1)
        assert found.measures["density_portal_per_mm2"].value == pytest.approx(0.5 * per_mm2, rel=0.1)
        vessel = found.measures["density_vessel_per_mm2"]
        assert vessel.not_assessable == "no large vessel marked outside the tumour"
        # Resident cells are not far tissue.
        assert found.zones["far"].cd8_density.value < 0.1 * per_mm2

    def test_without_a_rim_there_is_no_host_margin(self, disc, cells):
        reason = measured(cells, disc).measures["density_host_margin_per_mm2"].not_assessable
        assert reason == disc.host_margin.not_assessable

    def test_spatial_measures_can_be_left_out(self, disc, cells):
        found = measured(cells, disc, config=MeasureConfig(spatial=False)).measures
        assert "cd8_ann_index" not in found


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
