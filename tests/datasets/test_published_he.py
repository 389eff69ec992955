"""Adapters to H&E datasets, on tiny folders of the published layout."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat

from histo.datasets.image import OTHER_NUCLEUS, UNKNOWN
from histo.datasets.open import open_dataset
from histo.errors import DatasetError

HEIGHT, WIDTH = 12, 20


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


# NuInsSeg ---------------------------------------------------------------------------------------------------


@pytest.fixture
def nuinsseg_root(tmp_path: Path) -> Path:
    for organ in ("human liver", "mouse spleen"):
        save(tmp_path / organ / "tissue images" / "1.png", picture(1))
        labels = np.zeros((HEIGHT, WIDTH), np.uint16)
        labels[3:5, 16:20], labels[9, 0] = 300, 2
        (tmp_path / organ / "label masks modify").mkdir()
        tifffile.imwrite(tmp_path / organ / "label masks modify" / "1.tif", labels)
    return tmp_path


def test_nuinsseg_gives_nuclei_of_organs(nuinsseg_root: Path) -> None:
    dataset = open_dataset("nuinsseg", nuinsseg_root, mpp=0.25)
    assert [(item.name, item.group, item.split) for item in dataset.items] == [
        ("human liver/1", "human liver", None),
        ("mouse spleen/1", "mouse spleen", None),
    ]
    image = pickle.loads(pickle.dumps(dataset.items[0].load))()
    np.testing.assert_array_equal(image.pixels, picture(1))
    assert (image.labels[9, 0], image.labels[4, 19], image.labels.max()) == (1, 2, 2)
    np.testing.assert_allclose(image.points_um, [[0.125, 2.375], [4.5, 1.0]])
    assert image.classes.tolist() == [UNKNOWN, UNKNOWN]


def test_nuinsseg_with_labels_of_another_kind_is_refused(nuinsseg_root: Path) -> None:
    path = nuinsseg_root / "human liver/label masks modify/1.tif"
    tifffile.imwrite(path, np.zeros((3, HEIGHT, WIDTH), np.uint16), photometric="minisblack")
    item = open_dataset("nuinsseg", nuinsseg_root, mpp=0.25).items[0]
    with pytest.raises(DatasetError, match="not one image of whole numbers"):
        item.load()
    path.write_bytes(b"II*\x00 broken")
    with pytest.raises(DatasetError, match="not a readable TIFF"):
        item.load()
    path.unlink()
    with pytest.raises(DatasetError, match=r"1\.tif: not the layout of NuInsSeg"):
        open_dataset("nuinsseg", nuinsseg_root, mpp=0.25)


def test_nuinsseg_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no folder <organ>/tissue images"):
        open_dataset("nuinsseg", tmp_path, mpp=0.25)


# PanNuke ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pannuke_root(tmp_path: Path) -> Path:
    for fold in (1, 2):
        images = tmp_path / f"Fold {fold}" / "images" / f"fold{fold}"
        masks = tmp_path / f"Fold {fold}" / "masks" / f"fold{fold}"
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        np.save(images / "images.npy", np.stack([picture(fold), picture(fold + 10)]).astype(np.float64))
        np.save(images / "types.npy", np.array(["Liver", "Colon"]))
        ids = np.zeros((2, HEIGHT, WIDTH, 6), np.float64)
        ids[1, 2:4, 12:16, 0] = 3  # neoplastic
        ids[1, 8:10, 2:4, 1] = 3  # inflammatory, of the same id
        ids[1, 6, 6, 4] = 1  # epithelial
        ids[..., 5] = 1 - (ids[..., :5].max(axis=-1) > 0)
        np.save(masks / "masks.npy", ids)
    return tmp_path


def test_pannuke_gives_nuclei_by_fold(pannuke_root: Path) -> None:
    dataset = open_dataset("pannuke", pannuke_root)
    assert [(item.name, item.group) for item in dataset.items] == [
        ("fold 1/00000", "fold 1"),
        ("fold 1/00001", "fold 1"),
        ("fold 2/00000", "fold 2"),
        ("fold 2/00001", "fold 2"),
    ]
    image = pickle.loads(pickle.dumps(dataset.items[3].load))()
    np.testing.assert_array_equal(image.pixels, picture(12))
    assert image.pixels.dtype == np.uint8
    at = {name: image.labels[place] for name, place in (("neo", (3, 15)), ("infl", (9, 2)), ("epi", (6, 6)))}
    assert sorted(at.values()) == [1, 2, 3]
    assert image.labels.max() == 3
    assert image.classes[at["neo"] - 1] == OTHER_NUCLEUS
    assert image.classes[at["infl"] - 1] == UNKNOWN
    assert image.classes[at["epi"] - 1] == OTHER_NUCLEUS
    assert image.mpp == 0.25
    assert dataset.commercial_use is False
    empty = dataset.items[0].load()
    assert empty.labels.max() == 0
    assert empty.points_um.shape == (0, 2)
    assert empty.classes.shape == (0,)


def test_pannuke_without_masks_or_with_other_axes_is_refused(pannuke_root: Path) -> None:
    path = pannuke_root / "Fold 2/masks/fold2/masks.npy"
    np.save(path, np.load(path).transpose(0, 3, 1, 2))
    with pytest.raises(DatasetError, match=r"not \(2, 12, 20, 6\)"):
        open_dataset("pannuke", pannuke_root)
    path.unlink()
    with pytest.raises(DatasetError, match=r"no masks\.npy of fold 2"):
        open_dataset("pannuke", pannuke_root)


def test_pannuke_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no images\.npy below"):
        open_dataset("pannuke", tmp_path)


# Lizard -----------------------------------------------------------------------------------------------------


def lizard_labels() -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.int32)
    labels[1:3, 14:18], labels[5:7, 2:4], labels[10, 10] = 2, 8, 5
    return labels


@pytest.fixture
def lizard_root(tmp_path: Path) -> Path:
    base = tmp_path / "lizard_labels" / "Lizard_Labels"  # as Kaggle packs it
    (base / "Labels").mkdir(parents=True)
    for name, folder in (("consep_1", "Lizard_Images1"), ("glas_2", "Lizard_Images2")):
        save(tmp_path / folder.lower() / folder / f"{name}.png", picture(len(name)))
        # Ascending ids 2, 5, 8: lymphocyte, epithelial, plasma.
        savemat(
            base / "Labels" / f"{name}.mat",
            {"inst_map": lizard_labels(), "class": np.array([[3], [2], [4]]), "centroid": np.zeros((3, 2))},
        )
    (base / "info.csv").write_text("Filename,Source,Split\nconsep_1,consep,1\nglas_2,glas,3\n")
    return tmp_path


def test_lizard_gives_nuclei_with_the_published_split(lizard_root: Path) -> None:
    dataset = open_dataset("lizard", lizard_root, mpp=0.5)
    assert [(item.name, item.split) for item in dataset.items] == [("consep_1", "train"), ("glas_2", "test")]
    image = pickle.loads(pickle.dumps(dataset.items[1].load))()
    np.testing.assert_array_equal(image.pixels, picture(6))
    assert (image.labels[2, 17], image.labels[10, 10], image.labels[6, 3]) == (1, 2, 3)
    assert image.classes.tolist() == [UNKNOWN, OTHER_NUCLEUS, OTHER_NUCLEUS]
    assert dataset.commercial_use is False


def test_lizard_classes_follow_their_ids(lizard_root: Path) -> None:
    path = lizard_root / "lizard_labels/Lizard_Labels/Labels/glas_2.mat"
    content = {"inst_map": lizard_labels(), "class": [[2], [4], [3]], "id": [[5], [8], [2]]}
    savemat(path, content)
    image = open_dataset("lizard", lizard_root, mpp=0.5).items[1].load()
    assert image.classes.tolist() == [UNKNOWN, OTHER_NUCLEUS, OTHER_NUCLEUS]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"inst_map": lizard_labels(), "class": [[3], [2]]}, "2 classes for 3 instances"),
        ({"inst_map": lizard_labels(), "class": [[3], [2], [7]]}, "not 1 to 6"),
        ({"class": [[3]]}, "no inst_map"),
        ({"inst_map": lizard_labels().T, "class": [[3], [2], [4]]}, "20 x 12, the image is 12 x 20"),
    ],
)
def test_lizard_labels_that_do_not_fit_are_refused(
    lizard_root: Path, content: dict[str, object], message: str
) -> None:
    savemat(lizard_root / "lizard_labels/Lizard_Labels/Labels/glas_2.mat", content)
    with pytest.raises(DatasetError, match=message):
        open_dataset("lizard", lizard_root, mpp=0.5).items[1].load()


def test_lizard_of_another_layout_is_refused(lizard_root: Path) -> None:
    info = lizard_root / "lizard_labels/Lizard_Labels/info.csv"
    info.write_text("Filename,Split\nconsep_1,1\nglas_2,4\n")
    with pytest.raises(DatasetError, match="columns Filename and Split"):
        open_dataset("lizard", lizard_root, mpp=0.5)
    info.write_text("Filename,Split\nconsep_1,1\n")
    with pytest.raises(DatasetError, match="no line for glas_2"):
        open_dataset("lizard", lizard_root, mpp=0.5)
    info.unlink()
    with pytest.raises(DatasetError, match=r"info\.csv: not the layout of Lizard"):
        open_dataset("lizard", lizard_root, mpp=0.5)
