"""The training module: one step, one schedule, metrics on whole fields."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader

from histo.cells.network import CellNet, Maps
from histo.training.config import TrainConfig
from histo.training.data import Batch, CropBatches, Sample, clean_amounts
from histo.training.evaluate import score_fields
from histo.training.losses import losses
from histo.training.targets import Targets


class CellTraining(lightning.LightningModule):
    """Trains a `CellNet` on rendered fields.

    Parameters
    ----------
    config : of the run.
    train, validation : rendered fields.
    """

    def __init__(self, config: TrainConfig, train: list[Sample], validation: list[Sample]) -> None:
        super().__init__()
        self.config = config
        self.network = CellNet(config.width).to(memory_format=torch.channels_last)
        self._train = train
        self._validation = validation
        self._validation_amounts = clean_amounts(validation, config.augment, config.seed)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        # The weight average copies the module; the fields need no copy.
        copied = CellTraining(self.config, [], [])
        copied.load_state_dict(self.state_dict())
        return copied

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the batches of the current epoch."""
        return DataLoader(CropBatches(self._train, self.config, self.current_epoch), batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return one empty batch: validation looks at whole fields at the end of it."""
        return DataLoader([0], batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of a batch."""
        stain = batch.stain.contiguous(memory_format=torch.channels_last)
        maps = self.network(stain)
        # The losses are sums over many pixels: not for half precision.
        with torch.autocast(self.device.type, enabled=False):
            parts = losses(Maps(*(m.float() for m in maps)), Targets(*batch.targets), self.config.loss)
        self.log_dict(
            {f"train/{name}": value.detach() for name, value in parts.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(stain),
        )
        return parts["total"]

    def validation_step(self, _: Any, __: int) -> None:
        """Find the cells of the validation fields with the averaged weights."""
        score = score_fields(
            self.network,
            self._validation,
            self._validation_amounts,
            mpp=self.config.mpp,
            centre_threshold=0.35,
        )
        values = {
            "validation/f1_cd8": score.cd8.f1,
            "validation/precision_cd8": score.cd8.precision,
            "validation/recall_cd8": score.cd8.recall,
            "validation/count_bias_cd8": score.cd8.count_bias,
            "validation/f1_other": score.other.f1,
        }
        self.log_dict(values, batch_size=1)

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
