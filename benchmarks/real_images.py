"""What the detectors find on real images, against what is known of those images.

    python benchmarks/real_images.py --out DIR [--weights FILE ...] [--vectors estimated|default]

Each network (the shipped one, or the files of --weights) and the classical preset go the way of `infer.py`,
with its configurations: survey, tissue, stain space of the slide, tiles, cells. Prints a table; writes to
--out `real_images.json` and, for each image and detector, an overlay. There, outlines are red for CD8+ cells
and green for others; dots of the truth are yellow for positive cells, cyan for negative, orange where the
stain is in doubt, white where the cell is. No image here is CD8 in H-DAB; what they are and how they were
dotted is in tests/truth/README.md.

CD31 and FHL2 come without a pixel size: 0.5 um/px is assumed, and all their lengths and areas rest on it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import numpy as np
import pandas as pd
import shapely
import skimage.data
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from histo.cells.build import build_detector
from histo.cells.detect import CellDetector, TileCells
from histo.cells.table import CD8
from histo.cells.weights import load_weights
from histo.config import BrightfieldStain, FluorescenceStain, RunConfig, TissueConfig, load_config
from histo.evaluation.matching import Matching, match_centroids
from histo.regions.raster import pixels_under
from histo.slide import Box, Slide, open_slide
from histo.slide.survey import Survey, survey_slide
from histo.slide.tiles import plan_tiles
from histo.slide.tissue import Tissue, detect_tissue
from histo.stain.space import FluorescenceTransform, StainTransform, fit_stain

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
ASSUMED_MPP_UM = 0.5
WITHIN_UM = 4.0
# QuPath's built-in cell detection on the Ki67 crop, see the README of the truth.
KI67_CELLS, KI67_POSITIVE = 1323, 0.166
CYTOTOXIC = "Cytotoxic T"
Name = Literal["ki67", "cd31", "fhl2", "fihc4"]
Precision = Literal["float32", "bfloat16"]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Ready:
    """A real image, surveyed.

    near : assessed tissue grown by a pixel of the survey, as `infer.py` uses it.
    area_mm2 : assessed tissue.
    """

    name: Name
    slide: Slide
    survey: Survey
    tissue: Tissue
    near: NDArray[np.bool_]
    area_mm2: float


@dataclass(frozen=True)
class Contender:
    """A detector as each stain protocol sets it, and the protocols; None where it is not meant for one."""

    detector: Any
    brightfield: BrightfieldStain | FluorescenceStain
    fluorescence_detector: Any | None
    fluorescence: BrightfieldStain | FluorescenceStain | None

    def detector_for(self, slide: Slide) -> Any:
        """Return the detector of the slide's kind."""
        return self.detector if slide.kind == "brightfield" else self.fluorescence_detector


@dataclass(frozen=True)
class Found:
    """Cells of one image: positions in um, whether CD8+, whether in assessed tissue, outlines in um."""

    xy_um: Points
    cd8: NDArray[np.bool_]
    in_tissue: NDArray[np.bool_]
    outlines: NDArray[np.object_]
    area_um2: NDArray[np.float64]


@dataclass(frozen=True)
class Dots:
    """Hand-made truth of one image.

    xy_um, classes, fields : of each dot its place, class and field id.
    boxes_um : of each field left, top, right, bottom.
    all_nuclei : fields in which every nucleus has a dot.
    positive : fields in which every positive cell has one.
    """

    xy_um: Points
    classes: NDArray[np.object_]
    fields: NDArray[np.object_]
    boxes_um: dict[str, tuple[float, float, float, float]]
    all_nuclei: tuple[str, ...]
    positive: tuple[str, ...]


