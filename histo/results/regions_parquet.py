"""The regions of a slide as the analysis used them: GeoParquet in um, to the last digit.

`regions.geojson` is for QuPath: rounded, and with the tumour's gaps filled. Numbers can be made again only
from this one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely.geometry.base import BaseGeometry

from histo.config import RegionName
from histo.errors import ResultsError
from histo.regions.annotations import Annotations
from histo.regions.place import Regions
from histo.regions.shapes import as_multipolygon
from histo.results.atomic import replacing
from histo.results.geojson import write_annotations_geojson

REGIONS_FILE: Final = "regions.parquet"
REGIONS_GEOJSON: Final = "regions.geojson"
_GEO: Final[dict[str, Any]] = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {
            "encoding": "WKB",
            "geometry_types": ["MultiPolygon"],
            "crs": None,
            "edges": "planar",
        }
    },
}


def write_regions(
    folder: Path, annotations: Annotations | None, regions: Regions, mpp: tuple[float, float]
) -> None:
    """Write the regions of a slide: `regions.parquet`, and `regions.geojson` with the borders for QuPath.

    Parameters
    ----------
    annotations : None for a slide without: no row.
    mpp : level-0 pixel size (x, y) in um.

    Raises
    ------
    ResultsError : a file cannot be written.
    """
    shapes: dict[str, BaseGeometry | None] = {}
    if annotations is not None:
        shapes.update(annotations.polygons_um.items())
    shapes |= {"tumour": regions.tumour, "tumour border": regions.border}
    shapes["host border"] = regions.host_margin.border
    write_annotations_geojson(folder / REGIONS_GEOJSON, shapes, mpp)
    polygons = {} if annotations is None else dict(annotations.polygons_um)
    told = None if annotations is None else {"why_no_tumour": annotations.why_no_tumour}
    table = pa.table(
        {
            "region": pa.array(list(polygons), pa.string()),
            "geometry": pa.array(
                [shapely.to_wkb(area, byte_order=1) for area in polygons.values()], pa.binary()
            ),
        }
    ).replace_schema_metadata({"geo": json.dumps(_GEO), "histo": json.dumps({"annotations": told})})
    with replacing(folder / REGIONS_FILE) as part:
        pq.write_table(table, part, compression="zstd")


def read_regions(path: Path) -> Annotations | None:
    """Read regions back; None for a slide without annotations.

    Raises
    ------
    ResultsError : the file is missing, damaged or of another kind.
    """
    try:
        table = pq.ParquetFile(path).read()
        told = json.loads((table.schema.metadata or {})[b"histo"])["annotations"]
        names, outlines = table["region"].to_pylist(), table["geometry"].to_pylist()
        unknown = sorted(set(names) - set(get_args(RegionName)))
        if unknown:
            raise ValueError(f"no such regions: {', '.join(unknown)}")
        polygons = {
            name: as_multipolygon(area) for name, area in zip(names, shapely.from_wkb(outlines), strict=True)
        }
        if told is None:
            return None
        return Annotations(polygons_um=polygons, source=path, why_no_tumour=str(told["why_no_tumour"]))
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        pa.ArrowException,
        shapely.errors.ShapelyError,
    ) as error:
        raise ResultsError(
            f"the regions cannot be read ({error})", path=path, fix="Run infer again with this version"
        ) from None
