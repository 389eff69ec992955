"""Rendered fields as training samples.

Fields are rendered once and kept in memory in bytes. A batch is a pure function of the seed and its number,
so that a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from histo.stain.space import channel_scale
from histo.synthetic.field import Field, render_field
from histo.training.augment import (
    brightfield_amounts,
    estimated_vectors,
    estimated_white_point,
    fluorescence_amounts,
    vary,
)
from histo.training.config import AugmentConfig, TrainConfig
from histo.training.targets import PackedTargets, Targets, pack_targets, unpack_targets

Part = Literal["train", "validation", "test"]
Kind = Literal["brightfield", "fluorescence"]


@dataclass(frozen=True)
class Sample:
    """A field with its packed targets and how its pixels become stain amounts.

    background, full_scale : (3,) counts, for fluorescence.
    """

    kind: Kind
    field: Field
    targets: PackedTargets
    background: NDArray[np.float32]
    full_scale: NDArray[np.float32]


class Batch(NamedTuple):
    """What the network sees, (N, 3, H, W) float32, and what it should answer."""

    stain: Tensor
    targets: Targets


def field_seeds(config: TrainConfig, part: Part) -> range:
    """Return the seeds of the fields of a part; no two parts share one."""
    fields = config.fields
    start = {
        "train": fields.first_seed,
        "validation": fields.first_seed + fields.train,
        "test": fields.first_seed + fields.train + fields.validation,
    }[part]
    return range(start, start + getattr(fields, part))


def kind_of(index: int, fluorescence_share: float) -> Kind:
    """Spread fluorescence evenly among fields: the kind of the field at a place in its part."""
    before, after = int(index * fluorescence_share), int((index + 1) * fluorescence_share)
    return "fluorescence" if after > before else "brightfield"


def render_part(config: TrainConfig, part: Part) -> list[Sample]:
    """Render all fields of a part, on `fields.workers` processes."""
    share = config.fields.fluorescence_share
    jobs = [(seed, kind_of(index, share)) for index, seed in enumerate(field_seeds(config, part))]
    work = partial(render_sample, size_px=config.fields.size_px, mpp=config.mpp)
    if config.fields.workers == 1 or len(jobs) < 8:
        return [work(job) for job in jobs]
    # Spawned: a fork would carry torch's threads along.
    with ProcessPoolExecutor(config.fields.workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(work, jobs, chunksize=4))


def render_sample(job: tuple[int, Kind], *, size_px: int, mpp: float) -> Sample:
    """Render one field of a seed and kind."""
    seed, kind = job
    field = render_field(seed, size_px=size_px, mpp=mpp, kind=kind)
    background, full_scale = np.zeros(3, np.float32), np.ones(3, np.float32)
    if kind == "fluorescence":
        background, full_scale = fluorescence_scale(field, seed)
    return Sample(kind, field, pack_targets(field.labels, field.is_cd8, mpp), background, full_scale)


def fluorescence_scale(field: Field, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return background and full scale (3,) of a field's channels, as inference fits them to a slide.

    A field is not a slide: where it has few CD8+ cells, the slide may have brighter ones elsewhere. So the
    scale of CD8 is that of the field for half the seeds, and up to 5 times that for the others.
    """
    flat = field.pixels.reshape(-1, 3)
    fitted = [channel_scale(flat[:, i], dense=i == 0)[:2] for i in range(3)]
    background, full_scale = np.array(fitted, np.float32).T
    rng = np.random.default_rng([seed, 4])
    if rng.random() < 0.5 and np.concatenate([[False], field.is_cd8])[field.labels].mean() < 0.03:
        full_scale[1] *= np.exp(rng.uniform(0, 1.6))
    return background, full_scale


def clean_amounts(samples: Iterable[Sample], config: AugmentConfig, seed: int) -> list[Tensor]:
    """Return the stain amounts of whole fields, (3, H, W) each, with errors of estimation only."""
    return [
        _amounts([sample], [sample.field.pixels], config, np.random.default_rng([seed, index]), jitter=0.0)[0]
        for index, sample in enumerate(samples)
    ]


