from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from histo.datasets.image import CD8_POSITIVE, UNKNOWN, AnnotatedImage, Item
from histo.errors import DatasetError
from histo.synthetic.field import FieldStyle, render_field
from histo.training.config import TrainConfig
from histo.training.data import CropBatches, clean_amounts
from histo.training.evaluate import score_fields
from histo.training.images import load_images, load_sample, open_datasets, sample_of
from histo.training.sample import Sample, Source
from histo.training.targets import MAY_BE_ANY, NO_CENTRE, UNANNOTATED


@pytest.fixture(scope="module")
def image() -> AnnotatedImage:
    field = render_field(11, size_px=256, mpp=0.25, style=FieldStyle(context="stroma", cd8_per_mm2=1500))
    classes = np.where(field.is_cd8, 1, 2).astype(np.uint8)
    return AnnotatedImage("brightfield", field.pixels, 0.25, field.labels, classes=classes)


def _changed(image: AnnotatedImage, **values: object) -> AnnotatedImage:
    return AnnotatedImage(**{**vars(image), **values})


def _sample(image: AnnotatedImage, mpp: float = 0.5, largest_px: int | None = 128) -> Sample:
    return sample_of(image, source="test", mpp=mpp, largest_px=largest_px)


def _config(root: Path, **dataset: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "width": 4,
            "threads": 1,
            "fields": {"size_px": 320, "workers": 1},
            "optimiser": {"crop_px": 64, "batch_size": 4},
            "datasets": [{"name": "folder", "path": str(root), **dataset}],
        }
    )


def test_an_image_comes_to_the_working_pixel_size(image: AnnotatedImage) -> None:
    sample = _sample(image)
    assert sample.pixels.shape == (128, 128, 3)
    # Twice as coarse: the mean of 2 x 2 pixels.
    mean = image.pixels.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    assert np.abs(sample.pixels - mean).max() <= 1
    assert sample.labels is not None
    assert image.labels is not None
    assert set(np.unique(sample.labels)) <= set(np.unique(image.labels))
    np.testing.assert_array_equal(sample.labels, image.labels[1::2, 1::2])
    true = np.argwhere(image.labels == 3).mean(axis=0)[::-1] * 0.25
    np.testing.assert_allclose(sample.centroids_um[2], true, atol=0.3)
    # Fitted to its own pixels.
    assert (sample.white_point > 180).all()
    np.testing.assert_allclose(np.linalg.norm(sample.stain_vectors, axis=1), 1, rtol=1e-4)


def test_an_odd_scale_loses_no_more_than_the_edge(image: AnnotatedImage) -> None:
    sample = _sample(image, mpp=0.4)
    assert sample.pixels.shape == (160, 160, 3)
    assert _sample(image, mpp=0.37).pixels.shape == (172, 172, 3)


def test_what_an_image_knows_becomes_what_its_pixels_may_be(image: AnnotatedImage) -> None:
    def bits(changed: AnnotatedImage) -> set[int]:
        targets = _sample(changed).targets
        assert targets is not None
        assert targets.known is not None
        return set(np.unique(targets.known & ~np.uint8(NO_CENTRE)).tolist())

    assert bits(image) == {1, 2, 4}
    assert bits(_changed(image, classes=None)) == {1, 6}
    assert bits(_changed(image, background_known=False)) == {1 | 4 | UNANNOTATED, 2, 4}
    points = np.array([[20.0, 20.0], [50.0, 40.0]])
    dotted = _changed(image, labels=None, points_um=points, classes=np.array([1, 2], np.uint8))
    assert bits(dotted) == {1, 2, 4, 1 | 2, 1 | 4}
    sample = _sample(dotted)
    assert sample.targets is not None
    assert sample.targets.classes[40, 40] == 1
    assert sample.targets.centre[20, 20] > 200
    counted = _sample(_changed(image, labels=None, classes=None, n_cd8=7))
    assert counted.targets is None
    assert counted.n_cd8 == 7


def test_fluorescence_is_scaled_by_its_own_pixels() -> None:
    field = render_field(12, size_px=192, mpp=0.5, kind="fluorescence")
    for dtype, factor in ((np.uint16, 1), (np.float32, 1 / 1000)):
        pixels = (field.pixels * factor).astype(dtype)
        pixels[..., 2] = 0
        sample = _sample(AnnotatedImage("fluorescence", pixels, 0.5, field.labels))
        (amounts,) = clean_amounts([sample], TrainConfig().augment, 0)
        assert 0.5 < float(np.quantile(amounts[0], 0.99)) < 1.5
        assert float(np.abs(amounts[2]).max()) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mpp": 1.2}, "too coarse"),
        ({"pixels": np.zeros((20, 20, 3), np.uint8), "labels": np.zeros((20, 20), np.int32)}, "only 10 x 10"),
        ({"labels": None, "classes": None}, "nothing is known"),
        ({"labels": None, "classes": None, "n_cd8": 3, "mpp": 0.5}, r"crop_px to 256"),
        ({"classes": np.ones(2, np.uint8)}, "the classes of 2"),
    ],
)
def test_an_image_that_cannot_teach_is_refused(
    image: AnnotatedImage, change: dict[str, object], message: str
) -> None:
    item = Item("one", "a", None, partial(_changed, image, **change))
    with pytest.raises(DatasetError, match=message) as caught:
        load_sample(item, source="mine", mpp=0.5, largest_px=128)
    assert "image one" in str(caught.value)


