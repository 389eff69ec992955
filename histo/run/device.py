"""Which processor runs the network."""

from __future__ import annotations

import torch

from histo.errors import ConfigError


def choose_device(wanted: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:N` means on this machine.

    Raises ConfigError where the device does not exist here.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ConfigError(
            f"no such device: {wanted!r}", fix="Use --device auto, cpu, cuda or cuda:N"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {wanted!r} is not on this machine ({torch.cuda.device_count()} CUDA devices found)",
            fix="Use --device auto, or check the driver with `histo doctor`",
        )
    return device


def describe_device(device: torch.device) -> str:
    """Name the processor, for people."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"
