"""CD8 and another marker on the same tiles: correlation, enrichment, densities. Nothing is said of cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from histo.measure.density import PER_MM2, poisson_density
from histo.measure.summary import ZONES, Estimate
from histo.sections.config import SectionsConfig
from histo.sections.summary import ZoneCodensity

# Fewer blocks say little about how the next ones would differ.
_MIN_BLOCKS = 10
CORRELATION = "correlation"
RATIO = "ratio"
MATCHED = "fraction of CD8+ cells"

Statistic = Callable[[NDArray[np.intp]], float]


def codensities(
    tiles: pd.DataFrame, config: SectionsConfig, *, has_bright: str | None, matched: Estimate
) -> list[ZoneCodensity]:
    """Return the co-density of the whole and of each zone that has tiles.

    Parameters
    ----------
    tiles : as `histo.sections.tiles.cut_tiles` makes them; only those used count. has_bright : why there are
    no bright cells; None where there are. matched : of single cells, for the whole.
    """
    used = tiles[tiles["used"]]
    found = [_zone(used, "all", config, has_bright, matched)]
    not_here = Estimate.missing(MATCHED, "cells are matched over the whole only")
    for zone in ZONES:
        part = used[used["zone"] == zone]
        if len(part):
            found.append(_zone(part, zone, config, has_bright, not_here))
    return found


def _zone(
    tiles: pd.DataFrame, zone: str, config: SectionsConfig, no_bright: str | None, matched: Estimate
) -> ZoneCodensity:
    area = float(tiles["area_mm2"].sum())
    n_cd8, n_marker, n_bright = (int(tiles[name].sum()) for name in ("n_cd8", "n_marker", "n_bright"))
    level, n_samples = config.confidence_level, config.bootstrap_samples
    bright = (
        poisson_density(n_bright, area, level) if no_bright is None else Estimate.missing(PER_MM2, no_bright)
    )
    blocks = block_ids(tiles["x_um"].to_numpy(), tiles["y_um"].to_numpy(), config.block_um)
    areas = tiles["area_mm2"].to_numpy()
    cd8, marker = tiles["n_cd8"].to_numpy() / areas, tiles["n_marker"].to_numpy() / areas
    if len(tiles) < config.min_tiles:
        reason = f"only {len(tiles)} tiles, {config.min_tiles} needed"
        spearman = pearson = Estimate.missing(CORRELATION, reason)
        ratio = Estimate.missing(RATIO, reason)
    else:
        spearman = correlation(cd8, marker, blocks, ranks=True, level=level, n_samples=n_samples)
        pearson = correlation(cd8, marker, blocks, ranks=False, level=level, n_samples=n_samples)
        ratio = enrichment(
            tiles["n_cd8"].to_numpy(),
            tiles["n_marker"].to_numpy(),
            areas,
            blocks,
            rich_fraction=config.rich_fraction,
            level=level,
            n_samples=n_samples,
        )
    return ZoneCodensity(
        zone=zone,
        n_tiles=len(tiles),
        area_mm2=area,
        n_cd8=n_cd8,
        n_marker=n_marker,
        n_bright=None if no_bright is not None else n_bright,
        cd8_density=poisson_density(n_cd8, area, level),
        marker_density=poisson_density(n_marker, area, level),
        bright_density=bright,
        spearman=spearman,
        pearson=pearson,
        enrichment=ratio,
        matched=matched,
    )


def block_ids(x_um: NDArray[np.float64], y_um: NDArray[np.float64], block_um: float) -> NDArray[np.intp]:
    """Return to which square of `block_um` each point belongs: 0, 1, ... in no order."""
    cells = np.column_stack([x_um, y_um]) // block_um
    _, which = np.unique(cells, axis=0, return_inverse=True)
    return np.asarray(which.ravel(), np.intp)


def correlation(
    cd8: NDArray[np.float64],
    marker: NDArray[np.float64],
    blocks: NDArray[np.intp],
    *,
    ranks: bool,
    level: float,
    n_samples: int,
) -> Estimate:
    """Return the correlation of two densities over tiles, with its block-bootstrap percentile interval.

    Spearman's (of ranks, ties share theirs) or Pearson's. Neighbouring tiles are alike, so whole blocks of
    tissue are drawn with replacement (Hall 1985, Stoch Proc Appl 20:231), not tiles. Counts of few cells a
    tile scatter and pull it towards 0, as does the error of the registration.

    Parameters
    ----------
    cd8, marker : (n,) densities. blocks : (n,) block of each tile.
    """

    def statistic(index: NDArray[np.intp]) -> float:
        x, y = cd8[index], marker[index]
        if ranks:
            x, y = rankdata(x), rankdata(y)
        x, y = x - x.mean(), y - y.mean()
        scale = np.sqrt((x**2).sum() * (y**2).sum())
        return float((x * y).sum() / scale) if scale > 0 else np.nan

    value = statistic(np.arange(len(cd8)))
    if not np.isfinite(value):
        return Estimate.missing(CORRELATION, "one of the two is alike on all tiles")
    return _with_interval(value, statistic, blocks, CORRELATION, level, n_samples)


def enrichment(
    n_cd8: NDArray[np.int64],
    n_marker: NDArray[np.int64],
    area_mm2: NDArray[np.float64],
    blocks: NDArray[np.intp],
    *,
    rich_fraction: float,
    level: float,
    n_samples: int,
) -> Estimate:
    """Return the marker's density on tiles rich in CD8 over that on all: 1 where it takes no notice of CD8.

    Rich are the `rich_fraction` of tiles with the highest CD8 density; none without a CD8+ cell.
    """
    density = n_cd8 / area_mm2
    rich = (density >= np.quantile(density, 1 - rich_fraction)) & (n_cd8 > 0)
    if not rich.any():
        return Estimate.missing(RATIO, "no tile holds a CD8+ cell")
    if n_marker.sum() == 0:
        return Estimate.missing(RATIO, "no cell of the marker")

    def statistic(index: NDArray[np.intp]) -> float:
        n, area, r = n_marker[index], area_mm2[index], rich[index]
        if not r.any() or n.sum() == 0:
            return np.nan
        return float(n[r].sum() / area[r].sum() / (n.sum() / area.sum()))

    return _with_interval(statistic(np.arange(len(density))), statistic, blocks, RATIO, level, n_samples)


def _with_interval(
    value: float, statistic: Statistic, blocks: NDArray[np.intp], unit: str, level: float, n_samples: int
) -> Estimate:
    order = np.argsort(blocks, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1)
    if len(members) < _MIN_BLOCKS:
        # A value without an interval: too few blocks to tell how others would differ.
        return Estimate(value=value, unit=unit)
    rng = np.random.default_rng(0)
    drawn = [
        statistic(np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))]))
        for _ in range(n_samples)
    ]
    kept = np.array(drawn)[np.isfinite(drawn)]
    if len(kept) < 0.9 * n_samples:
        return Estimate(value=value, unit=unit)
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value), unit=unit)
