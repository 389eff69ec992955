"""Cells of a tile: network, decoding, ownership, outlines and stain measurements."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histo.cells.compartments import Compartments, compartments, stain_means
from histo.cells.decode import REACH_PX, decode
from histo.cells.instances import Instances
from histo.cells.layers import MULTIPLE, RECEPTIVE_RADIUS_PX
from histo.cells.maps import TileMaps
from histo.cells.outlines import outlines
from histo.cells.precision import choose_precision
from histo.cells.table import CD8, CELL_CLASSES, DETECTION_COLUMNS, OTHER, cell_frame
from histo.cells.weights import Weights
from histo.config import CellsConfig
from histo.errors import DeviceLostError
from histo.slide.tiles import Tile
from histo.stain.deconvolution import STAINS

log = logging.getLogger("histo")


@dataclass(frozen=True)
class TileCells:
    """The cells that a tile owns.

    table : the columns of `DETECTION_COLUMNS`; `cell_id` is local, 1 ... n in the order of the centroids
        (row, then column). A stain mean is NaN where a cell has no pixel of that compartment.
    outlines : (n,) shapely polygons in um in the slide's frame.
    labels : (H, W) int32 over `tile.read`: `cell_id` where a cell of this tile lies, else 0.
    parts : the pixels of each cell's nucleus and ring over `tile.read`, in the order of the table; None once
        nothing is measured in them any more.
    """

    table: pd.DataFrame
    outlines: NDArray[np.object_]
    labels: NDArray[np.int32]
    parts: Compartments | None = None


class Network(Protocol):
    """What computes the maps of tiles, for several threads at once; see `OpenVinoNetwork`."""

    def maps(self, stain: NDArray[np.float32]) -> AbstractContextManager[TileMaps]:
        """Give the maps of stain amounts (3, H, W), less the margin, for the time of a block."""
        ...


class CellDetector:
    """Finds cells in tiles of stain space.

    A cell belongs to the tile whose core holds the grid pixel of its centroid. With the halo asked for, every
    such cell is seen whole, with all that can change it, so that cells do not depend on how a slide is cut.
    Several threads may find the cells of several tiles at once.

    Parameters
    ----------
    weights : see `load_weights`.
    config : thresholds and measurements.
    device : where the network runs: "cpu", "cuda", "cuda:1".
    precision : "bfloat16" is several times faster where the hardware has it; a cell at the very threshold may
        come out differently. "auto": see `choose_precision`.
    threads : how many tiles the network computes at once.

    Attributes
    ----------
    mpp : um per pixel that tiles must have.
    halo_px : margin that a tile's read box must have around its core.
    multiple : the edges of read boxes must lie on multiples of it.
    name, sha256 : what finds the cells, in outputs; one of them changes whenever the cells may.
    precision : in which the network runs.
    device : where it runs: the CPU, once another device was lost.
    """

    multiple: Final = MULTIPLE

    def __init__(
        self,
        weights: Weights,
        config: CellsConfig,
        *,
        device: str = "cpu",
        precision: Literal["auto", "float32", "bfloat16"] = "float32",
        threads: int = 1,
    ) -> None:
        self.weights = weights
        self.config = config
        self.device = device
        self.threads = threads
        self.precision = choose_precision(precision, device)
        self.name = f"network {weights.name}" + (" in bfloat16" if self.precision == "bfloat16" else "")
        self.sha256 = weights.sha256
        self.mpp = weights.mpp
        needed = RECEPTIVE_RADIUS_PX + REACH_PX
        self.halo_px = -(-needed // MULTIPLE) * MULTIPLE
        self.centre_threshold = (
            weights.centre_threshold if config.centre_threshold is None else config.centre_threshold
        )
        self._moving = threading.Lock()
        self._network = self._network_on(device)

    def _network_on(self, device: str) -> Network:
        if device == "cpu":
            from histo.cells.openvino_network import OpenVinoNetwork

            return OpenVinoNetwork(
                self.weights,
                cd8_logit=self.config.cd8_logit,
                precision=self.precision,
                threads=self.threads,
            )
        from histo.cells.torch_network import TorchNetwork

        return TorchNetwork(
            self.weights,
            cd8_logit=self.config.cd8_logit,
            precision=self.precision,
            device=device,
            threads=self.threads,
        )

    def detect(self, stain: NDArray[np.float32], tile: Tile) -> TileCells:
        """Find the cells of a tile: `predict`, then `cells`; parameters and errors as there."""
        with self._maps(stain, tile) as maps:
            return self.cells(maps, stain, tile)

    def predict(self, stain: NDArray[np.float32], tile: Tile) -> TileMaps:
        """Run the network.

        Parameters
        ----------
        stain : (3, H, W) float32 stain amounts over the tile's read box.
        tile : on the grid at `mpp`.

        Returns
        -------
        The network's maps, less the margin of `margin_px` that does not see all it looks at.

        Raises
        ------
        ValueError : the box does not fit the array, is off the grid of `multiple`, or has too narrow a halo.
        DeviceError : the device's memory does not suffice.
        """
        with self._maps(stain, tile) as maps:
            return TileMaps(*(values.copy() for values in maps))

    @contextmanager
    def _maps(self, stain: NDArray[np.float32], tile: Tile) -> Iterator[TileMaps]:
        check_tile(stain, tile, halo_px=self.halo_px, multiple=self.multiple)
        with ExitStack() as held:
            network = self._network
            try:
                maps = held.enter_context(network.maps(stain))
            except DeviceLostError as error:
                maps = held.enter_context(self._on_cpu(network, error).maps(stain))
            yield maps

    def _on_cpu(self, lost: Network, error: DeviceLostError) -> Network:
        """Go on on the CPU; the first thread that finds the device lost moves all of them."""
        with self._moving:
            if self._network is lost:
                log.warning("%s; going on with the CPU, which takes longer", error.what)
                self.device, self._network = "cpu", self._network_on("cpu")
            return self._network

    @property
    def margin_px(self) -> int:
        """Return by how much the maps of `predict` are narrower than the tile's read box, on each side."""
        return RECEPTIVE_RADIUS_PX

    def cells(self, maps: TileMaps, stain: NDArray[np.float32], tile: Tile) -> TileCells:
        """Turn the maps that `predict` made of a tile into its cells."""
        m = self.margin_px
        found = decode(
            maps,
            mpp=self.mpp,
            centre_threshold=self.centre_threshold,
            area_um2=(self.config.min_area_um2, self.config.max_area_um2),
        )
        return owned_cells(found, stain, tile, margin_px=m, mpp=self.mpp, config=self.config)


