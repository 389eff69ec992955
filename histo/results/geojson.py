"""Cells and regions as GeoJSON that QuPath opens: level-0 pixels, one feature per object.

The layout is QuPath's own since version 0.4 (measurements as an object, ids as UUIDs; metadata since 0.5).
Text is built as byte matrices, a row per cell or vertex and a mask of the bytes in use, without a loop over
either.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from io import BufferedWriter
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from histo.cells.table import CD8, OTHER, cell_columns
from histo.panel import COMPARTMENTS, STATISTICS, marker_column
from histo.results.atomic import StreamedOutput, unwritable, write_text
from histo.results.cells_parquet import check_cells

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
# Rows of text, all as wide as the longest, and which bytes of each row are in use.
Text = tuple[Bytes, Mask]

# Red, green, blue; QuPath's own for positive and negative cells.
CLASS_COLOURS: Final[dict[str, tuple[int, int, int]]] = {CD8: (250, 62, 62), OTHER: (112, 112, 225)}
REGION_COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "tumour": (200, 0, 0),
    "tumour border": (255, 200, 0),
    "stroma": (150, 200, 150),
    "host": (120, 90, 60),
    "necrosis": (50, 50, 50),
    "exclude": (180, 180, 180),
    "portal": (0, 150, 200),
    "vessel": (200, 0, 120),
    "rim": (220, 160, 90),
    "host border": (0, 220, 160),
    "other": (140, 110, 170),
}

# Column, name with its unit, decimals. The first is never missing: it needs no comma before it.
_MEASUREMENTS: Final = (
    ("cell_id", "Cell id", 0),
    ("probability", "Probability", 3),
    ("area_um2", "Area um^2", 2),
    ("nuclear_nucleus_mean", "Nucleus: Nuclear stain mean", 4),
    ("nuclear_ring_mean", "Ring: Nuclear stain mean", 4),
    ("cd8_nucleus_mean", "Nucleus: CD8 mean", 4),
    ("cd8_ring_mean", "Ring: CD8 mean", 4),
    ("residual_nucleus_mean", "Nucleus: Residual mean", 4),
    ("residual_ring_mean", "Ring: Residual mean", 4),
    ("signed_distance_um", "Signed distance to tumour border um", 2),
    ("in_tissue", "In assessed tissue", 0),
)
_METADATA: Final = (("region", "Region"), ("zone", "Zone"))
_COORDINATE_DECIMALS: Final = 2
_BATCH: Final = 20_000
_NAMESPACE: Final = uuid.UUID("6f1cf4a8-3f0e-5d3c-9f5e-1f2f3a0c8d11")
_HEX: Final = np.frombuffer(b"0123456789abcdef", np.uint8)


class CellGeoJsonWriter(StreamedOutput):
    """Write cells as they come to a `.geojson.gz`; a context manager.

    The file appears under its name when the block ends without an error, not before. The same cells give the
    same bytes.

    Parameters
    ----------
    path : ends in `.geojson.gz`.
    mpp : level-0 pixel size (x, y) in um.
    slide_id : makes the ids of the objects unique across slides: each is the UUID (version 5, RFC 9562) of
        slide id and cell id.
    markers : those that the cells are measured for.

    Raises ResultsError where the file cannot be written.
    """

    def __init__(
        self, path: Path, mpp: tuple[float, float], slide_id: str, markers: Sequence[str] = ()
    ) -> None:
        super().__init__(path)
        self._mpp = mpp
        self._columns = cell_columns(markers)
        self._measurements = (*_MEASUREMENTS, *_of_markers(markers))
        self._slide_key = _slide_key(slide_id)
        self.n_cells = 0
        try:
            self._raw: BufferedWriter = self._part.open("wb")
        except OSError as error:
            raise unwritable(path, error) from error
        self._file = gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=self._raw, mtime=0)
        self._file.write(b'{"type":"FeatureCollection","features":[')

    def write(self, table: pd.DataFrame, outlines: NDArray[np.object_]) -> None:
        """Add cells.

        Parameters
        ----------
        table : exactly the columns of `cell_columns(markers)`.
        outlines : (n,) shapely polygons without holes in um, in the order of the rows.

        Raises
        ------
        ValueError : other columns, or not one polygon without holes per row.
        """
        check_cells(table, outlines, self._columns)
        if np.any(shapely.get_num_interior_rings(outlines)):
            raise ValueError("cell outlines must not have holes")
        try:
            for start in range(0, len(table), _BATCH):
                rows = slice(start, start + _BATCH)
                text = self._features(table.iloc[rows], outlines[rows])
                # The first feature of the file has no comma before it.
                self._file.write(text if self.n_cells else text[1:])
                self.n_cells += len(table.iloc[rows])
        except OSError as error:
            raise unwritable(self._path, error) from error

    def _finish(self) -> None:
        self._file.write(b"\n]}\n")
        self._file.close()
        self._raw.close()

    def _release(self) -> None:
        self._raw.close()

    def _features(self, table: pd.DataFrame, outlines: NDArray[np.object_]) -> bytes:
        n = len(table)
        head = _join(
            [
                _constant(b',\n{"type":"Feature","id":"', n),
                _uuids(table["cell_id"].to_numpy(), self._slide_key),
                _constant(b'","geometry":{"type":"Polygon","coordinates":[[', n),
            ]
        )
        rings = _rings(outlines, self._mpp)
        tail = _join(
            [
                _constant(b']]},"properties":{"objectType":"detection","classification":', n),
                _choice(table["cell_class"].to_numpy(), _classification),
                _constant(b',"measurements":{', n),
                *_measured(table, self._measurements),
                _constant(b"}", n),
                _choice(_pairs(table), _metadata),
                _constant(b"}}", n),
            ]
        )
        return b"".join(chain.from_iterable(zip(_rows(head), rings, _rows(tail), strict=True)))


def write_annotations_geojson(
    path: Path, shapes: Mapping[str, BaseGeometry | None], mpp: tuple[float, float]
) -> None:
    """Write regions and lines as QuPath annotations.

    Parameters
    ----------
    path : a `.geojson`.
    shapes : name to geometry in um; the name becomes the class. None and empty ones are left out.
    mpp : level-0 pixel size (x, y) in um.

    Raises
    ------
    ResultsError : the file cannot be written.
    """
    features = []
    for name, shape in shapes.items():
        if shape is None or shape.is_empty:
            continue
        shape_px = shapely.transform(shape, lambda xy: np.round(xy / np.asarray(mpp), _COORDINATE_DECIMALS))
        colour = REGION_COLOURS.get(name, (100, 100, 100))
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(_NAMESPACE, f"annotation {name}")),
                "geometry": json.loads(shapely.to_geojson(shape_px)),
                "properties": {
                    "objectType": "annotation",
                    "name": name,
                    "classification": {"name": name, "color": list(colour)},
                    "isLocked": True,
                },
            }
        )
    write_text(path, json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":")))


def object_ids(slide_id: str, cell_ids: NDArray[np.integer[Any]]) -> list[str]:
    """Return the UUID that each cell of a slide has in GeoJSON, as 36 characters."""
    text, _ = _uuids(cell_ids, _slide_key(slide_id))
    return [row.tobytes().decode("ascii") for row in text]


def _slide_key(slide_id: str) -> Any:
    """Return a hash that has taken in which slide it is."""
    return hashlib.sha1(uuid.uuid5(_NAMESPACE, slide_id).bytes, usedforsecurity=False)


def _uuids(cell_ids: NDArray[np.integer[Any]], slide_key: Any) -> Text:
    """Return the UUIDs (version 5) of cells as 36 characters each."""
    digests = []
    for cell_id in cell_ids.tolist():
        # A copy of the hash that has already taken the slide in; hashing is all that happens per cell.
        state = slide_key.copy()
        state.update(b"%d" % cell_id)
        digests.append(state.digest())
    raw = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 20)[:, :16].copy()
    raw[:, 6] = raw[:, 6] & 0x0F | 0x50
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    digits = np.empty((len(raw), 32), np.uint8)
    digits[:, 0::2], digits[:, 1::2] = _HEX[raw >> 4], _HEX[raw & 15]
    text = np.full((len(raw), 36), ord("-"), np.uint8)
    for start, stop, at in ((0, 8, 0), (8, 12, 9), (12, 16, 14), (16, 20, 19), (20, 32, 24)):
        text[:, at : at + stop - start] = digits[:, start:stop]
    return text, np.ones(text.shape, bool)


def _rings(outlines: NDArray[np.object_], mpp: tuple[float, float]) -> list[bytes]:
    """Return the closed outer ring of each polygon: "[x,y],[x,y]" in level-0 pixels."""
    xy, cell = shapely.get_coordinates(outlines, return_index=True)
    last = np.append(cell[1:] != cell[:-1], True)
    n = len(xy)
    text, used = _join(
        [
            _constant(b"[", n),
            _number(xy[:, 0] / mpp[0], _COORDINATE_DECIMALS),
            _constant(b",", n),
            _number(xy[:, 1] / mpp[1], _COORDINATE_DECIMALS),
            _constant(b"],", n),
        ]
    )
    used[last, -1] = False
    return _split(text[used].tobytes(), np.cumsum(used.sum(axis=1))[last])


def _of_markers(markers: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return what `_MEASUREMENTS` says for markers, named as QuPath names channels: "PD-1: Ring: Mean"."""
    return [
        (
            marker_column(name, compartment, statistic),
            f"{name}: {compartment.title()}: {statistic.title()}",
            4,
        )
        for name in markers
        for compartment in COMPARTMENTS
        for statistic in STATISTICS
    ]


