"""What everyone must know of the network's layers, without building them.

The layers themselves are in `network` (torch: training, GPU) and in `openvino_network` (CPU).
"""

from __future__ import annotations

from typing import Final

# Channel order of the class map.
N_CLASSES: Final = 3  # background, CD8+ cell, other nucleus
# Height and width of a tile must be multiples of it, and tiles must lie on its grid.
MULTIPLE: Final = 8
# No pixel further than this from another, along rows or columns, has a part in its maps:
# 1 (stem) + 4 + 8 + 3 * 16 + 8 + 4 (residual blocks at strides 2, 4, 8, 4, 2) + 7 (to stride 8).
RECEPTIVE_RADIUS_PX: Final = 80
# Residual blocks at an eighth of the resolution.
N_DEEP: Final = 3
# Of torch's BatchNorm2d.
BATCH_NORM_EPS: Final = 1e-5
# Values that the head gives for each pixel of half resolution: of classes and offsets 4 each, and the centre.
N_HEAD: Final = 4 * (N_CLASSES + 2) + 1


def tensor_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor that a network of this width is made of."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, inputs: int, outputs: int, size: int) -> None:
        shapes[f"{name}.0.weight"] = (outputs, inputs, size, size)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.1.{part}"] = (outputs,)
        shapes[f"{name}.1.num_batches_tracked"] = ()

    def residual(name: str, channels: int) -> None:
        layer(f"{name}.first", channels, channels, 3)
        layer(f"{name}.second", channels, channels, 3)

    layer("stem", 3, width, 4)
    residual("block_half", width)
    layer("to_quarter", width, 2 * width, 2)
    residual("block_quarter", 2 * width)
    layer("to_eighth", 2 * width, 4 * width, 2)
    for place in range(N_DEEP):
        residual(f"block_eighth.{place}", 4 * width)
    for name, channels in (("up_quarter", 2 * width), ("up_half", width)):
        layer(f"{name}.narrow", 2 * channels, channels, 1)
        residual(f"{name}.merge", channels)
    layer("mix", width, 2 * width, 1)
    shapes["head.weight"], shapes["head.bias"] = (N_HEAD, 2 * width, 1, 1), (N_HEAD,)
    return shapes
