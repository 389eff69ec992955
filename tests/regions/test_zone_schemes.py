"""Schemes of zones, what lies in no zone, and the host margin, on shapes whose areas are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shapely.geometry import MultiPolygon, Point, box

from histo.cells.table import CD8, CELL_COLUMNS, cell_frame
from histo.config import RegionsConfig, load_config
from histo.errors import ConfigError
from histo.measure.slide import distance_profile
from histo.measure.tally import Tally
from histo.regions.annotations import Annotations
from histo.regions.place import Regions, place_cells, place_regions

SIZE_UM = 4000
HALF = box(0, 0, 2000, SIZE_UM)


def place(config=None, tissue=None, **polygons) -> Regions:
    tissue = np.ones((SIZE_UM // 8, SIZE_UM // 8), bool) if tissue is None else tissue
    shapes = {name: MultiPolygon([s]) if s.geom_type == "Polygon" else s for name, s in polygons.items()}
    return place_regions(
        Annotations(shapes, Path("a.geojson")),
        tissue=tissue,
        assessed=tissue,
        coverage=np.ones(tissue.shape, np.float32),
        mpp=8.0,
        config=config or RegionsConfig(),
    )


class TestSchemes:
    @pytest.mark.parametrize(
        ("scheme", "widths"),
        [
            ("kather500", (500, 500, None, 50)),
            ("immunoscore360", (360, 360, None, 50)),
            ("berthel10", (500, 500, None, 10)),
        ],
    )
    def test_widths(self, scheme, widths):
        c = RegionsConfig(zones=scheme)
        assert (c.inner_margin_um, c.outer_margin_um, c.far_limit_um, c.profile_bin_um) == widths

    def test_the_default_is_kather(self):
        assert RegionsConfig() == RegionsConfig(zones="kather500")

    def test_single_widths_go_before_the_scheme(self):
        c = RegionsConfig(zones="immunoscore360", far_limit_um=1000, profile_bin_um=36)
        assert (c.inner_margin_um, c.outer_margin_um, c.far_limit_um, c.profile_bin_um) == (
            360,
            360,
            1000,
            36,
        )
        c = RegionsConfig(inner_margin_um=250, outer_margin_um=300)
        assert (c.inner_margin_um, c.outer_margin_um, c.profile_bin_um) == (250, 300, 50)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (["regions.far_limit_um=500"], "far_limit_um must lie beyond outer_margin_um"),
            (
                ["regions.zones=immunoscore360", "regions.inner_margin_um=1", "regions.outer_margin_um=2"],
                "contradict each other",
            ),
            (["regions.zones=berthel10", "regions.profile_bin_um=50"], "contradict each other"),
            (["regions.zones=kather5000"], "regions.zones"),
            (["regions.zones=[1]"], "regions.zones"),
            (["regions.classifier=a", "regions.tumour_channel=CK"], "leave out one"),
            (["regions.tumour_channel_threshold=3"], "no effect without tumour_channel"),
            (["regions.tumour_channel=CK"], "no stain of this brightfield protocol"),
            (["stain.residual_name=CK"], "vectors.residual"),
        ],
    )
    def test_contradictions(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            load_config(None, settings)

    def test_a_third_stain_may_be_the_tumour_marker(self):
        settings = [
            "stain.vectors.residual=[0.1, 0.8, 0.5]",
            "stain.residual_name=CK",
            "regions.tumour_channel=ck",
        ]
        assert load_config(None, settings).regions.tumour_channel == "ck"

    def test_areas_of_immunoscore_widths(self):
        regions = place(RegionsConfig(zones="immunoscore360"), tumour=HALF)
        expected = {"core": 1640 * 4e-3, "inner_margin": 1.44, "outer_margin": 1.44, "far": 1640 * 4e-3}
        assert regions.zone_area_mm2 == pytest.approx(expected, rel=0.01)

    def test_beyond_the_far_limit_is_no_zone(self):
        regions = place(RegionsConfig(far_limit_um=1000), tumour=HALF)
        assert regions.zone_area_mm2["far"] == pytest.approx(2.0, rel=0.02)
        cells = place_cells(regions, np.array([2990.0, 3010.0]), np.array([2000.0, 2000.0]))
        assert list(cells.zone) == ["far", ""]
        # Where it stands is known all the same.
        np.testing.assert_allclose(cells.signed_distance_um, [990, 1010], atol=1)

    @pytest.mark.parametrize("bin_um", [10.0, 50.0, 70.0, 1000.0])
    def test_the_profile_has_bins_of_the_configured_width(self, bin_um):
        regions = place(tumour=HALF)
        tally = Tally(bin_um)
        x = np.arange(20.0, 3990.0, 10.0)
        cells = place_cells(regions, x, np.full(len(x), 2000.0))
        columns = {name: np.zeros(len(x), dtype) for name, dtype in CELL_COLUMNS.items()}
        columns |= {"cell_class": np.full(len(x), CD8, object), "in_tissue": cells.in_tissue}
        columns |= {"zone": cells.zone, "signed_distance_um": cells.signed_distance_um}
        tally.add(pd.DataFrame(cell_frame(columns, CELL_COLUMNS)))
        profile = distance_profile(tally, regions, 0.95)
        assert profile is not None
        assert {step.high_um - step.low_um for step in profile} == {bin_um}
        assert sum(step.n_cd8 for step in profile) == np.sum(
            (cells.signed_distance_um >= profile[0].low_um) & (cells.signed_distance_um < profile[-1].high_um)
        )
        assert max(abs(profile[0].low_um), profile[-1].high_um) <= 1500


class TestPortalTractsAndVessels:
    def test_outside_the_tumour_they_are_in_no_zone(self):
        portal, vessel = box(2200, 1000, 2300, 1200), box(3000, 1000, 3100, 1100)
        inside = box(800, 1000, 900, 1100)
        regions = place(tumour=HALF, host=box(2000, 0, 4000, 4000), portal=portal, vessel=vessel | inside)
        plain = place(tumour=HALF)
        assert regions.zone_area_mm2["outer_margin"] == pytest.approx(
            plain.zone_area_mm2["outer_margin"] - 0.02, abs=0.002
        )
        assert regions.zone_area_mm2["far"] == pytest.approx(plain.zone_area_mm2["far"] - 0.01, abs=0.002)
        # A vessel in the tumour is part of it.
        assert regions.zone_area_mm2["core"] == plain.zone_area_mm2["core"]
        assert regions.resident_area_mm2 == pytest.approx({"portal": 0.02, "vessel": 0.01}, abs=0.002)
        assert regions.assessed_area_mm2 == plain.assessed_area_mm2
        x = np.array([2250.0, 3050.0, 850.0, 2400.0])
        cells = place_cells(regions, x, np.full(4, 1050.0))
        assert list(cells.region) == ["portal", "vessel", "vessel", "host"]
        assert list(cells.zone) == ["", "", "core", "outer_margin"]
        assert list(np.isnan(cells.signed_distance_um)) == [True, True, False, False]
        assert cells.in_tissue.all()

    def test_without_a_border_they_are_told_all_the_same(self):
        regions = place(portal=box(0, 0, 400, 400))
        assert regions.resident_area_mm2["portal"] == pytest.approx(0.16, rel=0.02)


class TestHostMargin:
    def test_behind_a_gap(self):
        # 200 um of other tissue between tumour and liver.
        regions = place(tumour=HALF, host=box(2200, 0, 4000, 4000))
        margin = regions.host_margin
        assert margin.not_assessable is None
        assert margin.border_length_um == pytest.approx(4000, rel=0.01)
        assert margin.border.bounds[0] == pytest.approx(2200, abs=1)
        assert regions.host_margin_area_mm2 == pytest.approx(2.0, rel=0.02)
        cells = place_cells(regions, np.array([2100.0, 2300.0, 2690.0, 2750.0]), np.full(4, 2000.0))
        assert [bool(margin.mask[250, x // 8]) for x in (2100, 2300, 2690, 2750)] == [
            False,
            True,
            True,
            False,
        ]
        # The zones are those of the tumour border.
        assert list(cells.zone) == ["outer_margin", "outer_margin", "far", "far"]

    def test_round_a_nodule(self):
        nodule, rim = Point(2000, 2000).buffer(600, 90), Point(2000, 2000).buffer(800, 90)
        host = box(0, 0, 4000, 4000) - rim
        regions = place(tumour=nodule, rim=rim - nodule, host=host)
        assert regions.host_margin.border_length_um == pytest.approx(2 * np.pi * 800, rel=0.01)
        assert regions.host_margin_area_mm2 == pytest.approx(np.pi * (1.3**2 - 0.8**2), rel=0.02)

    def test_an_annotated_rim_may_be_thin(self):
        rim = box(2000, 0, 2024, 4000)
        without = place(tumour=HALF, host=box(2024, 0, 4000, 4000))
        assert without.host_margin.not_assessable == "no rim between tumour and host tissue"
        assert without.host_margin_area_mm2 is None
        with_rim = place(tumour=HALF, rim=rim, host=box(2024, 0, 4000, 4000))
        assert with_rim.host_margin_area_mm2 == pytest.approx(2.0, rel=0.03)

    def test_only_what_faces_the_tumour(self):
        # A strip of liver: its far side, though within 500 um of the tumour, looks the other way.
        regions = place(tumour=HALF, host=box(2100, 0, 2300, 4000))
        assert regions.host_margin.border_length_um == pytest.approx(4000, rel=0.01)
        assert regions.host_margin.border.bounds[2] == pytest.approx(2100, abs=1)

    def test_portal_tracts_are_not_host_tissue(self):
        host, portal = box(2200, 0, 4000, 4000), box(2300, 1000, 2500, 2000)
        plain, regions = place(tumour=HALF, host=host), place(tumour=HALF, host=host, portal=portal)
        assert regions.host_margin_area_mm2 == pytest.approx(plain.host_margin_area_mm2 - 0.2, abs=0.01)
        assert regions.host_margin.border_length_um == pytest.approx(4000, rel=0.01)

    @pytest.mark.parametrize(
        ("polygons", "reason"),
        [
            ({"tumour": HALF}, "no host tissue annotated"),
            ({"host": HALF}, "no tumour annotated"),
            ({"tumour": HALF, "host": box(2000, 0, 4000, 4000)}, "no rim between tumour and host tissue"),
            ({"tumour": HALF, "host": box(2200, 0, 4000, 300)}, "too little rim"),
            ({"tumour": HALF, "host": box(2900, 0, 4000, 4000)}, "no rim"),
        ],
    )
    def test_reasons(self, polygons, reason):
        regions = place(**polygons)
        assert reason in regions.host_margin.not_assessable
        assert not regions.host_margin.mask.any()
        assert regions.host_margin.border is None
        assert regions.host_margin_area_mm2 is None
