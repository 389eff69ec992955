"""Pixels and instances as datasets store them, to those of an `AnnotatedImage`."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from histo.datasets.image import AnnotatedImage, Kind
from histo.errors import DatasetError, SlideError
from histo.slide.geometry import Box
from histo.slide.open import open_slide

_DAMAGED = "Unpack or download it again"
# Ids below this are looked up in a table.
_MAX_TABLE = 1 << 24
# All that the pickle of an array of strings and numbers needs; anything else in it could run code.
_PLAIN = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}


def read_rgb(path: Path, mpp: float) -> NDArray[np.uint8]:
    """Read a colour picture; transparency is laid over white.

    Returns
    -------
    (H, W, 3) uint8.

    Raises
    ------
    DatasetError : missing, damaged, or not 8-bit colour.
    """
    try:
        with open_slide(path, mpp=mpp) as slide:
            if slide.kind != "brightfield":
                raise DatasetError("not an 8-bit colour picture", path=path, fix=_DAMAGED)
            pixels: NDArray[np.uint8] = slide.read(Box(0, 0, *slide.size_px), mpp)
    except SlideError as error:
        raise DatasetError(error.what, path=path, fix=error.fix) from error
    return pixels


def read_npy(path: Path, *, lazy: bool = False) -> NDArray[Any]:
    """Read a .npy file; pickled objects are refused. Lazy: memory-mapped.

    Raises
    ------
    DatasetError : missing, damaged or pickled.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r" if lazy else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"not a readable .npy array ({error})", path=path, fix=_DAMAGED) from None
    return array


