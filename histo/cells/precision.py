"""In which precision the network runs: the fastest that this processor has, and that agrees with float32."""

from __future__ import annotations

from typing import Literal

Precision = Literal["float32", "bfloat16"]


def choose_precision(wanted: Literal["auto", "float32", "bfloat16"], device: str) -> Precision:
    """Return the precision that is meant; "auto" is bfloat16 where the device computes in it, else float32.

    It depends on the processor alone, not on how busy it is: two runs on one machine must not differ.
    """
    if wanted != "auto":
        return wanted
    return "bfloat16" if has_bfloat16(device) else "float32"


def has_bfloat16(device: str) -> bool:
    """Tell whether a device ("cpu", "cuda:1") has instructions for bfloat16: in software it is no gain."""
    if device == "cpu":
        from histo.cells.openvino_network import core

        capabilities: list[str] = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return "BF16" in capabilities
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))
