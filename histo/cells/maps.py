"""What the network says about the pixels of a tile, whatever ran it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class TileMaps(NamedTuple):
    """The maps of one tile, before any decision; all float32.

    classes : (3, H, W) logits of background, CD8+ cell, other nucleus.
    centre : (H/2, W/2) logit of a cell's centre lying here, on the grid of twice the pixel size.
    offsets : (2, H, W) um from the pixel's centre to its cell's centre, (x, y).
    """

    classes: NDArray[np.float32]
    centre: NDArray[np.float32]
    offsets: NDArray[np.float32]