class CropBatches(Dataset[Batch]):
    """Batches of random crops, turned and flipped, in stain space.

    Parameters
    ----------
    samples : rendered fields.
    config : of the run.
    epoch : batch i of epoch e is batch e * steps_per_epoch + i of the run.
    """

    def __init__(self, samples: list[Sample], config: TrainConfig, epoch: int) -> None:
        self.samples = samples
        self.config = config
        self.epoch = epoch

    def __len__(self) -> int:
        return self.config.optimiser.steps_per_epoch

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = self.epoch * len(self) + index
        rng = np.random.default_rng([self.config.seed, number])
        size, crop = self.config.optimiser.batch_size, self.config.optimiser.crop_px
        chosen = [self.samples[i] for i in rng.integers(0, len(self.samples), size)]
        views = [_crop(sample, crop, rng) for sample in chosen]
        jitter = self.config.augment.full_scale
        amounts = _amounts(chosen, [pixels for pixels, _ in views], self.config.augment, rng, jitter=jitter)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        packed = PackedTargets(*(np.stack(parts) for parts in zip(*(t for _, t in views), strict=True)))
        return Batch(vary(amounts, self.config.augment, generator), unpack_targets(packed))


def _amounts(
    samples: list[Sample],
    pixels: list[NDArray[Any]],
    config: AugmentConfig,
    rng: np.random.Generator,
    *,
    jitter: float,
) -> Tensor:
    """Return (N, 3, H, W) stain amounts of views of the samples."""
    height, width = pixels[0].shape[:2]
    amounts = torch.empty(len(samples), 3, height, width)
    bright = [i for i, sample in enumerate(samples) if sample.kind == "brightfield"]
    if bright:
        fields = [samples[i].field for i in bright]
        white = np.stack([estimated_white_point(field.white_point, config, rng) for field in fields])
        matrix = np.stack([estimated_vectors(field.stain_vectors, config, rng) for field in fields])
        levels = torch.from_numpy(np.stack([pixels[i] for i in bright]))
        amounts[bright] = brightfield_amounts(levels, torch.from_numpy(white), torch.from_numpy(matrix))
    dark = [i for i, sample in enumerate(samples) if sample.kind == "fluorescence"]
    if dark:
        background = np.stack([samples[i].background for i in dark])
        scale = np.stack([samples[i].full_scale for i in dark])
        scale = scale * np.exp(jitter * rng.normal(size=scale.shape)).astype(np.float32)
        levels = torch.from_numpy(np.stack([pixels[i].astype(np.float32) for i in dark]))
        amounts[dark] = fluorescence_amounts(levels, torch.from_numpy(background), torch.from_numpy(scale))
    return amounts


def _crop(sample: Sample, size: int, rng: np.random.Generator) -> tuple[NDArray[Any], PackedTargets]:
    """Cut a random square and turn and flip it."""
    height, width = sample.targets.classes.shape
    # Even, so that the centre map's grid fits.
    top = 2 * int(rng.integers(0, (height - size) // 2 + 1))
    left = 2 * int(rng.integers(0, (width - size) // 2 + 1))
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    rows, columns = slice(top, top + size), slice(left, left + size)
    half_rows, half_columns = slice(top // 2, (top + size) // 2), slice(left // 2, (left + size) // 2)

    def turned(array: NDArray[Any], axes: tuple[int, int]) -> NDArray[Any]:
        out = np.rot90(array, turns, axes)
        return np.flip(out, axes[1]) if flip else out

    offsets = turned(sample.targets.offsets[:, rows, columns], (1, 2))
    dx, dy = offsets[0], offsets[1]
    for _ in range(turns):
        # rot90 turns counter-clockwise in the picture: right becomes up, and up is -y.
        dx, dy = dy, -dx
    if flip:
        dx = -dx
    packed = PackedTargets(
        turned(sample.targets.classes[rows, columns], (0, 1)),
        np.stack([dx, dy]),
        turned(sample.targets.centre[half_rows, half_columns], (0, 1)),
    )
    return turned(sample.field.pixels[rows, columns], (0, 1)), packed
