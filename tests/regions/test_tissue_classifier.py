"""The tissue classifier: from strokes on one slide to the regions of others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import shapely
from looking import CONFIG, look, train
from shapely.geometry import MultiPolygon, box
from slides import ArraySlide

from histo.config import Config, RegionsConfig, load_config
from histo.errors import AnnotationError, ClassifierError
from histo.regions.annotations import Annotations, read_annotations
from histo.regions.classifier import (
    Samples,
    TissueClassifier,
    cross_validate,
    load_classifier,
    save_classifier,
    train_classifier,
)
from histo.regions.classify import classify, mask_to_polygons, regions_of
from histo.regions.features import CELL_UM
from histo.regions.find import find_regions, prepared
from histo.regions.raster import rasterise
from histo.regions.scribbles import read_scribbles
from histo.slide import open_slide
from histo.slide.geometry import Box
from histo.synthetic.scribbles import write_scribbles
from histo.synthetic.slide import SlideSpec, render_slide


@pytest.fixture(scope="module")
def classifier(classifier_path: Path) -> TissueClassifier:
    return load_classifier(classifier_path)


def dice(found, true):
    return 2 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true))


def true_tumour(rendered, shape):
    with open_slide(rendered.slide) as slide:
        truth = read_annotations(rendered.annotations, slide, CONFIG.regions.names)
    return rasterise(truth.polygons_um["tumour"], shape, CELL_UM)


class TestOnRenderedSlides:
    def test_tumour_of_all_slides_from_strokes_on_one(self, cohort, looked, classifier):
        for rendered, slide in zip(cohort, looked, strict=True):
            of = slide.ready(classifier)
            found = classify(classifier, of) == 1 + classifier.classes.index("tumour")
            assert dice(found, true_tumour(rendered, found.shape) & of.assessed) >= 0.9, (
                rendered.spec.slide_id
            )

    def test_fluorescence(self, tmp_path):
        config = load_config(None, ["stain.kind=fluorescence", "stain.nuclear=DAPI", "stain.cd8=CD8"])
        taught, other = (
            render_slide(
                SlideSpec(
                    slide_id=f"f{k}", seed=60 + k, size_um=(1500.0, 1000.0), mpp=1.0, kind="fluorescence"
                ),
                tmp_path,
            )
            for k in range(2)
        )
        write_scribbles(taught, tmp_path / "strokes" / "f0.geojson")
        classifier = train([taught.slide], tmp_path / "strokes", tmp_path / "c.safetensors", config)
        assert (classifier.kind, classifier.channels) == ("fluorescence", ("nuclear",))
        slide = look(open_slide(other.slide), config)
        of = prepared(slide.slide, slide.tissue, slide.stain, config, classifier)
        found = classify(classifier, of) == 1 + classifier.classes.index("tumour")
        assert dice(found, true_tumour(other, found.shape) & of.assessed) > 0.88

    def test_how_the_slide_is_cut_makes_no_difference(self, looked, classifier):
        of = looked[2].ready(classifier)
        whole = classify(classifier, of, window_cells=400)
        for window_cells in (64, 50):
            assert (classify(classifier, of, window_cells=window_cells, threads=3) == whole).all()

    def test_only_assessed_tissue_has_a_class(self, looked, classifier):
        of = looked[0].ready(classifier)
        assert ((classify(classifier, of) > 0) == of.assessed).all()

    def test_cd8_staining_does_not_make_the_classes(self, cohort, looked, classifier):
        """Stained cells painted all over the tumour that had few: the regions stay."""
        with open_slide(cohort[2].slide) as slide:
            pixels = slide.read(Box(0, 0, *slide.size_px), 1.0)
        before = classify(classifier, looked[2].ready(classifier))
        tumour = 1 + classifier.classes.index("tumour")
        rows, columns = np.mgrid[-5:6, -5:6]
        disc = np.hypot(rows, columns) <= 4.5
        brown = 10 ** (-0.9 * np.array([0.27, 0.57, 0.78]))
        rng = np.random.default_rng(1)
        area_mm2 = np.count_nonzero(before == tumour) * CELL_UM**2 / 1e6
        for row, column in rng.permutation(np.argwhere(before == tumour))[: int(600 * area_mm2)]:
            spot = pixels[8 * row - 5 : 8 * row + 6, 8 * column - 5 : 8 * column + 6]
            spot[disc] = spot[disc] * brown
        after = classify(classifier, look(ArraySlide(pixels, 1.0)).ready(classifier))
        assert dice(before == tumour, after == tumour) > 0.95

    def test_a_part_that_cannot_be_read_costs_no_more_than_itself(self, cohort, classifier):
        with open_slide(cohort[2].slide) as slide:
            pixels = slide.read(Box(0, 0, *slide.size_px), 1.0)
        whole = classify(classifier, look(ArraySlide(pixels, 1.0)).ready(classifier))
        broken = ArraySlide(pixels, 1.0, broken=[Box(512, 512, 100, 100)])
        found = classify(classifier, look(broken).ready(classifier))
        row, column = np.indices(whole.shape)
        apart = np.maximum(np.abs(row - 70), np.abs(column - 70)) > 60
        assert (found[apart] == whole[apart]).mean() > 0.99
        assert (found > 0).mean() > 0.9 * (whole > 0).mean()


class TestTraining:
    def test_the_same_strokes_make_the_same_file(self, cohort, strokes, classifier_path, tmp_path):
        again = tmp_path / "again.safetensors"
        train([cohort[0].slide], strokes.parent, again)
        assert again.read_bytes() == classifier_path.read_bytes()

    def test_what_it_says_of_itself(self, classifier):
        assert classifier.classes == ("host", "stroma", "tumour")
        assert classifier.training["slides"] == ["learnt.tif"]
        assert classifier.training["n_annotations"] == {"host": 3, "stroma": 3, "tumour": 3}
        assert "scikit-learn" in classifier.training["versions"]
        result = classifier.cross_validation
        assert result.scheme == "annotations"
        assert result.by_class["tumour"].value > 0.8
        assert "leaving annotations out" in result.sentence()
        assert result.by_slide["learnt.tif"] == result.by_class

    def test_slides_are_left_out_where_there_are_two(self, cohort, strokes, tmp_path):
        folder = tmp_path / "strokes"
        folder.mkdir()
        shutil.copy(strokes, folder)
        write_scribbles(cohort[1], folder / "bowel.geojson")
        trained = train([r.slide for r in cohort], folder, tmp_path / "two.safetensors")
        result = trained.cross_validation
        assert result.scheme == "slides"
        assert set(result.by_slide) == {"learnt.tif", "bowel.tif"}
        assert result.by_class["tumour"].value > 0.8
        # Stroma was drawn on one slide only: it cannot be learnt without it.
        assert result.by_class["stroma"].value is None
        assert "no other slide" in result.by_class["stroma"].not_assessable
        assert result.by_slide["bowel.tif"]["stroma"].not_assessable == "not annotated"

    def test_a_class_of_ones_own_is_kept_by_its_name(self, cohort, strokes, looked, tmp_path):
        data = json.loads(strokes.read_text())
        for feature in data["features"]:
            if feature["properties"]["classification"]["name"] == "Stroma":
                feature["properties"]["classification"]["name"] = "Scar"
        folder = tmp_path / "strokes"
        folder.mkdir()
        (folder / "learnt.geojson").write_text(json.dumps(data))
        path = tmp_path / "own.safetensors"
        trained = train([cohort[0].slide], folder, path)
        assert trained.classes == ("Scar", "host", "tumour")
        config = Config(regions=RegionsConfig(classifier=str(path)))
        slide = looked[1]
        found = find_regions(slide.slide, slide.survey, slide.tissue, slide.stain, None, config, trained)
        # The wall of the bowel looks like it; `infer` has no region of that name and says so.
        assert found.unmapped == ("Scar",)
        assert "tumour" in found.polygons_um

    @pytest.mark.parametrize(
        ("keep", "message"),
        [
            (("Host", "Stroma"), "no assessed tissue is annotated as tumour"),
            (("Tumor",), "nothing to tell it from"),
        ],
    )
    def test_classes_that_are_missing(self, cohort, strokes, tmp_path, keep, message):
        data = json.loads(strokes.read_text())
        data["features"] = [f for f in data["features"] if f["properties"]["classification"]["name"] in keep]
        (tmp_path / "learnt.geojson").write_text(json.dumps(data))
        with pytest.raises(ClassifierError, match=message):
            train([cohort[0].slide], tmp_path, tmp_path / "c.safetensors")

    def test_strokes_on_glass(self, cohort, tmp_path):
        line = {"type": "LineString", "coordinates": [[2, 2], [60, 2]]}
        feature = {
            "type": "Feature",
            "geometry": line,
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
        }
        (tmp_path / "learnt.geojson").write_text(json.dumps([feature]))
        with pytest.raises(ClassifierError, match="no annotation covers assessed tissue"):
            train([cohort[0].slide], tmp_path, tmp_path / "c.safetensors")

    def test_no_annotation_file(self, cohort, tmp_path):
        with pytest.raises(ClassifierError, match="none of the slides has an annotation file"):
            train([cohort[0].slide], tmp_path, tmp_path / "c.safetensors")


class TestCrossValidation:
    @staticmethod
    def samples(slide, annotation, label, separable=True):
        rng = np.random.default_rng(0)
        label, annotation = np.asarray(label), np.asarray(annotation)
        features = rng.normal(size=(len(label), 4)).astype(np.float32)
        if separable:
            features[:, 0] += 12 * label
        classes = ("host", "tumour")
        names = tuple(f"s{k}" for k in range(int(np.max(slide)) + 1))
        return Samples(classes, names, features, label, np.asarray(slide), annotation)

    def test_what_can_be_told_apart_is(self):
        label, annotation = np.repeat([0, 1, 0, 1], 50), np.repeat([0, 1, 2, 3], 50)
        result = cross_validate(self.samples(np.zeros(200, int), annotation, label))
        assert {name: a.value for name, a in result.by_class.items()} == {"host": 1.0, "tumour": 1.0}
        assert result.confusion == {"s0": [[100, 0], [0, 100]]}

    def test_what_cannot_be_told_apart_is_not(self):
        label, annotation = np.repeat([0, 1, 0, 1], 500), np.repeat([0, 1, 2, 3], 500)
        result = cross_validate(self.samples(np.zeros(2000, int), annotation, label, separable=False))
        assert 0.35 < np.mean([a.value for a in result.by_class.values()]) < 0.65

    def test_one_annotation_a_class_leaves_nothing_to_judge(self):
        label = np.repeat([0, 1], 50)
        result = cross_validate(self.samples(np.zeros(100, int), label, label))
        assert result.scheme is None
        assert all(a.value is None for a in result.by_class.values())
        assert "NA: no other annotation shows this class" in result.sentence()

    def test_annotations_weigh_the_same_whatever_their_size(self):
        # A large annotation of host that looks like tumour does not outvote the others.
        label = np.array([0] * 10 + [1] * 10 + [0] * 10 + [1] * 10 + [0] * 10 + [0] * 5000)
        annotation = np.repeat([0, 1, 2, 3, 4, 5], [10, 10, 10, 10, 10, 5000])
        samples = self.samples(np.zeros(len(label), int), annotation, label)
        samples.features[-5000:, 0] += 12
        trained = train_classifier(samples, kind="brightfield", channels=("nuclear",))
        found = np.argmax(samples.features @ trained.coefficient + trained.intercept, axis=1)
        assert (found[:50] == label[:50]).mean() > 0.95


class TestFile:
    def test_it_is_read_as_it_was_written(self, classifier, classifier_path, tmp_path):
        saved = save_classifier(classifier, tmp_path / "c.safetensors")
        assert (tmp_path / "c.safetensors").read_bytes() == classifier_path.read_bytes()
        assert saved.sha256 == classifier.sha256
        again = load_classifier(tmp_path / "c.safetensors")
        np.testing.assert_array_equal(again.coefficient, classifier.coefficient)
        assert again.cross_validation == classifier.cross_validation

    def test_missing_and_damaged(self, classifier_path, tmp_path):
        with pytest.raises(ClassifierError, match="no such file"):
            load_classifier(tmp_path / "absent")
        content = classifier_path.read_bytes()
        path = tmp_path / "bad.safetensors"
        for damaged in (content[: len(content) // 2], b"", b"\x80\x04pickled?"):
            path.write_bytes(damaged)
            with pytest.raises(ClassifierError, match="cannot be read"):
                load_classifier(path)
        path.write_bytes(safetensors.numpy.save({"x": np.zeros(3, np.float32)}))
        with pytest.raises(ClassifierError, match="no tissue classifier"):
            load_classifier(path)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("feature_mpp_um", 1.0, "feature_mpp_um 1.0 instead of 2.0"),
            ("features", ["other"], "features others"),
            ("version", 99, "version 99"),
            ("classes", ["tumour"], "tensors do not fit"),
            ("cross_validation", {}, "damaged"),
        ],
    )
    def test_made_for_something_else(self, classifier_path, tmp_path, key, value, message):
        content = classifier_path.read_bytes()
        tensors = safetensors.numpy.load(content)
        with safetensors.safe_open(classifier_path, framework="numpy") as file:
            header = json.loads(file.metadata()["histo"])
        header[key] = value
        path = tmp_path / "other.safetensors"
        path.write_bytes(safetensors.numpy.save(tensors, metadata={"histo": json.dumps(header)}))
        with pytest.raises(ClassifierError, match=message):
            load_classifier(path)

    def test_another_kind_of_slide_and_coarse_pixels(self, classifier, looked):
        with pytest.raises(ClassifierError, match="another kind of slide: fluorescence, not brightfield"):
            looked[0].ready(replace(classifier, kind="fluorescence"))
        with pytest.raises(ClassifierError, match="another channels: nuclear, residual, not nuclear"):
            looked[0].ready(replace(classifier, channels=("nuclear", "residual")))
        pixels = np.full((200, 300, 3), 240, np.uint8)
        with pytest.raises(ClassifierError, match=r"pixels of 3.00 um are too coarse"):
            look(ArraySlide(pixels, 3.0)).ready(classifier)


class TestScribbles:
    @staticmethod
    def read(tmp_path, features, width=10.0):
        path = tmp_path / "a.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        slide = ArraySlide(np.full((400, 400, 3), 255, np.uint8), mpp=(0.5, 0.25))
        return read_scribbles(path, slide, CONFIG.regions.names, width)

    @staticmethod
    def feature(kind, coordinates, name):
        classification = {} if name is None else {"classification": {"name": name}}
        return {
            "type": "Feature",
            "geometry": {"type": kind, "coordinates": coordinates},
            "properties": {"objectType": "annotation", **classification},
        }

    def test_areas_lines_and_classes(self, tmp_path):
        square = [[[100, 100], [200, 100], [200, 200], [100, 200], [100, 100]]]
        found = self.read(
            tmp_path,
            [
                self.feature("Polygon", square, "Tumor"),
                self.feature("LineString", [[100, 200], [300, 200]], "Liver"),
                self.feature("MultiLineString", [[[50, 50], [90, 50]], [[50, 90], [90, 90]]], "Mucin"),
                self.feature("Polygon", square, None),
                self.feature("LineString", [[100, 200]], "Liver"),
            ],
        )
        assert [s.class_name for s in found] == ["tumour", "host", "Mucin"]
        assert found[0].area_um.equals(box(50, 25, 100, 50))
        assert found[1].area_um.area == pytest.approx(100 * 10 + np.pi * 25, rel=0.01)
        assert found[1].area_um.centroid.coords[0] == pytest.approx((100, 50))
        assert len(found[2].area_um.geoms) == 2 or found[2].area_um.area > 400

    def test_nothing_that_teaches(self, tmp_path):
        with pytest.raises(AnnotationError, match="no area or line with a class"):
            self.read(tmp_path, [self.feature("Point", [3, 4], "Tumor")])


class TestPolygons:
    def test_area_and_holes_of_a_mask(self):
        rows, columns = np.mgrid[:200, :300] + 0.5
        ring = np.hypot(rows - 100, columns - 150)
        mask = (ring < 90) & (ring > 40)
        polygons = mask_to_polygons(mask, 8.0)
        assert len(polygons.geoms) == 1
        assert len(polygons.geoms[0].interiors) == 1
        assert polygons.area == pytest.approx(np.pi * (90**2 - 40**2) * 64, rel=0.01)
        # A staircase would be 4 / pi times as long.
        assert polygons.length == pytest.approx(2 * np.pi * 130 * 8, rel=0.03)
        assert np.mean(rasterise(polygons, mask.shape, 8.0) != mask) < 0.003

    def test_what_reaches_the_edge_is_closed(self):
        assert mask_to_polygons(np.ones((100, 200), bool), 8.0).area == pytest.approx(1.28e6, rel=0.01)
        assert mask_to_polygons(np.zeros((10, 20), bool), 8.0).is_empty

    def test_by_name(self):
        raster = np.zeros((60, 60), np.uint8)
        raster[:, :30], raster[:, 30:] = 1, 3
        found = regions_of(raster, ("a", "b", "c"), 8.0)
        assert list(found) == ["a", "c"]
        assert found["c"].bounds == pytest.approx((240, 0, 480, 480))


class TestWhereRegionsComeFrom:
    @pytest.fixture
    def config(self, classifier_path):
        return Config(regions=RegionsConfig(classifier=str(classifier_path)))

    @staticmethod
    def find(slide, annotations, config, classifier):
        return find_regions(
            slide.slide, slide.survey, slide.tissue, slide.stain, annotations, config, classifier
        )

    def test_annotated_tumour_goes_before_the_classifier(self, looked, classifier, config):
        drawn = Annotations({"tumour": MultiPolygon([box(0, 0, 100, 100)])}, Path("a.geojson"))
        assert self.find(looked[0], drawn, config, classifier) is drawn

    def test_other_annotations_are_kept_beside_what_is_classified(self, looked, classifier, config):
        spoilt = MultiPolygon([box(0, 0, 100, 100)])
        drawn = Annotations({"exclude": spoilt}, Path("a.geojson"), notes=("a note",))
        found = self.find(looked[0], drawn, config, classifier)
        assert found.polygons_um["exclude"] is spoilt
        assert found.polygons_um["tumour"].area > 0.2e6
        assert found.notes == ("a note",)
        assert found.source == Path("a.geojson")

    def test_the_flag_says_so_with_the_accuracy(self, looked, classifier, config):
        found = self.find(looked[2], None, config, classifier)
        ((code, message),) = found.flags
        assert code == "classified_regions"
        assert classifier.sha256[:8] in message
        assert "tumour " in message
        assert "leaving annotations out" in message

    def test_regions_are_disjoint_and_cover_the_tissue(self, looked, classifier, config):
        found = self.find(looked[2], None, config, classifier)
        areas = [region.area for region in found.polygons_um.values()]
        union = shapely.union_all(list(found.polygons_um.values())).area
        assert sum(areas) == pytest.approx(union, rel=0.01)
        assert union / 1e6 == pytest.approx(looked[2].tissue.area_mm2(looked[2].tissue.assessed), rel=0.02)
