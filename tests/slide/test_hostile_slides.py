"""Slides of any bytes: read, or refused with a reason."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numcodecs
import numpy as np
import pytest
import zarr
from hostile import damage, seeds_are_read, survives_damage
from hypothesis import given
from hypothesis import strategies as st

from histo.slide import Box, open_slide


@pytest.mark.parametrize("reader", ["tiff", "picture", "zarr"])
@damage
@given(random=st.randoms(use_true_random=False))
def test_damaged_files_are_read_or_refused(reader: str, random: Random) -> None:
    survives_damage(reader, random)


@pytest.mark.parametrize("reader", ["tiff", "picture", "zarr"])
def test_whole_ones_are_read(reader: str) -> None:
    assert seeds_are_read(reader)


@pytest.mark.parametrize("shards", [None, (512, 512)])
@pytest.mark.parametrize("codec", ["zstd", "gzip", "blosc", "zlib of version 2", "bz2 of version 2", None])
def test_chunks_of_any_codec_are_read_also_where_they_pack_well(
    codec: str | None, shards: tuple[int, int] | None, tmp_path: Path
) -> None:
    # Zeros are packed as tightly as a bomb.
    pixels = np.zeros((1024, 1024), np.uint16)
    pixels[300:700, 300:700] = np.random.default_rng(0).integers(0, 5000, (400, 400))
    second = codec is not None and codec.endswith("2")
    if second and shards:
        pytest.skip("version 2 has no shards")
    name = (codec or "").split(" ")[0]
    compressors = {
        "zstd": zarr.codecs.ZstdCodec(level=9, checksum=True),
        "gzip": zarr.codecs.GzipCodec(level=9),
        "blosc": zarr.codecs.BloscCodec(),
        "zlib": numcodecs.Zlib(level=9),
        "bz2": numcodecs.BZ2(level=9),
        "": None,
    }
    image = {
        "axes": [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"],
        "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5]}]}],
        "version": "0.4",
    }
    path = tmp_path / "a.zarr"
    attributes = {"multiscales": [image]} if second else {"ome": {"multiscales": [image]}}
    zarr.create_group(str(path), zarr_format=2 if second else 3, attributes=attributes)
    array = zarr.create_array(
        str(path / "0"),
        shape=pixels.shape,
        chunks=(256, 256),
        shards=shards,
        dtype="u2",
        compressors=compressors[name],
        zarr_format=2 if second else 3,
    )
    array[...] = pixels
    with open_slide(path) as slide:
        for box in (Box(0, 0, 1024, 1024), Box(290, 310, 100, 300)):
            read = slide.read(box, 0.5)[..., 0]
            np.testing.assert_array_equal(read, pixels[box.y : box.bottom, box.x : box.right])
