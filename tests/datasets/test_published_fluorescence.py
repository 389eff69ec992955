"""Adapters to multiplex fluorescence datasets, on tiny folders of the published layout."""

from __future__ import annotations

import logging
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, UNKNOWN
from histo.datasets.open import open_dataset
from histo.errors import DatasetError

HEIGHT, WIDTH = 12, 20

# PathoCell --------------------------------------------------------------------------------------------------


@pytest.fixture
def pathocell_root(tmp_path: Path) -> Path:
    (tmp_path / "pathocell_hdf").mkdir()
    channels = np.random.default_rng(1).integers(0, 60_000, (58, HEIGHT, WIDTH), dtype=np.uint16)
    instances, types = np.zeros((2, 1, HEIGHT, WIDTH), np.int32)
    # A CD8+ T cell, dirt, a tumour cell, a T cell of unknown kind.
    for i, (kind, rows, columns) in enumerate(
        [(13, slice(1, 3), slice(14, 18)), (17, slice(1, 3), slice(2, 4)), (26, 6, 6), (6, 10, 19)], start=1
    ):
        instances[0, rows, columns] = 10 * i
        types[0, rows, columns] = kind
    types[0, 1, 14] = 26  # a stray pixel: the majority decides
    for name in ("reg001_A", "reg001_B", "reg004_A"):
        with h5py.File(tmp_path / "pathocell_hdf" / f"{name}.hdf", "w") as file:
            file["ifl"], file["gt_inst"], file["gt_ct"] = channels, instances, types
            file["img"], file["gt_ct_coarse"] = np.zeros((3, HEIGHT, WIDTH), np.uint16), types
    split = tmp_path / "data/phenocell/splits/phenocell_dataset_split.csv"
    split.parent.mkdir(parents=True)
    split.write_text(
        "sample_name,train_test_val_split\nreg001_A.hdf,train\nreg001_B.hdf,train\nreg004_A,valid\n"
        "reg009_A.hdf,test\n"
    )
    return tmp_path