def image_path(name: str, data: Path, scratch: Path) -> Path:
    """Return the file of a real image; scikit-image's is written to `scratch`."""
    if name == "fhl2":
        path = scratch / "fhl2_skimage.png"
        pixels: NDArray[np.uint8] = skimage.data.immunohistochemistry()  # type: ignore[no-untyped-call]
        Image.fromarray(pixels).save(path)
        return path
    return {
        "ki67": data / "ihc" / "ki67_os2_ndpi.ome.tif",
        "cd31": data / "ihc" / "cd31_crc_kather.png",
        "fihc4": data / "mif" / "FIHC4__0929309_HP_IM3_2_component_data.tif",
    }[name]


def prepare(name: Name, data: Path, scratch: Path) -> Ready:
    """Open and survey an image as `infer.py` does."""
    mpp = ASSUMED_MPP_UM if name in ("cd31", "fhl2") else None
    slide = open_slide(image_path(name, data, scratch), mpp=mpp)
    config = TissueConfig()
    survey = survey_slide(slide, config.mpp_um)
    tissue = detect_tissue(survey, slide.kind, config)
    near = ndimage.binary_dilation(tissue.assessed, np.ones((3, 3), bool))
    return Ready(name, slide, survey, tissue, near, tissue.area_mm2(tissue.assessed))


def stain_of(image: Ready, contender: Contender) -> StainTransform | None:
    """Fit the contender's way to stain space to an image; None where it has none."""
    protocol = contender.brightfield if image.slide.kind == "brightfield" else contender.fluorescence
    return None if protocol is None else fit_stain(image.slide, image.survey, image.tissue, protocol)


def detect(image: Ready, stain: StainTransform, detector: Any) -> Found:
    """Find the cells of an image, dropping those far from assessed tissue as `infer.py` does."""
    plan = plan_tiles(
        image.slide,
        image.tissue,
        mpp=detector.mpp,
        tile_um=RunConfig().tile_um,
        halo_px=detector.halo_px,
        multiple=detector.multiple,
    )
    parts: list[TileCells] = []
    for tile in plan.tiles:
        parts.append(detector.detect(stain(image.slide.read(tile.read, detector.mpp)), tile))
    table = pd.concat([part.table for part in parts], ignore_index=True)
    outlines = np.concatenate([part.outlines for part in parts])
    x, y = table["x_um"].to_numpy(), table["y_um"].to_numpy()
    on_grid, under = pixels_under(x, y, image.near.shape, image.survey.mpp)
    keep = on_grid & image.near[under]
    return Found(
        xy_um=np.column_stack([x, y])[keep],
        cd8=(table["cell_class"] == CD8).to_numpy()[keep],
        in_tissue=(on_grid & image.tissue.assessed[under])[keep],
        outlines=outlines[keep],
        area_um2=table["area_um2"].to_numpy(np.float64)[keep],
    )


def read_dots(name: str, folder: Path, mpp: tuple[float, float]) -> Dots | None:
    """Read the hand-made dots of an image; None where there are none."""
    path = folder / f"{name}.csv"
    if not path.is_file():
        return None
    dots = pd.read_csv(path)
    fields = pd.read_csv(folder / "fields.csv")
    fields = fields[fields["image"] == name]
    boxes = fields[["left_px", "top_px", "right_px", "bottom_px"]].to_numpy(np.float64) * (*mpp, *mpp)
    ids = fields["field"].tolist()
    all_nuclei = tuple(fields.loc[fields["complete_for"] == "all nuclei", "field"])
    return Dots(
        xy_um=dots[["x_px", "y_px"]].to_numpy(np.float64) * mpp,
        classes=dots["class"].to_numpy(object),
        fields=dots["field"].to_numpy(object),
        boxes_um={
            key: (box[0], box[1], box[2], box[3]) for key, box in zip(ids, boxes.tolist(), strict=True)
        },
        all_nuclei=all_nuclei,
        # Where the positive cells of the whole image are dotted, that says all there is.
        positive=tuple(fields.loc[fields["complete_for"] == "positive cells", "field"]) or all_nuclei,
    )


