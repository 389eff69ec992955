"""The training module: one step, one schedule, metrics on whole images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader

from histo.cells.network import CellNet, Maps
from histo.training.config import TrainConfig
from histo.training.data import Batch, CropBatches, clean_amounts
from histo.training.evaluate import Found, Score, find, score
from histo.training.losses import losses
from histo.training.picture import side_by_side
from histo.training.sample import Sample, Source
from histo.training.targets import Targets

# Of each source, pictures of so many validation images are kept.
_PICTURES = 3


class CellTraining(lightning.LightningModule):
    """Trains a `CellNet`.

    Parameters
    ----------
    config : of the run.
    train : what crops are drawn from.
    validation : images that are scored whole.
    """

    def __init__(self, config: TrainConfig, train: Sequence[Source], validation: Sequence[Sample]) -> None:
        super().__init__()
        self.config = config
        self.network = CellNet(config.width).to(memory_format=torch.channels_last)
        self._train = train
        self._validation = validation
        self._validation_amounts = clean_amounts(validation, config.augment, config.seed)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        # The weight average copies the module; the images need no copy.
        copied = CellTraining(self.config, [], [])
        copied.load_state_dict(self.state_dict())
        return copied

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the batches of the current epoch."""
        batches = CropBatches(self._train, self.config, self.current_epoch, rank=self.global_rank)
        return DataLoader(batches, batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return one empty batch: validation looks at whole images at the end of it."""
        return DataLoader([0], batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of a batch."""
        stain = batch.stain.contiguous(memory_format=torch.channels_last)
        maps = self.network(stain)
        # The losses are sums over many pixels: not for half precision.
        with torch.autocast(self.device.type, enabled=False):
            floats = Maps(*(m.float() for m in maps))
            parts = losses(floats, Targets(*batch.targets), self.config.loss, mpp=self.config.mpp)
        self.log_dict(
            {f"train/{name}": value.detach() for name, value in parts.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(stain),
        )
        return parts["total"]

    def validation_step(self, _: Any, __: int) -> None:
        """Find the cells of the validation images with the averaged weights."""
        mpp = self.config.mpp
        found = find(self.network, self._validation, self._validation_amounts, mpp=mpp, centre_threshold=0.35)
        values = _values(score(self._validation, found, mpp))
        for source, places in self._sources().items():
            if len(places) < len(self._validation):
                some = score([self._validation[i] for i in places], [found[i] for i in places], mpp)
                values |= {f"{name}/{source}": value for name, value in _values(some).items()}
        self.log_dict(values, batch_size=1)
        self._draw(found)

    def _sources(self) -> dict[str, list[int]]:
        """Return the places of each source's images in the validation images."""
        places: dict[str, list[int]] = {}
        for index, sample in enumerate(self._validation):
            places.setdefault(sample.source, []).append(index)
        return places

    def _draw(self, found: Sequence[Found]) -> None:
        """Show some images with true and found cells where a logger takes pictures."""
        takers = [logger for logger in self.loggers if isinstance(logger, TensorBoardLogger)]
        chosen = [i for places in self._sources().values() for i in places[:_PICTURES]]
        for index in chosen if takers else []:
            sample = self._validation[index]
            picture = side_by_side(sample, self._validation_amounts[index], found[index])
            for taker in takers:
                name = f"{sample.source}/{index}: true, found"
                taker.experiment.add_image(name, picture, self.global_step, dataformats="HWC")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW, without decay on biases and normalisation, and a one-cycle cosine."""
        options = self.config.optimiser
        matrices = [p for p in self.network.parameters() if p.ndim > 1]
        vectors = [p for p in self.network.parameters() if p.ndim <= 1]
        optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": options.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            max_lr=options.learning_rate,
            total_steps=options.steps,
            pct_start=options.warm_up,
            cycle_momentum=False,
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _values(result: Score) -> dict[str, float]:
    values = {
        "validation/f1_cd8": result.cd8.f1,
        "validation/precision_cd8": result.cd8.precision,
        "validation/recall_cd8": result.cd8.recall,
        "validation/count_bias_cd8": result.cd8.count_bias,
        "validation/f1_other": result.other.f1,
    }
    if result.counts:
        values["validation/count_error"] = math.fsum(abs(a - b) for a, b in result.counts) / len(
            result.counts
        )
    return values
