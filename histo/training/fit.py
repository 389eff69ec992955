"""A training run, from its configuration to a weights file."""

from __future__ import annotations

import json
import math
import pickle
from itertools import count
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor

from histo.cells.network import CellNet, state_arrays
from histo.cells.weights import Weights, load_weights, save_weights
from histo.errors import ConfigError, WeightsError
from histo.results.log_file import log_file
from histo.training.config import TrainConfig, load_train_config
from histo.training.data import clean_amounts
from histo.training.evaluate import CD8_LOGITS, THRESHOLDS, Score, calibrate, score_fields
from histo.training.fields import render_part
from histo.training.images import OpenDataset, load_images, open_datasets
from histo.training.log import log
from histo.training.module import CellTraining
from histo.training.sample import RENDERED, Part, Sample, Source

# Followed where the run may stop early: the F1 of CD8+ cells in the validation images.
_FOLLOWED = "validation/f1_cd8"


def train(config: TrainConfig, out: Path, resume: bool = False) -> Path:
    """Train a network on rendered fields and datasets.

    Writes to `out`: `config.yaml`, `train.log`, `checkpoints/`, `log/metrics.csv` and `tensorboard/log`
    (`log_2` and so on where it was resumed), `metrics.json` and the weights. The centre threshold and the
    balance of the classes, unless the configuration gives them, are settled on the validation images; the
    test images are looked at once, at the end.

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
    DatasetError : a dataset is not there, not laid out as published, or damaged.
    WeightsError : the weights to begin from, or the checkpoint to go on from, cannot be read.
    """
    # With several devices, each has a process that comes by here; the first one keeps the folder.
    first = getattr(rank_zero_only, "rank", 0) == 0
    if first:
        _claim(config, out, resume)
    with log_file(out / "train.log", quiet=not first):
        if config.threads:
            torch.set_num_threads(config.threads)
        lightning.seed_everything(config.seed, verbose=False)
        # Before any work.
        beginning = _beginning(config)
        datasets = open_datasets(config)
        validation = _validation(config, datasets)
        module = CellTraining(config, _sources(config, datasets), validation)
        if beginning is not None:
            module.network.load_state_dict(beginning.network().state_dict())
        trainer = _trainer(config, out)
        last = out / "checkpoints" / "last.ckpt"
        start = last if resume and last.is_file() else None
        if start is None or not _stopped(_read_checkpoint(start), config):
            trainer.fit(module, ckpt_path=start, weights_only=True)
        path = out / f"{config.name}.safetensors"
        if trainer.is_global_zero:
            best = out / "checkpoints" / "best.ckpt"
            kept = best if config.optimiser.patience_validations and best.is_file() else last
            log.info("the weights of %s", kept.name)
            _finish(_averaged(config, kept), config, datasets, validation, out, path, beginning)
        return path


def _beginning(config: TrainConfig) -> Weights | None:
    """Return the weights to begin from; None begins from chance.

    Raises WeightsError where they cannot be read, ConfigError where they are of another network.
    """
    if config.start_from is None:
        return None
    weights = load_weights(config.start_from)
    for name, own, there in (("width", config.width, weights.width), ("mpp", config.mpp, weights.mpp)):
        if own != there:
            raise ConfigError(
                f"start_from names weights of {name} {there}, not {own}", fix=f"Set {name} to {there}"
            )
    log.info("begins from the weights %s (%s)", weights.name, weights.sha256[:12])
    return weights


def _sources(config: TrainConfig, datasets: list[OpenDataset]) -> list[Source]:
    """Return what crops are drawn from."""
    sources = []
    if config.fields.weight > 0:
        sources.append(Source(RENDERED, config.fields.weight, render_part(config, "train")))
    for opened in datasets:
        sources.append(Source(opened.title, opened.config.weight, load_images(opened, "train", config)))
    return sources


def _validation(config: TrainConfig, datasets: list[OpenDataset]) -> list[Sample]:
    """Return the images that are followed in training."""
    samples = render_part(config, "validation") if config.validate_on != "datasets" else []
    if config.validate_on != "fields":
        for opened in datasets:
            samples += load_images(opened, "validation", config)
    if not samples:
        raise ConfigError(
            "the datasets have no images for validation",
            fix="Raise datasets.validation, or set validate_on to both",
        )
    return samples


def _trainer(config: TrainConfig, out: Path) -> lightning.Trainer:
    options = config.optimiser
    epochs = options.steps // options.steps_per_epoch
    # The average of weights forgets the first steps at first; early stopping comes after validation.
    callbacks: list[Callback] = [
        ModelCheckpoint(
            dirpath=out / "checkpoints", save_last=True, save_top_k=1, save_on_train_epoch_end=True
        ),
        _average(options.average_decay),
    ]
    if options.patience_validations is not None:
        callbacks += [
            EarlyStopping(
                _FOLLOWED,
                mode="max",
                patience=options.patience_validations,
                check_on_train_epoch_end=False,
                # Without a CD8+ cell found yet there is no F1.
                check_finite=False,
            ),
            ModelCheckpoint(
                dirpath=out / "checkpoints",
                filename="best",
                monitor=_FOLLOWED,
                mode="max",
                save_top_k=1,
                save_on_train_epoch_end=False,
                enable_version_counter=False,
            ),
        ]
    free = _free_log(out)
    loggers: list[Logger] = [
        CSVLogger(out, name="", version=free),
        TensorBoardLogger(out, name="tensorboard", version=free),
    ]
    return lightning.Trainer(
        default_root_dir=out,
        accelerator="auto" if config.device == "auto" else config.device,
        devices=config.devices,
        strategy="auto" if config.devices == 1 else "ddp",
        precision=_precision(config),
        max_epochs=epochs,
        reload_dataloaders_every_n_epochs=1,
        # The batches know which part of them is whose.
        use_distributed_sampler=False,
        check_val_every_n_epoch=max(1, epochs // 15),
        num_sanity_val_steps=0,
        gradient_clip_val=options.clip_gradient,
        logger=loggers,
        callbacks=callbacks,
        log_every_n_steps=options.steps_per_epoch,
        enable_model_summary=False,
        deterministic="warn",
    )


def _average(decay: float) -> WeightAveraging:
    """Return an exponential moving average of the weights that forgets the first steps at first."""

    def average(mean: Tensor, now: Tensor, n: Tensor) -> Tensor:
        keep = torch.minimum(torch.as_tensor(decay), (1 + n) / (10 + n)).to(mean.device)
        return now + (mean - now) * keep

    return WeightAveraging(avg_fn=average)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values alone, for any other pickle can run what it likes."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"the checkpoint cannot be read ({str(error).partition(chr(10))[0]})",
            path=path,
            fix="Train again in another folder",
        ) from None
    return content


