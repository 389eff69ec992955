"""Annotation files of each format, and each kind of bad one."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import Point, Polygon, box, mapping
from slides import ArraySlide

from histo.config import RegionsConfig
from histo.errors import AnnotationError
from histo.regions.annotations import find_annotations, read_annotations

NAMES = RegionsConfig().names
MPP = (0.5, 0.25)  # Not square, to tell the axes apart.
SQUARE = [(10.0, 20.0), (110.0, 20.0), (110.0, 220.0), (10.0, 220.0)]
SQUARE_UM = box(5, 5, 55, 55)


@pytest.fixture
def slide():
    return ArraySlide(np.full((400, 300, 3), 255, np.uint8), mpp=MPP)


def feature(points=SQUARE, name="Tumor", holes=(), **properties):
    rings = [[*ring, ring[0]] for ring in (points, *holes)]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {"objectType": "annotation", "classification": {"name": name}, **properties},
    }


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


def read(tmp_path, slide, content, name="a.geojson"):
    path = tmp_path / name
    if isinstance(content, dict | list):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_annotations(path, slide, NAMES)


class TestQuPath:
    @pytest.mark.parametrize(
        "data",
        [
            collection(feature()),
            [feature()],
            feature(),
            # 0.2: the type in the identifier, colour as a number
            {
                **feature(),
                "id": "PathAnnotationObject",
                "properties": {"classification": {"name": "Tumor", "colorRGB": -3670016}, "isLocked": False},
            },
            # 0.3
            {**feature(), "properties": {"object_type": "annotation", "classification": {"name": "Tumor"}}},
            # 0.5: several names
            collection(feature(classification={"names": ["Tumor"], "color": [200, 0, 0]})),
            # Other tools
            collection(feature(classification="TUMOUR")),
        ],
    )
    def test_layouts(self, tmp_path, slide, data):
        found = read(tmp_path, slide, data)
        assert list(found.polygons_um) == ["tumour"]
        assert found.polygons_um["tumour"].equals(SQUARE_UM)
        assert found.unmapped == ()
        assert found.notes == ()
        assert found.source == tmp_path / "a.geojson"

    def test_gzip_and_byte_order_mark(self, tmp_path, slide):
        data = json.dumps(collection(feature())).encode("utf-8-sig")
        assert read(tmp_path, slide, data).polygons_um["tumour"].equals(SQUARE_UM)
        assert (
            read(tmp_path, slide, gzip.compress(data), "a.geojson.gz").polygons_um["tumour"].equals(SQUARE_UM)
        )

    def test_hole_and_multipolygon(self, tmp_path, slide):
        hole = [(40.0, 60.0), (60.0, 60.0), (60.0, 100.0), (40.0, 100.0)]
        holed = feature(holes=[hole])
        assert read(tmp_path, slide, holed).polygons_um["tumour"].equals(SQUARE_UM - box(20, 15, 30, 25))
        rings = holed["geometry"]["coordinates"]
        island = mapping(Polygon([(200, 200), (250, 200), (250, 300)]))["coordinates"]
        holed["geometry"] = {"type": "MultiPolygon", "coordinates": [rings, island]}
        found = read(tmp_path, slide, holed).polygons_um["tumour"]
        assert len(found.geoms) == 2
        assert found.area == pytest.approx(2500 - 100 + 2500 / 8)

    def test_regions_of_one_name_are_united(self, tmp_path, slide):
        other = [(x + 50, y) for x, y in SQUARE]
        found = read(
            tmp_path, slide, collection(feature(), feature(other, "tumour"), feature(name="Necrosis"))
        )
        assert found.polygons_um["tumour"].equals(box(5, 5, 80, 55))
        assert found.polygons_um["necrosis"].equals(SQUARE_UM)

    def test_what_is_no_region_is_counted(self, tmp_path, slide):
        line = feature()
        line["geometry"] = {"type": "LineString", "coordinates": SQUARE}
        point = feature()
        point["geometry"] = {"type": "Point", "coordinates": [3, 4]}
        cells = [feature(objectType="cell"), {**feature(), "id": "PathDetectionObject", "properties": {}}]
        found = read(tmp_path, slide, collection(feature(), line, line, point, *cells))
        assert found.polygons_um["tumour"].equals(SQUARE_UM)
        assert set(found.notes) == {
            "2 x line: ignored",
            "1 x point: ignored",
            "1 x cell: ignored",
            "1 x detection: ignored",
        }

    def test_children_of_a_saved_hierarchy(self, tmp_path, slide):
        found = read(tmp_path, slide, collection(feature(name=None, childObjects=[feature()])))
        assert found.polygons_um["tumour"].equals(SQUARE_UM)
        assert found.unmapped == ("(no class)",)

    def test_names_that_are_not_mapped(self, tmp_path, slide):
        data = collection(feature(), feature(name="Bile duct"), feature(name="Bile duct"), feature(name=None))
        assert read(tmp_path, slide, data).unmapped == ("(no class)", "Bile duct")

    @pytest.mark.parametrize("name", ["tumor", "TUMOR", " Tumor "])
    def test_case_does_not_matter(self, tmp_path, slide, name):
        assert "tumour" in read(tmp_path, slide, feature(name=name)).polygons_um

    def test_own_origin_is_the_frame(self, tmp_path, slide):
        slide.info = replace(slide.info, origin_px=(30, 40))
        assert read(tmp_path, slide, feature()).polygons_um["tumour"].equals(SQUARE_UM)

    def test_invalid_outline_is_repaired(self, tmp_path, slide):
        bow_tie = [(0, 0), (100, 100), (100, 0), (0, 100)]
        found = read(tmp_path, slide, feature(bow_tie))
        assert found.polygons_um["tumour"].is_valid
        assert found.polygons_um["tumour"].area == pytest.approx(5000 * 0.125)
        assert found.notes == ("1 x invalid outline: repaired",)

    def test_what_is_drawn_over_twice_is_kept(self, tmp_path, slide):
        # One round and a quarter: the pen overshoots its own start.
        angle = np.linspace(0, 2.5 * np.pi, 200)
        radius = np.linspace(80, 90, 200)
        turn = np.stack([150 + radius * np.cos(angle), 200 + radius * np.sin(angle)], axis=1)
        found = read(tmp_path, slide, feature(turn.tolist()))
        assert found.polygons_um["tumour"].contains(Point(75, 50))
        assert found.polygons_um["tumour"].area == pytest.approx(np.pi * 85**2 * 0.125, rel=0.06)
        assert all(not part.interiors for part in found.polygons_um["tumour"].geoms)

    def test_clipped_to_the_slide(self, tmp_path, slide):
        found = read(tmp_path, slide, feature([(200, 0), (400, 0), (400, 100), (200, 100)]))
        assert found.polygons_um["tumour"].equals(box(100, 0, 150, 25))
        assert found.notes == ("1 x annotation reaches outside the slide: clipped",)

    def test_outline_without_area(self, tmp_path, slide):
        found = read(tmp_path, slide, collection(feature(), feature([(0, 0), (10, 10), (20, 20)])))
        assert found.polygons_um["tumour"].equals(SQUARE_UM)
        assert "1 x outline without an area: ignored" in found.notes


def image_scope(region, layer='Id="1" Name="Tumor"', attributes=""):
    return f"""<?xml version="1.0" encoding="UTF-8"?>
    <Annotations MicronsPerPixel="0.5"><Annotation {layer}>
    <Attributes>{attributes}</Attributes>
    <Regions><RegionAttributeHeaders/>{region}</Regions></Annotation></Annotations>"""


def region(points=SQUARE, tag="Vertex", **attributes):
    given = " ".join(f'{key}="{value}"' for key, value in {"Type": "0", **attributes}.items())
    inner = "".join(f'<{tag} X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    return f"<Region {given}><Vertices>{inner}</Vertices></Region>"


HOLE = [(40.0, 60.0), (60.0, 60.0), (60.0, 100.0), (40.0, 100.0)]


class TestImageScope:
    @pytest.mark.parametrize(
        ("layer", "attributes", "text"),
        [
            ('Name="Tumor"', "", ""),
            ('Name=""', '<Attribute Name="Description" Id="0" Value="tumor"/>', ""),
            ('Name=""', '<Attribute Name="Tumor" Id="0" Value=""/>', ""),
            ('Name="Layer 1"', "", "tumor"),
        ],
    )
    def test_where_the_class_is_written(self, tmp_path, slide, layer, attributes, text):
        data = image_scope(region(Text=text), layer, attributes)
        assert read(tmp_path, slide, data, "a.xml").polygons_um["tumour"].equals(SQUARE_UM)

    def test_negative_region_is_a_hole_but_not_for_an_island_in_it(self, tmp_path, slide):
        island = [(45.0, 70.0), (55.0, 70.0), (55.0, 90.0), (45.0, 90.0)]
        data = image_scope(region(HOLE, NegativeROA="1") + region(NegativeROA="0") + region(island))
        found = read(tmp_path, slide, data, "a.xml").polygons_um["tumour"]
        assert found.symmetric_difference(
            SQUARE_UM - box(20, 15, 30, 25) | box(22.5, 17.5, 27.5, 22.5)
        ).area == pytest.approx(0)

    def test_ellipse_box_and_ruler(self, tmp_path, slide):
        data = image_scope(
            region([(10, 20), (110, 220)], Type="2") + region([(10, 20), (110, 220)], Type="4")
        )
        found = read(tmp_path, slide, data, "a.xml")
        # Semi-axes 50 px * 0.5 and 100 px * 0.25.
        assert found.polygons_um["tumour"].area == pytest.approx(np.pi * 25 * 25, rel=1e-3)
        assert found.polygons_um["tumour"].centroid.distance(Point(30, 30)) < 1e-6
        assert found.notes == ("1 x ruler: ignored",)

    def test_counts_from_the_whole_image(self, tmp_path, slide):
        slide.info = replace(slide.info, origin_px=(10, 20))
        found = read(tmp_path, slide, image_scope(region()), "a.xml")
        assert found.polygons_um["tumour"].equals(box(0, 0, 50, 50))


class TestHalo:
    def test_polygon_ellipse_rectangle_hole_and_pin(self, tmp_path, slide):
        def v(points, kind, negative="0"):
            return region(points, "V", Type=kind, HasEndcaps="0", NegativeROA=negative)

        parts = [
            v(SQUARE, "Polygon"),
            v(HOLE, "Polygon", "1"),
            v([(150, 20), (250, 120)], "Ellipse"),
            v([(150, 200), (250, 300)], "Rectangle"),
            v([(5, 5)], "Pin"),
        ]
        data = (
            '\ufeff<Annotations><Annotation LineColor="65280" Name="tumor" Visible="True"><Regions>'
            + "".join(parts)
            + "</Regions></Annotation></Annotations>"
        )
        found = read(tmp_path, slide, data, "a.annotations")
        expected = 2500 - 100 + np.pi * 50 * 50 * 0.125 + 100 * 100 * 0.125
        assert found.polygons_um["tumour"].area == pytest.approx(expected, rel=1e-3)
        assert found.notes == ("1 x pin: ignored",)

    def test_unknown_region_type(self, tmp_path, slide):
        data = image_scope(region(SQUARE, "V", Type="Spiral"))
        with pytest.raises(AnnotationError, match="Spiral"):
            read(tmp_path, slide, data, "a.annotations")


def ndpa(*views):
    return f'<?xml version="1.0" encoding="utf-8"?><annotations>{"".join(views)}</annotations>'


def view(inner, title="Tumor", kind="freehand", unit="nanometers"):
    return (
        f'<ndpviewstate id="1"><title>{title}</title><coordformat>{unit}</coordformat>'
        f'<annotation type="{kind}" displayname="x" color="#ff0000">{inner}</annotation></ndpviewstate>'
    )


def points_nm(points, closed=1):
    inner = "".join(f"<point><x>{x}</x><y>{y}</y></point>" for x, y in points)
    return f"<measuretype>0</measuretype><closed>{closed}</closed><pointlist>{inner}</pointlist>"


class TestNdpa:
    @pytest.fixture
    def slide(self, slide):
        offset = {
            "hamamatsu.XOffsetFromSlideCentre": "1000000",
            "hamamatsu.YOffsetFromSlideCentre": "-2000000",
        }
        slide.info = replace(slide.info, properties=offset, mpp=MPP)
        return slide

    @staticmethod
    def to_nm(x_um, y_um):
        # The slide is 150 x 100 um, its centre off by 1 mm and -2 mm.
        return round((x_um - 75) * 1000 + 1_000_000), round((y_um - 50) * 1000 - 2_000_000)

    def test_freehand_circle_and_what_has_no_area(self, tmp_path, slide):
        square = points_nm([self.to_nm(*corner) for corner in [(5, 5), (55, 5), (55, 55), (5, 55)]])
        x, y = self.to_nm(100, 50)
        circle = f"<x>{x}</x><y>{y}</y><radius>20000</radius>"
        data = ndpa(
            view(square),
            view(circle, "necrosis", "circle"),
            view(points_nm([(0, 0), (1, 1), (2, 0)], closed=0)),
            view("<x>0</x><y>0</y>", kind="pin"),
        )
        found = read(tmp_path, slide, data, "a.ndpa")
        assert found.polygons_um["tumour"].symmetric_difference(SQUARE_UM).area < 1e-6
        assert found.polygons_um["necrosis"].symmetric_difference(Point(100, 50).buffer(20)).area < 5
        assert set(found.notes) == {"1 x open line: ignored", "1 x pin: ignored"}

    def test_the_pixel_size_of_the_file_wrote_it(self, tmp_path, slide):
        square = points_nm([self.to_nm(*corner) for corner in [(5, 5), (55, 5), (55, 55), (5, 55)]])
        slide.mpp = (1.0, 0.5)  # as a user gave it
        found = read(tmp_path, slide, ndpa(view(square)), "a.ndpa")
        assert found.polygons_um["tumour"].symmetric_difference(box(10, 10, 110, 110)).area < 1e-6

    @pytest.mark.parametrize("change", [{"properties": {}}, {"origin_px": (5, 5)}])
    def test_a_slide_without_what_is_needed(self, tmp_path, slide, change):
        slide.info = replace(slide.info, **change)
        with pytest.raises(AnnotationError, match="cannot be placed"):
            read(tmp_path, slide, ndpa(view(points_nm([(0, 0), (1, 0), (1, 1)]))), "a.ndpa")

    def test_other_units_are_refused(self, tmp_path, slide):
        data = ndpa(view(points_nm([(0, 0), (1, 0), (1, 1)]), unit="furlongs"))
        with pytest.raises(AnnotationError, match="furlongs"):
            read(tmp_path, slide, data, "a.ndpa")


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]>
<Annotations><Annotation Name="&y;"/></Annotations>"""
BAD_FILES = {
    "broken JSON": ('{"type": "FeatureCollection", "features": [', "not valid JSON"),
    "other JSON": ('{"cells": 3}', "neither a FeatureCollection"),
    "list of numbers": ("[1, 2]", "something else than features"),
    "no features": (json.dumps(collection()), "no annotated region"),
    "only cells": (json.dumps(collection(feature(objectType="cell"))), "1 cell"),
    "not a number": (json.dumps(collection(feature([(0, 0), (float("nan"), 1), (1, 1)]))), "not finite"),
    "words": (json.dumps(collection(feature([("a", "b")] * 4))), "feature 0"),
    "strange geometry": (
        json.dumps(collection({**feature(), "geometry": {"type": "Blob", "coordinates": []}})),
        "Blob",
    ),
    "deep": ("[" * 100_000, "not"),
    "broken XML": ("<Annotations><Annotation>", "neither JSON nor valid XML"),
    "other XML": ("<svg/>", "<svg>"),
    "no regions": (image_scope(""), "no annotated region"),
    "no number": (image_scope(region([("here", 1), (2, 3), (4, 5)])), "here"),
    "no coordinate": (
        image_scope('<Region Type="0"><Vertices><Vertex X="1"/></Vertices></Region>'),
        "without Y",
    ),
    "entities": (BOMB, "entities"),
    "empty": ("", "neither JSON nor valid XML"),
    "empty NDPA": ("<annotations/>", "no annotated region"),
    "broken gzip": (gzip.compress(b"x" * 100)[:20], "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_says_what_and_where(tmp_path, slide, kind):
    content, message = BAD_FILES[kind]
    with pytest.raises(AnnotationError, match=message) as raised:
        read(tmp_path, slide, content, "bad.file")
    assert raised.value.path == tmp_path / "bad.file"
    assert raised.value.fix


def test_missing_file(tmp_path, slide):
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_annotations(tmp_path / "none.geojson", slide, NAMES)


def test_wrong_slide(tmp_path, slide):
    far = [(x + 5000, y) for x, y in SQUARE]
    with pytest.raises(AnnotationError, match=r"wholly outside the slide array\.tif"):
        read(tmp_path, slide, collection(feature(), feature(far)))


class TestFind:
    @pytest.mark.parametrize(
        "name",
        [
            "case 1.geojson",
            "case 1.geojson.gz",
            "case 1.json",
            "case 1.xml",
            "case 1.ndpa",
            "case 1.annotations",
            "case 1.ndpi.ndpa",
            "case 1.ndpi.geojson",
        ],
    )
    def test_names(self, tmp_path, name):
        slide = tmp_path / "case 1.ndpi"
        for other in (slide.name, name, "case 1.truth.json", "case 10.geojson", "case.geojson"):
            (tmp_path / other).touch()
        assert find_annotations(slide) == tmp_path / name

    def test_other_folder_only(self, tmp_path):
        folder = tmp_path / "drawn"
        folder.mkdir()
        (tmp_path / "a.geojson").touch()
        assert find_annotations(tmp_path / "a.svs", folder) is None
        (folder / "a.xml").touch()
        assert find_annotations(tmp_path / "a.svs", folder) == folder / "a.xml"

    def test_ome_tiff(self, tmp_path):
        (tmp_path / "a.geojson").touch()
        assert find_annotations(tmp_path / "a.ome.tif") == tmp_path / "a.geojson"

    def test_none(self, tmp_path):
        assert find_annotations(tmp_path / "a.svs") is None

    def test_two_are_refused_by_name(self, tmp_path):
        (tmp_path / "a.geojson").touch()
        (tmp_path / "a.xml").touch()
        with pytest.raises(AnnotationError, match=r"a\.geojson, a\.xml"):
            find_annotations(tmp_path / "a.svs")

    def test_missing_folder(self, tmp_path):
        with pytest.raises(AnnotationError, match="no such folder"):
            find_annotations(Path("a.svs"), tmp_path / "none")
