"""Batches of crops in stain space.

Samples are kept in memory in bytes. A batch is a pure function of the seed, its number and the device that
computes it, so that a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from histo.training.augment import (
    brightfield_amounts,
    estimated_vectors,
    estimated_white_point,
    fluorescence_amounts,
    vary,
)
from histo.training.config import AugmentConfig, TrainConfig
from histo.training.geometry import draw_view
from histo.training.sample import RENDERED, Sample, Source
from histo.training.targets import PackedTargets, Targets, unpack_targets

# Real images come with estimates of their own: these have erred already.
_NO_ERROR = {"default_vectors_share": 0.0, "vector_error_deg": 0.0, "white_point_error": 0.0}


class Batch(NamedTuple):
    """What the network sees, (N, 3, H, W) float32, and what it should answer."""

    stain: Tensor
    targets: Targets


def clean_amounts(samples: Iterable[Sample], config: AugmentConfig, seed: int) -> list[NDArray[np.float32]]:
    """Return the stain amounts of whole images, (3, H, W) each, with errors of estimation only."""
    real = config.model_copy(update=_NO_ERROR)
    return [
        _amounts(
            [sample],
            [sample.pixels],
            config if sample.source == RENDERED else real,
            np.random.default_rng([seed, index]),
            jitter=0.0,
        )[0]
        for index, sample in enumerate(samples)
    ]


class CropBatches(Dataset[Batch]):
    """Batches of random crops, turned and flipped, in stain space.

    Parameters
    ----------
    sources : what crops are drawn from; every crop from one of them, by their weights.
    config : of the run.
    epoch : batch i of epoch e is batch e * steps_per_epoch + i of the run.
    rank : which of `config.devices` equal parts of each batch.
    """

    def __init__(self, sources: Sequence[Source], config: TrainConfig, epoch: int, *, rank: int = 0) -> None:
        self.sources = sources
        self.config = config
        self.epoch = epoch
        self.rank = rank
        # One answer for the whole run: every batch then has the same losses.
        self._partial = bool(config.augment.rotate_share or config.augment.zoom) or any(
            sample.targets is None or sample.targets.known is not None
            for source in sources
            for sample in source.samples
        )

    def __len__(self) -> int:
        return self.config.optimiser.steps_per_epoch

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        config, options = self.config, self.config.optimiser
        number = self.epoch * len(self) + index
        # The first device draws what a single one would draw.
        place = [config.seed, number] if self.rank == 0 else [config.seed, number, self.rank]
        rng = np.random.default_rng(place)
        chosen = self._draw(options.batch_size // config.devices, rng)
        views = [
            draw_view(sample, options.crop_px, config.augment, rng, mpp=config.mpp, partial=self._partial)
            for sample in chosen
        ]
        pixels = [view.pixels for view in views]
        amounts = _amounts(chosen, pixels, config.augment, rng, jitter=config.augment.full_scale)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        stain = vary(torch.from_numpy(amounts), config.augment, generator)
        return Batch(stain, self._targets(chosen, [view.targets for view in views]))

    def _draw(self, size: int, rng: np.random.Generator) -> list[Sample]:
        if len(self.sources) == 1:
            samples = self.sources[0].samples
            return [samples[i] for i in rng.integers(0, len(samples), size)]
        weights = np.array([source.weight for source in self.sources])
        places = rng.choice(len(weights), size, p=weights / weights.sum())
        drawn = [self.sources[i].samples for i in places]
        return [samples[int(rng.integers(len(samples)))] for samples in drawn]

    def _targets(self, chosen: list[Sample], packed: list[PackedTargets]) -> Targets:
        classes, offsets, centre, known = zip(*packed, strict=True)
        stacked = PackedTargets(
            np.stack(classes), np.stack(offsets), np.stack(centre), np.stack(known) if self._partial else None
        )
        targets = unpack_targets(stacked)
        if not self._partial:
            return targets
        count = [np.nan if sample.n_cd8 is None else sample.n_cd8 for sample in chosen]
        return targets._replace(n_cd8=torch.tensor(count, dtype=torch.float32))


def _amounts(
    samples: list[Sample],
    pixels: list[NDArray[Any]],
    config: AugmentConfig,
    rng: np.random.Generator,
    *,
    jitter: float,
) -> NDArray[np.float32]:
    """Return (N, 3, H, W) stain amounts of views of the samples."""
    height, width = pixels[0].shape[:2]
    amounts = np.empty((len(samples), 3, height, width), np.float32)
    bright = [i for i, sample in enumerate(samples) if sample.kind == "brightfield"]
    if bright:
        some = [samples[i] for i in bright]
        white = np.stack([estimated_white_point(sample.white_point, config, rng) for sample in some])
        matrix = np.stack([estimated_vectors(sample.stain_vectors, config, rng) for sample in some])
        amounts[bright] = brightfield_amounts(np.stack([pixels[i] for i in bright]), white, matrix)
    dark = [i for i, sample in enumerate(samples) if sample.kind == "fluorescence"]
    if dark:
        background = np.stack([samples[i].background for i in dark])
        scale = np.stack([samples[i].full_scale for i in dark])
        scale = scale * np.exp(jitter * rng.normal(size=scale.shape)).astype(np.float32)
        levels = np.stack([pixels[i].astype(np.float32) for i in dark])
        amounts[dark] = fluorescence_amounts(levels, background, scale)
    return amounts