def _stopped(checkpoint: dict[str, Any], config: TrainConfig) -> bool:
    """Return whether the run had stopped early where it left a checkpoint."""
    patience = config.optimiser.patience_validations
    if patience is None:
        return False
    states = checkpoint["callbacks"]
    return any(
        state.get("wait_count", 0) >= patience
        for name, state in states.items()
        if name.startswith(EarlyStopping.__name__)
    )


def _averaged(config: TrainConfig, checkpoint: Path) -> CellNet:
    """Return the network with the averaged weights of a checkpoint."""
    state = _read_checkpoint(checkpoint)["state_dict"]
    module = CellTraining(config, [], [])
    module.load_state_dict(state)
    return module.network.eval()


def _finish(
    network: CellNet,
    config: TrainConfig,
    datasets: list[OpenDataset],
    validation: list[Sample],
    out: Path,
    path: Path,
    beginning: Weights | None,
) -> None:
    """Calibrate, measure, and write weights and metrics."""
    amounts = clean_amounts(validation, config.augment, config.seed)
    given = config.calibration
    settled = calibrate(
        network,
        validation,
        amounts,
        mpp=config.mpp,
        thresholds=THRESHOLDS if given.centre_threshold is None else (given.centre_threshold,),
        logits=CD8_LOGITS if given.cd8_logit is None else (given.cd8_logit,),
    )
    threshold = settled.centre_threshold
    network.shift_class(1, settled.cd8_logit)
    metrics = {
        "validation": _summary(settled.by_logit[settled.cd8_logit]),
        "validation_by_threshold": {f"{t:g}": _summary(s) for t, s in settled.by_threshold.items()},
        "validation_by_cd8_logit": {f"{x:g}": _summary(s) for x, s in settled.by_logit.items()},
        **_test(network, config, datasets, threshold),
    }
    (out / "metrics.json").write_text(
        json.dumps({"centre_threshold": threshold, "cd8_logit": settled.cd8_logit, **metrics}, indent=2),
        encoding="utf-8",
    )
    weights = Weights(
        state=state_arrays(network),
        width=config.width,
        mpp=config.mpp,
        centre_threshold=threshold,
        name=config.name,
        licence=config.licence,
        training={
            "config": config.portable(),
            "datasets": [opened.record() for opened in datasets],
            "started_from": None if beginning is None else beginning.sha256,
            "test": metrics["test"],
        },
    )
    save_weights(weights, path)


def _test(
    network: CellNet, config: TrainConfig, datasets: list[OpenDataset], threshold: float
) -> dict[str, Any]:
    """Measure on the test parts: "test" rendered fields, "test_<kind>" of them, "test_<dataset>"."""

    def measure(samples: list[Sample], amounts: list[NDArray[np.float32]]) -> dict[str, Any]:
        score = score_fields(network, samples, amounts, mpp=config.mpp, centre_threshold=threshold)
        return _summary(score)

    part: Part = "test"
    fields = render_part(config, part)
    amounts = clean_amounts(fields, config.augment, config.seed + 1)
    metrics = {"test": measure(fields, amounts)}
    for kind in ("brightfield", "fluorescence"):
        chosen = [i for i, sample in enumerate(fields) if sample.kind == kind]
        if chosen:
            metrics[f"test_{kind}"] = measure([fields[i] for i in chosen], [amounts[i] for i in chosen])
    for opened in datasets:
        images = load_images(opened, part, config)
        if images:
            metrics[f"test_{opened.title}"] = measure(
                images, clean_amounts(images, config.augment, config.seed)
            )
    return metrics


def _summary(score: Score) -> dict[str, Any]:
    """Put a score into JSON values; null where a number is not defined."""
    values: dict[str, Any] = {}
    for name in ("cd8", "other", "every"):
        matching = getattr(score, name)
        for measure in ("f1", "precision", "recall", "count_bias"):
            value = getattr(matching, measure)
            values[f"{measure}_{name}"] = None if math.isnan(value) else round(value, 4)
    values["n_true_cd8"] = score.cd8.true_positives + score.cd8.false_negatives
    if score.counts:
        values["n_counted_images"] = len(score.counts)
        errors = [abs(found - true) for found, true in score.counts]
        values["mean_count_error_cd8"] = round(sum(errors) / len(errors), 4)
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
        if _what_counts(there) != _what_counts(config):
            raise ConfigError(
                "the training run in this folder has another configuration",
                path=path,
                fix="Resume with that configuration, or choose another folder",
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def _what_counts(config: TrainConfig) -> dict[str, Any]:
    """Return the settings without those of where a run computes and what it keeps: they change nothing."""
    values = config.portable()
    for name in ("threads", "device"):
        del values[name]
    del values["fields"]["workers"]
    return values
