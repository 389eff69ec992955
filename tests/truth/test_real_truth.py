"""The hand-made truth fits its images, and the shipped weights reach a floor on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist
from script import load_script
from shapely.geometry import box

TRUTH = Path(__file__).resolve().parent
IMAGES = ("ki67", "cd31", "fhl2", "fihc4")
CLASSES = {"positive", "negative", "uncertain_stain", "uncertain"}
# F1 at 4 um: below it, the shipped weights no longer are what the model card says.
FLOORS = {
    "ki67": {"dots": 0.90, "dots_positive": 0.84},
    "cd31": {"dots": 0.77},
    "fhl2": {"dots": 0.75},
    "fihc4": {"dots": 0.93, "dots_positive": 0.88},
}
# False CD8+ calls per mm2 where there is no T cell: what the shipped weights do, and some.
CEILINGS = {"cd31": 20.0, "fhl2": 20.0}


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The script benchmarks/real_images.py as a module."""
    return load_script("benchmarks/real_images.py")


def test_every_image_has_dots_in_every_field() -> None:
    fields = pd.read_csv(TRUTH / "fields.csv")
    assert fields["field"].is_unique
    assert set(fields["image"]) == set(IMAGES)
    assert set(fields["complete_for"]) == {"all nuclei", "positive cells"}
    for image, group in fields.groupby("image"):
        dots = pd.read_csv(TRUTH / f"{image}.csv")
        assert list(dots.columns) == ["field", "x_px", "y_px", "class"]
        assert set(dots["class"]) <= CLASSES
        assert set(dots["field"]) == set(group["field"])


@pytest.mark.parametrize("name", IMAGES)
def test_dots_lie_in_their_fields_and_apart(
    name: str, benchmark: ModuleType, data_dir: Path, tmp_path: Path
) -> None:
    slide = benchmark.prepare(name, data_dir, tmp_path).slide
    fields = pd.read_csv(TRUTH / "fields.csv").query("image == @name").set_index("field")
    width, height = slide.size_px
    assert ((fields["left_px"] >= 0) & (fields["right_px"] <= width)).all()
    assert ((fields["top_px"] >= 0) & (fields["bottom_px"] <= height)).all()
    for field, dots in pd.read_csv(TRUTH / f"{name}.csv").groupby("field"):
        edges = fields.loc[field]
        assert dots["x_px"].between(edges["left_px"], edges["right_px"], inclusive="left").all()
        assert dots["y_px"].between(edges["top_px"], edges["bottom_px"], inclusive="left").all()
        apart_um = pdist(dots[["x_px", "y_px"]].to_numpy() * slide.mpp)
        assert apart_um.min() >= 2.0, field


@pytest.mark.parametrize("name", IMAGES)
def test_the_shipped_weights_reach_their_floor(
    name: str, benchmark: ModuleType, data_dir: Path, tmp_path: Path
) -> None:
    used = benchmark.contenders(["default"], classical=False, vectors="estimated", precision="float32")
    image = benchmark.prepare(name, data_dir, tmp_path)
    found = benchmark.detect(
        image, benchmark.stain_of(image, used["shipped"]), used["shipped"].detector_for(image.slide)
    )
    dots = benchmark.read_dots(name, TRUTH, image.slide.mpp)
    numbers = benchmark.measure(image, found, dots, data_dir)
    for what, floor in FLOORS[name].items():
        assert numbers[what]["f1"] >= floor, (what, numbers[what])
    if name == "fihc4":
        assert numbers["cytotoxic_at_a_call"] == numbers["cytotoxic"] == 6
    if name in CEILINGS:
        assert numbers["false_cd8_per_mm2"] <= CEILINGS[name]


def test_rows_at_a_call_may_share_it(benchmark: ModuleType) -> None:
    found = benchmark.Found(
        xy_um=np.array([[5.0, 5.0], [30.0, 5.0]]),
        cd8=np.array([True, False]),
        in_tissue=np.array([True, True]),
        outlines=np.array([box(0, 0, 10, 10), box(25, 0, 35, 10)], object),
        area_um2=np.array([100.0, 100.0]),
    )
    # Two in one call, one at it, one too far, one in a cell that is no call.
    rows = np.array([[2.0, 2.0], [8.0, 8.0], [13.9, 5.0], [14.1, 5.0], [30.0, 5.0]])
    assert benchmark.rows_at_calls(found, rows, 4.0).tolist() == [0, 1, 2]
    nothing = replace(found, cd8=np.array([False, False]))
    assert benchmark.rows_at_calls(nothing, rows, 4.0).tolist() == []


def test_a_cell_counts_in_its_field_only_and_spared_dots_count_neither_way(benchmark: ModuleType) -> None:
    dots = benchmark.Dots(
        xy_um=np.array([[5.0, 5.0], [99.0, 50.0], [50.0, 50.0], [20.0, 80.0]]),
        classes=np.array(["positive", "negative", "uncertain", "negative"], object),
        fields=np.array(["a"] * 4, object),
        boxes_um={"a": (0.0, 0.0, 100.0, 100.0)},
        all_nuclei=("a",),
        positive=("a",),
    )
    found = np.array(
        [
            [6.0, 5.0],  # at the first dot
            [101.0, 50.0],  # outside, but the second dot's partner
            [150.0, 50.0],  # outside
            [50.0, 51.0],  # at the uncertain dot
            [70.0, 20.0],  # at none
        ]
    )
    matched = benchmark.match_dots(found, dots, ("a",), ("positive", "negative"), ("uncertain",))
    assert tuple(matched) == (2, 1, 1)
    # A wanted class of which there is none: every found cell inside is one too many.
    none = benchmark.match_dots(found, dots, ("a",), ("uncertain_stain",), ())
    assert tuple(none) == (0, 3, 0)
