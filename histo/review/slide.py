"""One slide under review: what the run found, the log, and what the two make together."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon

from histo.config import Config, RegionName
from histo.errors import ClassifierError, HistoError, ResultsError, ReviewError
from histo.measure.density import wilson_fraction
from histo.measure.density_map import DensityMap
from histo.measure.summary import Estimate, SlideSummary
from histo.regions.place import REGION_NAMES, ZONE_NAMES, Regions
from histo.results.atomic import write_text
from histo.results.geojson import write_annotations_geojson
from histo.results.stored import stored_summary
from histo.review.actions import (
    Action,
    AddCell,
    CountFrame,
    DeleteCells,
    DrawRegion,
    Entry,
    Scribble,
    SetClass,
    SetGate,
    Sign,
    Standing,
    standing,
)
from histo.review.cells import (
    MAX_MARKERS,
    TILE_UM,
    Cells,
    Corrected,
    class_name,
    correct,
    frame_of,
    read_cells_in_place,
    return_freed_memory,
)
from histo.review.frames import Frame, against_model, counted, frames_of
from histo.review.ground import Ground, draw, polygons_with, read_ground, regions_with, scribbled
from histo.review.histogram import distribution
from histo.review.log import LOG, Log, append, read_log
from histo.review.maps import excluded_map, heat_map, map_step, zones_map
from histo.review.numbers import Number, measured, phenotype_of, side_by_side
from histo.review.picture import Channel, close_up_channels, png
from histo.slide import Slide, open_slide

logger = logging.getLogger("histo")

# When a file was written, and its size; None where there is none.
Stamp = tuple[int, int] | None

# A click means the cell whose centroid lies this close.
_REACH_UM: Final = 15.0


@dataclass(frozen=True)
class Who:
    """A reader. `alone`: blinded, and working apart from the other readers."""

    name: str
    alone: bool = False


@dataclass(frozen=True, eq=False)
class Now:
    """A slide with the corrections in force: see `Corrected`, `Regions`."""

    standing: Standing
    corrected: Corrected
    regions: Regions
    numbers: list[Number]
    phenotypes: dict[str, dict[str, Any]]


@dataclass(frozen=True, eq=False)
class _Found:
    """What scribbles found, or why they found nothing; without scribbles neither."""

    lines: tuple[Scribble, ...] = ()
    regions: Mapping[RegionName, MultiPolygon] | None = None
    note: str = ""


class SlideUnderReview:
    """A slide and the log of its review; safe to share between threads.

    Parameters
    ----------
    folder : the slide's results folder.
    config : that of the run.
    slides : where to look for the slide if it is not where the run found it; None: nowhere else.

    Raises
    ------
    ReviewError : the summary cannot be read, or the slide is gone.
    HistoError : the slide cannot be opened.
    """

    def __init__(self, folder: Path, config: Config, who: Who, slides: Path | None = None) -> None:
        self.folder = folder
        self.config = config
        self.who = who
        self.summary = read_summary(folder)
        self.slide = _open(self.summary, slides)
        self._lock = threading.RLock()
        self._log: tuple[Stamp, Log] | None = None
        self._now: tuple[Standing, Now] | None = None
        self._ground_for: tuple[tuple[tuple[DrawRegion, ...], _Found], Regions] | None = None
        self._found = _Found()

    # What the run found -----------------------------------------------------------------------------------

    @cached_property
    def gates_of_run(self) -> dict[str, tuple[str, float]]:
        """Marker to the column and the threshold of its gate, as far as the batch has one."""
        try:
            told = json.loads((self.folder.parent / "gates.json").read_bytes())["gates"]
            names = pq.read_schema(self.folder / "cells.parquet").names
            found = {
                str(gate["marker"]): (str(gate["column"]), float(gate["threshold"]))
                for gate in told
                if gate["threshold"] is not None and gate["column"] in names
            }
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return {}
        return dict(list(found.items())[:MAX_MARKERS])

    @cached_property
    def channels(self) -> tuple[Channel, ...]:
        """How the channels of fluorescence are shown unless a reader says otherwise; none for brightfield."""
        if self.slide.kind == "brightfield":
            return ()
        return close_up_channels(self.slide, self.folder / "maps.zarr")

    @cached_property
    def _cells(self) -> Cells:
        columns = {marker: column for marker, (column, _) in self.gates_of_run.items()}
        return read_cells_in_place(self.folder / "cells.parquet", self.slide.size_um, columns)

    @property
    def cells(self) -> Cells:
        """The cells of the run."""
        with self._lock:
            return self._cells

    @cached_property
    def _ground(self) -> Ground:
        ground = read_ground(self.slide, self.summary, self.config)
        return_freed_memory()
        return ground

    @property
    def ground(self) -> Ground:
        """Tissue and regions as the run found them."""
        with self._lock:
            return self._ground

    # The log ----------------------------------------------------------------------------------------------

    @property
    def log(self) -> Log:
        """The whole log of the slide; read again where another server has added to it."""
        with self._lock:
            stamp = stamp_of(self.folder / LOG)
            if self._log is None or self._log[0] != stamp:
                self._log = (stamp, read_log(self.folder))
            return self._log[1]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries that count for this reader."""
        return self.log.of(self.who.name if self.who.alone else None)

    def act(self, action: Action) -> Entry:
        """Add an action to the log; see `histo.review.log.append`."""
        with self._lock:
            self._check(action)
            log, entry = append(
                self.folder,
                action,
                by=self.who.name,
                fingerprint=self.summary.fingerprint,
                blinded=self.who.alone,
                alone=self.who.alone,
            )
            self._log = (stamp_of(self.folder / LOG), log)
        if isinstance(action, Sign):
            try:
                self._write_signed(entry)
            except HistoError as error:
                # It is signed all the same: the log says so.
                logger.warning("%s: the signed numbers are not written: %s", self.summary.slide_id, error)
        return entry

    def _check(self, action: Action) -> None:
        """Refuse what does not fit the slide."""
        width, height = self.slide.size_um
        if isinstance(action, AddCell) and not (0 <= action.x_um < width and 0 <= action.y_um < height):
            raise ReviewError("the cell lies outside the slide")
        if isinstance(action, (DrawRegion, Scribble)):
            drawn = action.outline if isinstance(action, DrawRegion) else action.line
            (x0, y0), (x1, y1) = np.min(drawn, axis=0), np.max(drawn, axis=0)
            if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
                raise ReviewError("the line lies outside the slide")
        if isinstance(action, (DeleteCells, SetClass)):
            added = {cell.cell_id for cell in self.now().corrected.added}
            of_run = [cell_id for cell_id in action.cells if cell_id > 0]
            unknown = {cell_id for cell_id in action.cells if cell_id <= 0} - added
            if unknown or len(self.cells.at(of_run)) != len(of_run):
                raise ReviewError("no such cell on this slide")
        if isinstance(action, CountFrame):
            frame = Frame(action.x_um, action.y_um, action.edge_um)
            marks = np.array(action.marks, np.float64).reshape(-1, 2)
            if not frame.holds(marks[:, 0], marks[:, 1]).all():
                raise ReviewError("a mark lies outside its frame")
        if isinstance(action, SetGate) and action.marker not in self.gates_of_run:
            raise ReviewError(f"no gate for {action.marker[:40]!r} on this slide")

    # Both together ----------------------------------------------------------------------------------------

    def now(self) -> Now:
        """Return the slide with the corrections in force; computed anew only where they have changed."""
        with self._lock:
            stands = standing(self.entries, self.summary.fingerprint)
            if self._now is not None and self._now[0] == stands:
                return self._now[1]
            same = self._now is not None and self._now[0].corrections == stands.corrections
            if same and self._now is not None:
                old = self._now[1]
                now = Now(stands, old.corrected, old.regions, old.numbers, old.phenotypes)
            else:
                now = self._apply(stands)
            self._now = (stands, now)
            return now

    def gates(self) -> dict[str, float]:
        """Return the threshold of each marker in force on this slide."""
        gates = {marker: threshold for marker, (_, threshold) in self.gates_of_run.items()}
        for _, action in standing(self.entries, self.summary.fingerprint).corrections:
            if isinstance(action, SetGate) and action.marker in gates:
                own = action.threshold
                gates[action.marker] = self.gates_of_run[action.marker][1] if own is None else own
        return gates

    def spatial_numbers(self) -> list[Number]:
        """Return all numbers, those of spatial statistics too; takes seconds where cells are many."""
        now = self.now()
        return self._numbers(now.corrected, now.regions, spatial=True)[0]

    def ground_notes(self) -> tuple[str, ...]:
        """Say where tissue and regions are not what the run found, and why scribbles find none."""
        with self._lock:
            return (*self.ground.notes, *((self._found.note,) if self._found.note else ()))

    def _apply(self, stands: Standing) -> Now:
        drawn = _drawn(stands)
        found = self._scribbled(stands)
        if self._ground_for is None or self._ground_for[0] != (drawn, found):
            self._ground_for = ((drawn, found), regions_with(self.ground, drawn, found.regions))
        regions = self._ground_for[1]
        redrawn = bool(drawn) or found.regions is not None
        corrected = correct(self.cells, stands.corrections, regions, redrawn=redrawn)
        numbers, phenotypes = self._numbers(corrected, regions, spatial=False)
        return Now(stands, corrected, regions, numbers, phenotypes)

    def _scribbled(self, stands: Standing) -> _Found:
        """Return what the scribbles in force find; computed anew only where they have changed."""
        lines = tuple(action for _, action in stands.corrections if isinstance(action, Scribble))
        if lines == self._found.lines:
            return self._found
        try:
            self._found = _Found(lines, scribbled(self.slide, self.ground, lines) if lines else None)
        except ClassifierError as error:
            # What is in the log stays there: another line may be what is missing.
            self._found = _Found(lines, note=f"The scribbles find no regions yet: {error.what}.")
        return self._found

    def _numbers(
        self, corrected: Corrected, regions: Regions, *, spatial: bool
    ) -> tuple[list[Number], dict[str, dict[str, Any]]]:
        after = measured(
            frame_of(self.cells, corrected),
            regions,
            tissue_area_mm2=self.summary.tissue.tissue_area_mm2,
            config=self.config,
            spatial=spatial,
        )
        numbers = side_by_side(self.summary, after, regions.assessed_area_mm2)
        numbers += [self._positive(marker, corrected) for marker in self.gates_of_run]
        return numbers, {"old": phenotype_of(self.summary), "new": phenotype_of(after)}

    def _positive(self, marker: str, corrected: Corrected) -> Number:
        """Return the share of the CD8+ cells in assessed tissue above a gate, before and after."""
        cells = self.cells
        level = self.config.measure.confidence_level

        def share(asked: NDArray[np.bool_], gate: float) -> Estimate:
            values = cells.markers[marker][asked]
            values = values[~np.isnan(values)]
            return wilson_fraction(int((values > gate).sum()), len(values), level)

        left = corrected.kept & corrected.is_cd8 & corrected.in_tissue[: len(cells)]
        return Number(
            name=f"positive_fraction_{marker}",
            label=f"{marker}+ share of CD8+ cells",
            old=share(cells.is_cd8 & cells.in_tissue, self.gates_of_run[marker][1]),
            new=share(left, self.gates()[marker]),
        )

    def _write_signed(self, entry: Entry) -> None:
        """Write what was signed, for programs: numbers and regions. The log alone is the record."""
        now = self.now()
        suffix = f"-{entry.number}"
        record = {
            "entry": entry.model_dump(mode="json"),
            "fingerprint": self.summary.fingerprint,
            "numbers": [number.model_dump(mode="json") for number in self.spatial_numbers()],
            "phenotype": now.phenotypes,
            "gates": self.gates(),
        }
        write_text(self.folder / "review" / f"signed{suffix}.json", json.dumps(record, indent=2))
        shapes = self.polygons()
        write_annotations_geojson(self.folder / "review" / f"regions{suffix}.geojson", shapes, self.slide.mpp)

    # What the page asks for -------------------------------------------------------------------------------

    def polygons(self) -> dict[str, MultiPolygon]:
        """Return the regions with what was drawn, um."""
        with self._lock:
            stands = self.now().standing
            before = polygons_with(self.ground, self._scribbled(stands).regions)
        return {str(name): shape for name, shape in draw(before, _drawn(stands)).items()}

    def outlines(self) -> dict[str, list[list[list[float]]]]:
        """Return rings of the regions, and lines of the tumour border, in um to within 1 um."""
        shapes: dict[str, Any] = dict(self.polygons())
        border = self.now().regions.border
        if border is not None:
            shapes["tumour border"] = border
        found = {}
        for name, shape in shapes.items():
            parts = shapely.get_parts(shapely.simplify(shape, 1.0))
            lines = shapely.get_rings(parts) if shape.geom_type == "MultiPolygon" else parts
            found[name] = [np.round(shapely.get_coordinates(line), 1).tolist() for line in lines]
        return found

    def map_picture(self, name: str) -> bytes:
        """Return zones, density or excluded of the whole slide as PNG, transparent elsewhere."""
        now = self.now()
        if name == "zones":
            rgba = zones_map(now.regions)
        elif name == "excluded":
            rgba = excluded_map(self.ground.tissue.mask, now.regions)
        elif name == "density":
            rgba = heat_map(self._density(now))
        else:
            raise ReviewError("no such map")
        step = map_step(rgba.shape[:2])
        return png(np.ascontiguousarray(rgba[::step, ::step]))

    def map_um(self) -> dict[str, float]:
        """Return um per pixel of the pictures of maps."""
        sizes = {
            "zones": self.config.tissue.mpp_um,
            "excluded": self.config.tissue.mpp_um,
            "density": self.config.results.density_map_um,
        }
        return {name: um * map_step(self.slide.grid_size(um)) for name, um in sizes.items()}

    def _density(self, now: Now) -> NDArray[np.float32]:
        density = DensityMap(self.slide.size_um, self.config.results.density_map_um)
        frame = frame_of(self.cells, now.corrected)
        counted = frame[(frame["cell_class"] == class_name(True)) & frame["in_tissue"]]
        density.add(counted["x_um"].to_numpy(), counted["y_um"].to_numpy())
        regions = now.regions
        return density.per_mm2(density.area_on(regions.coverage * regions.assessed, regions.mpp))

    def cell_near(self, x_um: float, y_um: float) -> int | None:
        """Return the id of the cell whose centroid is nearest within reach; None where there is none."""
        cells, corrected = self.cells, self.now().corrected
        best, nearest = None, _REACH_UM
        for column, row in _tiles_round(x_um, y_um, _REACH_UM):
            part = cells.in_tile(column, row)
            if part.start == part.stop:
                continue
            distance = np.hypot(cells.x_um[part] - x_um, cells.y_um[part] - y_um)
            distance[~corrected.kept[part]] += _REACH_UM / 2
            place = int(distance.argmin())
            if distance[place] < nearest:
                best, nearest = int(cells.cell_id[part][place]), float(distance[place])
        for cell in corrected.added:
            distance_um = float(np.hypot(cell.x_um - x_um, cell.y_um - y_um))
            if distance_um < nearest:
                best, nearest = cell.cell_id, distance_um
        return best

    def cell(self, cell_id: int) -> dict[str, Any]:
        """Return everything that is known of a cell.

        Raises
        ------
        ReviewError : there is none with this id.
        """
        cells, now = self.cells, self.now()
        corrected = now.corrected
        for place, cell in enumerate(corrected.added):
            if cell.cell_id == cell_id:
                at, x_um, y_um = len(cells) + place, cell.x_um, cell.y_um
                told: dict[str, Any] = {"cell_class": class_name(cell.is_cd8), "added": True}
                break
        else:
            places = cells.at([cell_id])
            if len(places) == 0:
                raise ReviewError("no such cell on this slide")
            at = int(places[0])
            x_um, y_um = float(cells.x_um[at]), float(cells.y_um[at])
            told = {
                "cell_class": class_name(bool(corrected.is_cd8[at])),
                "class_of_run": class_name(bool(cells.is_cd8[at])),
                "deleted": not corrected.kept[at],
                "measurements": self._row(cell_id),
            }
        distance = float(corrected.signed_distance_um[at])
        return {
            "cell_id": cell_id,
            "x_um": x_um,
            "y_um": y_um,
            "in_tissue": bool(corrected.in_tissue[at]),
            "region": REGION_NAMES[corrected.region[at]],
            "zone": ZONE_NAMES[corrected.zone[at]],
            "signed_distance_um": None if np.isnan(distance) else distance,
            **told,
        }

    def _row(self, cell_id: int) -> dict[str, Any]:
        """Return a cell's row of the table, without its outline."""
        path = self.folder / "cells.parquet"
        left_out = {
            "geometry",
            "cell_id",
            "x_um",
            "y_um",
            "region",
            "zone",
            "signed_distance_um",
            "in_tissue",
        }
        names = [name for name in pq.read_schema(path).names if name not in left_out]
        try:
            table = pq.read_table(path, columns=names, filters=pc.field("cell_id") == cell_id)
        except (OSError, pa.ArrowException) as error:
            raise ResultsError(f"the cell table cannot be read ({error})", path=path) from None
        (row,) = table.to_pylist()
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in row.items()
        }

    def least_certain(self, n: int, cell_class: bool = True) -> list[dict[str, float]]:
        """Return the cells of a class that were called with the least probability, least certain first."""
        cells, corrected = self.cells, self.now().corrected
        asked = (
            corrected.kept
            & (corrected.is_cd8 == cell_class)
            & ~corrected.changed
            & corrected.in_tissue[: len(cells)]
        )
        at = np.flatnonzero(asked & (cells.probability != 255))
        order = np.lexsort((cells.cell_id[at], cells.probability[at]))[:n]
        return [
            {"cell_id": int(cells.cell_id[k]), "x_um": float(cells.x_um[k]), "y_um": float(cells.y_um[k])}
            for k in at[order]
        ]

    def frames(self, edge_um: float) -> dict[str, Any]:
        """Return counting frames of this size, and what this reader counted in them: see `against_model`."""
        with self._lock:
            # Of the run, so that they stay where they are when somebody draws.
            regions = regions_with(self.ground, ())
        cells = self.cells
        found = frames_of(regions, self.summary.slide_id, edge_um)
        mine = [entry for entry in self.entries if entry.by == self.who.name]
        is_cd8 = cells.is_cd8
        return against_model(found, counted(mine, found), cells.x_um[is_cd8], cells.y_um[is_cd8])

    def measurements(self) -> list[str]:
        """Return the columns of numbers that a histogram can show."""
        schema = pq.read_schema(self.folder / "cells.parquet")
        return [
            field.name
            for field in schema
            if pa.types.is_floating(field.type) and field.name not in ("x_um", "y_um", "x_px", "y_px")
        ]

    def histogram(self, name: str) -> dict[str, Any]:
        """Return how a measurement is distributed, see `distribution`, and the gate that rests on it."""
        if name not in self.measurements():
            raise ReviewError("no such measurement")
        cells, corrected = self.cells, self.now().corrected
        table = pq.read_table(self.folder / "cells.parquet", columns=["cell_id", name])
        order = np.argsort(table["cell_id"].to_numpy(), kind="stable")
        by_id = table[name].to_numpy()[order].astype(np.float64)
        at = cells.by_id
        counted = corrected.kept[at] & corrected.in_tissue[: len(cells)][at] & np.isfinite(by_id)
        cd8, other = by_id[counted & corrected.is_cd8[at]], by_id[counted & ~corrected.is_cd8[at]]
        gate = next((marker for marker, (column, _) in self.gates_of_run.items() if column == name), None)
        return {
            "name": name,
            **distribution(cd8, other),
            "marker": gate,
            "gate_of_run": None if gate is None else self.gates_of_run[gate][1],
            "gate": None if gate is None else self.gates()[gate],
        }