def test_a_test_image_without_annotation_is_left_out(image: AnnotatedImage) -> None:
    item = Item("one", "a", "test", partial(_changed, image, labels=None, classes=None))
    assert load_sample(item, source="mine", mpp=0.5, largest_px=128, part="test") is None


def test_a_dataset_is_split_by_patient_and_its_licence_is_told(
    own_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        (opened,) = open_datasets(_config(own_folder, validation=0.25, test=0.25))
    assert "forbids commercial use" in caplog.text
    groups = [{item.group for item in items} for items in opened.parts.values()]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups)) == 4
    record = opened.record()
    assert record["commercial_use"] is False
    assert record["licence"] == "CC BY-NC 4.0"
    assert sum(record["images"].values()) == 8
    samples = load_images(opened, "train", _config(own_folder))
    assert len(samples) == record["images"]["train"]
    assert {sample.source for sample in samples} == {"folder"}
    # Only CD8+ cells are outlined there.
    assert all(set(sample.classes) <= {CD8_POSITIVE} for sample in samples)
    assert not any(sample.background_known for sample in samples)


def test_validation_looks_at_no_more_than_asked(own_folder: Path) -> None:
    config = _config(own_folder, validation=0.5, test=0.0, max_validation=2)
    (opened,) = open_datasets(config)
    assert len(opened.parts["validation"]) == 4
    assert len(load_images(opened, "validation", config)) == 2


def test_two_folders_have_names_of_their_own(
    own_folder: Path, tmp_path: Path, write_folder: Callable[..., Path]
) -> None:
    other = write_folder(tmp_path / "other", 3)
    config = TrainConfig.model_validate(
        {
            "datasets": [
                {"name": "folder", "path": str(path), "validation": 0, "test": 0}
                for path in (own_folder, other)
            ]
        }
    )
    assert [opened.title for opened in open_datasets(config)] == ["folder", "folder_2"]
    with pytest.raises(DatasetError, match="nuclik"):
        open_datasets(TrainConfig.model_validate({"datasets": [{"name": "nuclik", "path": str(own_folder)}]}))


def test_crops_come_from_sources_by_their_weights(image: AnnotatedImage) -> None:
    counted = _sample(_changed(image, labels=None, classes=None, n_cd8=7))
    sources = [Source("a", 3.0, [_sample(image)]), Source("b", 1.0, [counted])]
    config = TrainConfig.model_validate({"optimiser": {"batch_size": 8, "crop_px": 128}})
    batches = [CropBatches(sources, config, 0)[i] for i in range(12)]
    counts = [batch.targets.n_cd8 for batch in batches]
    share = np.mean([float((~count.isnan()).float().mean()) for count in counts if count is not None])
    assert share == pytest.approx(0.25, abs=0.12)
    known = batches[0].targets.known
    assert known is not None
    assert counts[0] is not None
    whole = (known == (MAY_BE_ANY | NO_CENTRE)).flatten(1).any(dim=1)
    assert (whole == ~counts[0].isnan()).all()


def test_devices_share_a_batch(image: AnnotatedImage) -> None:
    sources = [Source("a", 1.0, [_sample(image)])]
    config = TrainConfig.model_validate({"devices": 2, "optimiser": {"batch_size": 8, "crop_px": 64}})
    parts = [CropBatches(sources, config, 0, rank=rank)[3] for rank in (0, 1, 0)]
    assert [len(part.stain) for part in parts] == [4, 4, 4]
    assert not np.array_equal(parts[0].stain.numpy(), parts[1].stain.numpy())
    np.testing.assert_array_equal(parts[0].stain.numpy(), parts[2].stain.numpy())


def test_only_what_is_known_is_scored(image: AnnotatedImage) -> None:
    from histo.cells.network import CellNet

    whole = _sample(image)
    changes: list[dict[str, object]] = [
        {},
        {"classes": np.full(len(whole.classes), UNKNOWN, np.uint8)},
        {"background_known": False},
        {"labels": None, "classes": None, "n_cd8": 7},
    ]
    samples = [_sample(_changed(image, **change)) for change in changes]
    amounts = clean_amounts(samples, TrainConfig().augment, 0)
    network = CellNet(4).eval()
    n, n_cd8 = len(whole.classes), int((whole.classes == CD8_POSITIVE).sum())
    for sample, amount, expected in zip(
        samples,
        amounts,
        ((n_cd8, n - n_cd8, n), (0, 0, n), (n_cd8, 0, 0), (0, 0, 0)),
        strict=True,
    ):
        score = score_fields(network, [sample], [amount], mpp=0.5, centre_threshold=0.9)
        # Nothing is found: what is missed is what is looked for, to the image's very edge.
        assert [m.false_negatives for m in (score.cd8, score.other, score.every)] == list(expected)
    assert score.counts == ((0, 7),)