def check_tile(stain: NDArray[np.float32], tile: Tile, *, halo_px: int, multiple: int) -> None:
    """Raise ValueError unless a tile and its stain amounts fit each other and the detector.

    Parameters
    ----------
    stain : (3, H, W) over the tile's read box.
    halo_px : least margin of a read box around its core.
    multiple : of the edges of read boxes.
    """
    if stain.ndim != 3 or stain.shape[0] != len(STAINS):
        raise ValueError(f"expected ({len(STAINS)}, H, W) stain amounts, got {stain.shape}")
    core, read = tile.core, tile.read
    if (read.height, read.width) != stain.shape[1:]:
        raise ValueError(f"tile {tile.index} reads {read}, the array is {stain.shape}")
    if any(edge % multiple for edge in (read.x, read.y, read.width, read.height)):
        raise ValueError(f"tile {tile.index}: {read} is not on the grid of {multiple} pixels")
    halo = min(core.x - read.x, core.y - read.y, read.right - core.right, read.bottom - core.bottom)
    if halo < halo_px:
        raise ValueError(f"tile {tile.index} has a halo of {halo} pixels, {halo_px} are needed")


def owned_cells(
    found: Instances,
    stain: NDArray[np.float32],
    tile: Tile,
    *,
    margin_px: int,
    mpp: float,
    config: CellsConfig,
) -> TileCells:
    """Keep the instances whose centroid lies in the tile's core; outline and measure them.

    Parameters
    ----------
    found : over the tile's read box less `margin_px` on each side.
    stain : (3, H, W) amounts over the whole read box.
    """
    m = margin_px
    left, top = tile.read.x + m, tile.read.y + m
    # Sums over the slide's own pixel numbers are exact: the centroid is the same from every tile.
    column_sum = found.column_sum + found.area_px * left
    row_sum = found.row_sum + found.area_px * top
    owned = np.flatnonzero(
        _holds(tile.core.x, tile.core.width, column_sum, found.area_px)
        & _holds(tile.core.y, tile.core.height, row_sum, found.area_px)
    )
    number = np.zeros(len(found.area_px) + 1, np.int32)
    number[owned + 1] = np.arange(1, len(owned) + 1)
    labels = number.take(found.labels)
    area = found.area_px[owned]
    half_ring_px = max(1, round(config.ring_width_um / mpp / 2))
    parts = compartments(labels, found.occupied, half_ring_px=half_ring_px)
    parts = parts._replace(rows=parts.rows + m, columns=parts.columns + m)
    nucleus, ring = stain_means(stain, parts)
    cell_class, probability = found.cell_class[owned].copy(), found.probability[owned].copy()
    if config.min_cd8_ring is not None:
        pale = (cell_class == CELL_CLASSES.index(CD8)) & (ring[:, STAINS.index("cd8")] < config.min_cd8_ring)
        cell_class[pale] = CELL_CLASSES.index(OTHER)
        probability[pale] = np.nan
    table = cell_frame(
        {
            "cell_id": np.arange(1, len(owned) + 1),
            "x_um": (column_sum[owned] / area + 0.5) * mpp,
            "y_um": (row_sum[owned] / area + 0.5) * mpp,
            "cell_class": np.array(CELL_CLASSES, object)[cell_class],
            "probability": probability,
            "area_um2": area * mpp**2,
            **{f"{name}_nucleus_mean": nucleus[:, i] for i, name in enumerate(STAINS)},
            **{f"{name}_ring_mean": ring[:, i] for i, name in enumerate(STAINS)},
        },
        DETECTION_COLUMNS,
    )
    polygons = outlines(labels, mpp=mpp, origin_px=(left, top), tolerance_um=config.outline_tolerance_um)
    whole = np.zeros((tile.read.height, tile.read.width), np.int32)
    whole[m : whole.shape[0] - m, m : whole.shape[1] - m] = labels
    return TileCells(table, polygons, whole, parts)


def _holds(start: int, size: int, total: NDArray[np.int64], area: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell whether the pixel of each centroid, floor(total / area + 1/2), lies in [start, start + size)."""
    pixel = (2 * total + area) // (2 * area)
    return (pixel >= start) & (pixel < start + size)
