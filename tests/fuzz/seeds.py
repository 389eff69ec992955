"""Small valid files of every kind that users bring."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import zarr
from PIL import Image

SVS_TEXT = "Aperio Image Library v12\n64x48 (32x32) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"
# Between the files of a folder that is told as one text.
FILES = b"\n--file--\n"


def pixels(*shape: int, dtype: Any = np.uint8) -> Any:
    return np.random.default_rng(5).integers(40, 220, shape).astype(dtype)


def written(write: Callable[[Path], object], name: str) -> bytes:
    """Return what is written to a path of this name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def _tiff(image: Any, **options: Any) -> bytes:
    return written(lambda path: tifffile.imwrite(path, image, **options), "a.ome.tif")


def _pyramid(path: Path) -> None:
    with tifffile.TiffWriter(path, ome=True) as tiff:
        options: dict[str, Any] = {"tile": (16, 16), "compression": "zlib", "photometric": "minisblack"}
        metadata = {
            "axes": "CYX",
            "PhysicalSizeX": 0.5,
            "PhysicalSizeY": 0.5,
            "Channel": {"Name": ["DAPI", "CD8"]},
        }
        tiff.write(pixels(2, 32, 48, dtype=np.uint16), subifds=1, metadata=metadata, **options)
        tiff.write(pixels(2, 16, 24, dtype=np.uint16), subfiletype=1, **options)


def tiffs() -> list[bytes]:
    tiled = {"tile": (32, 32), "photometric": "rgb", "ome": False}
    colour, deep = pixels(48, 64, 3), pixels(2, 20, 30, dtype=np.uint16)
    svs = {"tile": (32, 32), "photometric": "ycbcr", "description": SVS_TEXT, "metadata": None}
    imagej = {"imagej": True, "metadata": {"axes": "CYX", "unit": "um"}}
    strips = {"photometric": "rgb", "rowsperstrip": 8, "ome": False}
    return [
        _tiff(colour, **svs, compression="jpeg"),
        written(_pyramid, "a.ome.tif"),
        written(lambda path: tifffile.imwrite(path, deep, **imagej), "a.tif"),
        _tiff(colour, **strips, compression="lzw", predictor=True),
        _tiff(colour, **tiled, compression="jpeg2000"),
        _tiff(pixels(48, 64, 4), **tiled, compression="zstd", bigtiff=True, extrasamples="unassalpha"),
        _tiff(pixels(30, 40) > 100, photometric="miniswhite", ome=False),
    ]


def pictures() -> list[bytes]:
    def saved(image: Image.Image, kind: str) -> bytes:
        file = BytesIO()
        image.save(file, kind)
        return file.getvalue()

    colour = Image.fromarray(pixels(24, 30, 3))
    return [
        saved(colour, "PNG"),
        saved(colour, "JPEG"),
        saved(colour.convert("P"), "PNG"),
        saved(Image.fromarray(pixels(24, 30, 4)), "PNG"),
        saved(Image.fromarray(pixels(24, 30, dtype=np.uint16)), "PNG"),
    ]


def zarrs() -> list[bytes]:
    """Return OME-Zarr images as texts: attributes, metadata of the array, one chunk."""
    found = []
    for version in (2, 3):
        with tempfile.TemporaryDirectory() as folder:
            array = zarr.create_array(
                folder, shape=(3, 32, 48), chunks=(3, 16, 16), dtype="u1", zarr_format=version, overwrite=True
            )
            array[:] = pixels(3, 32, 48)
            scale = {"type": "scale", "scale": [1, 0.5, 0.5]}
            axes = [{"name": "c", "type": "channel"}] + [
                {"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"
            ]
            datasets = [{"path": "0", "coordinateTransformations": [scale]}]
            colours = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}
            channels = [{"label": name, "color": colour} for name, colour in colours.items()]
            image = {
                "multiscales": [{"axes": axes, "datasets": datasets, "version": "0.4"}],
                "omero": {"channels": channels},
            }
            names = (".zarray", "0.0.0") if version == 2 else ("zarr.json", "c/0/0/0")
            attributes = (
                image
                if version == 2
                else {"zarr_format": 3, "node_type": "group", "attributes": {"ome": image}}
            )
            parts = [json.dumps(attributes).encode(), *((Path(folder) / name).read_bytes() for name in names)]
            found.append(FILES.join(parts))
    return found


SQUARE = [[10, 20], [110, 20], [110, 220], [10, 220], [10, 20]]
HOLE = [[30, 40], [60, 40], [60, 80], [30, 40]]


def feature(kind: str, coordinates: Any, name: str = "Tumor", **more: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": "PathAnnotationObject",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", "classification": {"name": name}, **more},
    }


