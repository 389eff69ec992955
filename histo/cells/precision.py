"""In which precision the network runs: the fastest that this processor has, and that agrees with float32."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def choose_precision(wanted: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """Return the precision that is meant; "auto" is bfloat16 where the device computes in it, else float32.

    It depends on the processor alone, not on how busy it is: two runs on one machine must not differ.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # Processors without these instructions have bfloat16 too, in software, and slower than float32.
    has = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bfloat16" if any(test is not None and test() for test in has) else "float32"