def map_npz(path: Path, name: str) -> NDArray[Any]:
    """Map one array of an .npz file into memory: only what is looked at is read.

    Raises
    ------
    DatasetError : the array is missing, pickled, or compressed (its rows then cannot be read one by one).
    """
    info = _member(path, name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise DatasetError(
            f"its array {name!r} is compressed, so that single images cannot be read",
            path=path,
            fix=f"Unpack it (it is a zip archive) to a folder named {path.stem} beside it",
        )
    try:
        with path.open("rb") as file:
            file.seek(info.header_offset + 26)
            lengths = np.frombuffer(file.read(4), "<u2")
            file.seek(info.header_offset + 30 + int(lengths.sum()))
            shape, fortran, dtype = _npy_header(file)
            if dtype.hasobject:
                raise ValueError("pickled objects")
            return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")
    except (OSError, ValueError) as error:
        raise DatasetError(f"its array {name!r} cannot be read ({error})", path=path, fix=_DAMAGED) from None


def read_table(path: Path, name: str) -> NDArray[Any]:
    """Read an array of strings and numbers from an .npz file, or from a folder it was unpacked to.

    Such arrays are often pickled. Nothing but plain arrays is unpickled: a file that asks for anything else
    is refused.

    Raises
    ------
    DatasetError : missing, damaged, or holding other things than strings and numbers.
    """
    try:
        if path.is_dir():
            with (path / f"{name}.npy").open("rb") as file:
                return _plain_array(file)
        with zipfile.ZipFile(path) as archive, archive.open(_member(path, name)) as file:
            return _plain_array(file)
    except (OSError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise DatasetError(f"its table {name!r} cannot be read ({error})", path=path, fix=_DAMAGED) from None


def read_labels(path: Path, shape: tuple[int, int] | None = None) -> NDArray[np.int64]:
    """Read a label image (H, W) from a TIFF.

    Parameters
    ----------
    shape : what it must be; checked before anything is decoded.

    Raises
    ------
    DatasetError : not a TIFF, damaged, or not one image of whole numbers.
    """
    fix = "Save the labels as a TIFF with one image of whole numbers, 0 for background"
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            if len(tiff.pages) != 1 or page.ndim != 2 or page.dtype is None or page.dtype.kind not in "uib":
                raise DatasetError("not one image of whole numbers", path=path, fix=fix)
            if shape is not None and page.shape != shape:
                raise DatasetError(
                    f"its labels are {page.shape[1]} x {page.shape[0]} px, the image {shape[1]} x {shape[0]}",
                    path=path,
                    fix="Export the labels at the image's own resolution",
                )
            labels: NDArray[np.int64] = page.asarray().astype(np.int64)
    except DatasetError:
        raise
    except Exception as error:  # tifffile raises a wide and changing set on damaged files
        raise DatasetError(f"not a readable TIFF ({error})", path=path, fix=fix) from None
    return labels


def annotated(
    kind: Kind,
    pixels: NDArray[Any],
    mpp: float,
    raw: NDArray[Any],
    classes: int | NDArray[np.uint8],
    *,
    background_known: bool,
    path: Path,
) -> AnnotatedImage:
    """Make an annotated image from a label image as stored.

    Parameters
    ----------
    raw : (H, W) instance ids, 0 background, of any integer or whole-numbered dtype, with or without gaps.
    classes : of all instances, or one for each id in `raw`, in ascending order.
    path : the file of the labels, for errors.

    Raises
    ------
    DatasetError : the labels do not fit the pixels, or are no ids.
    """
    if raw.shape != pixels.shape[:2]:
        raise DatasetError(
            f"its labels are {_size(raw)}, the image is {_size(pixels)}", path=path, fix=_DAMAGED
        )
    labels, ids = number(raw, path)
    per_instance = np.broadcast_to(np.asarray(classes, np.uint8), ids.shape).copy()
    return AnnotatedImage(
        kind=kind,
        pixels=pixels,
        mpp=mpp,
        labels=labels,
        points_um=centroids_um(labels, len(ids), mpp),
        classes=per_instance,
        background_known=background_known,
    )


def number(raw: NDArray[Any], path: Path) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return labels 1 ... n without gaps (int32), and the ids (n,) that they had, ascending.

    Raises
    ------
    DatasetError : values that are negative or not whole.
    """
    whole = raw.astype(np.int64) if np.isfinite(raw).all() else None
    if whole is None or (whole != raw).any() or (whole < 0).any():
        raise DatasetError("its instance ids are not whole numbers from 0 on", path=path, fix=_DAMAGED)
    if whole.max(initial=0) < _MAX_TABLE:
        ids = np.flatnonzero(np.bincount(whole.ravel(), minlength=1)).astype(np.int64)
        ids = ids[ids > 0]
        table = np.zeros(int(whole.max(initial=0)) + 1, np.int32)
        table[ids] = np.arange(1, len(ids) + 1)
        return table[whole], ids
    # Sorting takes ids of any size, but several times as long.
    found, place = np.unique(whole, return_inverse=True)
    zero = int(found[0] == 0)
    return (place.reshape(raw.shape) + 1 - zero).astype(np.int32), found[zero:]


def centroids_um(labels: NDArray[np.integer[Any]], n: int, mpp: float) -> NDArray[np.float64]:
    """Return (n, 2) x, y of the centroids of labels 1 ... n, um from the image's corner.

    NaN for a label without a pixel.
    """
    rows, columns = np.nonzero(labels)
    owner = labels[rows, columns]
    size = np.bincount(owner, minlength=n + 1)[1:].astype(np.float64)
    size[size == 0] = np.nan
    x, y = (np.bincount(owner, at, minlength=n + 1)[1:] / size for at in (columns + 0.5, rows + 0.5))
    return np.stack([x, y], axis=1) * mpp


def majority(labels: NDArray[np.int32], n: int, values: NDArray[Any], n_values: int) -> NDArray[np.int64]:
    """Return for each of the labels 1 ... n the value (0 ... n_values - 1) that most of its pixels have."""
    inside = labels > 0
    seen = labels[inside].astype(np.int64) * n_values + values[inside]
    votes = np.bincount(seen, minlength=(n + 1) * n_values).reshape(n + 1, n_values)
    winner: NDArray[np.int64] = votes[1:].argmax(axis=1)
    return winner


def _member(path: Path, name: str) -> zipfile.ZipInfo:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.getinfo(f"{name}.npy")
    except KeyError:
        raise DatasetError(f"it holds no array {name!r}", path=path, fix=_DAMAGED) from None
    except (OSError, zipfile.BadZipFile) as error:
        raise DatasetError(f"not a readable .npz file ({error})", path=path, fix=_DAMAGED) from None


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"npy version {version}")
    return read[version](file)


def _plain_array(file: IO[bytes]) -> NDArray[Any]:
    shape, fortran, dtype = _npy_header(file)
    if dtype.hasobject:
        array = _PlainUnpickler(file).load()
        if not isinstance(array, np.ndarray) or array.shape != shape:
            raise ValueError("not an array")
        return array
    array = np.frombuffer(file.read(), dtype)
    return array.reshape(shape, order="F" if fortran else "C")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _size(array: NDArray[Any]) -> str:
    return " x ".join(str(side) for side in array.shape[:2])
