"""How much of the tumour is inflamed, tile by tile: what one density over the whole of it hides."""

from __future__ import annotations

import numpy as np

from histo.measure.blocks import Blocks
from histo.measure.density import wilson_fraction
from histo.measure.summary import Estimate

INFLAMED_TILES = "fraction of tumour tiles"


def inflamed_tile_share(
    tiles: Blocks, cutoff_per_mm2: float, *, min_area_mm2: float, min_tiles: int, level: float
) -> Estimate:
    """Return the share of tumour tiles whose CD8+ density in tumour tissue is above a cut-off.

    The idea of judging 1 mm2 tiles, and of 20 % inflamed tiles as a limit, is that of Lunit SCOPE IO on H&E
    (J Immunother Cancer 2024, 12:e008339); cut-off and stain here are others, and so no such limit is drawn.
    Rules that class single tiles by epithelial and stromal density are the subject of patent applications
    (US20240346804, US20260074057). The interval (Wilson) takes tiles as independent.

    Parameters
    ----------
    tiles : CD8+ cells and tumour area of each.
    min_area_mm2 : tiles with less tumour are left out. min_tiles : fewer than this give no share.
    """
    used = tiles.area_mm2 >= min_area_mm2
    n = int(used.sum())
    if n < min_tiles:
        reason = f"only {n} tiles hold {min_area_mm2:g} mm2 of tumour, {min_tiles} needed"
        return Estimate.missing(INFLAMED_TILES, reason)
    inflamed = tiles.n[used] / tiles.area_mm2[used] > cutoff_per_mm2
    share = wilson_fraction(int(np.count_nonzero(inflamed)), n, level)
    return share.model_copy(update={"unit": INFLAMED_TILES})
