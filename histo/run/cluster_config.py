"""What `--cluster` says: where the workers are, and how many."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from histo.config import read_settings
from histo.errors import ConfigError

_FORMS = "Use local, local:N, tcp://HOST:PORT (a running Dask scheduler), or a YAML file for Slurm"
_ADDRESS = re.compile(r"(tcp|tls)://[^/\s]+:\d+")
_BYTES = r"^\d+(\.\d+)? ?([KMGT]i?)?B$"


@dataclass(frozen=True)
class LocalWorkers:
    """Processes of this machine; `n` None: as many as it has cores, GPUs or memory for."""

    n: int | None = None

    def __str__(self) -> str:
        return "local" if self.n is None else f"local:{self.n}"


@dataclass(frozen=True)
class RunningScheduler:
    """A Dask scheduler that is there, with its workers."""

    address: str

    def __str__(self) -> str:
        return self.address


class SlurmWorkers(BaseModel):
    """Jobs of Slurm; each is one worker, unless `workers_per_job` says otherwise.

    jobs : at most so many; no more than there are slides.
    cores, memory : of a job, e.g. 4 and "16GB"; shared by its workers.
    walltime : of a job, as Slurm writes it, e.g. "08:00:00".
    gpus : of a job, 0 or 1.
    extra : further options of sbatch, e.g. ["--exclude=node7"].
    prologue : lines of shell before a worker starts, e.g. ["module load cuda"].
    interface : network interface that head and compute nodes share, e.g. "ib0".
    log_directory : folder for what jobs print.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["slurm"]
    jobs: Annotated[int, Field(ge=1)]
    cores: Annotated[int, Field(ge=1)]
    memory: Annotated[str, Field(pattern=_BYTES)]
    walltime: str
    queue: str | None = None
    account: str | None = None
    workers_per_job: Annotated[int, Field(ge=1)] = 1
    gpus: Annotated[int, Field(ge=0, le=1)] = 0
    extra: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    interface: str | None = None
    local_directory: str | None = None
    log_directory: str | None = None

    @field_validator("walltime", mode="before")
    @classmethod
    def _walltime_is_text(cls, value: object) -> object:
        # YAML takes an unquoted 12:00:00 for a number to base 60.
        if not isinstance(value, str) or not re.fullmatch(r"(\d+-)?\d{1,2}:\d{2}:\d{2}", value):
            raise ValueError(
                'give it as hours, minutes and seconds in quotes, e.g. "12:00:00" or "2-00:00:00"'
            )
        return value

    @model_validator(mode="after")
    def _workers_have_cores(self) -> SlurmWorkers:
        if self.workers_per_job > self.cores:
            raise ValueError("workers_per_job is more than cores: a worker needs a core at least")
        if self.gpus and self.workers_per_job > 1:
            raise ValueError(
                "workers_per_job above 1 would share the job's one GPU: ask for more jobs instead"
            )
        return self

    def __str__(self) -> str:
        return f"slurm, {self.jobs} jobs"


Workers = LocalWorkers | RunningScheduler | SlurmWorkers


def read_cluster(text: str) -> Workers:
    """Read the value of `--cluster`.

    Raises
    ------
    ConfigError : it has none of the known forms, or its file cannot be used; every misfit is listed.
    """
    if text == "local":
        return LocalWorkers()
    if text.startswith("local:"):
        number = text.removeprefix("local:")
        if not number.isdecimal() or int(number) < 1:
            raise ConfigError(
                f"--cluster {text!r}: {number!r} is no number of workers", fix="Use e.g. --cluster local:4"
            )
        return LocalWorkers(int(number))
    if _ADDRESS.fullmatch(text):
        return RunningScheduler(text)
    if text.lower().endswith((".yaml", ".yml")):
        return read_settings(SlurmWorkers, Path(text), ())
    raise ConfigError(f"--cluster {text!r} is not understood", fix=_FORMS)