def read_summary(folder: Path) -> SlideSummary:
    """Return the summary in a slide's results folder.

    Raises
    ------
    ReviewError : there is none that this version understands.
    """
    try:
        return stored_summary(folder)
    except ResultsError as error:
        # Readers are told what is in the way of a review.
        raise ReviewError(error.what, path=error.path, fix=error.fix) from None


def _open(summary: SlideSummary, slides: Path | None) -> Slide:
    path = Path(summary.path)
    if not path.exists() and slides is not None:
        path = slides / path.name
    if not path.exists():
        raise ReviewError(
            "the slide is not where it was analysed", path=path, fix="Say where it is with --slides FOLDER"
        )
    image = summary.image
    # The run's pixel size, whoever gave it; one that differs in x and y comes from the file alone.
    given = None if image.mpp_source == "metadata" else image.mpp_x_um
    slide = open_slide(path, mpp=given)
    if slide.size_px != (image.width_px, image.height_px):
        raise ReviewError(
            f"the slide has {slide.size_px[0]} x {slide.size_px[1]} px; the one that was analysed had "
            f"{image.width_px} x {image.height_px}",
            path=path,
        )
    return slide


def stamp_of(path: Path) -> Stamp:
    """Return what tells a file from what it was before; None where there is none."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size


def _drawn(stands: Standing) -> tuple[DrawRegion, ...]:
    return tuple(action for _, action in stands.corrections if isinstance(action, DrawRegion))


def _tiles_round(x_um: float, y_um: float, reach_um: float) -> set[tuple[int, int]]:
    return {
        (int((x_um + dx) // TILE_UM), int((y_um + dy) // TILE_UM))
        for dx in (-reach_um, reach_um)
        for dy in (-reach_um, reach_um)
        if x_um + dx >= 0 and y_um + dy >= 0
    }
