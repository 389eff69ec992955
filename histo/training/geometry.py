"""Crops: cut, turned by any angle, magnified, flipped; image and targets alike.

torchvision is imported where it is first needed: it takes seconds.
"""

from __future__ import annotations

from math import ceil, cos, radians, sin
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from histo.datasets.image import CD8_POSITIVE
from histo.training.config import AugmentConfig
from histo.training.sample import Sample
from histo.training.targets import MAY_BE_ANY, NO_CENTRE, PackedTargets, known_classes, pack_targets

# Magnification stays within this: beyond, no cell has such a size.
_ZOOM_RANGE = (0.6, 1.6)
_KNOWN_BITS = 5


class View(NamedTuple):
    """A square of an image: pixels (size, size, 3) and targets."""

    pixels: NDArray[Any]
    targets: PackedTargets


def draw_view(
    sample: Sample, size: int, config: AugmentConfig, rng: np.random.Generator, *, mpp: float, partial: bool
) -> View:
    """Draw a square of an image, turned and flipped.

    An image of which only the count is known is seen whole. What lies outside the image is its mirror image,
    so that the network's statistics are those of tissue, and known of it is nothing.

    Parameters
    ----------
    size : in pixels; even.
    mpp : um per pixel.
    partial : whether the targets say what is known of each pixel.
    """
    angle, zoom = _draw_warp(config, rng)
    if (angle or zoom != 1) and sample.labels is not None:
        view = _warped(sample, size, angle, zoom, rng, mpp)
    else:
        view = _cut(sample, size, rng, partial=partial)
    return _turned(view, turns=int(rng.integers(4)), flip=bool(rng.integers(2)))


def _draw_warp(config: AugmentConfig, rng: np.random.Generator) -> tuple[float, float]:
    """Draw an angle in degrees and a magnification; nothing is drawn where neither is asked for."""
    angle, zoom = 0.0, 1.0
    if config.rotate_share and rng.random() < config.rotate_share:
        # Turns by right angles come on top.
        angle = float(rng.uniform(-45, 45))
    if config.zoom:
        zoom = float(np.clip(np.exp(config.zoom * rng.normal()), *_ZOOM_RANGE))
    return angle, zoom


def _cut(sample: Sample, size: int, rng: np.random.Generator, *, partial: bool) -> View:
    rows, columns = (_draw_span(length, size, rng) for length in sample.pixels.shape[:2])
    targets = sample.targets
    if targets is None:
        targets = _nothing_known((sample.pixels.shape[0], sample.pixels.shape[1]))
    known = targets.known
    if known is None and partial:
        known = _all_known(targets.classes)
    whole = PackedTargets(
        _window(targets.classes, rows, columns, outside=0),
        np.stack([_window(axis, rows, columns, outside=0) for axis in targets.offsets]),
        _window(targets.centre, _half(rows), _half(columns), outside=0),
        None if known is None else _window(known, rows, columns, outside=0),
    )
    return View(_window(sample.pixels, rows, columns), whole)


