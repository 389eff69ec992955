"""Small files that claim or unpack to more than memory holds, lead in circles, or reach elsewhere."""

from __future__ import annotations

import bz2
import gzip
import json
import pickle
import struct
import zlib
from collections.abc import Callable

import numpy as np
import tifffile
from fuzz import seeds

_PAGE = {
    256: (4, 64),  # width
    257: (4, 48),  # height
    258: (3, 8),
    259: (3, 1),  # compression
    262: (3, 1),
    273: (4, 8),  # offset
    277: (3, 1),
    278: (4, 48),
    279: (4, 64 * 48),  # bytes
}
_TILED = {273: None, 278: None, 279: None, 322: (4, 32), 323: (4, 32), 324: (4, 8), 325: (4, 100)}


def tiff(*pages: dict[int, tuple[int, int] | None], ring_to: int | None = None, data: bytes = b"") -> bytes:
    """Return a TIFF of directories with these tags; the last one leads back to the page `ring_to`.

    `data` stands at offset 8.
    """
    data += b"\0" * (len(data) % 2)
    tags = [{code: tag for code, tag in sorted((_PAGE | page).items()) if tag is not None} for page in pages]
    starts = np.cumsum([8 + len(data), *(6 + 12 * len(each) for each in tags)])
    parts = [struct.pack("<2sHI", b"II", 42, starts[0]), data]
    for number, each in enumerate(tags):
        last = number + 1 == len(tags)
        following = (0 if ring_to is None else starts[ring_to]) if last else starts[number + 1]
        entries = [struct.pack("<HHII", code, kind, 1, value) for code, (kind, value) in each.items()]
        parts += [struct.pack("<H", len(each)), *entries, struct.pack("<I", following)]
    return b"".join(parts)


def tile(data: bytes, compression: int, **more: tuple[int, int]) -> bytes:
    """Return a TIFF of 64 x 48 px in tiles of 32 x 32, all of them these bytes."""
    page: dict[int, tuple[int, int] | None] = _TILED | {259: (3, compression), 325: (4, len(data))}
    # One tile in all: the picture is made as small.
    return tiff(page | {256: (4, 32), 257: (4, 32)}, data=data)