def annotations() -> list[bytes]:
    child = feature("Polygon", [HOLE], "Necrosis")
    features = [
        feature("Polygon", [SQUARE, HOLE], childObjects=[child]),
        feature("MultiPolygon", [[SQUARE], [HOLE]], "Stroma"),
        feature("LineString", SQUARE, "Tumor"),
        feature("Point", SQUARE[0], "Tumor"),
        {
            **feature("Point", [1, 1]),
            "geometry": {
                "type": "GeometryCollection",
                "geometries": [{"type": "Polygon", "coordinates": [SQUARE]}],
            },
        },
    ]
    geojson = json.dumps({"type": "FeatureCollection", "features": features}).encode()
    corners = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in SQUARE)
    imagescope = (
        '<?xml version="1.0" encoding="UTF-8"?><Annotations MicronsPerPixel="0.5">'
        '<Annotation Id="1" Name="Tumor">'
        '<Attributes><Attribute Name="Tumor" Id="0" Value=""/></Attributes><Regions>'
        f'<Region Id="1" Type="0" Text="" NegativeROA="0"><Vertices>{corners}</Vertices></Region>'
        f'<Region Id="2" Type="2" Text="Stroma" NegativeROA="1"><Vertices>'
        '<Vertex X="1" Y="2"/><Vertex X="90" Y="80"/></Vertices></Region>'
        "</Regions></Annotation></Annotations>"
    )
    halo = (
        '<Annotations><Annotation LineColor="255" Name="Tumor" Visible="True"><Regions>'
        '<Region Type="Polygon" HasEndcaps="0" NegativeROA="0"><Vertices>'
        + "".join(f'<V X="{x}" Y="{y}" />' for x, y in SQUARE)
        + "</Vertices><Comments /></Region></Regions></Annotation></Annotations>"
    )
    points = "".join(f"<point><x>{x * 500}</x><y>{y * 250}</y></point>" for x, y in SQUARE)
    ndpa = (
        '<?xml version="1.0" encoding="utf-8"?><annotations><ndpviewstate id="1"><title>Tumor</title>'
        "<coordformat>nanometers</coordformat><lens>2.5</lens>"
        f'<annotation type="freehand" displayname="a"><closed>1</closed><pointlist>{points}</pointlist>'
        '</annotation></ndpviewstate><ndpviewstate id="2"><title>Tumor</title><annotation type="circle">'
        "<x>100</x><y>100</y><radius>9000</radius></annotation></ndpviewstate></annotations>"
    )
    return [geojson, gzip.compress(geojson, mtime=0), imagescope.encode(), halo.encode(), ndpa.encode()]


def cells() -> bytes:
    """Return outlines of cells within a picture of 30 x 24 px."""
    rings = [[[x, 3], [x + 5, 3], [x + 5, 8], [x, 8], [x, 3]] for x in (2, 10, 20)]
    features = [feature("Polygon", [ring], "unknown", objectType="cell") for ring in rings]
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


MANIFEST = (
    b"slide,patient,lesion,site,stain,mpp_um,growth_pattern,treatment,age\n"
    b"a.svs,p1,l1,primary,CD8,0.25,,none,61\n"
    b'"b, c.svs",p1,l2,metastasis,CD8,,desmoplastic,"chemo; once",61\n'
    b"d.svs,p2,l1,metastasis,PD-1,0.5,r,,47\n"
)
PAIRS = b"slide,serial,marker,landmarks\na.svs,b.svs,PD-1,\nc.svs,d.svs,LAG-3,landmarks.csv\n"
LANDMARKS = b"x_um,y_um,serial_x_um,serial_y_um\n" + b"".join(
    b"%d,%d,%d.5,%d\n" % (i, 9 * i, i, i) for i in range(6)
)


def cell_tables() -> list[bytes]:
    qupath = (
        "Image\tObject type\tClassification\tParent\tCentroid X µm\tCentroid Y µm\tCell: PD1 mean\n"
        "a.svs\tCell\tCD8\tAnnotation (Tumor)\t1.5\t2.5\t9\n"
        "a.svs\tCell\tTumor: Positive\tAnnotation (Stroma)\t3\t4\t\n"
    )
    halo = (
        "Image Location,Analysis Region,Object Id,XMin,XMax,YMin,YMax,CD8 (Opal 520) Positive Classification,"
        "Classifier Label\nD:\\scans\\one.tif,Layer 1,0,10,20,10,30,1,Stroma\n"
        "D:\\scans\\one.tif,Layer 1,1,20,40,10,20,0,Tumor\n"
    )
    inform = (
        "Path\tSample Name\tTissue Category\tPhenotype\tCell X Position\tCell Y Position\t"
        "Nucleus Area (pixels)\nC:\\x\tf_[1,2].im3\tTumor\tCytotoxic T\t10\t20\t9\n"
        "C:\\x\tf_[1,2].im3\tBlank\tCK+\t30\t50\t9\n"
    )
    zones = "slide_id;zone;n_positive;n_cells;area_mm2\na;core;10;100;2.0\na;far;3;9;1.5\n"
    qupath_zones = (
        "Name\tClass\tROI\tNum Negative\tNum Positive\tPositive %\tNum Positive per mm^2\tArea µm^2\n"
        "TU_CORE\tTU_CORE\tArea\t90\t10\t10\t5\t2000000\n"
    )
    return [text.encode() for text in (qupath, halo, inform, zones, qupath_zones)]


def parquet_table() -> bytes:
    frame = pd.DataFrame(
        {
            "Image": ["a", "a"],
            "Classification": ["CD8", "Tumor"],
            "Centroid X µm": [1.0, 2.0],
            "Centroid Y µm": [3, 4],
        }
    )
    return written(frame.to_parquet, "a.parquet")