def _measured(table: pd.DataFrame, measurements: Sequence[tuple[str, str, int]]) -> list[Text]:
    fields: list[Text] = []
    for k, (column, name, decimals) in enumerate(measurements):
        values = table[column].to_numpy().astype(np.float64)
        known = np.isfinite(values)
        text, used = _number(np.where(known, values, 0.0), decimals)
        label, label_used = _constant(f"{',' if k else ''}{json.dumps(name)}:".encode(), len(table))
        # JSON has no NaN: an unknown measurement is left out.
        fields += [(label, label_used & known[:, None]), (text, used & known[:, None])]
    return fields


def _classification(name: str) -> bytes:
    colour = CLASS_COLOURS[name]
    return json.dumps({"name": name, "color": list(colour)}, separators=(",", ":")).encode()


def _pairs(table: pd.DataFrame) -> NDArray[np.object_]:
    codes = [pd.factorize(table[column].to_numpy()) for column, _ in _METADATA]
    width = len(codes[1][1])
    unique = [(a, b) for a in codes[0][1] for b in codes[1][1]]
    pairs = np.empty(len(unique), object)
    pairs[:] = unique
    chosen: NDArray[np.object_] = pairs[codes[0][0] * width + codes[1][0]]
    return chosen


def _metadata(values: Sequence[str]) -> bytes:
    known = {name: value for (_, name), value in zip(_METADATA, values, strict=True) if value}
    return b',"metadata":' + json.dumps(known, separators=(",", ":")).encode() if known else b""


