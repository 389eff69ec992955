from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from histo.cells.weights import load_weights
from histo.errors import ConfigError
from histo.training.config import TrainConfig, load_train_config
from histo.training.data import CropBatches, field_seeds, kind_of, render_part, render_sample
from histo.training.evaluate import calibrate
from histo.training.fit import train

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def tiny() -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "width": 4,
            "precision": "float32",
            "device": "cpu",
            "threads": 1,
            "fields": {"size_px": 256, "train": 4, "validation": 2, "test": 2, "workers": 1},
            "optimiser": {"steps": 4, "steps_per_epoch": 2, "batch_size": 2, "crop_px": 64},
        }
    )


@pytest.fixture(scope="module")
def finished(tiny: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    assert train(tiny, out) == out / "cd8.safetensors"
    return out


def test_a_run_leaves_weights_metrics_log_and_config(finished: Path, tiny: TrainConfig) -> None:
    weights = load_weights(str(finished / "cd8.safetensors"))
    assert weights.width == 4
    assert weights.training["config"] == tiny.model_dump(mode="json")
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["centre_threshold"] == weights.centre_threshold
    assert {"validation", "test", "validation_by_threshold", "test_brightfield"} <= set(metrics)
    assert load_train_config(finished / "config.yaml") == tiny
    log = pd.read_csv(finished / "log" / "metrics.csv")
    assert log["train/total"].notna().sum() == 2
    assert log["validation/f1_other"].notna().sum() == 2


def test_a_resumed_run_equals_an_uninterrupted_one(
    finished: Path, tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stop where the second epoch asks for its first batch.
    whole = CropBatches.__getitem__

    def stop(self: CropBatches, index: int) -> object:
        if self.epoch == 1:
            raise RuntimeError("power cut")
        return whole(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(CropBatches, "__getitem__", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            train(tiny, tmp_path)
    resumed = load_weights(str(train(tiny, tmp_path, resume=True)))
    straight = load_weights(str(finished / "cd8.safetensors"))
    for name, tensor in straight.state.items():
        torch.testing.assert_close(resumed.state[name], tensor, rtol=0, atol=0)
    assert resumed.centre_threshold == straight.centre_threshold
    assert resumed.sha256 == straight.sha256


def test_a_folder_with_a_run_is_not_overwritten(finished: Path, tiny: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="holds a training run"):
        train(tiny, finished)
    other = tiny.model_copy(update={"seed": 7})
    with pytest.raises(ConfigError, match="another configuration"):
        train(other, finished, resume=True)


def test_parts_share_no_seed(tiny: TrainConfig) -> None:
    parts = [set(field_seeds(tiny, part)) for part in ("train", "validation", "test")]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 8


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 25), (1.0, 100)])
def test_fluorescence_is_spread_evenly(share: float, expected: int) -> None:
    kinds = [kind_of(i, share) == "fluorescence" for i in range(100)]
    assert sum(kinds) == expected
    assert all(abs(sum(kinds[: i + 1]) - (i + 1) * share) < 1 for i in range(100))


def test_batches_repeat_and_agree_with_their_targets(tiny: TrainConfig) -> None:
    samples = render_part(tiny, "train")
    batch, again = (CropBatches(samples, tiny, 1)[1] for _ in range(2))
    torch.testing.assert_close(batch.stain, again.stain, rtol=0, atol=0)
    other = CropBatches(samples, tiny, 0)[1]
    assert not torch.equal(batch.stain, other.stain)
    # Whatever the turn: following the offset from any pixel of a cell leads to a high centre value.
    targets = batch.targets
    rows, columns = np.indices((64, 64))
    hits, total = 0, 0
    for i in range(len(batch.stain)):
        inside = targets.inside[i, 0].numpy()
        x = (columns + 0.5 + targets.offsets[i, 0].numpy() / 0.5)[inside]
        y = (rows + 0.5 + targets.offsets[i, 1].numpy() / 0.5)[inside]
        seen = (x >= 0) & (x < 64) & (y >= 0) & (y < 64)
        centre = targets.centre[i, 0].numpy()
        hits += int((centre[(y[seen] // 2).astype(int), (x[seen] // 2).astype(int)] > 0.6).sum())
        total += int(seen.sum())
    assert total > 200
    assert hits / total > 0.9


def test_fluorescence_is_scaled_like_a_slide() -> None:
    sample = render_sample((3, "fluorescence"), size_px=256, mpp=0.5)
    assert sample.field.pixels.dtype == np.uint16
    assert (sample.full_scale > 0).all()
    nuclear = (sample.field.pixels[..., 0] - sample.background[0]) / sample.full_scale[0]
    assert 0.5 < np.percentile(nuclear, 99) < 1.5


def test_calibration_settles_on_candidates(tiny: TrainConfig, finished: Path) -> None:
    samples = render_part(tiny, "validation")
    network = load_weights(str(finished / "cd8.safetensors")).network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    amounts = [torch.zeros(3, 256, 256) for _ in samples]
    settled = calibrate(network, samples, amounts, mpp=0.5, thresholds=(0.2, 0.4), logits=(-1.0, 0.0))
    # Nothing is found in empty amounts: the strictest threshold, and the classes as they were.
    assert (settled.centre_threshold, settled.cd8_logit) == (0.4, 0.0)
    assert set(settled.by_threshold) == {0.2, 0.4}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_shipped_config_is_the_one_of_the_shipped_weights() -> None:
    config = load_train_config(ROOT / "configs" / "train_synthetic.yaml")
    assert load_weights().training["config"] == config.model_dump(mode="json")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.steps=250", "multiple of steps_per_epoch"),
        ("optimiser.crop_px=1024", "must not exceed"),
        ("optimiser.crop_px=100", "multiple of 8"),
        ("fields.trian=3", "trian"),
        ("width", "key=value"),
    ],
)
def test_settings_that_cannot_be_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_train_config(None, [override])