def _zeros(n_bytes: int, wbits: int = 15) -> bytes:
    """Return packed zeros: one piece, repeated. The checksum at the end is wrong; no reader gets there."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    piece = b"\0" * (1 << 22)
    first = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + again * (n_bytes // len(piece)) + packer.flush()


def _with(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1, (old, data.count(old))
    return data.replace(old, new)


def _stated_size(data: bytes, marker: bytes, skip: int, new: bytes) -> bytes:
    """Overwrite what stands `skip` bytes after a marker."""
    place = data.index(marker) + skip
    return data[:place] + new + data[place + len(new) :]


def _first_tile(data: bytes) -> bytes:
    path_free = tifffile.TiffFile(seeds.BytesIO(data))
    page = path_free.pages.first
    return data[page.dataoffsets[0] : page.dataoffsets[0] + page.databytecounts[0]]


def _ome(text: str) -> bytes:
    image = seeds.pixels(32, 48, dtype=np.uint16)
    return seeds.written(
        lambda path: tifffile.imwrite(path, image, description=text, metadata=None, ome=False), "a.tif"
    )


def _ome_xml(pixels: str = "", data: str = "<TiffData/>", extra: str = "", head: str = "") -> bytes:
    sizes = {"SizeX": 48, "SizeY": 32, "SizeC": 1, "SizeZ": 1, "SizeT": 1}
    text = " ".join(f'{name}="{value}"' for name, value in sizes.items() if name not in pixels)
    return _ome(
        f'<?xml version="1.0"?>{head}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{extra}'
        f'<Image ID="Image:0"><Pixels DimensionOrder="XYCZT" Type="uint16" {text} {pixels}>'
        f'<Channel ID="C:0" SamplesPerPixel="1"/>{data}</Pixels><AnnotationRef ID="A:0"/></Image></OME>'
    )


_LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]>"
)
_MODULO = (
    '<StructuredAnnotations><XMLAnnotation ID="A:0" Namespace="openmicroscopy.org/omero/dimension/modulo">'
    '<Value><Modulo><ModuloAlongC Type="lifetime" Start="0" End="1e11" Step="1"/></Modulo></Value>'
    "</XMLAnnotation></StructuredAnnotations>"
)


def tiffs() -> dict[str, bytes]:
    jpeg, j2k = _first_tile(seeds.tiffs()[0]), _first_tile(seeds.tiffs()[4])
    sof = jpeg.index(b"\xff\xc0")
    jpeg = jpeg[: sof + 5] + struct.pack(">HH", 65000, 65000) + jpeg[sof + 9 :]
    siz = struct.pack(">II", 1 << 20, 1 << 20)
    imagej = seeds.tiffs()[2]
    return {
        "ring of two": tiff({}, {}, ring_to=0),
        "ring of 150": tiff(*([{}] * 150), ring_to=0),
        "ring after 120": tiff(*([{}] * 150), ring_to=120),
        "1e6 x 1e6 px": tiff({256: (4, 10**6), 257: (4, 10**6), 278: (4, 10**6)}),
        "4e9 x 4e9 px": tiff({256: (4, 2**32 - 1), 257: (4, 2**32 - 1), 278: (4, 2**32 - 1)}),
        "1e6 x 1e6 px in tiles": tiff(_TILED | {256: (4, 10**6), 257: (4, 10**6)}),
        "65535 samples": tiff({277: (3, 65535)}),
        "65535 planes": tiff({277: (3, 65535), 284: (3, 2), 257: (4, 10**6)}),
        "a tile of 3 GB": tiff(_TILED | {259: (3, 8), 322: (4, 56000), 323: (4, 56000)}),
        "a tile without width": tiff(_TILED | {322: (4, 0)}),
        "a tile of 4 GB on disk": tiff(_TILED | {259: (3, 8), 325: (4, 2**32 - 1)}),
        "deflate": tile(_zeros(1 << 29), 8),
        "jpeg of 65000 px": tile(jpeg, 7),
        "jpeg 2000 of 1e6 px": tile(_stated_size(j2k, b"\xff\x4f\xff\x51", 8, siz), 33005),
        "1e9 time points": _ome_xml('SizeT="1000000000"'),
        "1e9 planes": _ome_xml(data='<TiffData IFD="0" PlaneCount="1000000000"/>'),
        "1e11 labels": _ome_xml(extra=_MODULO),
        "a file elsewhere": _ome_xml(
            data='<TiffData><UUID FileName="../../../../etc/passwd">urn:uuid:1</UUID></TiffData>'
        ),
        "entities": _ome_xml(head=_LAUGHS, extra="<a>&i;</a>"),
        "1e9 imagej pictures": imagej.replace(b"images=2", b"images=9" + b"9" * 8, 1)
        if b"images=2" in imagej
        else imagej,
    }


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        parts += [struct.pack(">I", len(data)), name, data, struct.pack(">I", zlib.crc32(name + data))]
    return b"".join(parts)


def pictures() -> dict[str, bytes]:
    text = b"a\0\0" + _zeros(1 << 29)
    jpeg = seeds.pictures()[1]
    sof = jpeg.index(b"\xff\xc0")
    return {
        "1e6 x 1e6 px": _png(10**6, 10**6, (b"IDAT", _zeros(1 << 20))),
        "13000 x 13000 px": _png(13000, 13000, (b"IDAT", _zeros(1 << 29))),
        "text": _png(10, 10, (b"zTXt", text), (b"IDAT", _zeros(1 << 20))),
        "colour profile": _png(10, 10, (b"iCCP", text), (b"IDAT", _zeros(1 << 20))),
        "jpeg of 65000 px": jpeg[: sof + 5] + struct.pack(">HH", 65000, 65000) + jpeg[sof + 9 :],
    }


def zarrs() -> dict[str, bytes]:
    version2, version3 = seeds.zarrs()
    attributes, array, chunk = version2.split(seeds.FILES, 2)
    stored = json.loads(array)

    def changed(**changes: object) -> bytes:
        return seeds.FILES.join(
            [attributes, json.dumps(stored | changes).encode().replace(b'format":2', b'format": 2'), chunk]
        )

    def packed(compressor: str, data: bytes) -> bytes:
        changes = {"compressor": {"id": compressor}}
        return changed(**changes).removesuffix(chunk) + data

    def packed_3(codec: str, data: bytes) -> bytes:
        texts = version3.split(seeds.FILES, 2)
        array3 = json.loads(texts[1])
        bytes_codec = {"name": "bytes", "configuration": {"endian": "little"}}
        array3["codecs"] = [bytes_codec, {"name": codec, "configuration": {"level": 1}}]
        return seeds.FILES.join([texts[0], json.dumps(array3).encode(), data])

    # A frame of Zstandard that states 1e12 bytes; one that states nothing, of blocks of 2 MiB of one byte.
    stated = b"\x28\xb5\x2f\xfd\xe0" + (10**12).to_bytes(8, "little") + b"\x01\0\0"
    block = ((1 << 21) - 1 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    unstated = b"\x28\xb5\x2f\xfd\0\x58" + block * 1000 + b"\x01\0\0"

    def named(path: str) -> bytes:
        return seeds.FILES.join(
            [attributes.replace(b'"path": "0"', b'"path": "%s"' % path.encode()), array, chunk]
        )

    return {
        "1e6 x 1e6 px": changed(shape=[3, 10**6, 10**6]),
        "one chunk of 1e12": changed(shape=[3, 10**6, 10**6], chunks=[3, 10**6, 10**6]),
        "1e6 channels": changed(shape=[10**6, 32, 48]),
        "no pixels": changed(shape=[3, 0, 48]),
        "pickle": changed(filters=[{"id": "pickle", "protocol": 4}]),
        "objects": changed(dtype="|O", filters=[{"id": "pickle"}]),
        "zlib": packed("zlib", _zeros(1 << 31)),
        "gzip": packed("gzip", _zeros(1 << 31, wbits=31)),
        "bz2": packed("bz2", bz2.compress(bytes(1 << 20)) * 2000),
        "blosc": packed(
            "blosc", b"\x02\x01\x01\x01" + struct.pack("<III", 2**31 - 17, 1 << 18, 24) + b"\0" * 8
        ),
        "zstd": packed("zstd", stated),
        "zstd without a size": packed("zstd", unstated),
        "zstd of version 3": packed_3("zstd", stated),
        "gzip of version 3": packed_3("gzip", _zeros(1 << 31, wbits=31)),
        "elsewhere": named("../../../../etc"),
        "from the root": named("/etc"),
        "deep attributes": b'{"a":' * 100_000 + seeds.FILES + array + seeds.FILES + chunk,
    }


def annotations() -> dict[str, bytes]:
    deep = 100_000
    corners = ('<Vertex X="&%s;" Y="1"/>', "<Annotations><Annotation>%s</Annotation></Annotations>")
    file = '<!DOCTYPE x [<!ENTITY i SYSTEM "file:///etc/passwd">]>'
    return {
        "nested lists": b"[" * deep,
        "nested objects": b'{"type":' * deep,
        "nested collections": b'[{"type":"Feature","geometry":'
        + b'{"type":"GeometryCollection","geometries":[' * deep,
        "nested elements": b"<Annotations>" + b"<a>" * deep,
        "nested elements, closed": b"<Annotations>" + b"<a>" * deep + b"</a>" * deep + b"</Annotations>",
        "gzip": gzip.compress(b"[", mtime=0) + _zeros(1 << 30, wbits=31),
        "laughs": (_LAUGHS + corners[1] % corners[0] % "i").encode(),
        "a file": (file + corners[1] % corners[0] % "i").encode(),
        "a file of parameters": b'<!DOCTYPE x [<!ENTITY % i SYSTEM "file:///etc/passwd"> %i;]><Annotations/>',
        "a long entity": b'<!DOCTYPE x [<!ENTITY a "'
        + b"a" * 100_000
        + b'">]><Annotations>'
        + b"&a;" * 100_000,
        "long digits": json.dumps([seeds.feature("Polygon", [[[10**400, 0]] * 3])]).encode(),
    }


def tables() -> dict[str, bytes]:
    header = seeds.cell_tables()[0].splitlines()[0]
    return {
        "a line of 100 MB": b"a" * (100 << 20),
        "a value of 20 MB": header + b"\n" + b"1" * (20 << 20),
        "1e6 columns": b"a," * 10**6,
    }


def configs() -> dict[str, bytes]:
    anchors = "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    merges = "".join(
        f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 10)}]}}\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    return {
        "laughs": f"a: &a [ha]\n{anchors}".encode(),
        "merges": f"a: &a {{ha: 1}}\n{merges}".encode(),
        "itself": b"a: &a [*a]\n",
        "nested": b"[" * 20_000,
        "nested blocks": b"".join(b" " * i + b"a:\n" for i in range(1400)),
        "long": b"a: 1\n" * (1 << 20),
        "a number that is none": b"a: !!int\n",
        "a truth that is none": b"a: !!bool x\n",
        "a day that is none": b"a: !!timestamp x\n",
        "a long path": b"mpp: 0.5\ngroups: " + b"a" * 8_000 + b"\n",
        "python": b"a: !!python/object/apply:os.system ['true']\n",
    }


def csvs(header: bytes) -> dict[str, bytes]:
    return {
        "a line of 20 MB": header + b"a" * (20 << 20),
        "an open quote": header + b'"' + b"a\n" * (1 << 20),
        "1e5 columns": header.replace(b"\n", b",a" * 100_000 + b"\n"),
    }


def states(seed: bytes) -> dict[str, bytes]:
    gates, table = seed.split(seeds.FILES)
    return {
        name: gates + seeds.FILES + data for name, data in csvs(table[: table.index(b"\n") + 1]).items()
    } | {"nested gates": b'{"gates":' * 100_000 + seeds.FILES + table}


def _safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _metadata(data: bytes) -> tuple[dict[str, object], dict[str, object], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["histo"]), data[8 + length :]


def _changed(data: bytes, **changes: object) -> bytes:
    header, metadata, tensors = _metadata(data)
    header["__metadata__"] = {"histo": json.dumps(metadata | changes)}
    return _safetensors(header, tensors)


def weights(seed: bytes) -> dict[str, bytes]:
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    return {
        "a pickle": pickle.dumps({"state_dict": [1, 2, 3]}),
        "a pickle that runs": b"cos\nsystem\n(S'touch histo-was-here'\ntR.",
        "an endless header": _safetensors({}, length=2**63 - 1),
        "a header of 1 GB": _safetensors({}, length=1 << 30),
        "a tensor of 1e18": _safetensors({"a": one | {"shape": [10**9, 10**9]}}, b"\0" * 4),
        "a negative shape": _safetensors({"a": one | {"shape": [-1]}}, b"\0" * 4),
        "an unknown type": _safetensors({"a": one | {"dtype": "F8_E4M3"}}, b"\0" * 4),
        "nested header": _safetensors(b'{"a":' * 100_000),
        "a width of 1e6": _changed(seed, width=10**6),
        "no width": _changed(seed, width=0),
        "an endless width": _changed(seed, width=1e400),
        "nested metadata": _safetensors({"__metadata__": {"histo": "[" * 100_000}}),
    }


def classifiers(seed: bytes) -> dict[str, bytes]:
    return {
        "a pickle": pickle.dumps([1]),
        "1e6 channels": _changed(seed, channels=["nuclear"] * 10**6),
        "other channels": _changed(seed, channels=[{"a": 1}]),
        "smoothed for ever": _changed(seed, smoothing_um=1e9),
        "no number": _changed(seed, min_area_um2=float("nan")),
        "of no kind": _changed(seed, kind="other"),
        "nested metadata": _safetensors({"__metadata__": {"histo": "[" * 100_000}}),
    }


def summaries(seed: bytes) -> dict[str, bytes]:
    return {
        "nested": b'{"slide_id":' * 100_000,
        "outside": _with(seed, b'"slide_id":"slide-1"', b'"slide_id":"../../x"'),
    }


def _header(table: bytes) -> bytes:
    return table[: table.index(b"\n") + 1]


# By reader; what takes a valid file to damage gets it.
BOMBS: dict[str, Callable[[bytes], dict[str, bytes]]] = {
    "tiff": lambda _: tiffs(),
    "picture": lambda _: pictures(),
    "zarr": lambda _: zarrs(),
    "annotations": lambda _: annotations(),
    "own_geojson": lambda _: annotations(),
    "table": lambda _: tables(),
    "config": lambda _: configs(),
    "own_settings": lambda _: configs(),
    "manifest": lambda seed: csvs(_header(seed)),
    "pairs": lambda seed: csvs(_header(seed)),
    "landmarks": lambda seed: csvs(_header(seed)),
    "own_csv": lambda seed: csvs(_header(seed)),
    "states": states,
    "weights": weights,
    "classifier": classifiers,
    "summary": summaries,
}
