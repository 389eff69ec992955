"""Zones round the tumour border, on shapes whose distances and areas are known."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Point, Polygon, box

from histo.cells.table import PLACE_COLUMNS
from histo.config import RegionsConfig
from histo.measure.summary import ZONES
from histo.regions.annotations import Annotations
from histo.regions.place import REGION_NAMES, ZONE_NAMES, place_cells, place_regions

CONFIG = RegionsConfig()
SIZE_UM = 4000


def grid(mpp=8.0, size_um=SIZE_UM):
    n = int(size_um / mpp)
    return np.ones((n, n), dtype=bool)


def mask(geometry, mpp=8.0, size_um=SIZE_UM):
    n = int(size_um / mpp)
    x, y = np.meshgrid((np.arange(n) + 0.5) * mpp, (np.arange(n) + 0.5) * mpp)
    return shapely.contains_xy(geometry, x, y)


def annotated(**polygons):
    regions = {
        name: MultiPolygon([shape]) if isinstance(shape, Polygon) else shape
        for name, shape in polygons.items()
    }
    return Annotations(regions, Path("a.geojson"))


def place(annotations, tissue=None, assessed=None, mpp=8.0, config=CONFIG, coverage=None):
    tissue = grid(mpp) if tissue is None else tissue
    return place_regions(
        annotations,
        tissue=tissue,
        assessed=tissue if assessed is None else assessed,
        coverage=np.ones(tissue.shape, np.float32) if coverage is None else coverage,
        mpp=mpp,
        config=config,
    )


HALF = box(0, 0, 2000, SIZE_UM)
DISC = Point(2000, 2000).buffer(1000, quad_segs=90)


def test_names_are_those_of_the_summary_and_the_configuration():
    assert ZONE_NAMES[1:] == ZONES
    assert set(REGION_NAMES[1:]) == set(RegionsConfig.model_fields["names"].default.values())


def test_rim_beside_an_outline_drawn_inside_the_tissue_is_in_no_zone():
    regions = place(annotated(tumour=box(24, 24, 2000, SIZE_UM - 24)))
    assert regions.border_length_um == pytest.approx(SIZE_UM - 48, rel=0.02)
    assert not (regions.zone_map[:, :3] > 0).any()
    assert regions.zone_area_mm2["far"] == pytest.approx(6.0, rel=0.01)
    cells = place_cells(regions, np.array([10.0, 30.0, 3000.0]), np.array([2000.0, 2000.0, 2000.0]))
    assert list(cells.zone) == ["", "core", "far"]
    assert list(np.isnan(cells.signed_distance_um)) == [True, False, False]
    assert cells.in_tissue.all()


class TestHalfPlane:
    def test_border_and_areas(self):
        regions = place(annotated(tumour=HALF))
        assert regions.not_assessable is None
        # Three of the four sides lie on the image's edge.
        assert regions.border_length_um == pytest.approx(4000)
        assert regions.border.equals(shapely.LineString([(2000, 0), (2000, 4000)]))
        areas = {"core": 6.0, "inner_margin": 2.0, "outer_margin": 2.0, "far": 6.0}
        assert regions.zone_area_mm2 == pytest.approx(areas, rel=0.01)
        assert sum(regions.zone_area_mm2.values()) == pytest.approx(regions.assessed_area_mm2)

    def test_distances_of_cells_and_of_the_grid(self):
        regions = place(annotated(tumour=HALF))
        x = np.array([0.0, 1490.0, 1510.0, 1990.0, 2010.0, 2490.0, 2510.0, 3999.0])
        cells = place_cells(regions, x, np.full(8, 1234.5))
        np.testing.assert_allclose(cells.signed_distance_um, x - 2000, atol=1e-3)
        assert list(cells.zone) == [zone for zone in ZONES for _ in range(2)]
        assert list(cells.region) == ["tumour"] * 4 + [""] * 4
        assert cells.in_tissue.all()
        columns = (np.arange(500) + 0.5) * 8 - 2000
        within = np.abs(columns) < 500
        np.testing.assert_allclose(regions.signed_distance_um[77][within], columns[within], atol=1e-3)
        np.testing.assert_allclose(regions.signed_distance_um[77], columns, atol=8)

    def test_widths_are_configurable(self):
        config = RegionsConfig(inner_margin_um=360, outer_margin_um=240)
        regions = place(annotated(tumour=HALF), config=config)
        areas = {"core": 1640 * 4e-3, "inner_margin": 1.44, "outer_margin": 0.96, "far": 1760 * 4e-3}
        assert regions.zone_area_mm2 == pytest.approx(areas, rel=0.01)

    def test_coverage_weighs_areas(self):
        coverage = np.full((500, 500), 0.5, np.float32)
        regions = place(annotated(tumour=HALF), coverage=coverage)
        assert regions.zone_area_mm2["core"] == pytest.approx(3.0, rel=0.01)
        assert replace(regions, coverage=coverage / 2).assessed_area_mm2 == pytest.approx(4.0)


class TestDisc:
    @pytest.mark.parametrize("mpp", [8.0, 4.0, 10.0])
    def test_areas_do_not_depend_on_the_grid(self, mpp):
        regions = place(annotated(tumour=DISC), mpp=mpp)
        assert regions.border_length_um == pytest.approx(2000 * np.pi, rel=0.002)
        areas = {
            "core": np.pi * 0.25,
            "inner_margin": np.pi * 0.75,
            "outer_margin": np.pi * 1.25,
            "far": 16 - np.pi * 2.25,
        }
        assert regions.zone_area_mm2 == pytest.approx(areas, rel=0.01)

    def test_distance_is_to_the_circle(self, rng):
        regions = place(annotated(tumour=DISC))
        x, y = rng.uniform(0, SIZE_UM, (2, 20_000))
        cells = place_cells(regions, x, y)
        expected = np.hypot(x - 2000, y - 2000) - 1000
        np.testing.assert_allclose(cells.signed_distance_um, expected, atol=0.5)

    def test_a_zone_is_only_off_by_half_a_pixel(self, rng):
        regions = place(annotated(tumour=DISC))
        x, y = rng.uniform(0, SIZE_UM, (2, 50_000))
        cells = place_cells(regions, x, y)
        limits = np.array([-500.0, 0.0, 500.0])
        by_distance = np.array(ZONE_NAMES[1:])[
            np.searchsorted(limits, cells.signed_distance_um, side="right")
        ]
        differs = cells.zone != by_distance
        to_limit = np.abs(cells.signed_distance_um[:, None] - limits).min(axis=1)
        assert to_limit[differs].max() < 8 / np.sqrt(2)
        # And as often on either side.
        assert differs.mean() < 0.01

    def test_cells_lie_in_the_area_of_their_zone(self, rng):
        regions = place(annotated(tumour=DISC))
        x, y = rng.uniform(0, SIZE_UM, (2, 200_000))
        zone = place_cells(regions, x, y).zone
        for name, area in regions.zone_area_mm2.items():
            assert (zone == name).mean() == pytest.approx(area / 16, rel=0.03)


class TestWhereThereIsNoBorder:
    def test_at_the_edge_of_the_tissue(self):
        # Tumour and host side by side on a piece of tissue with glass all round.
        piece = box(500, 500, 3500, 2500)
        regions = place(annotated(tumour=box(400, 400, 2000, 2600)), tissue=mask(piece))
        assert regions.border_length_um == pytest.approx(2000, abs=20)
        x0, y0, x1, y1 = regions.border.bounds
        assert (x0, x1) == (2000, 2000)
        assert (y0, y1) == pytest.approx((500, 2500), abs=10)
        # The tumour at the far left is core, though the glass is near.
        assert place_cells(regions, np.array([510.0]), np.array([1500.0])).zone[0] == "core"

    def test_an_outline_a_little_inside_the_tissue(self):
        piece = box(504, 504, 3504, 2504)
        regions = place(annotated(tumour=box(528, 528, 2000, 2480)), tissue=mask(piece))
        assert regions.border_length_um == pytest.approx(1950, abs=40)

    def test_a_crack_beside_the_tumour_is_no_edge(self):
        tissue = mask(box(0, 0, 2000, 4000)) | mask(box(2024, 0, 4000, 4000))
        assert place(annotated(tumour=HALF), tissue=tissue).border_length_um == pytest.approx(4000)

    def test_a_crack_that_runs_into_the_tumour_does_not_cut_the_border(self):
        tissue = mask(box(0, 0, 4000, 1000)) | mask(box(0, 1024, 4000, 4000))
        regions = place(annotated(tumour=HALF), tissue=tissue)
        assert len(regions.border.geoms) == 1
        assert regions.border_length_um == pytest.approx(4000)

    def test_glass_beside_the_tumour_is_an_edge(self):
        tissue = mask(box(0, 0, 2000, 4000)) | mask(box(2104, 0, 4000, 4000))
        regions = place(annotated(tumour=HALF), tissue=tissue)
        assert regions.border is None
        assert "no tumour border" in regions.not_assessable

    def test_against_necrosis_or_spoilt_tissue(self):
        regions = place(annotated(tumour=HALF, necrosis=box(2000, 0, 3000, 1000)))
        assert regions.border_length_um == pytest.approx(3000, abs=20)
        assessed = grid()
        assessed[:125, 250:] = False
        regions = place(annotated(tumour=HALF), assessed=assessed)
        assert regions.border_length_um == pytest.approx(3000, abs=20)

    def test_a_biopsy_that_is_all_tumour(self):
        core = box(1000, 0, 1800, 4000)
        regions = place(annotated(tumour=core.buffer(30)), tissue=mask(core))
        assert regions.border is None
        assert regions.zone_area_mm2 == {}
        assert "no other tissue" in regions.not_assessable
        assert regions.assessed_area_mm2 == pytest.approx(3.2, rel=0.01)
        assert not regions.zone_map.any()
        assert np.isnan(regions.signed_distance_um).all()
        cells = place_cells(regions, np.array([1400.0, 500.0]), np.array([900.0, 900.0]))
        assert list(cells.zone) == ["", ""]
        assert list(cells.region) == ["tumour", ""]
        assert list(cells.in_tissue) == [True, False]
        assert np.isnan(cells.signed_distance_um).all()

    def test_too_short(self):
        core = box(1000, 0, 1400, 4000)
        regions = place(annotated(tumour=box(900, -50, 1500, 2000)), tissue=mask(core))
        assert regions.border is None
        assert regions.border_length_um == pytest.approx(400, abs=20)
        assert "400 um against other tissue, 500 um needed" in regions.not_assessable
        config = RegionsConfig(min_border_length_um=300)
        regions = place(annotated(tumour=box(900, -50, 1500, 2000)), tissue=mask(core), config=config)
        assert regions.not_assessable is None

    @pytest.mark.parametrize(
        ("annotations", "reason"),
        [
            (None, "no annotations"),
            (annotated(host=HALF), "no tumour annotated"),
            (annotated(tumour=HALF, exclude=HALF.buffer(10)), "no assessed tissue"),
        ],
    )
    def test_reasons(self, annotations, reason):
        regions = place(annotations)
        assert reason in regions.not_assessable
        assert regions.zone_area_mm2 == {}
        assert regions.border is None

    def test_no_tissue(self):
        regions = place(annotated(tumour=DISC), tissue=~grid())
        assert "no assessed tissue" in regions.not_assessable
        assert regions.assessed_area_mm2 == 0


class TestTumourShapes:
    def test_two_islands(self):
        # 600 um apart: between them all tissue is outer margin, of the nearer one.
        islands = MultiPolygon([box(500, 1000, 1700, 3000), box(2300, 1000, 3500, 3000)])
        regions = place(annotated(tumour=islands))
        assert len(regions.border.geoms) == 2
        assert regions.border_length_um == pytest.approx(2 * 6400)
        cells = place_cells(regions, np.array([1900.0, 2000.0, 2150.0, 1100.0]), np.full(4, 2000.0))
        np.testing.assert_allclose(cells.signed_distance_um, [200, 300, 150, -600], atol=0.5)
        assert list(cells.zone) == ["outer_margin"] * 3 + ["core"]

    def test_parts_with_a_narrow_gap_are_one_tumour(self):
        parts = MultiPolygon([box(0, 0, 1000, 4000), box(1012, 0, 2000, 4000)])
        regions = place(annotated(tumour=parts))
        assert regions.border_length_um == pytest.approx(4000)
        assert place_cells(regions, np.array([1006.0]), np.array([2000.0])).signed_distance_um[0] < -900

    def test_holes_are_no_margin_unless_they_hold_host(self):
        hole = box(800, 1800, 1200, 2200)
        holed = HALF - hole
        regions = place(annotated(tumour=holed))
        assert regions.border_length_um == pytest.approx(4000)
        at = np.array([1000.0]), np.array([2000.0])
        cells = place_cells(regions, *at)
        assert (cells.zone[0], cells.region[0]) == ("core", "")
        regions = place(annotated(tumour=holed, host=hole))
        assert regions.border_length_um == pytest.approx(4000 + 1600, abs=40)
        cells = place_cells(regions, *at)
        assert (cells.zone[0], cells.region[0]) == ("outer_margin", "host")
        assert cells.signed_distance_um[0] == pytest.approx(200, abs=0.5)

    def test_corners_stay_sharp(self):
        ell = Polygon([(0, 0), (2000, 0), (2000, 2000), (1000, 2000), (1000, 3000), (0, 3000)])
        regions = place(annotated(tumour=ell))
        assert regions.tumour.symmetric_difference(ell).area < 1

    def test_orientation_and_start_of_the_outline_do_not_matter(self):
        points = np.array(DISC.exterior.coords[:-1])
        lengths = [
            place(annotated(tumour=Polygon(outline))).border_length_um
            for outline in (points, points[::-1], np.roll(points, 77, axis=0))
        ]
        assert lengths == pytest.approx([lengths[0]] * 3)

    @given(dx=st.floats(-700, 700), dy=st.floats(-700, 700))
    @settings(max_examples=15)
    def test_areas_do_not_depend_on_the_position(self, dx, dy):
        island = translate(Point(2000, 2000).buffer(600, quad_segs=45), dx, dy)
        areas = place(annotated(tumour=island)).zone_area_mm2
        assert areas["core"] == pytest.approx(np.pi * 0.01, rel=0.1)
        assert areas["inner_margin"] == pytest.approx(np.pi * 0.35, rel=0.01)
        assert areas["outer_margin"] == pytest.approx(np.pi * 0.85, rel=0.01)


class TestRegions:
    def test_necrosis_and_exclude_come_off_the_area(self):
        regions = place(
            annotated(tumour=HALF, necrosis=box(0, 0, 1000, 1000), exclude=box(3000, 0, 4000, 500))
        )
        assert regions.excluded_area_mm2 == pytest.approx({"necrosis": 1.0, "exclude": 0.5}, rel=0.01)
        assert regions.assessed_area_mm2 == pytest.approx(14.5, rel=0.001)
        assert regions.zone_area_mm2["core"] == pytest.approx(5.0, rel=0.01)
        cells = place_cells(regions, np.array([500.0, 3500.0, 1700.0]), np.array([500.0, 250.0, 500.0]))
        assert list(cells.region) == ["necrosis", "exclude", "tumour"]
        assert list(cells.zone) == ["", "", "inner_margin"]
        assert list(cells.in_tissue) == [False, False, True]
        np.testing.assert_allclose(cells.signed_distance_um, [-1500, 1500, -300], atol=0.5)

    def test_excluded_area_counts_assessed_tissue_once(self):
        assessed = mask(box(0, 0, 500, 4000))
        regions = place(
            annotated(necrosis=box(0, 0, 1000, 1000), exclude=box(0, 0, 1000, 500)), assessed=assessed
        )
        expected = {"necrosis": 0.25, "exclude": 0.25}
        assert regions.excluded_area_mm2 == pytest.approx(expected, rel=0.02)

    def test_the_smaller_outline_lies_on_top(self):
        island, large = box(500, 500, 900, 900), box(0, 0, 3000, 4000)
        regions = place(annotated(tumour=HALF, stroma=island, host=large))
        cells = place_cells(regions, np.array([700.0, 1000.0, 2500.0, 3500.0]), np.full(4, 700.0))
        assert list(cells.region) == ["stroma", "tumour", "host", ""]
        assert list(cells.zone) == ["core", "core", "far", "far"]

    def test_cells_off_the_grid_have_no_place(self):
        regions = place(annotated(tumour=HALF))
        cells = place_cells(regions, np.array([-1.0, 4001.0]), np.array([5.0, 5.0]))
        assert not cells.in_tissue.any()
        assert list(cells.zone) == ["", ""]

    @pytest.mark.parametrize("n", [0, 3])
    def test_columns_fit_the_cell_table(self, n):
        cells = place_cells(place(annotated(tumour=HALF)), np.full(n, 5.0), np.full(n, 5.0))
        for name in ("region", "zone", "signed_distance_um", "in_tissue"):
            column = getattr(cells, name)
            assert column.dtype == PLACE_COLUMNS[name]
            assert column.shape == (n,)

    def test_pieces_of_a_slide_agree_and_regions_travel(self, rng):
        regions = place(annotated(tumour=DISC))
        x, y = rng.uniform(0, SIZE_UM, (2, 3000))
        whole = place_cells(regions, x, y)
        travelled = pickle.loads(pickle.dumps(regions))
        for part in np.array_split(np.arange(3000), 7):
            piece = place_cells(travelled, x[part], y[part])
            assert (piece.zone == whole.zone[part]).all()
            assert (piece.signed_distance_um == whole.signed_distance_um[part]).all()


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_distance_against_shapely_on_a_ragged_border(rng):
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radius = 1000 + 60 * rng.standard_normal(400)
    ragged = Polygon(np.stack([2000 + radius * np.cos(angle), 2000 + radius * np.sin(angle)], axis=1))
    regions = place(annotated(tumour=ragged.buffer(0)))
    x, y = rng.uniform(0, SIZE_UM, (2, 4000))
    found = np.abs(place_cells(regions, x, y).signed_distance_um)
    exact = shapely.distance(regions.border, shapely.points(x, y))
    assert np.abs(found - exact).max() < 2.25
    assert np.abs(found - exact).mean() < 0.02
