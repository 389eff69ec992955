"""Plain PNG and JPEG pictures. They have no pixel size that could be trusted: it must be given."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from histo.errors import SlideError, TileReadError
from histo.slide.base import Level, MppSource, Slide, SlideInfo
from histo.slide.geometry import Box
from histo.slide.levels import RGB, over_background

_GREY = {"1": np.uint8, "L": np.uint8, "I;16": np.uint16, "I;16B": np.uint16, "I": np.uint16, "F": np.float32}
# Decoding takes up to 12 bytes a pixel.
_MAX_PX = 100_000_000
_FIX = "Save it as a PNG or JPEG again, or export it as OME-TIFF"


class ImageSlide(Slide):
    """A picture that is decoded as a whole, once, and shared by all threads."""

    def __init__(self, path: Path, info: SlideInfo, mpp: tuple[float, float], mpp_source: MppSource) -> None:
        super().__init__(path, info, mpp, mpp_source)
        self._reset()

    def _reset(self) -> None:
        self._pixels: NDArray[Any] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        gone = ("_pixels", "_lock")
        return {name: value for name, value in super().__getstate__().items() if name not in gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset()

    def _open_handle(self) -> NDArray[Any]:
        with self._lock:
            if self._pixels is None:
                self._pixels = _decode(self.path, self.info)
            return self._pixels

    def _close_handle(self, handle: NDArray[Any]) -> None:
        self._pixels = None

    def _read_level(self, handle: NDArray[Any], level: int, box: Box) -> NDArray[Any]:
        return handle[box.y : box.bottom, box.x : box.right].copy()


def inspect(path: Path) -> SlideInfo:
    """Return size and channels of a PNG or JPEG from its header.

    8-bit colour, palette and RGBA pictures are brightfield; grey ones fluorescence with one channel. A
    resolution in the file is not used: it speaks of printing.

    Raises
    ------
    SlideError : not a picture, damaged, or too large to be decoded as a whole.
    """
    with _open(path) as image:
        mode, size = image.mode, image.size
    if size[0] * size[1] > _MAX_PX:
        raise _too_large(path)
    dtype: np.dtype[Any] = np.dtype(_GREY.get(mode, np.uint8))
    grey = mode in _GREY or mode in ("LA", "La")
    return SlideInfo(
        size_px=size,
        mpp=None,
        channels=("channel 0",) if grey else RGB,
        kind="fluorescence" if grey else "brightfield",
        dtype=dtype,
        levels=(Level(size, (1.0, 1.0), size),),
        backend="pillow",
        decoder=f"pillow {PIL.__version__}",
        properties={"pillow.mode": mode},
    )


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path, formats=("PNG", "JPEG"))
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except MemoryError:
        raise
    except Exception as error:  # as in `_decode`
        raise SlideError(f"the picture cannot be opened ({error})", path=path, fix=_FIX) from error


def _too_large(path: Path) -> SlideError:
    return SlideError(
        f"the picture is too large to be decoded as a whole (more than {_MAX_PX / 1e6:.0f} million pixels)",
        path=path,
        fix="Save it as a tiled, pyramidal TIFF",
    )


def _decode(path: Path, info: SlideInfo) -> NDArray[Any]:
    """Decode the whole picture to (height, width, channels)."""
    try:
        with _open(path) as image:
            image.load()
            if info.kind == "fluorescence":
                grey = image.convert("L") if image.mode in ("1", "LA", "La") else image
                pixels: NDArray[Any] = np.asarray(grey).astype(info.dtype)[..., None]
            elif image.mode == "RGB":
                pixels = np.array(image)
            else:
                pixels = over_background(np.asarray(image.convert("RGBA")), (255, 255, 255))
    except SlideError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
        raise TileReadError(f"the picture cannot be decoded ({error})", path=path, fix=_FIX) from error
    pixels.flags.writeable = False
    return pixels
