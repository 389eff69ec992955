"""A training run, from its configuration to a weights file."""

from __future__ import annotations

import json
import math
from itertools import count
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from histo.cells.network import CellNet
from histo.cells.weights import Weights, save_weights
from histo.errors import ConfigError
from histo.training.config import TrainConfig, load_train_config
from histo.training.data import Sample, clean_amounts, render_part
from histo.training.evaluate import Score, calibrate, score_fields
from histo.training.module import CellTraining


def train(config: TrainConfig, out: Path, resume: bool = False) -> Path:
    """Train a network on rendered fields.

    Writes to `out`: `config.yaml`, `checkpoints/`, `log/metrics.csv` (`log_2` and so on where it was
    resumed), `metrics.json` and the weights. The centre threshold and the balance of the classes are
    settled on the validation fields; the test fields are looked at once, at the end.

    Parameters
    ----------
    config : every number of the run.
    out : folder; made where it is missing.
    resume : go on from the last checkpoint in `out`, as if the run had never stopped. Without one, start.

    Returns
    -------
    The path of the weights, `out/<name>.safetensors`.

    Raises
    ------
    ConfigError : `out` holds a run and `resume` is False, or the run in it has another configuration.
    """
    _claim(config, out, resume)
    if config.threads:
        torch.set_num_threads(config.threads)
    lightning.seed_everything(config.seed, verbose=False)
    validation = render_part(config, "validation")
    module = CellTraining(config, render_part(config, "train"), validation)
    checkpoints = ModelCheckpoint(
        dirpath=out / "checkpoints", save_last=True, save_top_k=1, save_on_train_epoch_end=True
    )
    options = config.optimiser
    trainer = lightning.Trainer(
        default_root_dir=out,
        accelerator="auto" if config.device == "auto" else config.device,
        devices=1,
        precision=_precision(config),
        max_epochs=options.steps // options.steps_per_epoch,
        reload_dataloaders_every_n_epochs=1,
        check_val_every_n_epoch=max(1, options.steps // options.steps_per_epoch // 15),
        num_sanity_val_steps=0,
        gradient_clip_val=options.clip_gradient,
        logger=CSVLogger(out, name="", version=_free_log(out)),
        callbacks=[checkpoints, _average(options.average_decay)],
        log_every_n_steps=options.steps_per_epoch,
        enable_model_summary=False,
        deterministic="warn",
    )
    last = out / "checkpoints" / "last.ckpt"
    trainer.fit(module, ckpt_path=last if resume and last.is_file() else None, weights_only=False)
    return _finish(_averaged(config, last), config, validation, out)


def _average(decay: float) -> WeightAveraging:
    """Return an exponential moving average of the weights that forgets the first steps at first."""

    def average(mean: Tensor, now: Tensor, n: Tensor) -> Tensor:
        keep = torch.minimum(torch.as_tensor(decay), (1 + n) / (10 + n)).to(mean.device)
        return now + (mean - now) * keep

    return WeightAveraging(avg_fn=average)


def _averaged(config: TrainConfig, checkpoint: Path) -> CellNet:
    """Return the network with the averaged weights of a checkpoint."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]
    module = CellTraining(config, [], [])
    module.load_state_dict(state)
    return module.network.eval()


def _finish(network: CellNet, config: TrainConfig, validation: list[Sample], out: Path) -> Path:
    """Calibrate, measure, and write weights and metrics."""
    amounts = clean_amounts(validation, config.augment, config.seed)
    settled = calibrate(network, validation, amounts, mpp=config.mpp)
    threshold = settled.centre_threshold
    network.shift_class(1, settled.cd8_logit)
    test = render_part(config, "test")
    test_amounts = clean_amounts(test, config.augment, config.seed + 1)
    metrics = {
        "validation": _summary(settled.by_logit[settled.cd8_logit]),
        "validation_by_threshold": {f"{t:g}": _summary(s) for t, s in settled.by_threshold.items()},
        "validation_by_cd8_logit": {f"{x:g}": _summary(s) for x, s in settled.by_logit.items()},
        "test": _summary(
            score_fields(network, test, test_amounts, mpp=config.mpp, centre_threshold=threshold)
        ),
    }
    for kind in ("brightfield", "fluorescence"):
        chosen = [i for i, sample in enumerate(test) if sample.kind == kind]
        if chosen:
            score = score_fields(
                network,
                [test[i] for i in chosen],
                [test_amounts[i] for i in chosen],
                mpp=config.mpp,
                centre_threshold=threshold,
            )
            metrics[f"test_{kind}"] = _summary(score)
    (out / "metrics.json").write_text(
        json.dumps({"centre_threshold": threshold, "cd8_logit": settled.cd8_logit, **metrics}, indent=2),
        encoding="utf-8",
    )
    weights = Weights(
        state=network.state_dict(),
        width=config.width,
        mpp=config.mpp,
        centre_threshold=threshold,
        name=config.name,
        training={"config": config.model_dump(mode="json"), "test": metrics["test"]},
    )
    path = out / f"{config.name}.safetensors"
    save_weights(weights, path)
    return path


def _summary(score: Score) -> dict[str, Any]:
    """Put a score into JSON values; null where a number is not defined."""
    values: dict[str, Any] = {}
    for name in ("cd8", "other", "every"):
        matching = getattr(score, name)
        for measure in ("f1", "precision", "recall", "count_bias"):
            value = getattr(matching, measure)
            values[f"{measure}_{name}"] = None if math.isnan(value) else round(value, 4)
    values["n_true_cd8"] = score.cd8.true_positives + score.cd8.false_negatives
    return values


def _free_log(out: Path) -> str:
    """Return the name of the first log folder not in use: a logger empties the one that it is given."""
    names = ("log" if number == 1 else f"log_{number}" for number in count(1))
    return next(name for name in names if not (out / name).exists())


def _precision(config: TrainConfig) -> Any:
    if config.precision == "auto":
        cuda = config.device in ("auto", "cuda", "gpu") and torch.cuda.is_available()
        # On a CPU bfloat16 is only faster where the hardware multiplies it.
        fast = torch.cuda.is_bf16_supported() if cuda else torch.cpu._is_amx_tile_supported()
        return "bf16-mixed" if fast else "32-true"
    return {"float32": "32-true", "bfloat16": "bf16-mixed"}[config.precision]


def _claim(config: TrainConfig, out: Path, resume: bool) -> None:
    """Make sure that a folder holds this run or none."""
    path = out / "config.yaml"
    if path.is_file():
        if not resume:
            raise ConfigError(
                "this folder holds a training run", path=out, fix="Resume it, or choose another folder"
            )
        there = load_train_config(path)
        # Where a run computes does not change what it is.
        free = {"threads", "device"}
        if there.model_dump(exclude=free) != config.model_dump(exclude=free):
            raise ConfigError(
                "the training run in this folder has another configuration",
                path=path,
                fix="Resume with that configuration, or choose another folder",
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
