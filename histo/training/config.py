"""The configuration of a training run: every number that makes its weights repeatable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from histo.cells.network import CellNet
from histo.config import read_settings

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FieldsConfig(_Section):
    """Rendered fields. Training, validation and test never share a seed."""

    size_px: Annotated[int, Field(ge=256, le=2048, multiple_of=8)] = 512
    train: Annotated[int, Field(ge=1)] = 600
    # Followed during training, and what the centre threshold is chosen on.
    validation: Annotated[int, Field(ge=1)] = 32
    # Looked at once, at the end.
    test: Annotated[int, Field(ge=1)] = 48
    fluorescence_share: Share = 0.25
    first_seed: Annotated[int, Field(ge=0)] = 1_000_000
    # Processes that render; changes nothing but the time.
    workers: Annotated[int, Field(ge=1)] = 2


class AugmentConfig(_Section):
    """How stain space varies, beside turns and flips: as errors of its estimation, and as scanners differ."""

    # Share of fields unmixed with the stain vectors of the default configuration instead of their own.
    default_vectors_share: Share = 0.35
    vector_error_deg: NotNegative = 4.0
    white_point_error: NotNegative = 0.02
    # Standard deviation of the log of each stain's scale; of fluorescence's full scale on top.
    scale: NotNegative = 0.12
    full_scale: NotNegative = 0.3
    shift: NotNegative = 0.02
    gamma: NotNegative = 0.12
    blur_share: Share = 0.25
    blur_max_px: NotNegative = 1.0
    noise: NotNegative = 0.02
    # Share of crops that see no residual stain (the autofluorescence channel is optional).
    no_residual_share: Share = 0.2


class LossConfig(_Section):
    """Weights of the losses."""

    cross_entropy: NotNegative = 1.0
    dice: NotNegative = 0.5
    centre: NotNegative = 1.0
    offsets: NotNegative = 0.5


class OptimiserConfig(_Section):
    """AdamW, one cycle of a cosine, and the average of weights that is kept."""

    steps: Annotated[int, Field(ge=1)] = 3000
    steps_per_epoch: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=1)] = 16
    crop_px: Annotated[int, Field(ge=64, multiple_of=CellNet.multiple)] = 256
    learning_rate: Positive = 3e-3
    warm_up: Share = 0.1
    weight_decay: NotNegative = 1e-3
    clip_gradient: Positive = 1.0
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.998

    @model_validator(mode="after")
    def _whole_epochs(self) -> OptimiserConfig:
        if self.steps % self.steps_per_epoch:
            raise ValueError("steps must be a multiple of steps_per_epoch")
        return self


class TrainConfig(_Section):
    """Everything a training run needs to know."""

    name: str = "cd8"
    seed: Annotated[int, Field(ge=0)] = 0
    mpp: Positive = 0.5
    width: Annotated[int, Field(ge=4, le=128)] = 16
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    threads: Annotated[int, Field(ge=0)] = 0  # of the CPU; 0: as torch chooses
    fields: FieldsConfig = FieldsConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()

    @model_validator(mode="after")
    def _crops_fit(self) -> TrainConfig:
        if self.optimiser.crop_px > self.fields.size_px:
            raise ValueError("optimiser.crop_px must not exceed fields.size_px")
        return self


def load_train_config(path: Path | None = None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML training configuration and apply `section.key=value` overrides.

    Raises
    ------
    ConfigError : the file or an override cannot be read, or does not fit; every misfit is listed.
    """
    return read_settings(TrainConfig, path, overrides)