def test_pathocell_gives_typed_cells(pathocell_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset("pathocell", pathocell_root, mpp=0.4)
    assert "1 of 4 samples are not there" in caplog.text
    assert [(item.name, item.group, item.split) for item in dataset.items] == [
        ("reg001_A", "reg001", "train"),
        ("reg001_B", "reg001", "train"),
        ("reg004_A", "reg004", "validation"),
    ]
    image = pickle.loads(pickle.dumps(dataset.items[0].load))()
    channels = np.random.default_rng(1).integers(0, 60_000, (58, HEIGHT, WIDTH), dtype=np.uint16)
    np.testing.assert_array_equal(image.pixels[..., 0], channels[33])  # Hoechst
    np.testing.assert_array_equal(image.pixels[..., 1], channels[3])  # CD8
    assert image.pixels.dtype == np.uint16
    assert not image.pixels[..., 2].any()
    assert image.classes.tolist() == [CD8_POSITIVE, OTHER_NUCLEUS, UNKNOWN]
    assert (image.labels[2, 17], image.labels[2, 3], image.labels[6, 6], image.labels[10, 19]) == (1, 0, 2, 3)
    assert (image.kind, image.mpp, image.background_known) == ("fluorescence", 0.4, False)


def test_pathocell_takes_patients_where_the_split_file_has_them(pathocell_root: Path) -> None:
    split = pathocell_root / "data/phenocell/splits/phenocell_dataset_split.csv"
    split.write_text("sample_name,patient,train_test_val_split\nreg001_A.hdf,7,train\nreg004_A.hdf,7,test\n")
    assert {item.group for item in open_dataset("pathocell", pathocell_root, mpp=0.4).items} == {"7"}


def test_pathocell_with_other_channels_is_refused(pathocell_root: Path) -> None:
    with h5py.File(pathocell_root / "pathocell_hdf/reg001_A.hdf", "a") as file:
        channels = file["ifl"][:]
        del file["ifl"]
        file["ifl"] = channels.transpose(1, 2, 0)
    with pytest.raises(DatasetError, match=r"not \(58, height, width\)"):
        open_dataset("pathocell", pathocell_root, mpp=0.4).items[0].load()
    with h5py.File(pathocell_root / "pathocell_hdf/reg001_B.hdf", "a") as file:
        del file["gt_ct"]
    with pytest.raises(DatasetError, match="ifl, gt_inst or gt_ct cannot be read"):
        open_dataset("pathocell", pathocell_root, mpp=0.4).items[1].load()


def test_pathocell_of_another_layout_is_refused(pathocell_root: Path) -> None:
    with pytest.raises(DatasetError, match="Give mpp"):
        open_dataset("pathocell", pathocell_root)
    split = pathocell_root / "data/phenocell/splits/phenocell_dataset_split.csv"
    split.write_text("sample_name,train_test_val_split\n../secret,train\n")
    with pytest.raises(DatasetError, match="none of the samples"):
        open_dataset("pathocell", pathocell_root, mpp=0.4)
    split.write_text("sample_name,part\nreg001_A,train\n")
    with pytest.raises(DatasetError, match="not a table of sample_name and train_test_val_split"):
        open_dataset("pathocell", pathocell_root, mpp=0.4)


# CPDMI ------------------------------------------------------------------------------------------------------

NAMES = ("DAPI (Opal)", "PD-L1 (Opal 520)", "CD8 (Opal 570)", "Autofluorescence")
FIELD = "P01-10001(1000.2000)3,2"


def vectra_info(names: tuple[str, ...] = NAMES, per_cm: float = 20_000.0) -> str:
    listed = "\n".join(f" Name #{i} = {name}" for i, name in enumerate(names, start=1))
    return (
        "BitsPerPixel = 32\n Name #9 = of another section\nMetaDataPhotometricInterpretation = Monochrome\n"
        f"{listed}\nNewSubfileType = 0\nXResolution = {per_cm}\nYResolution = {per_cm}\n"
    )


def vectra_pixels(n: int = 4) -> np.ndarray:
    return np.random.default_rng(2).random((n, HEIGHT, WIDTH), dtype=np.float32)


@pytest.fixture
def cpdmi_root(tmp_path: Path) -> Path:
    mask = np.zeros((8, 9), np.uint8)  # smaller than the image
    mask[1:3, 6:9] = 255
    mask[3:5, 4:6] = 255  # touches the first at a corner only
    for case, field in (
        ("P01-10001", FIELD),
        ("P13-10002", "P13-10002(45819.10401)2250,500"),
        ("P02-1", "P02-1(1.2)0,0"),
    ):
        folder = tmp_path / "Vectra" / case / field
        folder.mkdir(parents=True)
        if case == "P02-1":
            continue
        tifffile.imwrite(
            folder / f"{field}-Crop_Tif.tif",
            vectra_pixels(),
            imagej=True,
            metadata={"axes": "CYX", "Info": vectra_info()},
        )
        Image.fromarray(mask).save(folder / f"{field}-Crop_Cell_Mask_Png.png")
    return tmp_path


def test_cpdmi_gives_cells_of_the_window_that_was_outlined(
    cpdmi_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset("cpdmi", cpdmi_root)
    assert "known to be damaged" in caplog.text
    assert "1 fields without a mask" in caplog.text
    assert [(item.name, item.group) for item in dataset.items] == [(f"P01-10001/{FIELD}", "P01-10001")]
    image = pickle.loads(pickle.dumps(dataset.items[0].load))()
    window = vectra_pixels()[:, 2:10, 3:12]
    for channel, stored in enumerate((0, 2, 3)):
        np.testing.assert_array_equal(image.pixels[..., channel], window[stored])
    assert image.labels.shape == (8, 9)
    assert image.labels.max() == 2
    assert image.classes.tolist() == [UNKNOWN, UNKNOWN]
    np.testing.assert_allclose(image.points_um, [[3.75, 1.0], [2.5, 2.0]])
    assert (image.kind, image.mpp) == ("fluorescence", 0.5)  # 20 000 pixels per cm


def rewrite(root: Path, info: str, pixels: np.ndarray) -> Path:
    path = root / "Vectra/P01-10001" / FIELD / f"{FIELD}-Crop_Tif.tif"
    tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "CYX", "Info": info})
    return path


def test_cpdmi_without_cd8_or_autofluorescence_has_empty_channels(cpdmi_root: Path) -> None:
    rewrite(cpdmi_root, vectra_info(("CD80", "DAPI")), vectra_pixels(2))
    image = open_dataset("cpdmi", cpdmi_root).items[0].load()
    np.testing.assert_array_equal(image.pixels[..., 0], vectra_pixels(2)[1, 2:10, 3:12])
    assert not image.pixels[..., 1:].any()


def test_cpdmi_metadata_that_do_not_fit_are_refused(cpdmi_root: Path) -> None:
    rewrite(cpdmi_root, vectra_info(per_cm=72 / 2.54), vectra_pixels())
    item = open_dataset("cpdmi", cpdmi_root).items[0]
    with pytest.raises(DatasetError, match="no believable pixel size"):
        item.load()
    assert open_dataset("cpdmi", cpdmi_root, mpp=0.5).items[0].load().mpp == 0.5
    rewrite(cpdmi_root, vectra_info(), vectra_pixels(3))
    with pytest.raises(DatasetError, match="it has 3 channels and names 4"):
        item.load()
    rewrite(cpdmi_root, vectra_info(("CD8", "CD3")), vectra_pixels(2))
    with pytest.raises(DatasetError, match="no DAPI channel"):
        item.load()


def test_cpdmi_mask_beyond_the_image_is_refused(cpdmi_root: Path) -> None:
    mask = cpdmi_root / "Vectra/P01-10001" / FIELD / f"{FIELD}-Crop_Cell_Mask_Png.png"
    Image.fromarray(np.zeros((11, 9), np.uint8)).save(mask)
    with pytest.raises(DatasetError, match="is no part of the image"):
        open_dataset("cpdmi", cpdmi_root).items[0].load()


