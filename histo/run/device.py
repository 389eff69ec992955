"""Which processor runs the network, and how many of its cores this process may use."""

from __future__ import annotations

import ctypes
import sys

from dask.system import cpu_count

from histo.config import RunConfig
from histo.errors import ConfigError


def choose_device(wanted: str) -> str:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:N` means on this machine.

    Raises ConfigError where the device does not exist here.
    """
    if wanted == "auto":
        return "cuda" if n_cuda() else "cpu"
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise ConfigError(f"no such device: {wanted!r}", fix="Use --device auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= n_cuda():
        raise ConfigError(
            f"device {wanted!r} is not on this machine ({n_cuda()} CUDA devices found)",
            fix="Use --device auto, or check the driver with `histo doctor`",
        )
    return wanted


def n_cuda() -> int:
    """Return how many CUDA devices torch can use."""
    # Half a gigabyte and two seconds, for nothing on a machine without the driver.
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def describe_device(device: str, config: RunConfig) -> str:
    """Name the processor, for people."""
    if device == "cpu":
        return f"{device} ({threads_of(config)} threads)"
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"


def threads_of(config: RunConfig) -> int:
    """Return how many tiles a run works on at once: as configured, or one a core that it may use."""
    return config.threads or int(cpu_count())
