"""The configuration of a training run: every number that makes its weights repeatable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from numpy import ndarray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from histo.cells.network import CellNet
from histo.config import read_settings
from histo.synthetic.field import FieldStyle

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FieldsConfig(_Section):
    """Rendered fields. Training, validation and test never share a seed."""

    # What is scored of a field is further from its edge than the network's halo of 128 px.
    size_px: Annotated[int, Field(ge=320, le=2048, multiple_of=8)] = 512
    train: Annotated[int, Field(ge=1)] = 600
    # Followed during training, and what the centre threshold is chosen on.
    validation: Annotated[int, Field(ge=1)] = 32
    # Looked at once, at the end.
    test: Annotated[int, Field(ge=1)] = 48
    fluorescence_share: Share = 0.25
    first_seed: Annotated[int, Field(ge=0)] = 1_000_000
    # Processes that render, and that read datasets; changes nothing but the time.
    workers: Annotated[int, Field(ge=1)] = 2
    # Folder where rendered fields are kept for the next run; changes nothing but the time.
    cache: Path | None = None
    # Share of rendered crops, relative to the weights of the datasets.
    weight: NotNegative = 1.0
    # What to fix instead of drawing, by the names of `FieldStyle`, in the training fields only: what is
    # validated and tested on stays the same, so that recipes can be compared.
    style: dict[str, Any] = {}

    @field_validator("style")
    @classmethod
    def _style_is_known(cls, style: dict[str, Any]) -> dict[str, Any]:
        names = [field.name for field in fields(FieldStyle)]
        unknown = sorted(set(style) - set(names))
        if unknown:
            raise ValueError(f"no such choice: {', '.join(unknown)}; there are {', '.join(names)}")
        hints = get_type_hints(FieldStyle)
        for name, value in style.items():
            if ndarray.__name__ in str(hints[name]):
                continue  # an array: the renderer looks at its shape
            try:
                TypeAdapter(hints[name]).validate_python(value)
            except ValidationError as error:
                raise ValueError(f"{name}: {error.errors()[0]['msg']} (got {value!r:.80})") from None
        return style


class DatasetConfig(_Section):
    """A dataset of annotated images, beside the rendered fields."""

    # As `histo.datasets.open.open_dataset` knows it.
    name: str
    path: Path
    # Share of the crops, relative to the other datasets and to `fields.weight`.
    weight: Positive = 1.0
    # um per pixel, where the files do not say.
    mpp: Positive | None = None
    # Share of the patients kept for validation and test, where no split is published.
    validation: Share = 0.15
    test: Share = 0.15
    # More images than this are not looked at in validation.
    max_validation: Annotated[int, Field(ge=1)] = 200

    @model_validator(mode="after")
    def _something_is_left(self) -> DatasetConfig:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave nothing to train on")
        return self


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
    # Share of crops turned by any angle (all are turned by right angles and flipped), and the standard
    # deviation of the log of their magnification.
    rotate_share: Share = 0.0
    zoom: NotNegative = 0.0


class LossConfig(_Section):
    """Weights of the losses."""

    cross_entropy: NotNegative = 1.0
    dice: NotNegative = 0.5
    centre: NotNegative = 1.0
    offsets: NotNegative = 0.5
    # Of images of which only the count of CD8+ cells is known.
    count: NotNegative = 0.25


class CalibrationConfig(_Section):
    """What turns maps into cells; None: settled on the validation images at the end of the run."""

    centre_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    # Added to the logit of CD8+ cells.
    cd8_logit: float | None = None


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
    # Stop after so many validations (about 15 in a run) without a better F1 of CD8+ cells, and keep the
    # weights of the best. None: never.
    patience_validations: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _whole_epochs(self) -> OptimiserConfig:
        if self.steps % self.steps_per_epoch:
            raise ValueError("steps must be a multiple of steps_per_epoch")
        return self


class TrainConfig(_Section):
    """Everything a training run needs to know."""

    name: str = "cd8"
    # Of the weights, as far as that of the data allows; "" where none is stated.
    licence: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    # Weights to begin from ("default": those of this package) instead of chance: a fine-tune.
    start_from: str | None = None
    mpp: Positive = 0.5
    width: Annotated[int, Field(ge=4, le=128)] = 16
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    # How many of them; each computes its part of every batch.
    devices: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=0)] = 0  # of the CPU; 0: as torch chooses
    fields: FieldsConfig = FieldsConfig()
    datasets: tuple[DatasetConfig, ...] = ()
    # Whose validation images are followed, may stop the run, and settle the centre threshold and the balance
    # of the classes.
    validate_on: Literal["both", "fields", "datasets"] = "both"
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    optimiser: OptimiserConfig = OptimiserConfig()

    @model_validator(mode="after")
    def _crops_fit(self) -> TrainConfig:
        if self.optimiser.crop_px > self.fields.size_px:
            raise ValueError("optimiser.crop_px must not exceed fields.size_px")
        return self

    @model_validator(mode="after")
    def _something_is_drawn(self) -> TrainConfig:
        if not self.datasets and self.fields.weight == 0:
            raise ValueError("fields.weight is 0 and there are no datasets: nothing to train on")
        if not self.datasets and self.validate_on == "datasets":
            raise ValueError("validate_on is datasets, and there are none")
        if self.optimiser.batch_size % self.devices:
            raise ValueError("optimiser.batch_size must be a multiple of devices")
        return self

    def portable(self) -> dict[str, Any]:
        """Return the configuration as JSON values that can be read back, without folders of this machine."""
        values = self.model_dump(mode="json")
        values["fields"]["cache"] = None
        for dataset, own in zip(values["datasets"], self.datasets, strict=True):
            dataset["path"] = own.path.name
        if self.start_from is not None:
            values["start_from"] = Path(self.start_from).name
        return values


def load_train_config(path: Path | None = None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML training configuration and apply `section.key=value` overrides.

    Raises
    ------
    ConfigError : the file or an override cannot be read, or does not fit; every misfit is listed.
    """
    return read_settings(TrainConfig, path, overrides)
