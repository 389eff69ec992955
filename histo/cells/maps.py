"""What the network says about one tile, as arrays: where the CPU's work on cells begins."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class TileMaps(NamedTuple):
    """The network's maps of one tile, before any decision.

    classes : (3, H, W) float32 logits of background, CD8+ cell, other nucleus.
    centre : (H/2, W/2) float32 logit of a cell's centre lying here, on the grid of twice the pixel size.
    offsets : (2, H, W) float32, um from the pixel's centre to its cell's centre, (x, y).
    """

    classes: NDArray[np.float32]
    centre: NDArray[np.float32]
    offsets: NDArray[np.float32]