def _draw_span(length: int, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw where a window of `size` starts and ends; even, so that the centre map's grid fits.

    A window wider than the image holds all of it.
    """
    slack = (length - size) // 2
    start = 2 * int(rng.integers(0, slack + 1)) if slack >= 0 else -2 * int(rng.integers(0, -slack + 1))
    return start, start + size


def _draw_wide_span(length: int, size: int, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw where a window of `side` starts and ends, of which the middle `size` will be seen.

    It lies in the image where it can; a small image lies in the part that is seen.
    """
    inner = side if length >= side else max(length, size)
    start, stop = _draw_span(length, inner, rng)
    before = (side - inner) // 2
    return start - before, stop + side - inner - before


def _half(span: tuple[int, int]) -> tuple[int, int]:
    return span[0] // 2, span[1] // 2


def _window(
    array: NDArray[Any], rows: tuple[int, int], columns: tuple[int, int], outside: int | None = None
) -> NDArray[Any]:
    """Cut a window that may reach beyond the array: a mirror image there, or a constant."""
    height, width = array.shape[:2]
    around = [
        (max(0, -start), max(0, stop - length))
        for (start, stop), length in ((rows, height), (columns, width))
    ]
    inner = array[max(0, rows[0]) : rows[1], max(0, columns[0]) : columns[1]]
    if not any(before or after for before, after in around):
        return inner
    padding = around + [(0, 0)] * (array.ndim - 2)
    if outside is not None:
        return np.pad(inner, padding, constant_values=outside)
    return np.pad(inner, padding, mode="symmetric")


def _nothing_known(shape: tuple[int, int]) -> PackedTargets:
    height, width = shape
    return PackedTargets(
        np.zeros(shape, np.uint8),
        np.zeros((2, height, width), np.int8),
        np.zeros((height // 2, width // 2), np.uint8),
        np.full(shape, MAY_BE_ANY | NO_CENTRE, np.uint8),
    )


def _all_known(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), classes)


def _warped(
    sample: Sample, size: int, angle: float, zoom: float, rng: np.random.Generator, mpp: float
) -> View:
    """Cut a square that is turned by `angle` degrees clockwise and magnified.

    Labels are taken from the nearest pixel; targets are computed from them anew, about the true centroids.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as geometry

    assert sample.labels is not None
    assert sample.targets is not None
    # The window that the square needs, and where to put it.
    c, s = cos(radians(angle)), sin(radians(angle))
    side = 2 * ceil(max(size * (abs(c) + abs(s)) / zoom, size) / 2) + 2
    rows, columns = (_draw_wide_span(length, size, side, rng) for length in sample.pixels.shape[:2])
    known = sample.targets.known
    known = _all_known(sample.targets.classes) if known is None else known
    pixels = torch.from_numpy(_window(sample.pixels, rows, columns).astype(np.float32)).movedim(-1, 0)
    # Five bits of what is known, and above them the label, as one number: exact as float32 below 2**24.
    labels = _window(sample.labels, rows, columns, outside=0).astype(np.int32)
    both = np.left_shift(labels, _KNOWN_BITS) | _window(known, rows, columns, outside=0)

    def warp(image: torch.Tensor, how: InterpolationMode) -> NDArray[Any]:
        turned = geometry.affine(
            image, angle=angle, translate=[0, 0], scale=zoom, shear=[0.0, 0.0], interpolation=how
        )
        return np.asarray(geometry.center_crop(turned, [size, size]).numpy())

    colours = np.moveaxis(warp(pixels, InterpolationMode.BILINEAR), 0, -1)
    if np.issubdtype(sample.pixels.dtype, np.integer):
        colours = np.rint(colours)
    stacked = torch.from_numpy(both.astype(np.float32))[None]
    both = warp(stacked, InterpolationMode.NEAREST)[0].astype(np.int32)
    labels, known = np.right_shift(both, _KNOWN_BITS), (both & (2**_KNOWN_BITS - 1)).astype(np.uint8)
    # Where the centroids go, about the middle of the square; pixel i has its centre at i.
    from_middle = sample.centroids_um / mpp - np.array([columns[0], rows[0]]) - side / 2
    turned = zoom * from_middle @ np.array([[c, s], [-s, c]]) + size / 2 - 0.5
    targets = pack_targets(labels, sample.classes == CD8_POSITIVE, mpp, centroids_px=turned)
    targets = targets._replace(classes=known_classes(known), known=known)
    return View(colours.astype(sample.pixels.dtype), targets)


def _turned(view: View, *, turns: int, flip: bool) -> View:
    """Turn by right angles and flip."""

    def turned(array: NDArray[Any], axes: tuple[int, int]) -> NDArray[Any]:
        out = np.rot90(array, turns, axes)
        return np.flip(out, axes[1]) if flip else out

    targets = view.targets
    offsets = turned(targets.offsets, (1, 2))
    dx, dy = offsets[0], offsets[1]
    for _ in range(turns):
        # rot90 turns counter-clockwise in the picture: right becomes up, and up is -y.
        dx, dy = dy, -dx
    if flip:
        dx = -dx
    packed = PackedTargets(
        turned(targets.classes, (0, 1)),
        np.stack([dx, dy]),
        turned(targets.centre, (0, 1)),
        None if targets.known is None else turned(targets.known, (0, 1)),
    )
    return View(turned(view.pixels, (0, 1)), packed)