def _choice(values: NDArray[np.object_], render: Any) -> Text:
    """Render each distinct value once and deal the texts out to the rows."""
    codes, unique = pd.factorize(values)
    texts = [render(value) for value in unique]
    width = max(map(len, texts), default=0)
    rows = np.frombuffer(b"".join(text.ljust(width, b"\0") for text in texts), np.uint8)
    chosen = rows.reshape(len(texts), width)[codes]
    return chosen, chosen != 0


def _number(values: NDArray[np.float64], decimals: int) -> Text:
    """Format finite numbers in plain decimal notation, at most `decimals` digits after the point."""
    scaled = np.rint(values * 10.0**decimals).astype(np.int64)
    rest = np.abs(scaled)
    n_whole = max(1, len(str(int(rest.max(initial=0)))) - decimals)
    text = np.empty((len(values), 1 + n_whole + (1 + decimals if decimals else 0)), np.uint8)
    used = np.ones(text.shape, bool)
    text[:, 0] = ord("-")
    used[:, 0] = scaled < 0
    at = text.shape[1] - 1
    trailing = np.ones(len(values), bool)
    for _ in range(decimals):
        rest, digit = np.divmod(rest, 10)
        text[:, at] = digit + ord("0")
        trailing &= digit == 0
        used[:, at] = ~trailing
        at -= 1
    if decimals:
        text[:, at] = ord(".")
        used[:, at] = ~trailing
        at -= 1
    for k in range(n_whole):
        used[:, at] = (rest > 0) | (k == 0)
        rest, digit = np.divmod(rest, 10)
        text[:, at] = digit + ord("0")
        at -= 1
    return text, used


def _constant(text: bytes, n: int) -> Text:
    row = np.frombuffer(text, np.uint8)
    shape = (n, len(row))
    return np.broadcast_to(row, shape), np.ones(shape, bool)


def _join(fields: Sequence[Text]) -> Text:
    return np.concatenate([text for text, _ in fields], axis=1), np.concatenate(
        [used for _, used in fields], axis=1
    )


def _rows(text: Text) -> list[bytes]:
    chars, used = text
    return _split(chars[used].tobytes(), np.cumsum(used.sum(axis=1)))


def _split(data: bytes, ends: NDArray[np.int64]) -> list[bytes]:
    stops = ends.tolist()
    return [data[a:b] for a, b in zip([0, *stops[:-1]], stops, strict=True)]
