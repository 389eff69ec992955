"""Bad files: each kind says what is wrong, and a bad tile fails only the reads that touch it."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
import zarr
from PIL import Image

from histo.errors import PixelSizeError, SlideError, TileReadError
from histo.slide import Box, open_slide
from histo.slide.jpeg import missing_blocks, structural_damage
from histo.slide.tile_cache import TileCache

SVS_TEXT = "Aperio Image Library v12\n256x192 (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"


def noisy(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(5).integers(90, 220, (height, width, 3), dtype=np.uint8)


def write_svs(path: Path, **options: object) -> np.ndarray:
    settings = {"compression": "jpeg", "photometric": "ycbcr", "tile": (64, 64)} | options
    tifffile.imwrite(path, noisy(192, 256), description=SVS_TEXT, metadata=None, **settings)
    return tifffile.imread(path)


def tile_span(path: Path, index: int) -> tuple[int, int]:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        return page.dataoffsets[index], page.databytecounts[index]


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("empty.svs", b"", "empty"),
        ("notes.svs", b"these are notes, not a slide\n" * 9, "no known slide format"),
        ("zeros.ndpi", b"\0" * 4096, "damaged or incomplete"),
        ("short.tif", b"II*\0", "cannot be read"),
        ("loop.tif", b"II*\0\xff\xff\xff\x00" + b"\1" * 64, "no picture"),
    ],
)
def test_a_file_that_is_no_slide(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SlideError, match=what) as caught:
        open_slide(path, mpp=0.5)
    assert caught.value.path == path
    assert caught.value.fix


def test_missing_file_and_plain_folder(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="no such file"):
        open_slide(tmp_path / "gone.svs")
    with pytest.raises(SlideError, match="folder"):
        open_slide(tmp_path)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("corrupt_broken.svs", "no known slide format"),
        ("unopenable.tiff", "compression"),
    ],
)
def test_real_files_that_cannot_be_opened(data_dir: Path, name: str, what: str) -> None:
    with pytest.raises(SlideError, match=what):
        open_slide(data_dir / "slides" / name, mpp=0.5)


def test_real_file_whose_tile_is_damaged(data_dir: Path) -> None:
    slide = open_slide(data_dir / "slides" / "unreadable.svs")
    for _ in range(2):
        with pytest.raises(TileReadError, match="damaged"):
            slide.read(Box(0, 0, 16, 16), 0.499)


# Pixel size -------------------------------------------------------------------------------------------------


def test_no_pixel_size_names_the_flag(data_dir: Path) -> None:
    path = data_dir / "slides" / "he_tcga_no_mpp_j2k.svs"
    with pytest.raises(PixelSizeError, match="--mpp"):
        open_slide(path)
    slide = open_slide(path, mpp=0.5)
    assert (slide.mpp, slide.mpp_source) == ((0.5, 0.5), "flag")


def test_a_print_resolution_is_refused(data_dir: Path) -> None:
    path = data_dir / "slides" / "boxes.tiff"
    with pytest.raises(PixelSizeError, match=r"352\.778 um.*TIFF resolution tag \(72 dots per inch\).*--mpp"):
        open_slide(path)
    assert open_slide(path, mpp=0.25).read(Box(0, 0, 8, 8), 0.25).shape == (8, 8, 3)


def test_flag_before_manifest_before_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    write_svs(path)
    assert (open_slide(path).mpp, open_slide(path).mpp_source) == ((0.5, 0.5), "metadata")
    slide = open_slide(path, manifest_mpp=0.3)
    assert (slide.mpp, slide.mpp_source) == ((0.3, 0.3), "manifest")
    slide = open_slide(path, mpp=0.2, manifest_mpp=0.3)
    assert (slide.mpp, slide.mpp_source) == ((0.2, 0.2), "flag")
    assert slide.info.mpp == (0.5, 0.5)


@pytest.mark.parametrize("value", [0.0, -1.0, 0.049, 5.1, float("nan"), float("inf")])
def test_an_absurd_pixel_size_is_refused_wherever_it_is_from(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.svs"
    write_svs(path)
    with pytest.raises(PixelSizeError, match="--mpp"):
        open_slide(path, mpp=value)
    with pytest.raises(PixelSizeError, match="manifest"):
        open_slide(path, manifest_mpp=value)


def test_a_picture_never_brings_its_own_pixel_size(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noisy(20, 20)).save(path, dpi=(50_800, 50_800))
    with pytest.raises(PixelSizeError):
        open_slide(path)


# Damaged tiles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["zeros", "noise", "cut", "early end"])
def test_a_damaged_jpeg_tile_fails_only_what_touches_it(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.svs"
    truth = write_svs(path)
    start, count = tile_span(path, 5)  # row 1, column 1
    noise = np.random.default_rng(0).integers(0, 255, count, dtype=np.uint8).tobytes()
    data = path.read_bytes()[start : start + count]
    broken = {
        "zeros": b"\0" * count,
        "noise": data[: count // 2] + noise[count // 2 :],
        "cut": data[: count // 2] + b"\0" * (count - count // 2),
        "early end": data[: count // 2] + b"\xff\xd9" + b"\0" * (count - count // 2 - 2),
    }[damage]
    overwrite(path, start, broken)
    slide = open_slide(path)
    assert slide.info.backend == "tifffile"
    with pytest.raises(TileReadError, match="row 1, column 1"):
        slide.read(Box(60, 60, 10, 10), 0.5)
    assert np.array_equal(slide.read(Box(0, 0, 256, 64), 0.5), truth[:64])
    assert np.array_equal(slide.read(Box(128, 64, 128, 128), 0.5), truth[64:, 128:])


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", None])
def test_a_truncated_file_fails_only_what_is_gone(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    pixels = noisy(192, 256)
    options = {"photometric": "rgb", "resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(64, 64), compression=compression, metadata=None, **options)
    start, count = tile_span(path, 8)
    path.write_bytes(path.read_bytes()[: start + count // 2])
    slide = open_slide(path)
    assert np.array_equal(slide.read(Box(0, 0, 256, 128), 0.5), pixels[:128])
    for x in (0, 100, 200):
        with pytest.raises(TileReadError, match="file ends"):
            slide.read(Box(x, 130, 20, 20), 0.5)


@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_damaged_compressed_data(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb", "resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, noisy(192, 256), tile=(64, 64), compression=compression, metadata=None, **options)
    start, count = tile_span(path, 0)
    overwrite(path, start, b"\0" * count)
    with pytest.raises(TileReadError):
        open_slide(path).read(Box(0, 0, 10, 10), 0.5)


def test_a_sparse_tile_is_glass(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = noisy(128, 128)
    options = {"photometric": "rgb", "resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        tiles = (pixels[:64, :64] if i == 0 else None for i in range(4))
        tiff.write(
            tiles,
            shape=(128, 128, 3),
            dtype=np.uint8,
            tile=(64, 64),
            compression="zlib",
            metadata=None,
            **options,
        )
    out = open_slide(path).read(Box(0, 0, 128, 128), 0.5)
    assert np.array_equal(out[:64, :64], pixels[:64, :64])
    assert np.all(out[64:] == 255)
    assert np.all(out[:, 64:] == 255)


def test_openslide_reopens_after_a_bad_tile(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    write_svs(path, compression=33005, photometric="rgb")
    truth = tifffile.imread(path)
    start, count = tile_span(path, 5)
    overwrite(path, start, b"\0" * count)
    slide = open_slide(path)
    assert slide.info.backend == "openslide"
    for _ in range(2):
        with pytest.raises(TileReadError):
            slide.read(Box(70, 70, 10, 10), 0.5)
        assert np.array_equal(slide.read(Box(0, 0, 256, 64), 0.5), truth[:64])


def test_a_damaged_zarr_chunk(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    array = group.create_array("0", shape=(100, 100), chunks=(50, 50), dtype=np.uint16)
    array[:] = 9
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    transform = {"type": "scale", "scale": [0.5, 0.5]}
    dataset = {"path": "0", "coordinateTransformations": [transform]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [dataset]}]}
    (path / "0" / "c" / "1" / "1").write_bytes(b"nonsense")
    slide = open_slide(path)
    assert np.all(slide.read(Box(0, 0, 50, 50), 0.5) == 9)
    with pytest.raises(TileReadError):
        slide.read(Box(60, 60, 5, 5), 0.5)
    (path / "zarr.json").write_text('{"attributes": {"ome": {"multiscales": [{}]}}}')
    with pytest.raises(SlideError, match="metadata"):
        open_slide(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_picture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noisy(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    slide = open_slide(path, mpp=0.5)
    with pytest.raises(TileReadError, match="cannot be decoded"):
        slide.read(Box(0, 0, 5, 5), 0.5)


def test_a_picture_too_large_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noisy(50, 50)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SlideError, match="too large"):
        open_slide(path, mpp=0.5)


@pytest.mark.parametrize(
    ("shape", "axes", "what"), [((3, 40, 40), "ZYX", "focal planes"), ((2, 40, 40), "TYX", "time points")]
)
def test_stacks_are_not_flattened(tmp_path: Path, shape: tuple[int, ...], axes: str, what: str) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": axes, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, np.zeros(shape, np.uint16), metadata=metadata, photometric="minisblack")
    with pytest.raises(SlideError, match=what):
        open_slide(path)


# JPEG checks ------------------------------------------------------------------------------------------------


def jpeg_bytes(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=80, **options)
    return file.getvalue()


def decode(data: bytes) -> np.ndarray:
    return np.asarray(imagecodecs.jpeg8_decode(data))


@pytest.mark.parametrize(
    "options", [{}, {"restart_marker_rows": 1}, {"progressive": True}, {"subsampling": 0}]
)
def test_whole_jpegs_pass(options: dict[str, object]) -> None:
    for pixels in (noisy(64, 64), np.full((64, 64, 3), 128, np.uint8)):
        data = jpeg_bytes(pixels, **options)
        assert structural_damage(data) is None
        assert structural_damage(data + b"\0\0") is None
        assert not missing_blocks(data, decode(data), decode)


def test_a_jpeg_short_in_the_middle_of_restarts() -> None:
    data = jpeg_bytes(noisy(64, 64), restart_marker_rows=1)
    first, second = data.index(b"\xff\xd0"), data.index(b"\xff\xd1")
    short = data[: (first + second) // 2] + data[second:]
    assert missing_blocks(short, decode(short), decode)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"nothing", b"\xff\xd8\xff\xe0\x00\x10JFIF"]
)
def test_what_is_not_jpeg(data: bytes) -> None:
    assert structural_damage(data)


# The cache --------------------------------------------------------------------------------------------------


def test_the_cache_stays_within_its_budget_and_keeps_no_errors() -> None:
    cache = TileCache(max_bytes=1000)
    calls: list[int] = []

    def make(key: int) -> np.ndarray:
        calls.append(key)
        return np.zeros(300, np.uint8)

    for key in (1, 2, 3, 1, 4):
        cache.get(key, lambda key=key: make(key))
    assert calls == [1, 2, 3, 4]
    assert cache.nbytes == 900
    cache.get(2, lambda: make(2))  # the least recently used was dropped
    assert calls[-1] == 2

    def fail() -> np.ndarray:
        raise TileReadError("damaged")

    for _ in range(2):
        with pytest.raises(TileReadError):
            cache.get("bad", fail)
    assert cache.get("large", lambda: np.zeros(5000, np.uint8)).nbytes == 5000
    assert cache.nbytes == 5000
    with pytest.raises(ValueError, match="read-only"):
        cache.get("large", lambda: np.zeros(1))[0] = 1


def test_openslide_itself_refuses_what_the_fast_path_refuses(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    write_svs(path)
    start, count = tile_span(path, 0)
    overwrite(path, start + count // 2, b"\xff\xd9" + b"\0" * (count - count // 2 - 2))
    other = tmp_path / "b.svs"
    shutil.copy(path, other)
    with pytest.raises(TileReadError):
        open_slide(path).read(Box(0, 0, 64, 64), 0.5)
    with openslide.OpenSlide(other) as reference, pytest.raises(openslide.OpenSlideError):
        reference.read_region((0, 0), 0, (64, 64))
