from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console
from script import load_script
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from histo.cells.weights import load_weights
from histo.errors import ConfigError, WeightsError
from histo.training.config import CalibrationConfig, TrainConfig, load_train_config
from histo.training.data import CropBatches
from histo.training.evaluate import calibrate
from histo.training.fields import render_part
from histo.training.fit import train
from histo.training.sample import RENDERED, Source

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def tiny() -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "width": 4,
            "precision": "float32",
            "device": "cpu",
            "threads": 1,
            "fields": {"size_px": 320, "train": 4, "validation": 2, "test": 2, "workers": 1},
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
    assert TrainConfig.model_validate(weights.training["config"]) == tiny
    assert weights.training["datasets"] == []
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["centre_threshold"] == weights.centre_threshold
    assert {"validation", "test", "validation_by_threshold", "test_brightfield"} <= set(metrics)
    assert load_train_config(finished / "config.yaml") == tiny
    log = pd.read_csv(finished / "log" / "metrics.csv")
    assert log["train/total"].notna().sum() == 2
    assert log["validation/f1_other"].notna().sum() == 2
    assert "4 train fields rendered in" in (finished / "train.log").read_text()


def test_tensorboard_shows_curves_and_pictures(finished: Path) -> None:
    events = EventAccumulator(str(finished / "tensorboard" / "log"), size_guidance={"images": 0})
    events.Reload()
    assert {"train/total", "train/centre", "validation/f1_cd8"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("train/total")) == 2
    tags = events.Tags()["images"]
    assert len(tags) == 2
    for tag in tags:
        shown = events.Images(tag)
        assert [image.step for image in shown] == [2, 4]
        # Two panels, twice as large.
        assert (shown[0].height, shown[0].width) == (640, 1288)