def match_dots(
    found_um: Points, dots: Dots, fields: Sequence[str], wanted: Sequence[str], spared: Sequence[str]
) -> Matching:
    """Match found cells to the dots of the `wanted` classes, field by field.

    A found cell outside a field may be the partner of a dot inside; it is not held against the detector. Nor
    is one at a dot of the `spared` classes: it is neither right nor wrong to find those.
    """
    total = np.zeros(3, int)
    for field in fields:
        left, top, right, bottom = dots.boxes_um[field]
        here = dots.fields == field
        true = dots.xy_um[here & np.isin(dots.classes, list(wanted))]
        spare = dots.xy_um[here & np.isin(dots.classes, list(spared))]
        outside_by = np.maximum.reduce(
            [left - found_um[:, 0], found_um[:, 0] - right, top - found_um[:, 1], found_um[:, 1] - bottom]
        )
        pairs = match_centroids(found_um[outside_by <= WITHIN_UM], true, WITHIN_UM)
        inside = found_um[outside_by < 0]
        # The matching has as many pairs as possible: what is left over fits no dot of either kind.
        over = match_centroids(inside, np.concatenate([true, spare]), WITHIN_UM).false_positives
        total += (pairs.true_positives, over, pairs.false_negatives)
    return Matching(*(int(n) for n in total))


def own_truth_of_fihc4(data: Path, mpp: tuple[float, float]) -> tuple[Points, Points]:
    """Return the nuclei of inForm's map and the cytotoxic T cells of its table, both in um."""
    folder = data / "mif"
    with tifffile.TiffFile(folder / "FIHC4__0929309_HP_IM3_2_binary_seg_maps.tif") as file:
        # Tissue classes, then the nuclei.
        nuclei = file.pages[1].asarray()
    ids = np.unique(nuclei[nuclei > 0])
    centres = np.array(ndimage.center_of_mass(nuclei > 0, nuclei, ids))[:, ::-1] + 0.5
    table = pd.read_csv(folder / "FIHC4__0929309_HP_IM3_2_cell_seg_data.txt", sep="\t")
    cytotoxic = table.loc[table["Phenotype"] == CYTOTOXIC, ["Cell X Position", "Cell Y Position"]]
    return centres * mpp, (cytotoxic.to_numpy(np.float64) + 0.5) * mpp


def rows_at_calls(found: Found, rows_um: Points, within_um: float) -> NDArray[np.intp]:
    """Return which of the rows (n, 2) lie in the outline of a cell called CD8+, or so close to one."""
    calls = shapely.union_all(found.outlines[found.cd8])
    near: NDArray[np.intp] = np.flatnonzero(shapely.distance(shapely.points(rows_um), calls) <= within_um)
    return near


def measure(image: Ready, found: Found, dots: Dots | None, data: Path) -> dict[str, Any]:
    """Return the numbers of one image and detector."""
    n, n_cd8 = len(found.cd8), int(found.cd8.sum())
    numbers: dict[str, Any] = {
        "cells": n,
        "cd8_calls": n_cd8,
        "area_cd8_um2": _mean(found.area_um2[found.cd8]),
        "area_other_um2": _mean(found.area_um2[~found.cd8]),
    }
    if image.name == "ki67":
        numbers |= {
            "count_bias": n / KI67_CELLS - 1,
            "positive_fraction": n_cd8 / n if n else None,
            "positive_fraction_off": n_cd8 / n - KI67_POSITIVE if n else None,
        }
    if image.name in ("cd31", "fhl2"):
        numbers["false_cd8_per_mm2"] = int((found.cd8 & found.in_tissue).sum()) / image.area_mm2
    if image.name == "fihc4":
        nuclei, cytotoxic = own_truth_of_fihc4(data, image.slide.mpp)
        numbers["own_masks"] = _scores(match_centroids(found.xy_um, nuclei, WITHIN_UM))
        calls = found.xy_um[found.cd8]
        for within in (4.0, 8.0):
            numbers[f"cytotoxic_met_{within:.0f}um"] = match_centroids(
                calls, cytotoxic, within
            ).true_positives
        # The rows are pieces of three cells (see the README of the truth): several may lie in one call.
        numbers["cytotoxic_at_a_call"] = len(rows_at_calls(found, cytotoxic, WITHIN_UM))
        numbers["cytotoxic"] = len(cytotoxic)
    if dots is not None:
        nuclei_classes = ("positive", "negative", "uncertain_stain")
        numbers["dots"] = _scores(
            match_dots(found.xy_um, dots, dots.all_nuclei, nuclei_classes, ["uncertain"])
        )
        if (dots.classes == "positive").any():
            numbers["dots_positive"] = _scores(
                match_dots(
                    found.xy_um[found.cd8],
                    dots,
                    dots.positive,
                    ["positive"],
                    ["uncertain_stain", "uncertain"],
                )
            )
    return numbers


