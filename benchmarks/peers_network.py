"""The shipped network as any framework can use it: grey levels in, probabilities out; needs torch alone.

What histo does before its network - optical densities against the slide's white point, colour deconvolution,
clipping - is a layer here, so that a peer that reads pixels does the same work and gets the same maps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histo.cells.network import CellNet, folded


class RgbNetwork(nn.Module):
    """Probabilities of background, CD8+ cell and other nucleus.

    As fast as torch runs it: normalisations folded into the convolutions, channels last. In bfloat16 the
    network computes in it, and the layers before and after in float32, as in histo.

    Parameters
    ----------
    path : what `peers.py` wrote of the network and of the slide's stains.
    precision : "float32" or "bfloat16".
    """

    def __init__(self, path: str, precision: str) -> None:
        super().__init__()
        saved: dict[str, Any] = torch.load(path)
        network = CellNet(saved["width"])
        network.load_state_dict(saved["state"])
        self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
        self.network = folded(network).to(self.dtype).to(memory_format=torch.channels_last)
        self.amount_range = saved["amount_range"]
        # od @ inverse, as a convolution.
        self.register_buffer("unmix", saved["unmix"].T[:, :, None, None].contiguous())
        self.register_buffer("log_glass", torch.log10(saved["white_point"])[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (N, 3, H, W) float32 of grey levels (N, 3, H, W); H and W multiples of 8."""
        levels = pixels.to(dtype=torch.float32, memory_format=torch.channels_last)
        od = self.log_glass - torch.log10(levels.clamp_min(1.0))
        amounts = F.conv2d(od, self.unmix).clamp_(*self.amount_range)
        logits = self.network(amounts.to(self.dtype)).classes
        return torch.softmax(logits.to(torch.float32), dim=1)