def test_a_resumed_run_equals_an_uninterrupted_one(
    finished: Path, tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupt(tiny, tmp_path, 1, monkeypatch)
    _assert_same(train(tiny, tmp_path, resume=True), finished / "cd8.safetensors")


class _Runs:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> object:
        return Path.touch, (self.touched,)


@pytest.mark.fault
@pytest.mark.parametrize("how", ["cut", "a program"])
def test_a_checkpoint_that_is_none_is_refused_and_runs_nothing(
    how: str, finished: Path, tiny: TrainConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    last = out / "checkpoints" / "last.ckpt"
    if how == "cut":
        last.write_bytes(last.read_bytes()[:5000])
    else:
        torch.save({"callbacks": _Runs(tmp_path / "was here")}, last)
    with pytest.raises(WeightsError, match=r"last\.ckpt: the checkpoint cannot be read .*in another folder"):
        train(tiny, out, resume=True)
    assert not (tmp_path / "was here").exists()


def _interrupt(config: TrainConfig, out: Path, epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop where an epoch asks for its first batch."""
    whole = CropBatches.__getitem__

    def stop(self: CropBatches, index: int) -> object:
        if self.epoch == epoch:
            raise RuntimeError("power cut")
        return whole(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(CropBatches, "__getitem__", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            train(config, out, resume=out.exists() and any(out.iterdir()))


def _assert_same(one: Path, other: Path) -> None:
    resumed, straight = load_weights(str(one)), load_weights(str(other))
    for name, values in straight.state.items():
        np.testing.assert_array_equal(resumed.state[name], values, strict=True)
    assert resumed.centre_threshold == straight.centre_threshold
    assert resumed.sha256 == straight.sha256


@pytest.fixture(scope="module")
def mixed(tiny: TrainConfig, own_folder: Path) -> TrainConfig:
    """Rendered fields and a folder; stops after the second validation, for nothing is found in either."""
    values = tiny.model_dump(mode="json")
    values["optimiser"] |= {"steps": 5, "steps_per_epoch": 1, "batch_size": 4, "patience_validations": 1}
    values["augment"] |= {"rotate_share": 0.5, "zoom": 0.1}
    values["datasets"] = [{"name": "folder", "path": str(own_folder), "validation": 0.25, "test": 0.25}]
    return TrainConfig.model_validate(values)


@pytest.fixture(scope="module")
def stopped(mixed: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mixed")
    train(mixed, out)
    return out


def test_a_run_on_a_dataset_says_so_and_stops_early(
    stopped: Path, mixed: TrainConfig, own_folder: Path
) -> None:
    log = pd.read_csv(stopped / "log" / "metrics.csv")
    assert log["train/total"].notna().sum() == 2
    assert log["train/total"].max() < 50
    assert {"train/count", "validation/f1_cd8/folder", "validation/f1_cd8/rendered"} <= set(log.columns)
    metrics = json.loads((stopped / "metrics.json").read_text())
    assert metrics["test_folder"]["n_true_cd8"] > 0
    training = load_weights(str(stopped / "cd8.safetensors")).training
    assert [record["commercial_use"] for record in training["datasets"]] == [False]
    assert "CC BY-NC 4.0" in (stopped / "train.log").read_text()
    # The weights may travel: no folder of this machine in them.
    assert str(own_folder.parent) not in json.dumps(dict(training))
    assert TrainConfig.model_validate(training["config"]).optimiser == mixed.optimiser


def test_a_mixed_run_that_may_stop_early_resumes_exactly(
    stopped: Path, mixed: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupt(mixed, tmp_path, 1, monkeypatch)
    _assert_same(train(mixed, tmp_path, resume=True), stopped / "cd8.safetensors")
    # Cut off after it had stopped, before the weights were written: it does not go on.
    (tmp_path / "cd8.safetensors").unlink()
    monkeypatch.setattr(CropBatches, "__getitem__", lambda *_: pytest.fail("trained on"))
    _assert_same(train(mixed, tmp_path, resume=True), stopped / "cd8.safetensors")


def test_what_is_kept_of_a_run_that_stopped_is_its_best(stopped: Path) -> None:
    best = torch.load(stopped / "checkpoints" / "best.ckpt", weights_only=False)
    last = torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=False)
    assert (best["global_step"], last["global_step"]) == (1, 2)
    weights = load_weights(str(stopped / "cd8.safetensors")).state
    name = "stem.0.weight" if "stem.0.weight" in weights else next(iter(weights))
    np.testing.assert_array_equal(weights[name], best["state_dict"][f"network.{name}"].numpy(), strict=True)


def test_validation_needs_images(tiny: TrainConfig, own_folder: Path, tmp_path: Path) -> None:
    values = tiny.model_dump(mode="json") | {"validate_on": "datasets"}
    values["datasets"] = [{"name": "folder", "path": str(own_folder), "validation": 0, "test": 0}]
    with pytest.raises(ConfigError, match="no images for validation"):
        train(TrainConfig.model_validate(values), tmp_path)


@pytest.mark.slow
def test_two_devices_train_together(tiny: TrainConfig, tmp_path: Path) -> None:
    values = tiny.model_dump(mode="json") | {"devices": 2}
    config, out = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(values))
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(config), "--out", str(out)]
    subprocess.run(command, check=True, timeout=300, cwd=tmp_path)
    assert load_weights(str(out / "cd8.safetensors")).width == 4
    assert pd.read_csv(out / "log" / "metrics.csv")["train/total"].notna().sum() == 2


def test_a_folder_with_a_run_is_not_overwritten(finished: Path, tiny: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="holds a training run"):
        train(tiny, finished)
    other = tiny.model_copy(update={"seed": 7})
    with pytest.raises(ConfigError, match="another configuration"):
        train(other, finished, resume=True)


def test_batches_repeat_and_agree_with_their_targets(tiny: TrainConfig) -> None:
    sources = [Source(RENDERED, 1.0, render_part(tiny, "train"))]
    batch, again = (CropBatches(sources, tiny, 1)[1] for _ in range(2))
    torch.testing.assert_close(batch.stain, again.stain, rtol=0, atol=0)
    other = CropBatches(sources, tiny, 0)[1]
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


def test_calibration_settles_on_candidates(tiny: TrainConfig, finished: Path) -> None:
    samples = render_part(tiny, "validation")
    network = load_weights(str(finished / "cd8.safetensors")).network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    amounts = [np.zeros((3, 256, 256), np.float32) for _ in samples]
    settled = calibrate(network, samples, amounts, mpp=0.5, thresholds=(0.2, 0.4), logits=(-1.0, 0.0))
    # Nothing is found in empty amounts: the strictest threshold, and the classes as they were.
    assert (settled.centre_threshold, settled.cd8_logit) == (0.4, 0.0)
    assert set(settled.by_threshold) == {0.2, 0.4}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_calibration_that_is_given_is_taken(tiny: TrainConfig, tmp_path: Path) -> None:
    given = CalibrationConfig(centre_threshold=0.37, cd8_logit=-0.75)
    weights = load_weights(str(train(tiny.model_copy(update={"calibration": given}), tmp_path / "out")))
    assert weights.centre_threshold == 0.37
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["cd8_logit"] == -0.75
    assert list(metrics["validation_by_threshold"]) == ["0.37"]


def test_the_shipped_config_is_the_one_of_the_shipped_weights() -> None:
    config = load_train_config(ROOT / "configs" / "train_synthetic.yaml")
    assert TrainConfig.model_validate(load_weights().training["config"]) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.steps=250", "multiple of steps_per_epoch"),
        ("optimiser.crop_px=1024", "must not exceed"),
        ("optimiser.crop_px=100", "multiple of 8"),
        ("fields.trian=3", "trian"),
        ("width", "key=value"),
        ("fields.weight=0", "nothing to train on"),
        ("validate_on=datasets", "there are none"),
        ("devices=3", "multiple of devices"),
        ("datasets=[{name: folder, path: x, validation: 0.6, test: 0.4}]", "nothing to train on"),
        ("datasets=[{name: folder}]", "path"),
        ("optimiser.patience_validations=0", "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_train_config(None, [override])


def test_a_fine_tune_begins_from_weights(finished: Path, tiny: TrainConfig, tmp_path: Path) -> None:
    path = finished / "cd8.safetensors"
    still = tiny.optimiser.model_copy(update={"learning_rate": 1e-12, "steps": 2})
    config = tiny.model_copy(
        update={
            "start_from": str(path),
            "optimiser": still,
            # As they are stored, calibration is part of the weights.
            "calibration": CalibrationConfig(centre_threshold=0.4, cd8_logit=0.0),
        }
    )
    weights = load_weights(str(train(config, tmp_path / "run")))
    before = load_weights(str(path))
    for name, tensor in before.state.items():
        # Normalisation goes on counting.
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(weights.state[name], tensor, atol=1e-6, rtol=0)
    assert weights.training["started_from"] == before.sha256
    # A path of this machine is in no weights.
    assert weights.training["config"]["start_from"] == "cd8.safetensors"


def test_weights_that_do_not_fit_begin_nothing(finished: Path, tiny: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weights of width 16, not 4"):
        train(tiny.model_copy(update={"start_from": "default"}), tmp_path / "a")
    with pytest.raises(WeightsError):
        train(tiny.model_copy(update={"start_from": str(tmp_path / "none")}), tmp_path / "b")


@pytest.mark.slow
def test_a_fine_tune_on_corrected_slides_helps_on_that_cohort(tmp_path: Path) -> None:
    benchmark = load_script("benchmarks/finetune.py")
    before, after = benchmark.compare(tmp_path / "out", 200, Console(quiet=True))
    assert after.f1 >= before.f1 + 0.05