def _scores(matching: Matching) -> dict[str, Any]:
    scores = {
        "f1": matching.f1,
        "precision": matching.precision,
        "recall": matching.recall,
        "count_bias": matching.count_bias,
    }
    return {key: None if np.isnan(value) else value for key, value in scores.items()} | {
        "true_positives": matching.true_positives,
        "false_positives": matching.false_positives,
        "false_negatives": matching.false_negatives,
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


_COLUMNS: dict[str, dict[str, str]] = {
    "ki67": {
        "cells": "cells",
        "count bias": "count_bias",
        "positive": "positive_fraction",
        "F1 all": "dots.f1",
        "P": "dots.precision",
        "R": "dots.recall",
        "F1 pos": "dots_positive.f1",
        "P pos": "dots_positive.precision",
        "R pos": "dots_positive.recall",
    },
    "cd31": {
        "cells": "cells",
        "CD8+": "cd8_calls",
        "CD8+/mm2": "false_cd8_per_mm2",
        "F1 all": "dots.f1",
        "P": "dots.precision",
        "R": "dots.recall",
    },
    "fihc4": {
        "cells": "cells",
        "F1 own": "own_masks.f1",
        "P own": "own_masks.precision",
        "R own": "own_masks.recall",
        "CD8+": "cd8_calls",
        "T at call": "cytotoxic_at_a_call",
        "T 4um": "cytotoxic_met_4um",
        "T 8um": "cytotoxic_met_8um",
        "F1 all": "dots.f1",
        "P": "dots.precision",
        "R": "dots.recall",
        "F1 pos": "dots_positive.f1",
        "P pos": "dots_positive.precision",
        "R pos": "dots_positive.recall",
    },
}
_COLUMNS["fhl2"] = _COLUMNS["cd31"]


def table_of(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Lay out the numbers, one block per image."""
    lines = []
    width = max(len(name) for name in results) + 2
    for image, columns in _COLUMNS.items():
        rows = {name: found[image] for name, found in results.items() if image in found}
        if not rows:
            continue
        lines.append(f"{image:<{width}}" + "".join(f"{title:>11}" for title in columns))
        for name, numbers in rows.items():
            lines.append(
                f"{name:<{width}}" + "".join(f"{_text(_at(numbers, key)):>11}" for key in columns.values())
            )
        lines.append("")
    return "\n".join(lines)


def _at(numbers: dict[str, Any], key: str) -> Any:
    value: Any = numbers
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str:
    if value is None:
        return "NA"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 10 else f"{value:.3f}"
    return str(value)


_DOT_COLOURS = {
    "positive": (255, 230, 0),
    "negative": (0, 230, 255),
    "uncertain_stain": (255, 140, 0),
    "uncertain": (255, 255, 255),
}


def overlay(
    image: Ready,
    stain: StainTransform,
    found: Found,
    dots: Dots | None,
    path: Path,
    mpp: float = 0.5,
    zoom: int = 2,
) -> None:
    """Draw outlines and dots over the image."""
    columns, rows = image.slide.grid_size(mpp)
    pixels = image.slide.read(Box(0, 0, columns, rows), mpp)
    if isinstance(stain, FluorescenceTransform):
        nuclear, cd8, _ = stain(pixels).clip(0, 1)
        pixels = (255 * np.stack([cd8, 0.3 * nuclear, nuclear], axis=-1)).astype(np.uint8)
    picture = Image.fromarray(pixels).resize((columns * zoom, rows * zoom), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    scale = zoom / mpp
    for outline, cd8_positive in zip(found.outlines, found.cd8, strict=True):
        line = [(x * scale, y * scale) for x, y in np.asarray(outline.exterior.coords)]
        draw.line(line, fill=(255, 0, 0) if cd8_positive else (0, 200, 0), width=2 if cd8_positive else 1)
    if dots is not None:
        for (x, y), kind in zip(dots.xy_um * scale, dots.classes, strict=True):
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_DOT_COLOURS[kind], outline=(0, 0, 0))
        for box in dots.boxes_um.values():
            draw.rectangle([edge * scale for edge in box], outline=(0, 0, 0))
    picture.save(path)


def contenders(
    weights: Sequence[str], *, classical: bool, vectors: str, precision: Precision
) -> dict[str, Contender]:
    """Return what is to be compared, by the name that tables call it."""
    overrides = ["stain.estimate_within_deg=0"] if vectors == "default" else []
    ihc = load_config(CONFIGS / "cd8_ihc.yaml", overrides)
    mif = load_config(CONFIGS / "cd8_mif.yaml")
    found = {}
    for name in weights:
        held = load_weights(name)
        detector = CellDetector(held, ihc.cells, precision=precision)
        fluorescence = CellDetector(held, mif.cells, precision=precision)
        label = "shipped" if name == "default" else _short(name, weights)
        found[label] = Contender(detector, ihc.stain, fluorescence, mif.stain)
    if classical:
        preset = load_config(CONFIGS / "kather2018.yaml")
        found["kather2018"] = Contender(build_detector(preset.cells), preset.stain, None, None)
    return found


def _short(name: str, names: Sequence[str]) -> str:
    stem = Path(name).stem
    same = [other for other in names if Path(other).stem == stem]
    return stem if len(same) == 1 else f"{Path(name).parent.name}/{stem}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--weights", nargs="+", default=["default"], help="weights files; 'default': as shipped"
    )
    parser.add_argument("--no-classical", dest="classical", action="store_false")
    parser.add_argument("--no-overlays", dest="overlays", action="store_false")
    parser.add_argument("--images", nargs="+", choices=list(_COLUMNS), default=list(_COLUMNS))
    parser.add_argument(
        "--vectors",
        choices=["estimated", "default"],
        default="estimated",
        help="stain vectors of the networks: of each slide, or those of configs/cd8_ihc.yaml as they are",
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    default_data = os.environ.get("HISTO_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default_data))
    parser.add_argument("--truth", type=Path, default=ROOT / "tests" / "truth")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    used = contenders(
        options.weights, classical=options.classical, vectors=options.vectors, precision=options.precision
    )
    results: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in used}
    for image_name in options.images:
        image = prepare(image_name, options.data, options.out)
        dots = read_dots(image_name, options.truth, image.slide.mpp)
        for name, contender in used.items():
            stain = stain_of(image, contender)
            if stain is None:
                continue
            begun = monotonic()
            found = detect(image, stain, contender.detector_for(image.slide))
            numbers = measure(image, found, dots, options.data)
            results[name][image_name] = numbers | {"seconds": monotonic() - begun}
            if options.overlays:
                path = options.out / f"{image_name}_{name.replace('/', '_')}.png"
                overlay(image, stain, found, dots, path)
    print(table_of(results))
    for name, contender in used.items():
        if isinstance(contender.detector, CellDetector):
            results[name]["weights"] = {
                "name": contender.detector.weights.name,
                "sha256": contender.detector.weights.sha256,
                "centre_threshold": contender.detector.centre_threshold,
            }
    settings = {"vectors": options.vectors, "assumed_mpp_um": ASSUMED_MPP_UM, "within_um": WITHIN_UM}
    content = {"settings": settings, "detectors": results}
    (options.out / "real_images.json").write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
