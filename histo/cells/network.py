"""The network: a compact residual U-Net over stain space.

Fully convolutional, with batch normalisation (folded for inference) and nothing else that looks further than
its receptive field, so that the maps of a tile agree with those of the whole slide wherever the halo is wide
enough and the tile lies on the grid of the coarsest stride.
"""

from __future__ import annotations

import copy
from typing import Any, Final, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from histo.cells.layers import MULTIPLE, N_CLASSES, N_DEEP, N_HEAD, RECEPTIVE_RADIUS_PX


class Maps(NamedTuple):
    """What the network says about each pixel, before any decision.

    classes : (N, 3, H, W) logits of background, CD8+ cell, other nucleus.
    centre : (N, 1, H/2, W/2) logit of a cell's centre lying here, on the grid of twice the pixel size.
    offsets : (N, 2, H, W) um from the pixel's centre to its cell's centre, (x, y).
    """

    classes: Tensor
    centre: Tensor
    offsets: Tensor


class _ConvNorm(nn.Sequential):
    """Convolution, batch normalisation, and a rectifier unless `rectify` is off.

    torchvision has the same block; importing it takes seconds, at every start of every run.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        rectify: bool = True,
    ) -> None:
        around = (size - 1) // 2 if padding is None else padding
        blocks: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, size, stride, around, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*blocks, *([nn.ReLU(inplace=True)] if rectify else []))


class _Residual(nn.Module):
    """Two 3x3 convolutions and the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _ConvNorm(channels, channels, 3)
        self.second = _ConvNorm(channels, channels, 3, rectify=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class _Up(nn.Module):
    """To twice the resolution, added to the encoder's map of that resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = _ConvNorm(2 * channels, channels, 1, rectify=False)
        self.merge = _Residual(channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = F.interpolate(self.narrow(x), scale_factor=2.0, mode="nearest")
        merged: Tensor = self.merge(F.relu(skip + up))
        return merged


class CellNet(nn.Module):
    """Maps for CD8+ cells, other nuclei, cell centres and offsets, from stain space.

    Parameters
    ----------
    width : channels at half resolution; twice and four times as many below. Sets cost and capacity.
    """

    multiple: Final = MULTIPLE
    receptive_radius_px: Final = RECEPTIVE_RADIUS_PX

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.stem = _ConvNorm(3, width, 4, stride=2, padding=1)
        self.block_half = _Residual(width)
        self.to_quarter = _ConvNorm(width, 2 * width, 2, stride=2, padding=0)
        self.block_quarter = _Residual(2 * width)
        self.to_eighth = _ConvNorm(2 * width, 4 * width, 2, stride=2, padding=0)
        # Where they cost least: what a cell is shows in what stands around it.
        self.block_eighth = nn.Sequential(*(_Residual(4 * width) for _ in range(N_DEEP)))
        self.up_quarter = _Up(2 * width)
        self.up_half = _Up(width)
        self.mix = _ConvNorm(width, 2 * width, 1)
        # Classes and offsets at full resolution through a pixel shuffle (4 values a channel), and the centre.
        self.head = nn.Conv2d(2 * width, N_HEAD, 1)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()  # type: ignore[union-attr]
            # Centres are rare: start from a probability of about 2 %.
            self.head.bias[-1] = -4.0  # type: ignore[index]

    def forward(self, stain: Tensor) -> Maps:
        """Compute the maps.

        Parameters
        ----------
        stain : (N, 3, H, W) nuclear, CD8, residual; H and W multiples of `multiple`.

        Raises
        ------
        ValueError : H or W is not such a multiple.
        """
        height, width = stain.shape[-2:]
        if height % self.multiple or width % self.multiple:
            up = [-(-size // self.multiple) * self.multiple for size in (height, width)]
            raise ValueError(f"pad the input from {height}x{width} to {up[0]}x{up[1]} pixels")
        half = self.block_half(self.stem(stain))
        quarter = self.block_quarter(self.to_quarter(half))
        eighth = self.block_eighth(self.to_eighth(quarter))
        out = self.head(self.mix(self.up_half(self.up_quarter(eighth, quarter), half)))
        full = F.pixel_shuffle(out[:, :-1], 2)
        return Maps(full[:, :N_CLASSES], out[:, -1:], full[:, N_CLASSES:])

    def shift_class(self, index: int, logit: float) -> None:
        """Add a constant to the logit of a class everywhere: calibration after training."""
        with torch.no_grad():
            # A pixel shuffle takes each class from 4 channels in a row.
            self.head.bias[4 * index : 4 * index + 4] += logit  # type: ignore[index]


def state_arrays(network: CellNet) -> dict[str, NDArray[Any]]:
    """Return a network's tensors as arrays on the host; see `Weights.state`."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}


def folded(network: CellNet) -> CellNet:
    """Return a copy for inference: evaluation mode, batch normalisations folded into their convolutions."""
    copied = copy.deepcopy(network).eval()
    for block in [module for module in copied.modules() if isinstance(module, _ConvNorm)]:
        convolution, norm = block[0], block[1]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        block[0] = fuse_conv_bn_eval(convolution, norm)
        block[1] = nn.Identity()
    return copied


def flops_per_pixel(width: int) -> float:
    """Return floating-point operations (2 per multiply-add) per input pixel of the convolutions."""
    network = CellNet(width).eval()
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += 2 * output.numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    side = 8 * network.multiple
    with torch.inference_mode():
        network(torch.zeros(1, 3, side, side))
    return total / side**2