def test_cpdmi_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Crop_Cell_Mask_Png"):
        open_dataset("cpdmi", tmp_path)


# TissueNet --------------------------------------------------------------------------------------------------

HEADER = ["filename", "experiment", "pixel_size", "screenshot", "platform", "specimen"]


def tissuenet_arrays(part: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(part)
    y = np.zeros((2, HEIGHT, WIDTH, 2), np.int32)
    y[1, 2:6, 12:18, 0], y[1, 3:5, 14:16, 1] = 7, 9
    meta = np.array(
        [HEADER, ["a", "exp1", "0.5", "", "codex", "gi"], ["b", "exp2", "0.65", "", "mibi", "skin"]], object
    )
    return {"X": rng.random((2, HEIGHT, WIDTH, 2), dtype=np.float32), "y": y, "meta": meta}


@pytest.fixture
def tissuenet_root(tmp_path: Path) -> Path:
    for i, part in enumerate(("train", "val", "test")):
        np.savez(tmp_path / f"tissuenet_v1.1_{part}.npz", **tissuenet_arrays(i))
    return tmp_path


def check_tissuenet(root: Path) -> None:
    dataset = open_dataset("tissuenet", root)
    items = {item.name: item for item in dataset.items}
    assert (len(items), items["val/00001"].split, items["val/00001"].group) == (6, "validation", "val/exp2")
    image = pickle.loads(pickle.dumps(items["val/00001"].load))()
    np.testing.assert_array_equal(image.pixels[..., 0], tissuenet_arrays(1)["X"][1, ..., 0])
    assert not image.pixels[..., 1:].any()
    # Whole cells, and the pixel size of the second image: the first row of the table is its header.
    assert (image.labels == 1).sum() == 24
    assert image.mpp == 0.65
    np.testing.assert_allclose(image.points_um, [[15 * 0.65, 4 * 0.65]])
    assert image.classes.tolist() == [UNKNOWN]
    assert items["train/00000"].load().mpp == 0.5
    assert dataset.commercial_use is False


def test_tissuenet_gives_whole_cells(tissuenet_root: Path) -> None:
    check_tissuenet(tissuenet_root)


def test_tissuenet_compressed_is_read_once_unpacked(tissuenet_root: Path) -> None:
    for i, part in enumerate(("train", "val", "test")):
        path = tissuenet_root / f"tissuenet_v1.1_{part}.npz"
        np.savez_compressed(path, **tissuenet_arrays(i))
        with pytest.raises(DatasetError, match=r"to a folder named tissuenet_v1\.1_train beside it"):
            open_dataset("tissuenet", tissuenet_root)
    for part in ("train", "val", "test"):
        with zipfile.ZipFile(tissuenet_root / f"tissuenet_v1.1_{part}.npz") as archive:
            archive.extractall(tissuenet_root / f"tissuenet_v1.1_{part}")
    check_tissuenet(tissuenet_root)


def test_tissuenet_table_of_strings_needs_no_pickle(tissuenet_root: Path) -> None:
    arrays = tissuenet_arrays(1)
    np.savez(tissuenet_root / "tissuenet_v1.1_val.npz", **(arrays | {"meta": arrays["meta"].astype(str)}))
    check_tissuenet(tissuenet_root)


def test_tissuenet_pickle_that_runs_code_is_refused(tissuenet_root: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "owned",)

    meta = np.empty((3, 6), object)
    meta[:] = "0.5"
    meta[2, 0] = Evil()
    np.savez(tissuenet_root / "tissuenet_v1.1_train.npz", **(tissuenet_arrays(0) | {"meta": meta}))
    with pytest.raises(DatasetError, match="table 'meta' cannot be read"):
        open_dataset("tissuenet", tissuenet_root)
    assert not (tmp_path / "owned").exists()


def test_tissuenet_that_does_not_fit_is_refused(tissuenet_root: Path) -> None:
    path = tissuenet_root / "tissuenet_v1.1_train.npz"
    good = tissuenet_arrays(0)
    for wrong, message in (
        ({"meta": good["meta"][1:]}, "is not a header and one row for each of 2 images"),
        ({"y": good["y"][..., :1]}, r"are not \(N, H, W, 2\)"),
        ({"meta": np.where(good["meta"] == "0.65", "unknown", good["meta"])}, "pixel size 'unknown'"),
    ):
        np.savez(path, **(good | wrong))
        with pytest.raises(DatasetError, match=message):
            open_dataset("tissuenet", tissuenet_root)
    np.savez(path, X=good["X"], y=good["y"])
    with pytest.raises(DatasetError, match="no array 'meta'"):
        open_dataset("tissuenet", tissuenet_root)


def test_tissuenet_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no tissuenet_v1\.1_train\.npz"):
        open_dataset("tissuenet", tmp_path)
