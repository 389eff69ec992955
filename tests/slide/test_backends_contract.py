"""One set of contract tests over every backend, on tiny files written here."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

from histo.slide import Box, Slide, open_slide

APERIO = "Aperio Image Library v12.0.0\n{w}x{h} (64x64) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5000"


@dataclass(frozen=True)
class Written:
    """A file, its true pixels (level 0) and what the slide must say of itself."""

    path: Path
    pixels: NDArray
    backend: str
    kind: str
    channels: tuple[str, ...]
    levels: int = 1
    flag: float | None = None  # mpp to be given where the file cannot state one


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth coloured picture with some detail: what JPEG keeps well."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (11 + c) + seed) * np.cos(y / (17 - c)) for c in range(3)]
    return (150 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


def halved(pixels: NDArray) -> NDArray:
    h, w = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    blocks = pixels[:h, :w].reshape(h // 2, 2, w // 2, 2, -1).astype(np.float64).mean(axis=(1, 3))
    return np.rint(blocks).astype(pixels.dtype)


def markers(height: int, width: int, count: int, dtype: type = np.uint16) -> NDArray:
    y, x = np.mgrid[:height, :width]
    top = 200 if dtype == np.uint8 else 4000
    planes = [top * (1 + np.sin(x / (7 + 3 * c)) * np.sin(y / (11 - c))) / 2 for c in range(count)]
    return np.stack(planes, axis=-1).astype(dtype)


def svs(folder: Path, photometric: str = "ycbcr") -> Written:
    base = picture(333, 407)
    path = folder / f"aperio_{photometric}.svs"
    options = {"compression": "jpeg", "compressionargs": {"level": 90}, "photometric": photometric}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(base, tile=(64, 64), description=APERIO.format(w=407, h=333), metadata=None, **options)
        tiff.write(base[::4, ::4], rowsperstrip=16, description="Aperio thumbnail", metadata=None, **options)
        text = APERIO.format(w=407, h=333) + " -> 203x166"
        tiff.write(halved(base), tile=(64, 64), description=text, metadata=None, **options)
    truth = tifffile.imread(path, key=0)
    return Written(path, truth, "tifffile", "brightfield", ("red", "green", "blue"), levels=2)


def svs_rgb(folder: Path) -> Written:
    return svs(folder, "rgb")


def generic_jpeg(folder: Path) -> Written:
    path = folder / "generic.tiff"
    with tifffile.TiffWriter(path) as tiff:
        options = {"compression": "jpeg", "photometric": "ycbcr", "tile": (64, 64), "metadata": None}
        tiff.write(picture(200, 300), resolution=(20_000, 20_000), resolutionunit="CENTIMETER", **options)
        tiff.write(halved(picture(200, 300)), subfiletype=1, **options)
    truth = tifffile.imread(path, key=0)
    return Written(path, truth, "tifffile", "brightfield", ("red", "green", "blue"), levels=2)


def ome_subifds(folder: Path) -> Written:
    pixels = markers(190, 260, 4)
    path = folder / "panel.ome.tif"
    names = ["DAPI", "CD8", "PD-1", "AF"]
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": 500.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.5,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": names},
    }
    options = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(pixels.transpose(2, 0, 1), subifds=1, metadata=metadata, **options)
        tiff.write(halved(pixels).transpose(2, 0, 1), subfiletype=1, **options)
    return Written(path, pixels, "tifffile", "fluorescence", tuple(names), levels=2)


def ome_rgb(folder: Path) -> Written:
    pixels = picture(150, 170)
    path = folder / "rgb.ome.tif"
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(
        path, pixels, tile=(32, 48), photometric="rgb", compression="lzw", metadata=size, ome=True
    )
    return Written(path, pixels, "tifffile", "brightfield", ("red", "green", "blue"))


def ome_planar_rgb(folder: Path) -> Written:
    pixels = picture(90, 110)
    path = folder / "planar.ome.tif"
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": 0.5,
        "PhysicalSizeY": 0.5,
        "Channel": {"Name": ["Red", "Green", "Blue"]},
    }
    planes = pixels.transpose(2, 0, 1)
    tifffile.imwrite(path, planes, photometric="minisblack", metadata=metadata, compression="zstd")
    return Written(path, pixels, "tifffile", "brightfield", ("red", "green", "blue"))


def stripped(folder: Path) -> Written:
    pixels = picture(131, 77)
    path = folder / "strips.tif"
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        rowsperstrip=10,
        compression="zlib",
        predictor=True,
        resolution=(50_800, 50_800),
        resolutionunit="INCH",
        metadata=None,
    )
    return Written(path, pixels, "tifffile", "brightfield", ("red", "green", "blue"))


def raw_big_endian(folder: Path) -> Written:
    pixels = markers(141, 203, 3)
    path = folder / "raw.tif"
    tifffile.imwrite(
        path,
        pixels.transpose(2, 0, 1),
        byteorder=">",
        photometric="minisblack",
        planarconfig="separate",
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return Written(path, pixels, "tifffile", "fluorescence", ("channel 0", "channel 1", "channel 2"))


def imagej(folder: Path) -> Written:
    pixels = markers(120, 150, 2)
    path = folder / "imagej.tif"
    metadata = {"unit": "um", "axes": "CYX", "Labels": ["Hoechst", "CD8"]}
    tifffile.imwrite(path, pixels.transpose(2, 0, 1), imagej=True, resolution=(2.0, 2.0), metadata=metadata)
    return Written(path, pixels, "tifffile", "fluorescence", ("Hoechst", "CD8"))


def qptiff(folder: Path) -> Written:
    pixels = markers(220, 240, 3, np.uint8)
    path = folder / "scan.qptiff"
    names = ["DAPI", "Opal 520", "Opal 690"]
    xml = (
        '<?xml version="1.0" encoding="utf-16"?><PerkinElmer-QPI-ImageDescription>'
        "<ImageType>{kind}</ImageType><Name>{name}</Name></PerkinElmer-QPI-ImageDescription>"
    )
    with tifffile.TiffWriter(path) as tiff:
        for kind, level in (("FullResolution", pixels), ("ReducedResolution", halved(pixels))):
            for index, name in enumerate(names):
                tiff.write(
                    np.ascontiguousarray(level[..., index]),
                    tile=(64, 64),
                    compression="lzw",
                    description=xml.format(kind=kind, name=name),
                    software="PerkinElmer-QPI",
                    resolution=(20_000, 20_000),
                    resolutionunit="CENTIMETER",
                    metadata=None,
                )
            if kind == "FullResolution":
                thumb = picture(40, 44)
                text = xml.format(kind="Thumbnail", name="")
                tiff.write(
                    thumb, description=text, software="PerkinElmer-QPI", photometric="rgb", metadata=None
                )
    return Written(path, pixels, "tifffile", "fluorescence", tuple(names), levels=2)


def float_tiff(folder: Path) -> Written:
    pixels = (markers(100, 130, 2) / 7).astype(np.float32)
    path = folder / "component.tif"
    tifffile.imwrite(
        path,
        pixels.transpose(2, 0, 1),
        photometric="minisblack",
        compression="lzw",
        rowsperstrip=16,
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return Written(path, pixels, "tifffile", "fluorescence", ("channel 0", "channel 1"))


def rgba_tiff(folder: Path) -> Written:
    rgba = np.dstack([picture(70, 90), np.full((70, 90), 255, np.uint8)])
    rgba[:20, :, 3] = 0
    path = folder / "rgba.tif"
    tifffile.imwrite(
        path,
        rgba,
        photometric="rgb",
        extrasamples=["unassalpha"],
        tile=(32, 32),
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    truth = rgba[..., :3].copy()
    truth[:20] = 255
    return Written(path, truth, "tifffile", "brightfield", ("red", "green", "blue"))


def ome_zarr(folder: Path, version: str) -> Written:
    pixels = markers(170, 210, 3)
    path = folder / f"image_{version}.ome.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    datasets = []
    for level, data in enumerate([pixels, halved(pixels)]):
        array = group.create_array(
            f"s{level}", shape=(1, 3, 1, *data.shape[:2]), chunks=(1, 1, 1, 64, 80), dtype=data.dtype
        )
        array[0, :, 0] = data.transpose(2, 0, 1)
        scale = [1.0, 1.0, 1.0, 0.5 * 2**level, 0.5 * 2**level]
        transform = {"type": "scale", "scale": scale}
        datasets.append({"path": f"s{level}", "coordinateTransformations": [transform]})
    names = ("DAPI", "CD8", "CK")
    metadata = {
        "multiscales": [{"version": version, "axes": axes, "datasets": datasets}],
        "omero": {"channels": [{"label": name, "color": "FFFFFF"} for name in names]},
    }
    group.attrs.update(metadata if version == "0.4" else {"ome": {"version": "0.5", **metadata}})
    return Written(path, pixels, "zarr", "fluorescence", names, levels=2)


def zarr_04(folder: Path) -> Written:
    return ome_zarr(folder, "0.4")


def zarr_05(folder: Path) -> Written:
    return ome_zarr(folder, "0.5")


def zarr_rgb(folder: Path) -> Written:
    pixels = picture(100, 120)
    path = folder / "rgb.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    array = group.create_array("0", shape=(3, 100, 120), chunks=(3, 50, 50), dtype=np.uint8)
    array[:] = pixels.transpose(2, 0, 1)
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    transform = {"type": "scale", "scale": [1, 0.5, 0.5]}
    datasets = [{"path": "0", "coordinateTransformations": [transform]}]
    channels = [{"color": "FF0000"}, {"color": "00FF00"}, {"color": "0000FF"}]
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    group.attrs["ome"] = ome | {"omero": {"channels": channels}}
    return Written(path, pixels, "zarr", "brightfield", ("red", "green", "blue"))


def png(folder: Path) -> Written:
    path = folder / "picture.png"
    Image.fromarray(picture(111, 93)).save(path, dpi=(72, 72))
    return Written(path, picture(111, 93), "pillow", "brightfield", ("red", "green", "blue"), flag=0.5)


def png_grey16(folder: Path) -> Written:
    pixels = markers(80, 70, 1)
    path = folder / "grey.png"
    Image.fromarray(pixels[..., 0]).save(path)
    return Written(path, pixels, "pillow", "fluorescence", ("channel 0",), flag=0.5)


def jpeg(folder: Path) -> Written:
    path = folder / "picture.jpg"
    Image.fromarray(picture(64, 96)).save(path, quality=95)
    truth = np.asarray(Image.open(path))
    return Written(path, truth, "pillow", "brightfield", ("red", "green", "blue"), flag=0.5)


def jpeg_2000_svs(folder: Path) -> Written:
    """An Aperio slide whose tiles OpenSlide decodes; its level 1 lies at a fractional downsample."""
    base = picture(333, 407)
    path = folder / "j2k.svs"
    text = APERIO.format(w=407, h=333)
    options = {"tile": (64, 64), "compression": 33005, "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(base, description=text, **options)
        tiff.write(halved(base), description=text, **options)
    return Written(path, base, "openslide", "brightfield", ("red", "green", "blue"), levels=2)


MAKERS: list[Callable[[Path], Written]] = [
    svs,
    svs_rgb,
    generic_jpeg,
    ome_subifds,
    ome_rgb,
    ome_planar_rgb,
    stripped,
    raw_big_endian,
    imagej,
    qptiff,
    float_tiff,
    rgba_tiff,
    zarr_04,
    zarr_05,
    zarr_rgb,
    png,
    png_grey16,
    jpeg,
    jpeg_2000_svs,
]


@pytest.fixture(scope="module", params=MAKERS, ids=lambda maker: maker.__name__)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return request.param(tmp_path_factory.mktemp("slides"))


@pytest.fixture
def slide(written: Written) -> Slide:
    return open_slide(written.path, mpp=written.flag)


def whole(slide: Slide) -> NDArray:
    return slide.read(Box(0, 0, *slide.size_px), slide.mpp[0])


def test_says_what_it_is(slide: Slide, written: Written) -> None:
    height, width, channels = written.pixels.shape
    assert slide.size_px == (width, height)
    assert slide.channels == written.channels
    assert len(slide.channels) == channels
    assert slide.kind == written.kind
    assert slide.info.dtype == written.pixels.dtype
    assert slide.info.backend == written.backend
    assert slide.info.decoder
    assert slide.mpp == pytest.approx((0.5, 0.5))
    assert slide.mpp_source == ("metadata" if written.flag is None else "flag")
    assert len(slide.info.levels) == written.levels
    assert slide.info.levels[0].size_px == slide.size_px
    assert slide.info.levels[0].downsample == (1.0, 1.0)
    for index, level in enumerate(slide.info.levels):
        assert level.downsample == (2.0**index, 2.0**index)
        assert level.tile_px[0] > 0
        assert level.tile_px[1] > 0


def test_level_0_is_what_was_written(slide: Slide, written: Written) -> None:
    pixels = whole(slide)
    assert pixels.dtype == written.pixels.dtype
    assert np.array_equal(pixels, written.pixels)


@pytest.mark.parametrize("mpp", [0.5, 1.0, 0.61, 1.3, 0.4])
def test_a_part_is_cut_from_the_whole(slide: Slide, mpp: float) -> None:
    everything = slide.read(Box(-3, -2, 40, 36), mpp)
    for box in (Box(0, 0, 7, 9), Box(11, 5, 20, 3), Box(-3, 20, 40, 1)):
        part = slide.read(box, mpp)
        assert np.array_equal(part, everything[box.y + 2 : box.bottom + 2, box.x + 3 : box.right + 3])


def test_outside_is_glass_or_dark(slide: Slide, written: Written) -> None:
    fill = 255 if written.kind == "brightfield" else 0
    width, height = slide.size_px
    assert np.all(slide.read(Box(-50, -50, 20, 30), 0.5) == fill)
    assert np.all(slide.read(Box(width + 5, 0, 3, 3), 2.0) == fill)
    edge = slide.read(Box(width - 5, height - 4, 10, 10), 0.5)
    assert edge.shape == (10, 10, len(slide.channels))
    assert np.array_equal(edge[:4, :5], written.pixels[-4:, -5:])
    assert np.all(edge[4:] == fill)
    assert np.all(edge[:, 5:] == fill)


def test_levels_show_the_same_picture(slide: Slide, written: Written) -> None:
    # Compared over what both levels cover, by the mean of level 0 at the same scale.
    columns, rows = slide.size_px[0] // 2, slide.size_px[1] // 2
    coarse = slide.read(Box(0, 0, columns, rows), 1.0).astype(np.float64)
    fine = halved(written.pixels).astype(np.float64)[:rows, :columns]
    assert np.abs(coarse - fine).mean() <= 0.01 * int(written.pixels.max())


def test_threads_see_the_same_pixels(slide: Slide) -> None:
    boxes = [Box(x, y, 24, 24) for y in range(0, 60, 20) for x in range(0, 60, 20)] * 3
    alone = [slide.read(box, 0.5) for box in boxes]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda box: slide.read(box, 0.5), boxes))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_survives_pickling_before_and_after_reading(slide: Slide) -> None:
    box = Box(10, 10, 20, 20)
    fresh = pickle.loads(pickle.dumps(slide))
    pixels = slide.read(box, 0.5)
    used = pickle.loads(pickle.dumps(slide))
    assert used.info == slide.info
    assert used.mpp_source == slide.mpp_source
    assert np.array_equal(fresh.read(box, 0.5), pixels)
    assert np.array_equal(used.read(box, 0.5), pixels)


def test_closes_and_reads_again(written: Written) -> None:
    with open_slide(written.path, mpp=written.flag) as slide:
        first = slide.read(Box(3, 4, 9, 8), 0.5)
    slide.close()
    assert np.array_equal(slide.read(Box(3, 4, 9, 8), 0.5), first)
    slide.close()


def test_results_may_be_written_to(slide: Slide) -> None:
    pixels = slide.read(Box(0, 0, 16, 16), 0.5)
    before = pixels.copy()
    pixels[:] = 7
    assert np.array_equal(slide.read(Box(0, 0, 16, 16), 0.5), before)


def test_a_read_in_halves_is_the_read(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(-1, -1, 30, 31)
    at_once = [slide.read(box, mpp) for mpp in (0.5, 0.83, 2.0)]
    monkeypatch.setattr("histo.slide.base._MAX_SOURCE_PX", 100)
    for mpp, want in zip((0.5, 0.83, 2.0), at_once, strict=True):
        assert np.array_equal(slide.read(box, mpp), want)


def _read_in_child(slide: Slide, box: Box) -> NDArray:
    return slide.read(box, 0.5)


def test_reads_in_a_spawned_process(tmp_path: Path) -> None:
    slides = [
        open_slide(made.path, mpp=made.flag) for made in (svs(tmp_path), zarr_05(tmp_path), png(tmp_path))
    ]
    box = Box(5, 6, 30, 20)
    want = [slide.read(box, 0.5) for slide in slides]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        got = pool.starmap(_read_in_child, [(slide, box) for slide in slides])
    assert all(np.array_equal(a, b) for a, b in zip(want, got, strict=True))


def test_zarr_metadata_of_04_and_05_are_told_apart(tmp_path: Path) -> None:
    old, new = zarr_04(tmp_path).path, zarr_05(tmp_path).path
    assert "multiscales" in json.loads((old / ".zattrs").read_text())
    assert "ome" in json.loads((new / "zarr.json").read_text())["attributes"]
    assert open_slide(old).info.properties["ome-zarr.version"] == "0.4"
    assert open_slide(new).info.properties["ome-zarr.version"] == "0.5"
