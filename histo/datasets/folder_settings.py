"""What `dataset.yaml` says of one's own annotated images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from histo.config import read_settings
from histo.errors import ConfigError, DatasetError

ClassName = Literal["cd8_positive", "other_nucleus", "unknown", "ignore"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Channels(_Section):
    """Names of the channels of fluorescence images; None where there is none."""

    nuclear: str
    cd8: str | None = None
    autofluorescence: str | None = None


class FolderSettings(_Section):
    """What `dataset.yaml` may say.

    mpp : um per pixel of all images; where it is absent, TIFFs must state it.
    classes : class names in the labels to ours ("ignore": leave these out). Our own names need no mapping.
    default_class : of cells without a class, and of all cells in label images.
    background_known : every cell of every image is annotated, whatever its class.
    groups : a CSV beside this file with columns image, group (the patient) and, if wished, split (train,
        validation, test).
    """

    licence: str = "not stated"
    commercial_use: bool | None = None
    mpp: float | None = Field(default=None, gt=0)
    kind: Literal["brightfield", "fluorescence"] = "brightfield"
    channels: Channels | None = None
    classes: dict[str, ClassName] = {}
    default_class: ClassName = "unknown"
    background_known: bool = False
    groups: str | None = None


def read_folder_settings(path: Path) -> FolderSettings:
    """Read `dataset.yaml`; the defaults where there is none. Raises DatasetError where it does not fit."""
    try:
        settings = read_settings(FolderSettings, path if path.is_file() else None, [])
    except ConfigError as error:
        raise DatasetError(error.what, path=path, fix=error.fix) from None
    if settings.kind == "fluorescence" and settings.channels is None:
        raise DatasetError(
            "fluorescence images without channels",
            path=path,
            fix="Name the channels nuclear, cd8 and autofluorescence under 'channels:'",
        )
    return settings
