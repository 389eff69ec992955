"""Resampling on the slide's grid, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from histo.slide.geometry import Box
from histo.slide.resample import area_average, snap_scale, source_span


def resampled(source: np.ndarray, box: Box, scale: tuple[float, float]) -> np.ndarray:
    """Cut what `box` needs from a source that covers it, and resample."""
    x0, x1 = source_span(box.x, box.width, scale[0])
    y0, y1 = source_span(box.y, box.height, scale[1])
    pad = 4  # bilinear reads reach one pixel out; the same border for all boxes
    padded = np.pad(source, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    cut = padded[y0 + pad : y1 + pad, x0 + pad : x1 + pad]
    assert cut.shape[:2] == (y1 - y0, x1 - x0)
    return area_average(cut, box, scale, (x0, y0))


def weights(start: int, count: int, scale: float, length: int) -> np.ndarray:
    """Brute force: the share of each source pixel in each grid pixel (area), or linear interpolation."""
    out = np.zeros((count, length))
    for i in range(count):
        low, high = (start + i) * scale, (start + i + 1) * scale
        for j in range(length):
            if scale >= 1:
                out[i, j] = max(0.0, min(high, j + 1) - max(low, j)) / scale
            else:
                out[i, j] = max(0.0, 1 - abs((start + i + 0.5) * scale - 0.5 - j))
    return out


def brute_force(source: np.ndarray, box: Box, scale: tuple[float, float]) -> np.ndarray:
    wx = weights(box.x, box.width, scale[0], source.shape[1])
    wy = weights(box.y, box.height, scale[1], source.shape[0])
    return np.einsum("yi,xj,ijc->yxc", wy, wx, source.astype(np.float64))


@pytest.mark.parametrize(
    "scale", [1.0, 2.0, 3.0, 1.002004008, 1.37, 2.5, 7.3, 0.5, 0.77, (2.0, 1.5), (0.8, 1.2)]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_matches_brute_force(scale: float | tuple[float, float], dtype: type) -> None:
    pair = scale if isinstance(scale, tuple) else (scale, scale)
    source = np.random.default_rng(1).integers(0, 255, (48, 56, 2)).astype(dtype)
    # Away from the source's edge, where bilinear interpolation would need what lies outside.
    box = Box(2, 1, int(40 / pair[0]) - 2, int(40 / pair[1]) - 1)
    got = resampled(source, box, pair).astype(np.float64)
    want = brute_force(source, box, pair)
    tolerance = 1e-3 if dtype is np.float32 else 0.5 + 1e-3
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance


def in_numpy(source: np.ndarray, box: Box, scale: tuple[float, float], origin: tuple[int, int]) -> np.ndarray:
    """The definition in plain numpy: float32 sums over rows, then columns, tap by tap; or block means."""
    levels = source.astype(source.dtype.newbyteorder("="))
    if levels.dtype.kind != "f" and all(float(each).is_integer() for each in scale):
        fx, fy = (int(each) for each in scale)
        blocks = levels.reshape(box.height, fy, box.width, fx, -1).astype(np.int64)
        return (blocks.sum(axis=(1, 3)) + fx * fy // 2) // (fx * fy)
    out = levels.astype(np.float32)
    for axis, start, count in ((0, box.y, box.height), (1, box.x, box.width)):
        step, first = scale[1 - axis], origin[1 - axis]
        taken = weights(start, count, step, first + out.shape[axis])[:, first:].astype(np.float32)
        total = np.zeros((count, *np.delete(out.shape, axis)), np.float32)
        for row, shares in zip(total, taken, strict=True):
            for k in np.flatnonzero(shares):
                row += out.take(k, axis) * shares[k]
        out = np.moveaxis(total, 0, axis)
    return np.rint(out) if levels.dtype.kind != "f" else out


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(["u1", "<u2", ">u2", "<f4", ">f4"]),
    scale=st.sampled_from([(2.0, 2.0), (1.98, 1.98), (0.7, 0.7), (2.0, 3.0), (3.0, 1.98)]),
    x=st.integers(0, 40),
    y=st.integers(0, 40),
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    channels=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_compiled_code_does_what_plain_numpy_does(
    dtype: str,
    scale: tuple[float, float],
    x: int,
    y: int,
    width: int,
    height: int,
    channels: int,
    seed: int,
) -> None:
    box = Box(x, y, width, height)
    (x0, x1), (y0, y1) = source_span(x, width, scale[0]), source_span(y, height, scale[1])
    # Bilinear reads reach one pixel out at the slide's edge, which a slide repeats.
    assume(x0 >= 0 and y0 >= 0)
    rng = np.random.default_rng(seed)
    shape = (y1 - y0, x1 - x0, channels)
    kind = np.dtype(dtype)
    source = (
        rng.uniform(-5, 5, shape) if kind.kind == "f" else rng.integers(0, np.iinfo(kind).max + 1, shape)
    ).astype(kind)
    got, want = area_average(source, box, scale, (x0, y0)), in_numpy(source, box, scale, (x0, y0))
    assert got.dtype == kind
    assert got.shape == (height, width, channels)
    if kind.kind == "f":
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    else:
        np.testing.assert_array_equal(got, want)
    # A view whose pixels do not lie beside each other gives the same.
    wide = np.zeros((*shape[:2], 2 * channels), kind)
    wide[..., ::2] = source
    np.testing.assert_array_equal(area_average(wide[..., ::2], box, scale, (x0, y0)), got)


@settings(max_examples=60)
@given(
    scale=st.one_of(st.floats(0.3, 9.0), st.sampled_from([1.0, 2.0, 4.0, 0.5, 1.002, 2.004008])),
    x=st.integers(0, 5),
    y=st.integers(0, 5),
    dx=st.integers(0, 6),
    dy=st.integers(0, 6),
    far=st.sampled_from([0, 1_000, 90_000]),
)
def test_overlapping_reads_agree_bit_by_bit(scale: float, x: int, y: int, dx: int, dy: int, far: int) -> None:
    big = Box(far + x, far + y, 12, 11)
    small = Box(big.x + dx, big.y + dy, 12 - dx - 1, 11 - dy - 1)
    x0, x1 = source_span(big.x, big.width, scale)
    y0, y1 = source_span(big.y, big.height, scale)
    source = np.random.default_rng(7).random((y1 - y0, x1 - x0, 3)).astype(np.float32)
    whole = area_average(source, big, (scale, scale), (x0, y0))
    sx0, sx1 = source_span(small.x, small.width, scale)
    sy0, sy1 = source_span(small.y, small.height, scale)
    assert x0 <= sx0
    assert sx1 <= x1
    part = area_average(source[sy0 - y0 : sy1 - y0, sx0 - x0 : sx1 - x0], small, (scale, scale), (sx0, sy0))
    assert np.array_equal(part, whole[dy : dy + small.height, dx : dx + small.width])


@settings(max_examples=40)
@given(scale=st.floats(1.0, 6.0), cells=st.integers(2, 12))
def test_area_average_keeps_the_mean(scale: float, cells: int) -> None:
    # Source pixels beyond the grid's last pixel are zero, so that both cover the same light.
    source = np.zeros((int(np.ceil(cells * scale)) + 1, int(np.ceil(cells * scale)) + 1, 1), np.float32)
    inner = int(cells * scale)
    source[:inner, :inner] = np.random.default_rng(3).random((inner, inner, 1))
    out = resampled(source, Box(0, 0, cells, cells), (scale, scale))
    assert float(out.sum()) * snap_scale(scale) ** 2 == pytest.approx(float(source.sum()), rel=1e-5)


@pytest.mark.parametrize("value", [0, 1, 128, 65_535])
@pytest.mark.parametrize("scale", [1.0, 300.0, 1.0713, 0.6])
def test_a_constant_stays_what_it_is(value: int, scale: float) -> None:
    source = np.full((620, 620, 1), value, np.uint16)
    out = resampled(source, Box(0, 0, 2, 2), (scale, scale))
    assert np.all(out == value)


def test_a_scale_that_is_whole_but_for_rounding_is_whole() -> None:
    scale = 2.0 + 3e-9
    assert snap_scale(scale) == 2.0
    assert source_span(1_000_000, 3, scale) == (2_000_000, 2_000_006)
    pixels = np.arange(36, dtype=np.uint8).reshape(6, 6, 1)
    out = area_average(pixels, Box(1_000_000, 0, 3, 3), (scale, 2.0), (2_000_000, 0))
    assert out.shape == (3, 3, 1)
    assert snap_scale(2.001) == 2.001
    assert snap_scale(0.5) == 0.5


def test_rounds_to_the_nearest() -> None:
    pixels = np.array([[[0], [1]], [[0], [0]], [[1], [1]], [[1], [0]]], dtype=np.uint8)
    assert area_average(pixels, Box(0, 0, 1, 2), (2.0, 2.0), (0, 0)).ravel().tolist() == [0, 1]
