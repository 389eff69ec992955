"""Adapters to brightfield IHC datasets, on tiny folders of the published layout."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, UNKNOWN, Item
from histo.datasets.open import open_dataset
from histo.errors import DatasetError

HEIGHT, WIDTH = 12, 20


def picture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def by_name(items: list[Item]) -> dict[str, Item]:
    assert len({item.name for item in items}) == len(items)
    return {item.name: item for item in items}


# NuClick-IHC ------------------------------------------------------------------------------------------------


@pytest.fixture
def nuclick_root(tmp_path: Path) -> Path:
    tmp_path = tmp_path / "downloads"
    for name, split in (("ROI_7_1", "Train"), ("ROI_7_2", "Train"), ("ROI_9_1", "Validation")):
        save(tmp_path / "IHC_nuclick/IHC/images" / split / f"{name}.png", picture(len(name)))
        mask = np.zeros((HEIGHT, WIDTH), np.float64)
        mask[2:4, 10:14] = 5  # ids with gaps, of a float dtype
        mask[8:10, 1:3] = 9
        (tmp_path / "IHC_nuclick/IHC/masks" / split).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "IHC_nuclick/IHC/masks" / split / f"{name}.npy", mask)
    return tmp_path


def test_nuclick_gives_stained_lymphocytes(nuclick_root: Path) -> None:
    dataset = open_dataset("nuclick", nuclick_root, mpp=0.5)
    items = by_name(list(dataset.items))
    assert {name: (item.group, item.split) for name, item in items.items()} == {
        "ROI_7_1": ("ROI_7", "train"),
        "ROI_7_2": ("ROI_7", "train"),
        "ROI_9_1": ("ROI_9", "validation"),
    }
    image = pickle.loads(pickle.dumps(items["ROI_7_1"].load))()
    np.testing.assert_array_equal(image.pixels, picture(7))
    assert image.labels.dtype == np.int32
    assert image.labels[2, 13] == 1
    assert image.labels[9, 2] == 2
    assert image.labels.max() == 2
    np.testing.assert_allclose(image.points_um, [[6.0, 1.5], [1.0, 4.5]])
    assert image.classes.tolist() == [CD8_POSITIVE, CD8_POSITIVE]
    assert (image.kind, image.mpp, image.background_known) == ("brightfield", 0.5, False)
    assert dataset.commercial_use is None


def test_nuclick_is_found_from_any_of_its_folders(nuclick_root: Path) -> None:
    roots = [
        nuclick_root.parent,
        nuclick_root,
        nuclick_root / "IHC_nuclick",
        nuclick_root / "IHC_nuclick/IHC",
    ]
    assert {len(open_dataset("nuclick", root, mpp=0.5).items) for root in roots} == {3}


def test_nuclick_needs_a_pixel_size(nuclick_root: Path) -> None:
    with pytest.raises(DatasetError, match="Give mpp"):
        open_dataset("nuclick", nuclick_root)


def test_nuclick_mask_of_another_size_is_refused(nuclick_root: Path) -> None:
    mask = nuclick_root / "IHC_nuclick/IHC/masks/Train/ROI_7_1.npy"
    np.save(mask, np.zeros((WIDTH, HEIGHT), int))
    item = by_name(list(open_dataset("nuclick", nuclick_root, mpp=0.5).items))["ROI_7_1"]
    with pytest.raises(DatasetError, match="20 x 12, the image is 12 x 20") as caught:
        item.load()
    assert caught.value.path == mask


@pytest.mark.parametrize("values", [-1.0, 0.5, np.nan])
def test_values_that_are_no_ids_are_refused(nuclick_root: Path, values: float) -> None:
    mask = nuclick_root / "IHC_nuclick/IHC/masks/Train/ROI_7_1.npy"
    np.save(mask, np.full((HEIGHT, WIDTH), values))
    with pytest.raises(DatasetError, match="not whole numbers"):
        by_name(list(open_dataset("nuclick", nuclick_root, mpp=0.5).items))["ROI_7_1"].load()


def test_nuclick_missing_mask_is_named(nuclick_root: Path) -> None:
    (nuclick_root / "IHC_nuclick/IHC/masks/Validation/ROI_9_1.npy").unlink()
    with pytest.raises(DatasetError, match=r"ROI_9_1\.npy: not the layout of NuClick-IHC"):
        open_dataset("nuclick", nuclick_root, mpp=0.5)


def test_pickled_mask_is_refused(nuclick_root: Path) -> None:
    mask = nuclick_root / "IHC_nuclick/IHC/masks/Train/ROI_7_1.npy"
    np.save(mask, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match="not a readable"):
        by_name(list(open_dataset("nuclick", nuclick_root, mpp=0.5).items))["ROI_7_1"].load()


# LYSTO ------------------------------------------------------------------------------------------------------


@pytest.fixture
def lysto_root(tmp_path: Path) -> Path:
    x = np.stack([picture(seed) for seed in range(4)])
    with h5py.File(tmp_path / "training.h5", "w") as file:
        file["x"], file["y"] = x, np.array([0, 3, 12, 1])
        file["organ"] = np.array([b"breast", b"colon", b"colon", b"prostate"])
    with h5py.File(tmp_path / "test.h5", "w") as file:
        file["x"], file["organ"] = x[:2], np.array([b"colon", b"lung"])
    return tmp_path


def test_lysto_gives_counts(lysto_root: Path) -> None:
    items = by_name(list(open_dataset("lysto", lysto_root, mpp=0.24).items))
    assert len(items) == 6
    row = items["training/00002"]
    assert (row.group, row.split) == ("training/colon", "train")
    image = pickle.loads(pickle.dumps(row.load))()
    np.testing.assert_array_equal(image.pixels, picture(2))
    assert (image.n_cd8, image.labels, image.points_um, image.mpp) == (12, None, None, 0.24)
    assert items["training/00000"].load().n_cd8 == 0
    test = items["test/00001"]
    assert (test.group, test.split, test.load().n_cd8) == ("test/lung", "test", None)


def test_lysto_without_counts_for_training_is_refused(lysto_root: Path) -> None:
    with h5py.File(lysto_root / "training.h5", "a") as file:
        del file["y"]
    with pytest.raises(DatasetError, match="no HDF5 dataset y"):
        open_dataset("lysto", lysto_root, mpp=0.24)


def test_lysto_with_other_axes_is_refused(lysto_root: Path) -> None:
    with h5py.File(lysto_root / "test.h5", "a") as file:
        pixels = file["x"][:]
        del file["x"]
        file["x"] = pixels.transpose(0, 3, 1, 2)
    with pytest.raises(DatasetError, match="not \\(N, height, width, 3\\)"):
        open_dataset("lysto", lysto_root, mpp=0.24)


def test_lysto_of_unequal_lengths_is_refused(lysto_root: Path) -> None:
    with h5py.File(lysto_root / "training.h5", "a") as file:
        del file["y"]
        file["y"] = np.arange(3)
    with pytest.raises(DatasetError, match="differ in length"):
        open_dataset("lysto", lysto_root, mpp=0.24)


def test_lysto_that_is_no_hdf5_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"neither training\.h5 nor test\.h5"):
        open_dataset("lysto", tmp_path, mpp=0.24)
    (tmp_path / "test.h5").write_bytes(b"<html>")
    with pytest.raises(DatasetError, match="not a readable HDF5"):
        open_dataset("lysto", tmp_path, mpp=0.24)


# LyNSeC -----------------------------------------------------------------------------------------------------


@pytest.fixture
def lynsec_root(tmp_path: Path) -> Path:
    for part in (1, 2, 3):
        folder = tmp_path / f"lynsec {part}"
        folder.mkdir()
        array = np.zeros((HEIGHT, WIDTH, 5 if part != 2 else 4), np.float64)
        array[..., :3] = picture(part)
        array[1:3, 15:18, 3] = 4
        array[6:9, 2:5, 3] = 7
        if part != 2:
            array[1:3, 15:18, 4] = 2
            array[6:9, 2:5, 4] = 1
            array[6, 2, 4] = 2  # a stray pixel: the majority decides
        np.save(folder / f"0_l{part}.npy", array)
    return tmp_path


def test_lynsec_gives_positive_and_negative_nuclei(
    lynsec_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset("lynsec", lynsec_root)
    assert "lynsec 2: labels that do not fit the images" in caplog.text
    assert [item.name for item in dataset.items] == ["0_l1"]
    image = dataset.items[0].load()
    np.testing.assert_array_equal(image.pixels, picture(1))
    assert image.classes.tolist() == [CD8_POSITIVE, OTHER_NUCLEUS]
    assert image.labels[2, 16] == 1
    assert image.labels[7, 3] == 2
    np.testing.assert_allclose(image.points_um, [[16.5 * 0.25, 2 * 0.25], [3.5 * 0.25, 7.5 * 0.25]])
    assert (image.mpp, image.background_known) == (0.25, True)
    assert dataset.commercial_use is True


def test_lynsec_he_has_no_known_class(lynsec_root: Path) -> None:
    dataset = open_dataset("lynsec_he", lynsec_root)
    assert [item.name for item in dataset.items] == ["0_l3"]
    assert dataset.items[0].load().classes.tolist() == [UNKNOWN, UNKNOWN]


def test_lynsec_with_channels_first_or_other_classes_is_refused(lynsec_root: Path) -> None:
    path = lynsec_root / "lynsec 1/0_l1.npy"
    good = np.load(path)
    np.save(path, good.transpose(2, 0, 1))
    with pytest.raises(DatasetError, match="not \\(height, width, 5\\)"):
        open_dataset("lynsec", lynsec_root).items[0].load()
    good[0, 0, 4] = 3
    np.save(path, good)
    with pytest.raises(DatasetError, match="class map holds 0 to 3"):
        open_dataset("lynsec", lynsec_root).items[0].load()


def test_lynsec_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no folder lynsec 1"):
        open_dataset("lynsec", tmp_path)


# DeepLIIF ---------------------------------------------------------------------------------------------------

SIDE = 40


def deepliif_panels(seed: int) -> np.ndarray:
    """Six panels; in the last, a positive and a negative nucleus that touch, and a speck of 2 pixels."""
    panels = [picture(seed + i, SIDE, SIDE) for i in range(5)]
    seg = np.zeros((SIDE, SIDE, 3), np.uint8)
    seg[4:20, 4:18] = seg[4:20, 18:32] = (0, 255, 0)
    seg[8:16, 8:14] = (255, 0, 0)
    seg[8:16, 22:28] = (0, 0, 255)
    seg[30, 30:32] = (255, 0, 0)
    return np.concatenate([*panels, seg], axis=1)


@pytest.fixture
def deepliif_root(tmp_path: Path) -> Path:
    for archive, name in (
        ("DeepLIIF_Training_Set", "Lung_1"),
        ("DeepLIIF_Testing_Set", "Bladder_1"),
        ("BC-DeepLIIF_Training_Set", "3"),
    ):
        save(tmp_path / archive / f"{name}.png", deepliif_panels(len(name)))
    return tmp_path


def test_deepliif_recovers_nuclei_from_colours(deepliif_root: Path) -> None:
    dataset = open_dataset("deepliif", deepliif_root, mpp=0.5)
    items = by_name(list(dataset.items))
    assert {name: item.split for name, item in items.items()} == {
        "DeepLIIF_Training_Set/Lung_1": "train",
        "DeepLIIF_Testing_Set/Bladder_1": "test",
        "BC-DeepLIIF_Training_Set/3": "train",
    }
    image = pickle.loads(pickle.dumps(items["DeepLIIF_Training_Set/Lung_1"].load))()
    np.testing.assert_array_equal(image.pixels, picture(6, SIDE, SIDE))  # the first panel
    # Grown over the whole boundary (16 x 14 px each), then cut back by 2 px on all sides; the speck is gone.
    assert image.labels.max() == 2
    assert image.classes.tolist() == [CD8_POSITIVE, OTHER_NUCLEUS]
    rows, columns = np.nonzero(image.labels == 1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 17, 6, 15)
    np.testing.assert_allclose(image.points_um, [[5.5, 6.0], [12.5, 6.0]])
    # In the breast archives the boundary is wider.
    rows, _ = np.nonzero(items["BC-DeepLIIF_Training_Set/3"].load().labels == 1)
    assert (rows.min(), rows.max()) == (7, 16)


def test_deepliif_without_six_panels_is_refused(deepliif_root: Path) -> None:
    path = deepliif_root / "DeepLIIF_Testing_Set/Bladder_1.png"
    save(path, picture(0, SIDE, 5 * SIDE))
    item = by_name(list(open_dataset("deepliif", deepliif_root, mpp=0.5).items))
    with pytest.raises(DatasetError, match="200 x 40 px, not 6 square panels"):
        item["DeepLIIF_Testing_Set/Bladder_1"].load()


def test_deepliif_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="none of the folders DeepLIIF_Training_Set"):
        open_dataset("deepliif", tmp_path, mpp=0.5)


# BCData -----------------------------------------------------------------------------------------------------


@pytest.fixture
def bcdata_root(tmp_path: Path) -> Path:
    for split in ("train", "validation", "test"):
        save(tmp_path / "BCData/images" / split / "0.png", picture(1))
        for name, xy in (("positive", [[15, 2], [18, 11]]), ("negative", np.empty((0, 2), int))):
            path = tmp_path / "BCData/annotations" / split / name / "0.h5"
            path.parent.mkdir(parents=True)
            with h5py.File(path, "w") as file:
                file["coordinates"] = np.asarray(xy)
    with h5py.File(tmp_path / "BCData/annotations/test/negative/0.h5", "w") as file:
        file["coordinates"] = np.array([[0, 7]])
    return tmp_path


def test_bcdata_gives_points(bcdata_root: Path) -> None:
    dataset = open_dataset("bcdata", bcdata_root, mpp=0.5)
    items = by_name(list(dataset.items))
    assert {item.split for item in dataset.items} == {"train", "validation", "test"}
    image = pickle.loads(pickle.dumps(items["test/0"].load))()
    np.testing.assert_allclose(image.points_um, [[7.75, 1.25], [9.25, 5.75], [0.25, 3.75]])
    assert image.classes.tolist() == [CD8_POSITIVE, CD8_POSITIVE, OTHER_NUCLEUS]
    assert image.classes.dtype == np.uint8
    assert image.labels is None
    assert not image.background_known
    assert dataset.commercial_use is False


def test_bcdata_with_rows_before_columns_is_refused(bcdata_root: Path) -> None:
    path = bcdata_root / "BCData/annotations/train/positive/0.h5"
    with h5py.File(path, "w") as file:
        file["coordinates"] = np.array([[2, 15], [11, 18]])
    item = by_name(list(open_dataset("bcdata", bcdata_root, mpp=0.5).items))["train/0"]
    with pytest.raises(DatasetError, match="lies outside the image \\(20 x 12 px\\)") as caught:
        item.load()
    assert caught.value.path == path


def test_bcdata_without_coordinates_is_refused(bcdata_root: Path) -> None:
    with h5py.File(bcdata_root / "BCData/annotations/train/positive/0.h5", "w") as file:
        file["points"] = np.array([[2, 5]])
    item = by_name(list(open_dataset("bcdata", bcdata_root, mpp=0.5).items))["train/0"]
    with pytest.raises(DatasetError, match="no readable coordinates"):
        item.load()


def test_bcdata_without_a_part_is_refused(bcdata_root: Path) -> None:
    (bcdata_root / "BCData/annotations/test/negative/0.h5").unlink()
    with pytest.raises(DatasetError, match=r"negative/0\.h5: not the layout of BCData"):
        open_dataset("bcdata", bcdata_root, mpp=0.5)


# LYON19 -----------------------------------------------------------------------------------------------------


def test_lyon19_gives_images_only(tmp_path: Path) -> None:
    save(tmp_path / "17.png", picture(3))
    save(tmp_path / "18.png", np.dstack([picture(4), np.full((HEIGHT, WIDTH), 255, np.uint8)]))
    (tmp_path / "._17.png").write_bytes(b"macOS")
    items = by_name(list(open_dataset("lyon19", tmp_path, mpp=0.24).items))
    assert list(items) == ["17", "18"]
    image = items["17"].load()
    np.testing.assert_array_equal(image.pixels, picture(3))
    assert items["17"].split == "test"
    assert (image.labels, image.points_um, image.n_cd8, image.background_known) == (None, None, None, False)
    np.testing.assert_array_equal(items["18"].load().pixels, picture(4))  # an opaque alpha channel is dropped


def test_lyon19_without_pictures_or_with_grey_ones_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no \.png file"):
        open_dataset("lyon19", tmp_path, mpp=0.24)
    save(tmp_path / "1.png", picture()[..., 0])
    with pytest.raises(DatasetError, match="not an 8-bit colour picture"):
        open_dataset("lyon19", tmp_path, mpp=0.24).items[0].load()
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DatasetError, match="cannot be opened"):
        open_dataset("lyon19", tmp_path, mpp=0.24).items[0].load()
