"""One's own annotated images: label images, GeoJSON and points, and every mistake that is told."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, UNKNOWN, AnnotatedImage
from histo.datasets.open import open_dataset
from histo.errors import DatasetError

HEIGHT, WIDTH = 24, 40
PIXELS = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset of one image without labels, at 0.5 um per pixel."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.fromarray(PIXELS).save(tmp_path / "images/a.png")
    (tmp_path / "dataset.yaml").write_text("mpp: 0.5\n")
    return tmp_path


def settings(root: Path, text: str) -> None:
    (root / "dataset.yaml").write_text(text)


def load(root: Path, mpp: float | None = None) -> AnnotatedImage:
    return open_dataset("folder", root, mpp=mpp).items[0].load()


def square(x: float, y: float, side: float) -> list[list[list[float]]]:
    return [[[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]]


def feature(geometry: dict[str, Any], name: str | None = None, kind: str = "annotation") -> dict[str, Any]:
    """An object as QuPath 0.5 writes it."""
    properties: dict[str, Any] = {"objectType": kind}
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    return {"type": "Feature", "id": "0d9b", "geometry": geometry, "properties": properties}


def polygon(
    x: float, y: float, side: float, name: str | None = None, kind: str = "annotation"
) -> dict[str, Any]:
    return feature({"type": "Polygon", "coordinates": square(x, y, side)}, name, kind)


def write_geojson(root: Path, *features: dict[str, Any]) -> None:
    text = json.dumps({"type": "FeatureCollection", "features": list(features)})
    (root / "labels/a.geojson").write_text(text)


# Label images -----------------------------------------------------------------------------------------------


def test_label_image(root: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    labels[2:4, 30:34], labels[20, 0] = 9, 4
    tifffile.imwrite(root / "labels/a.tif", labels)
    settings(
        root,
        "mpp: 0.5\ndefault_class: cd8_positive\nbackground_known: true\nlicence: CC0\ncommercial_use: true\n",
    )
    dataset = open_dataset("folder", root)
    image = pickle.loads(pickle.dumps(dataset.items[0].load))()
    np.testing.assert_array_equal(image.pixels, PIXELS)
    assert (image.labels[20, 0], image.labels[3, 33]) == (1, 2)
    np.testing.assert_allclose(image.points_um, [[0.25, 10.25], [16.0, 1.5]])
    assert image.classes.tolist() == [CD8_POSITIVE, CD8_POSITIVE]
    assert (image.mpp, image.background_known, dataset.licence, dataset.commercial_use) == (
        0.5,
        True,
        "CC0",
        True,
    )


def test_label_image_of_another_size_is_refused(root: Path) -> None:
    tifffile.imwrite(root / "labels/a.tif", np.zeros((WIDTH, HEIGHT), np.uint16))
    with pytest.raises(DatasetError, match="24 x 40 px, the image 40 x 24"):
        load(root)


def test_label_image_of_fractions_is_refused(root: Path) -> None:
    tifffile.imwrite(root / "labels/a.tif", np.zeros((HEIGHT, WIDTH), np.float32))
    with pytest.raises(DatasetError, match="not one image of whole numbers"):
        load(root)


# GeoJSON ----------------------------------------------------------------------------------------------------


def test_geojson_outlines(root: Path) -> None:
    settings(root, "mpp: 0.5\nclasses: {CD8: cd8_positive, Tumor: other_nucleus, Region: ignore}\n")
    write_geojson(
        root,
        polygon(0, 0, 24, "Region"),
        polygon(30, 2, 6, "CD8", "detection"),
        polygon(4, 10, 8, "tumor ", "cell"),
        polygon(6, 12, 2, "CD8"),  # inside the one before
        polygon(20, 20, 3),
        polygon(0, 0, 40, "CD8", "tile"),
    )
    image = load(root)
    # Largest first, so that the small one lies on top.
    assert image.labels.max() == 4
    at = {
        name: image.labels[y, x] for name, x, y in (("a", 33, 5), ("b", 5, 11), ("in", 7, 13), ("c", 21, 21))
    }
    assert sorted(at.values()) == [1, 2, 3, 4]
    classes = {name: image.classes[label - 1] for name, label in at.items()}
    assert classes == {"a": CD8_POSITIVE, "b": OTHER_NUCLEUS, "in": CD8_POSITIVE, "c": UNKNOWN}
    assert (image.labels == at["a"]).sum() == 36
    assert (image.labels == at["b"]).sum() == 64 - 4
    np.testing.assert_allclose(image.points_um[at["a"] - 1], [16.5, 2.5])
    assert image.background_known is False


def test_geojson_points(root: Path) -> None:
    write_geojson(
        root,
        feature({"type": "Point", "coordinates": [31.5, 2]}, "cd8_positive"),
        feature({"type": "MultiPoint", "coordinates": [[1, 20], [2, 21]]}, "other_nucleus"),
    )
    image = load(root)
    np.testing.assert_allclose(image.points_um, [[15.75, 1.0], [0.5, 10.0], [1.0, 10.5]])
    assert image.classes.tolist() == [CD8_POSITIVE, OTHER_NUCLEUS, OTHER_NUCLEUS]
    assert image.labels is None


def test_geojson_of_points_and_outlines_gives_points(root: Path) -> None:
    dot = feature({"type": "Point", "coordinates": [31.5, 2]}, "cd8_positive")
    write_geojson(root, polygon(4, 10, 8, "other_nucleus"), dot)
    image = load(root)
    np.testing.assert_allclose(image.points_um, [[15.75, 1.0], [4.0, 7.0]])
    assert image.classes.tolist() == [CD8_POSITIVE, OTHER_NUCLEUS]
    assert image.labels is None


@pytest.mark.parametrize("text", ["", "[]", '{"type": "FeatureCollection", "features": []}'])
def test_empty_geojson_is_an_image_without_cells(root: Path, text: str) -> None:
    (root / "labels/a.geojson").write_text(text)
    image = load(root)
    assert image.labels is not None
    assert not image.labels.any()
    assert image.points_um is not None
    assert image.points_um.shape == (0, 2)
    assert image.classes is not None
    assert image.classes.shape == (0,)


def test_outline_below_a_pixel_is_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_geojson(root, polygon(10.1, 10.1, 0.2, "cd8_positive"), polygon(20, 10, 3, "other_nucleus"))
    with caplog.at_level(logging.WARNING):
        image = load(root)
    assert "1 outlines hold no pixel" in caplog.text
    assert image.classes is not None
    assert image.classes.tolist() == [OTHER_NUCLEUS]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (polygon(4, 10, 8, "Lymphocyte"), "does not map: lymphocyte"),
        (polygon(400, 10, 8, "cd8_positive"), "x 404, y 14 px lies outside the image"),
        (polygon(0, 0, 200, "cd8_positive"), "10000 um2 is no cell"),
        (polygon(0, 0, float("nan"), "cd8_positive"), "not finite"),
        (feature({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}), "neither an outline nor a point"),
        (feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0]]]}), "without an area"),
        (feature({"type": "Polygon", "coordinates": [[["x", 0], [1, 1], [0, 1]]]}), "cannot be read"),
        (feature({"type": "Point", "coordinates": [1]}), "cannot be read"),
        ({"type": "Feature", "geometry": None, "properties": {}}, "cannot be read"),
        ({"type": "Feature", "properties": [1]}, "not a mapping"),
        ({"type": "Cell"}, "something else than features"),
    ],
)
def test_geojson_that_does_not_fit_is_refused(root: Path, change: dict[str, Any], message: str) -> None:
    write_geojson(root, polygon(4, 10, 8, "cd8_positive"), change)
    with pytest.raises(DatasetError, match=message) as caught:
        load(root)
    assert caught.value.path == root / "labels/a.geojson"


@pytest.mark.parametrize("text", ["{", "7", '{"a": 1}', "[" * 100_000, "\x00", '"x"'])
def test_text_that_is_no_geojson_is_refused(root: Path, text: str) -> None:
    (root / "labels/a.geojson").write_text(text)
    with pytest.raises(DatasetError, match="not GeoJSON of cells"):
        load(root)


def test_deep_hierarchy_is_flattened(root: Path) -> None:
    top = polygon(4, 10, 8, "other_nucleus")
    for _ in range(150):
        top = {**polygon(20, 10, 3, "cd8_positive"), "properties": {"childObjects": [top]}}
    write_geojson(root, top)
    image = load(root)
    # 150 outlines on one place leave one instance there, and one more below them.
    assert image.labels is not None
    assert image.labels.max() == 2


# Points -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "x_px,y_px,class\n31.5,2,cd8_positive\n1,20,\n",
        "class;y_um;x_um\ncd8_positive;1;15.75\n;10;0.5\n",
        "\ufeffX_PX\tY_PX\tclass\n31.5\t2\tCD8_Positive\n1\t20\t\n",
    ],
)
def test_points(root: Path, text: str) -> None:
    (root / "labels/a.csv").write_text(text, encoding="utf-8")
    image = load(root)
    np.testing.assert_allclose(image.points_um, [[15.75, 1.0], [0.5, 10.0]])
    assert image.classes is not None
    assert image.classes.tolist() == [CD8_POSITIVE, UNKNOWN]
    assert image.labels is None


@pytest.mark.parametrize("text", ["", "x_px,y_px\n"])
def test_no_points(root: Path, text: str) -> None:
    (root / "labels/a.csv").write_text(text)
    image = load(root)
    assert image.points_um is not None
    assert image.points_um.shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n", "neither x_px and y_px nor x_um and y_um"),
        ("x_px,y_px,x_um,y_um\n1,2,1,2\n", "or both"),
        ("x_px,y_px\n1,2\n,3\n", "line 3 holds no position"),
        ("x_px,y_px\n1,inf\n", "line 2 holds no position"),
        ("x_px,y_px\n2,31\n", "lies outside the image"),
        ("x_px,y_px,class\n2,3,B cell\n", "does not map: b cell"),
        ('x_px,y_px\n"1,2\n', "not a readable CSV"),
        ("x_px,y_px\n1,2,3\n", "not a readable CSV"),
        ("x_px,y_px,X_px\n1,2,3\n", "two columns of one name"),
        ("x_px;y_px\n31,5;2\n", "line 2 holds no position"),
    ],
)
def test_points_that_do_not_fit_are_refused(root: Path, text: str, message: str) -> None:
    (root / "labels/a.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        load(root)


# Pixel size and images --------------------------------------------------------------------------------------


def tiff_image(root: Path, **options: Any) -> None:
    (root / "images/a.png").unlink()
    tifffile.imwrite(root / "images/a.tif", PIXELS, photometric="rgb", **options)
    (root / "labels/a.csv").write_text("x_px,y_px\n10,10\n")


def test_pixel_size_from_tiff_unless_it_is_given(root: Path) -> None:
    tiff_image(root, resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    (root / "dataset.yaml").unlink()
    assert load(root).mpp == pytest.approx(0.5)
    assert load(root, mpp=0.3).mpp == 0.3
    settings(root, "mpp: 0.4\n")
    assert load(root).mpp == 0.4
    assert load(root, mpp=0.3).mpp == 0.3


def test_pixels_that_are_nearly_square_are_read_as_stored(root: Path) -> None:
    tiff_image(root, resolution=(20_000, 20_015), resolutionunit="CENTIMETER")
    settings(root, "licence: CC0\n")
    np.testing.assert_array_equal(load(root).pixels, PIXELS)


@pytest.mark.parametrize("largest", [7, 2**24, 2**32 - 1])
def test_label_image_with_ids_of_any_size(root: Path, largest: int) -> None:
    labels = np.zeros((HEIGHT, WIDTH), np.uint32)
    labels[2:4, 30:34], labels[20, 0], labels[9, 9] = largest, 4, 6
    tifffile.imwrite(root / "labels/a.tif", labels)
    image = load(root)
    assert image.labels is not None
    assert (image.labels[20, 0], image.labels[9, 9], image.labels[3, 33]) == (1, 2, 3)
    assert (image.labels > 0).sum() == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": (1, 1), "resolutionunit": "NONE"}, "no pixel size. Give mpp in dataset.yaml"),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, "Give mpp in dataset.yaml"),
        ({"resolution": (20_000, 10_000), "resolutionunit": "CENTIMETER"}, "pixels that are not square"),
    ],
)
def test_pixel_size_is_never_guessed(root: Path, options: dict[str, Any], message: str) -> None:
    tiff_image(root, **options)
    settings(root, "licence: CC0\n")
    with pytest.raises(DatasetError, match=message):
        load(root)


def test_png_needs_a_pixel_size(root: Path) -> None:
    (root / "labels/a.csv").write_text("")
    settings(root, "licence: CC0\n")
    with pytest.raises(DatasetError, match="Give mpp"):
        load(root)
    with pytest.raises(DatasetError, match="not the pixel size of a microscope"):
        open_dataset("folder", root, mpp=40)


def test_fluorescence_channels_by_name(root: Path) -> None:
    stack = np.random.default_rng(1).integers(0, 4000, (3, HEIGHT, WIDTH), dtype=np.uint16)
    (root / "images/a.png").unlink()
    tifffile.imwrite(
        root / "images/a.ome.tif",
        stack,
        metadata={
            "axes": "CYX",
            "Channel": {"Name": ["CD8", "AF", "DAPI"]},
            "PhysicalSizeX": 0.5,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm",
        },
    )
    (root / "labels/a.csv").write_text("x_um,y_um,class\n10,10,cd8_positive\n")
    settings(root, "kind: fluorescence\nchannels: {nuclear: DAPI, cd8: CD8}\n")
    image = load(root)
    np.testing.assert_array_equal(image.pixels[..., 0], stack[2])
    np.testing.assert_array_equal(image.pixels[..., 1], stack[0])
    assert not image.pixels[..., 2].any()
    assert image.pixels.dtype == np.uint16
    assert (image.kind, image.mpp) == ("fluorescence", 0.5)
    settings(root, "kind: fluorescence\nchannels: {nuclear: DAPI, cd8: CD3}\n")
    with pytest.raises(DatasetError, match="no channel 'CD3' \\(channels: CD8, AF, DAPI\\)"):
        load(root)
    settings(root, "kind: fluorescence\n")
    with pytest.raises(DatasetError, match="without channels"):
        load(root)
    settings(root, "mpp: 0.5\n")
    with pytest.raises(DatasetError, match="a fluorescence image in a brightfield dataset"):
        load(root)


# The folder -------------------------------------------------------------------------------------------------


def add_images(root: Path, *names: str) -> None:
    for name in names:
        Image.fromarray(PIXELS).save(root / f"images/{name}.png")
        (root / f"labels/{name}.csv").write_text("x_px,y_px\n")


def test_groups_and_split_from_a_table(root: Path) -> None:
    add_images(root, "a", "b", "c")
    settings(root, "mpp: 0.5\ngroups: patients.csv\n")
    (root / "patients.csv").write_text(
        "image;group;split\na.png;P1;train\nb;P1;train\nc.png;P2;test\nold.png;P9;\n"
    )
    items = {item.name: (item.group, item.split) for item in open_dataset("folder", root).items}
    assert items == {"a": ("P1", "train"), "b": ("P1", "train"), "c": ("P2", "test")}


def test_without_groups_each_image_is_one_and_the_log_says_so(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_images(root, "a", "b")
    with caplog.at_level(logging.WARNING):
        items = open_dataset("folder", root).items
    assert [(item.group, item.split) for item in items] == [("a", None), ("b", None)]
    assert "each image counts as a patient of its own" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,patient\na,P1\n", "no columns image and group"),
        ("image,group\na,P1\n", "no line for 1 images: b"),
        ("image,group\na,P1\nb,\n", "b has no group"),
        ("image,group\na,P1\nb,P1\na.png,P2\n", "a.png has two lines"),
        ("image,group,split\na,P1,train\nb,P1,val\n", "split 'val' is none of"),
    ],
)
def test_groups_that_do_not_fit_are_refused(root: Path, text: str, message: str) -> None:
    add_images(root, "a", "b")
    settings(root, "mpp: 0.5\ngroups: patients.csv\n")
    (root / "patients.csv").write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset("folder", root)
    assert caught.value.path == root / "patients.csv"


def test_groups_outside_the_folder_are_refused(root: Path) -> None:
    add_images(root, "a")
    settings(root, "mpp: 0.5\ngroups: ../patients.csv\n")
    (root.parent / "patients.csv").write_text("image,group\na,P1\n")
    with pytest.raises(DatasetError, match="lie outside the dataset's folder"):
        open_dataset("folder", root)


def no_images(root: Path) -> None:
    (root / "images/a.png").unlink()


def no_labels_folder(root: Path) -> None:
    (root / "labels").rmdir()


def nothing_for_an_image(root: Path) -> None:
    (root / "labels/b.csv").write_text("x_px,y_px\n")


def two_labels(root: Path) -> None:
    (root / "labels/a.csv").write_text("x_px,y_px\n")
    (root / "labels/a.geojson").write_text("[]")


def unknown_setting(root: Path) -> None:
    settings(root, "pixel_size: 0.5\n")


def unknown_class(root: Path) -> None:
    settings(root, "classes: {CD8: positive}\n")


def broken_yaml(root: Path) -> None:
    settings(root, "mpp: [\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_images, "no image in it"),
        (no_labels_folder, "no folder labels"),
        (nothing_for_an_image, "no labels for 1 images: a"),
        (two_labels, "two files named a: a.csv and a.geojson"),
        (unknown_setting, "pixel_size"),
        (unknown_class, "classes.CD8"),
        (broken_yaml, "not valid YAML"),
    ],
)
def test_another_layout_is_refused(root: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(root)
    with pytest.raises(DatasetError, match=message):
        open_dataset("folder", root)


def test_the_white_point_of_the_slide_is_told_by_the_groups(root: Path) -> None:
    (root / "labels/a.geojson").write_text("")
    settings(root, "mpp: 0.5\ngroups: g.csv\n")
    columns = "image,group,white_red,white_green,white_blue\n"
    (root / "g.csv").write_text(columns + "a,P1,240,241.5,238\n")
    assert load(root).white_point == (240.0, 241.5, 238.0)
    (root / "g.csv").write_text(columns + "a,P1,,,\n")
    assert load(root).white_point is None
    for line, told in (("a,P1,240,,238", "line 2 has no white point"), ("a,P1,0,1,2", "line 2 has no white")):
        (root / "g.csv").write_text(columns + line + "\n")
        with pytest.raises(DatasetError, match=told):
            load(root)
    (root / "g.csv").write_text("image,group,white_red\na,P1,240\n")
    with pytest.raises(DatasetError, match="no column white_green, white_blue"):
        load(root)
