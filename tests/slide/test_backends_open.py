"""Which backend serves what, finding slides, bounds, and the fast path against OpenSlide."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
import zarr
from PIL import Image

from histo.errors import PixelSizeError, SlideError
from histo.slide import Box, find_slides, open_slide
from histo.slide.levels import distinct_names, downsample, is_rgb, over_background

SVS_TEXT = "Aperio Image Library v12\n300x200 (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"


def noisy(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(5).integers(90, 220, (height, width, 3), dtype=np.uint8)


# The fast path and OpenSlide --------------------------------------------------------------------------------


def reference(path: Path, level: int = 0) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))[..., :3]


@pytest.mark.parametrize("name", ["he_cmu1_small_region.svs", "small.svs"])
def test_real_aperio_tiles_are_openslides_pixels(data_dir: Path, name: str) -> None:
    slide = open_slide(data_dir / "slides" / name)
    assert (slide.info.backend, slide.info.decoder) == ("tifffile", "tifffile+imagecodecs jpeg")
    want = reference(slide.path)
    assert np.array_equal(slide.read(Box(0, 0, *slide.size_px), 0.499), want)


@pytest.mark.parametrize(
    ("photometric", "subsampling"),
    [("rgb", None), ("ycbcr", (1, 1)), ("ycbcr", (2, 1)), ("ycbcr", (2, 2))],
)
@pytest.mark.parametrize("aperio", [True, False])
def test_jpeg_tiles_are_openslides_pixels(
    tmp_path: Path, photometric: str, subsampling: tuple[int, int] | None, aperio: bool
) -> None:
    path = tmp_path / "a.svs"
    options: dict[str, Any] = {"compression": "jpeg", "photometric": photometric, "tile": (64, 64)}
    if subsampling is not None:
        options["subsampling"] = subsampling
    options |= {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    text = SVS_TEXT if aperio else None
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(noisy(200, 300), description=text, metadata=None, **options)
        tiff.write(noisy(100, 150), description=text, metadata=None, subfiletype=1, **options)
    assert openslide.OpenSlide.detect_format(path) == ("aperio" if aperio else "generic-tiff")
    slide = open_slide(path)
    assert slide.info.backend == "tifffile"
    assert np.array_equal(slide.read(Box(0, 0, 300, 200), 0.5), reference(path))
    assert np.array_equal(slide.read(Box(0, 0, 150, 100), 1.0), reference(path, 1))


def test_aperio_with_missing_tiles_goes_through_openslide(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    tifffile.imwrite(
        path,
        noisy(128, 128),
        compression="jpeg",
        photometric="ycbcr",
        tile=(64, 64),
        description=SVS_TEXT,
        metadata=None,
    )
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags["TileByteCounts"]
        start, size = tag.valueoffset, tag.valuebytecount // 4
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\0" * size)
    assert open_slide(path).info.backend == "openslide"


def test_a_level_at_a_fractional_downsample_does_not_depend_on_the_box(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histo.slide.openslide_backend._BLOCK_PX", 200)
    slide = open_slide(data_dir / "slides" / "he_tcga_no_mpp_j2k.svs", mpp=0.5)
    assert slide.info.backend == "openslide"
    assert slide.info.levels[1].downsample == (2.0, 2.0)
    all_of_it = slide.read(Box(0, 0, 600, 450), 1.0)
    for box in (Box(0, 0, 100, 100), Box(150, 130, 301, 99), Box(399, 201, 201, 200)):
        part = slide.read(box, 1.0)
        assert np.array_equal(part, all_of_it[box.y : box.bottom, box.x : box.right])
    # Both levels show the same tissue in the same place: shifted by a pixel they agree less.
    fine = slide.read(Box(0, 0, 1200, 900), 0.5).astype(np.float64)
    fine = fine.reshape(450, 2, 600, 2, 3).mean(axis=(1, 3))
    errors = [np.abs(np.roll(all_of_it, dx, 1) - fine)[5:-5, 5:-5].mean() for dx in (-1, 0, 1)]
    assert errors[1] == min(errors)


# Bounds -----------------------------------------------------------------------------------------------------


class FakeOpenSlide:
    """As much of OpenSlide as is used: a picture with bounds, transparent outside a stored part."""

    level_dimensions = ((400, 300), (100, 75))
    level_downsamples = (1.0, 4.0)
    dimensions = (400, 300)
    bounds = ("41", "30", "201", "150")

    def __init__(self, path: Path) -> None:
        y, x = np.mgrid[:300, :400]
        self.pixels = np.dstack([x % 256, y % 256, (x + y) % 256, np.full((300, 400), 255)]).astype(np.uint8)
        self.pixels[:40] = 0  # stored from row 40 on: transparent above

    @staticmethod
    def detect_format(path: Path) -> str:
        return "mirax"

    @property
    def properties(self) -> dict[str, str]:
        names = ("bounds-x", "bounds-y", "bounds-width", "bounds-height")
        found = {f"openslide.{name}": value for name, value in zip(names, self.bounds, strict=True)}
        return found | {
            "openslide.vendor": "mirax",
            "openslide.mpp-x": "0.25",
            "openslide.mpp-y": "0.25",
            "openslide.background-color": "f0f1f2",
        }

    def set_cache(self, cache: object) -> None:
        assert isinstance(cache, openslide.OpenSlideCache)

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        step = (1, 4)[level]
        out = np.zeros((size[1], size[0], 4), np.uint8)
        part = self.pixels[location[1] :: step, location[0] :: step][: size[1], : size[0]]
        out[: part.shape[0], : part.shape[1]] = part
        return Image.fromarray(out, "RGBA")

    def close(self) -> None:
        pass


@pytest.fixture
def mirax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(openslide, "OpenSlide", FakeOpenSlide)
    path = tmp_path / "slide.mrxs"
    Image.fromarray(noisy(10, 10)).save(path, "JPEG")  # an MRXS file is itself a small JPEG
    return path


def test_bounds_are_the_frame(mirax: Path) -> None:
    slide = open_slide(mirax)
    assert slide.info.backend == "openslide"
    assert slide.info.origin_px == (41, 30)
    assert slide.size_px == (201, 150)
    assert slide.size_um == (201 * 0.25, 150 * 0.25)
    pixels = slide.read(Box(0, 0, 201, 150), 0.25)
    assert np.all(pixels[:10] == (0xF0, 0xF1, 0xF2))
    assert pixels[10, 0].tolist() == [41, 40, 81]
    assert pixels[-1, -1].tolist() == [241, 179, (241 + 179) % 256]
    assert np.array_equal(slide.read(Box(7, 12, 5, 6), 0.25), pixels[12:18, 7:12])


def test_coarse_levels_start_at_the_bounds_too(mirax: Path) -> None:
    slide = open_slide(mirax)
    assert slide.info.levels[1].size_px == (51, 38)
    coarse = slide.read(Box(0, 0, 50, 37), 1.0)
    fine = slide.read(Box(0, 0, 201, 150), 0.25)
    # The fake takes every fourth pixel, from the frame's own corner.
    assert np.array_equal(coarse, fine[::4, ::4][:37, :50])


def test_bounds_outside_the_picture_are_an_error(mirax: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeOpenSlide, "bounds", ("900", "0", "50", "50"))
    with pytest.raises(SlideError, match="bounds"):
        open_slide(mirax)


def test_transparency_is_mixed_with_the_background() -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    assert over_background(rgba, (255, 255, 255))[0].tolist() == [[10, 20, 30], [255] * 3, [127] * 3]


# Names, kinds, levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "want"),
    [
        ((2221, 1783), (2.0, 2.0)),
        ((2222, 1784), (2.0, 2.0)),
        ((138, 111), (32.0, 32.0)),
        ((3000, 2408), None),
    ],
)
def test_downsample_is_the_factor_that_is_meant(
    size: tuple[int, int], want: tuple[float, float] | None
) -> None:
    assert downsample((4443, 3567), size) == (want or (4443 / 3000, 3567 / 2408))


def test_three_channels_are_colour_only_where_they_say_so() -> None:
    byte, word = np.dtype(np.uint8), np.dtype(np.uint16)
    assert is_rgb(["Red", "green", "BLUE"], [None] * 3, byte)
    assert is_rgb(["R", "G", "B"], [None] * 3, byte)
    assert is_rgb(["", "", ""], [(255, 0, 0), (0, 255, 0), (0, 0, 255)], byte)
    assert not is_rgb(["red", "green", "blue"], [None] * 3, word)
    assert not is_rgb(["Rhodamine", "GFP", "BFP"], [(255, 0, 0), (0, 255, 0), (0, 0, 255)], byte)
    assert not is_rgb(["DAPI", "CD8", "CK"], [None] * 3, byte)


def test_channel_names_can_be_told_apart() -> None:
    assert distinct_names(["DAPI", "", "DAPI", "CD8", "DAPI"]) == [
        "DAPI",
        "channel 1",
        "DAPI (2)",
        "CD8",
        "DAPI (3)",
    ]


def test_real_fluorescence(data_dir: Path) -> None:
    slide = open_slide(data_dir / "mif" / "FIHC4__0929309_HP_IM3_2_component_data.tif")
    assert slide.channels == ("Alexa 594", "Cy3", "Cy5", "DAPI", "FITC")
    assert (slide.kind, slide.info.dtype) == ("fluorescence", np.float32)
    # 4294967295 / 213523 px per cm, as the file's XResolution says.
    assert slide.mpp == pytest.approx((10_000 * 213_523 / 4_294_967_295,) * 2)
    want = tifffile.imread(slide.path, key=range(5)).transpose(1, 2, 0)
    assert np.array_equal(slide.read(Box(0, 0, *slide.size_px), slide.mpp[0]), want)
    scan = open_slide(data_dir / "mif" / "vectra_polaris_small.qptiff")
    assert scan.channels == ("DAPI", "FITC", "Cy3")
    assert (scan.size_px, scan.kind, scan.info.dtype) == ((1920, 1440), "fluorescence", np.uint8)
    # 4294967295 / 213260 px per cm; the scanner's own metadata round it to 0.5 um.
    assert scan.mpp == pytest.approx((10_000 * 213_260 / 4_294_967_295,) * 2)
    want = tifffile.imread(scan.path, key=range(3)).transpose(1, 2, 0)
    assert np.array_equal(scan.read(Box(900, 700, 300, 200), scan.mpp[0]), want[700:900, 900:1200])
    with pytest.raises(PixelSizeError, match="--mpp"):
        open_slide(data_dir / "mif" / "instanseg_fluorescence_example.tif")
    stack = open_slide(data_dir / "mif" / "instanseg_fluorescence_example.tif", mpp=0.5)
    want = tifffile.imread(stack.path).transpose(1, 2, 0)
    assert np.array_equal(stack.read(Box(0, 0, 450, 450), 0.5), want)
    assert stack.channels == ("channel 0", "channel 1")  # the file names none


def test_real_ome_tiff(data_dir: Path) -> None:
    slide = open_slide(data_dir / "ihc" / "ki67_os2_ndpi.ome.tif")
    assert slide.kind == "brightfield"
    assert slide.mpp == pytest.approx((0.2270972430394695, 0.22710240047237298))
    out = slide.read(Box(100, 200, 300, 200), slide.mpp[0])
    assert np.abs(out.astype(int) - tifffile.imread(slide.path)[200:400, 100:400]).max() <= 1


def test_real_dicom(data_dir: Path) -> None:
    slide = open_slide(data_dir / "slides" / "boxes_0.dcm")
    assert (slide.info.backend, slide.size_px, slide.mpp) == ("openslide", (16, 16), (0.499, 0.499))
    # The same picture as the tiny Aperio slide it was made from.
    twin = open_slide(data_dir / "slides" / "small.svs")
    box = Box(0, 0, 16, 16)
    assert np.abs(slide.read(box, 0.499).astype(int) - twin.read(box, 0.499)).max() <= 2


# Finding ----------------------------------------------------------------------------------------------------


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def make_zarr(path: Path) -> Path:
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    group.create_array("0", shape=(8, 8), chunks=(8, 8), dtype=np.uint8)
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"datasets": [{"path": "0"}]}]}
    return path


def test_folders_are_searched(tmp_path: Path) -> None:
    names = ["b/two.SVS", "a.ndpi", "b/c/three.ome.tif", "b/four.qptiff", "z.png", "z.JPG", "s.scn", "t.bif"]
    want = [touch(tmp_path / name) for name in names]
    want.append(make_zarr(tmp_path / "d" / "image.ome.zarr"))
    for name in ("notes.txt", ".hidden.svs", ".cache/x.svs", "a.geojson", "b/table.csv"):
        touch(tmp_path / name)
    touch(tmp_path / "other.zarr" / "0" / "x.tif")  # a Zarr store that is no image is not searched either
    found = find_slides([tmp_path])
    assert sorted(found) == sorted(want)
    assert found == find_slides([tmp_path])
    assert [path.name for path in found[:2]] == ["a.ndpi", "three.ome.tif"]


def test_companions_of_mrxs_and_vms_are_not_slides(tmp_path: Path) -> None:
    slide = touch(tmp_path / "case 1.mrxs")
    touch(tmp_path / "case 1" / "Data0000.dat")
    touch(tmp_path / "case 1" / "preview.jpg")
    vms = tmp_path / "case2.vms"
    vms.write_text("[Virtual Microscope Specimen]\nImageFile=case2.jpg\nMapFile=case2_map2.jpg\n")
    touch(tmp_path / "case2.jpg")
    touch(tmp_path / "case2_map2.jpg")
    other = touch(tmp_path / "photo.jpg")
    assert find_slides([tmp_path]) == [slide, vms, other]


def test_results_are_not_slides(tmp_path: Path) -> None:
    slide = touch(tmp_path / "slides" / "a.svs")
    results = tmp_path / "results"
    touch(results / "run.json")
    touch(results / "figures" / "cohort.png")
    make_zarr(results / "a" / "maps.zarr")
    touch(results / "a" / "overlay.png")
    touch(tmp_path / "b" / "summary.json")
    touch(tmp_path / "b" / "overlay.png")
    assert find_slides([tmp_path]) == [slide]
    assert find_slides([results / "a"]) == []
    # A folder that was analysed in place still gives its slides.
    touch(tmp_path / "slides" / "run.json")
    make_zarr(tmp_path / "slides" / "a" / "maps.zarr")
    assert find_slides([tmp_path / "slides"]) == [slide]


def test_a_link_back_up_is_not_followed_for_ever(tmp_path: Path) -> None:
    slide = touch(tmp_path / "a" / "x.svs")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert find_slides([tmp_path]) == [slide]


def test_files_as_given_without_repeats(tmp_path: Path) -> None:
    second, first = touch(tmp_path / "b.svs"), touch(tmp_path / "a.svs")
    odd = touch(tmp_path / "scan.unknown")
    assert find_slides([second, odd, tmp_path, str(first)]) == [second, odd, first]
    with pytest.raises(SlideError, match="no such"):
        find_slides([tmp_path / "gone"])


def test_a_dicom_series_is_one_slide(data_dir: Path, tmp_path: Path) -> None:
    for name in ("boxes_0.dcm", "boxes_1.dcm"):
        shutil.copy(data_dir / "slides" / name, tmp_path / name)
    odd = touch(tmp_path / "broken.dcm")
    assert find_slides([tmp_path]) == [tmp_path / "boxes_0.dcm", odd]
    assert find_slides([tmp_path / "boxes_1.dcm", tmp_path / "boxes_0.dcm"]) == [tmp_path / "boxes_1.dcm"]


def dicom(path: Path, uid: str, *, nested: str | None) -> Path:
    """Write the head of a DICOM file: a sequence of undefined length that names another series, then ours."""

    def short(group: int, element: int, value: str) -> bytes:
        text = value.encode() + b"\0" * (len(value) % 2)
        head = group.to_bytes(2, "little") + element.to_bytes(2, "little") + b"UI"
        return head + len(text).to_bytes(2, "little") + text

    undefined = b"\xff\xff\xff\xff"
    body = short(0x0002, 0x0010, "1.2.840.10008.1.2.1")
    if nested is not None:
        body += b"\x08\x00\x15\x11SQ\0\0" + undefined + b"\xfe\xff\x00\xe0" + undefined
        body += short(0x0020, 0x000E, nested)
        body += b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    path.write_bytes(b"\0" * 128 + b"DICM" + body + short(0x0020, 0x000E, uid) + b"\0" * 64)
    return path


def test_the_series_of_a_dicom_file_is_its_own(tmp_path: Path) -> None:
    first = dicom(tmp_path / "a.dcm", "1.2.3", nested="9.9")
    dicom(tmp_path / "b.dcm", "1.2.3", nested=None)
    third = dicom(tmp_path / "c.dcm", "1.2.4", nested="9.9")
    assert find_slides([tmp_path]) == [first, third]
