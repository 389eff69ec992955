"""The states of the CD8+ cells of a batch: a results folder, or tables of other programs, with its gates."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from histo import __version__
from histo.cells.table import CD8
from histo.config import Config, load_config
from histo.errors import ConfigError, ResultsError
from histo.measure.state.definitions import State, check_markers, states_of, why_not
from histo.measure.state.gates import MarkerCells, set_gate, table_gate
from histo.measure.state.names import CHECKPOINTS, identity, is_known
from histo.measure.state.slide import Areas, Limits, StateCells, states_of_slide
from histo.measure.state.summary import BatchGates, Gate, StateDefinition, StatesSummary, StateZone
from histo.measure.state.words import LIMITS
from histo.measure.summary import ZONES, Flag, SlideSummary
from histo.panel import Marker, NegativeCells
from histo.results.states_files import (
    GATES,
    STATES_TABLE,
    write_gates,
    write_slide_states,
    write_states_table,
)
from histo.results.states_page import STATES_PAGE, write_states_page
from histo.results.stored import stored_config, stored_summaries
from histo.run.names import safe_name
from histo.tables.cells import CellTable, intensity_column, pieces_of
from histo.tables.file import TableFile, is_table, open_file
from histo.tables.intensities import intensity_header
from histo.tables.layouts import Format, recognise
from histo.tables.mapping import TableMapping
from histo.tables.open import open_table

log = logging.getLogger("histo")

# Of the cells of one slide that are only compared with, so many are enough.
_MAX_REFERENCE: Final = 20_000
_SEED: Final = 0
_REGION_OF: Final[dict[NegativeCells, str | None]] = {
    "other": None,
    "other in tumour": "tumour",
    "other in host": "host",
}


@dataclass(frozen=True, eq=False)
class SourceSlide:
    """One slide of a batch: its CD8+ cells, and intensities of its other nuclei by marker and region.

    other : by marker, (m,) intensities. other_region : (m,) of the same nuclei.
    """

    slide_id: str
    cells: StateCells
    areas: Areas
    other: Mapping[str, NDArray[np.float64]]
    other_region: NDArray[np.object_]


@dataclass(frozen=True)
class StatesResult:
    """What was written: the gates, and the states of each slide."""

    gates: BatchGates
    slides: list[StatesSummary]


def run_states(
    source: Path,
    out: Path | None = None,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    table_format: Format | None = None,
    mpp: float | None = None,
    mapping: TableMapping | None = None,
) -> StatesResult:
    """Gate a batch, call the states of its CD8+ cells, and write gates, states and their page.

    Parameters
    ----------
    source : a results folder of `histo infer`, or a table of cells of another program, or a folder of such.
    out : folder to write to; None for the results folder itself.
    config : its panel and states are used; None takes those that a results folder was made with.
    table_format, mpp, mapping : of tables of others, see `histo.tables.open.open_table`.

    Raises
    ------
    HistoError : the source cannot be read, the configuration does not fit it, or the output not be written.
    """
    if is_results(source):
        if table_format is not None or mpp is not None or mapping is not None:
            raise ConfigError(
                "a results folder has its own format, pixel sizes and names",
                path=source,
                fix="Leave out --format, --mpp and --mapping",
            )
        settled = load_config(config, overrides) if config is not None else stored_config(source, overrides)
        return states_of_results(source, settled, out)
    if out is None:
        raise ConfigError("no folder for the results", fix="Name one with --out DIR")
    return states_of_tables(
        source,
        load_config(config, overrides),
        out,
        table_format=table_format,
        mpp=mpp,
        mapping=mapping or TableMapping(),
    )


def headlines(result: StatesResult) -> list[str]:
    """Say for each marker how it was gated, and how many CD8+ cells are positive."""
    lines = []
    for gate in result.gates.gates:
        if gate.not_assessable is not None:
            lines.append(f"{gate.identity}: no gate. {gate.not_assessable}")
            continue
        at = "" if gate.threshold is None else f" at {gate.threshold:.4g}"
        share = (
            "no CD8+ cells" if gate.fraction is None else f"{gate.fraction:.1%} of {gate.n_cells} CD8+ cells"
        )
        lines.append(f"{gate.identity}: gate{at} ({gate.method}), {share}")
    return lines


def is_results(source: Path) -> bool:
    """Tell whether a folder is a results folder of `histo infer`."""
    return (source / "slides.parquet").is_file()


def states_of_results(folder: Path, config: Config, out: Path | None = None) -> StatesResult:
    """Gate the slides of a results folder; see `run_states`."""
    markers = config.panel.markers
    if not markers:
        raise ConfigError(
            "the panel has no markers beside CD8", path=folder, fix="Name them in panel.markers of --config"
        )
    _check(markers, config)
    done = stored_summaries(folder)
    missing = sorted(set(config.states.control_slides) - {summary.slide_id for summary in done})
    if missing:
        raise ConfigError(
            f"states.control_slides names {', '.join(missing)}, not among the finished slides", path=folder
        )

    def slides() -> Iterator[SourceSlide]:
        for summary in done:
            yield _slide_of_results(folder / summary.slide_id, summary, markers)

    return _analyse(slides, markers, config, out or folder, folder.name)


def states_of_tables(
    source: Path,
    config: Config,
    out: Path,
    *,
    table_format: Format | None = None,
    mpp: float | None = None,
    mapping: TableMapping | None = None,
) -> StatesResult:
    """Gate the images of tables of other programs, one batch; see `run_states`.

    A marker is gated by its intensity: the column named in `mapping.columns.intensities`, else that of its
    channel and compartment where the format is known. Where no controls and no manual gate are configured,
    and the table has a column that says which cells are positive, that is believed. Without `panel.markers`
    the markers of the table that tell states are taken.
    """
    mapping = TableMapping() if mapping is None else mapping
    markers = list(config.panel.markers)
    headers = _intensity_headers(source, markers, table_format, mapping)
    columns = mapping.columns.model_copy(update={"intensities": {**headers, **mapping.columns.intensities}})
    table = open_table(
        source, format=table_format, mpp=mpp, mapping=mapping.model_copy(update={"columns": columns})
    )
    if not isinstance(table, CellTable):
        raise ConfigError("a table of zones has no cells, so no states", path=source)
    if not markers:
        markers = _markers_of(table)
    if not markers:
        raise ConfigError(
            "the table has no marker that tells states beside CD8",
            path=source,
            fix="Name markers in panel.markers of --config, and their columns in mapping.columns",
        )
    _check(markers, config)
    calls = {marker.name: found for marker in markers if (found := _called_column(table, marker)) is not None}
    lacking = [
        f"{marker.name} (channel {marker.channel!r}, {marker.compartment})"
        for marker in markers
        if intensity_column(marker.name) not in table.intensities and marker.name not in calls
    ]
    if lacking:
        raise ConfigError(
            f"the table has neither an intensity nor calls of {', '.join(lacking)}",
            path=source,
            fix="Name the column in mapping.columns.intensities, or in mapping.columns.markers for calls",
        )
    pieces = pieces_of(table.frame)
    missing = sorted(set(config.states.control_slides) - {name for name, _, _ in pieces})
    if missing:
        raise ConfigError(f"states.control_slides names {', '.join(missing)}, not in the table", path=source)

    def slides() -> Iterator[SourceSlide]:
        for name, _, frame in pieces:
            yield _slide_of_table(name, frame, markers, table, calls)

    flags = [Flag(code="table", message=note) for note in table.notes]
    named = {
        marker.name: table.intensities[intensity_column(marker.name)]
        for marker in markers
        if intensity_column(marker.name) in table.intensities
    }
    named |= {name: table.markers[column] for name, column in calls.items() if name not in named}
    return _analyse(slides, markers, config, out, source.name, flags, named)


def _check(markers: Sequence[Marker], config: Config) -> None:
    """Find mistakes in settings before anything is read."""
    states_of(markers, config.states)
    check_markers(markers, config.states)


def _analyse(
    slides: Callable[[], Iterator[SourceSlide]],
    markers: Sequence[Marker],
    config: Config,
    out: Path,
    source: str,
    flags: Sequence[Flag] = (),
    columns: Mapping[str, str] | None = None,
) -> StatesResult:
    """Set the gates of a batch in one pass over its slides, and call the states in a second one.

    columns : by marker, what its column is called in a table of another program.
    """
    controls = set(config.states.control_slides)
    gates, names = _gates(slides(), markers, config, controls)
    if columns is not None:
        gates = [gate.model_copy(update={"column": columns[gate.marker]}) for gate in gates]
    states = states_of(markers, config.states)
    limits = Limits(
        min_cd8_cells=config.states.min_cd8_cells,
        min_zone_area_mm2=config.measure.min_zone_area_mm2,
        block_um=config.measure.block_um,
        level=config.measure.confidence_level,
    )
    batch = BatchGates(
        histo_version=__version__,
        source=source,
        slides=[name for name in names if name not in controls],
        control_slides=sorted(controls),
        min_cd8_cells=limits.min_cd8_cells,
        confidence_level=limits.level,
        gates=gates,
        states=[_definition(state, gates) for state in states],
        limits=LIMITS,
        flags=list(flags),
    )
    folders = dict(zip(names, _folders(names), strict=True))
    summaries = []
    for slide in slides():
        if slide.slide_id in controls:
            continue
        summary, cells = states_of_slide(slide.slide_id, slide.cells, gates, states, slide.areas, limits)
        folder = out / folders[slide.slide_id]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot write there ({error.strerror})", path=folder, fix="Name another --out"
            ) from None
        write_slide_states(folder, summary, cells)
        summaries.append(summary)
    write_states_table(out / STATES_TABLE, summaries)
    write_states_page(out / STATES_PAGE, batch, summaries)
    # Last: where it is, the others are of the same run.
    write_gates(out / GATES, batch)
    for gate in gates:
        for flag in gate.flags:
            log.warning("%s", flag.message)
    return StatesResult(batch, summaries)


def _definition(state: State, gates: Sequence[Gate]) -> StateDefinition:
    return StateDefinition(
        name=state.name,
        rule=state.text,
        description=state.description,
        not_assessable=why_not(state.rule, {gate.identity: gate for gate in gates}),
    )


def _gates(
    slides: Iterator[SourceSlide], markers: Sequence[Marker], config: Config, controls: set[str]
) -> tuple[list[Gate], list[str]]:
    """Return the gate of each marker from all slides together, and the names of the slides."""
    names: list[str] = []
    cd8: dict[str, list[NDArray[np.float64]]] = {marker.name: [] for marker in markers}
    control, negative, other, called = ({marker.name: list[Any]() for marker in markers} for _ in range(4))
    for slide in slides:
        names.append(slide.slide_id)
        for marker in markers:
            name = marker.name
            values = slide.cells.values.get(name)
            if slide.slide_id in controls:
                if values is not None:
                    control[name].append(values)
                continue
            if name in slide.cells.calls:
                known = slide.cells.calls[name]
                called[name].append(known[~known.isna()].to_numpy(bool))
            if values is None:
                continue
            cd8[name].append(values)
            other[name].append(_sample(slide.other[name]))
            kind = next(
                (kind for n, kind in config.states.negatives.items() if identity(n) == identity(name)), None
            )
            if kind is not None:
                region = _REGION_OF[kind]
                inside = slide.other_region == region if region else slice(None)
                negative[name].append(slide.other[name][inside])
    gates = []
    for marker in markers:
        name = marker.name
        cells = MarkerCells(
            cd8[name], *(np.concatenate([np.empty(0), *parts[name]]) for parts in (control, negative, other))
        )
        if called[name] and not _is_configured(marker, config):
            gates.append(table_gate(marker, called[name], cells, config.states))
        else:
            gates.append(set_gate(marker, cells, config.states, _SEED))
    return gates, names


def _is_configured(marker: Marker, config: Config) -> bool:
    """Tell whether controls or a manual gate are configured for a marker."""
    by_name = {identity(name) for name in (*config.states.gates, *config.states.negatives)}
    return bool(config.states.control_slides) or identity(marker.name) in by_name


def _sample(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(values) <= _MAX_REFERENCE:
        return values
    return np.random.default_rng(_SEED).choice(values, _MAX_REFERENCE, replace=False)


# A results folder


def _slide_of_results(folder: Path, summary: SlideSummary, markers: Sequence[Marker]) -> SourceSlide:
    """Read the cells in assessed tissue of one slide."""
    path = folder / "cells.parquet"
    place = ["cell_id", "x_um", "y_um", "cell_class", "in_tissue", "region", "zone", "signed_distance_um"]
    columns = list(dict.fromkeys(marker.column for marker in markers))
    try:
        missing = sorted(set(columns) - set(pq.read_schema(path).names))
        if missing:
            raise ResultsError(
                f"the cells were not measured for {', '.join(missing)}",
                path=path,
                fix="Run infer again with this panel",
            )
        frame = pq.read_table(path, columns=[*place, *columns]).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise ResultsError(
            f"the cell table cannot be read ({error})", path=path, fix="Run the slide again"
        ) from None
    frame = frame[frame["in_tissue"].to_numpy(bool)]
    is_cd8 = (frame["cell_class"] == CD8).to_numpy(bool)
    cd8, other = frame[is_cd8], frame[~is_cd8]
    zones: dict[StateZone, float | None] = {"all": summary.tissue.assessed_area_mm2}
    reasons: dict[StateZone, str] = {}
    for zone in ZONES:
        found = summary.zones[zone]
        zones[zone] = found.area_mm2
        if found.area_mm2 is None:
            reasons[zone] = found.cd8_density.not_assessable or "not assessed"
    return SourceSlide(
        slide_id=summary.slide_id,
        cells=StateCells(
            cell_id=cd8["cell_id"].to_numpy(np.int64),
            x_um=cd8["x_um"].to_numpy(np.float64),
            y_um=cd8["y_um"].to_numpy(np.float64),
            zone=cd8["zone"].to_numpy(str),
            signed_distance_um=cd8["signed_distance_um"].to_numpy(np.float64),
            values={marker.name: cd8[marker.column].to_numpy(np.float64) for marker in markers},
            calls={},
        ),
        areas=Areas(
            by_zone=zones,
            reasons=reasons,
            by_distance=(
                None
                if summary.distance_profile is None
                else [(step.low_um, step.high_um, step.area_mm2) for step in summary.distance_profile]
            ),
        ),
        other={marker.name: other[marker.column].to_numpy(np.float64) for marker in markers},
        other_region=other["region"].to_numpy(object),
    )


# Tables of other programs


def _intensity_headers(
    source: Path, markers: Sequence[Marker], fmt: Format | None, mapping: TableMapping
) -> dict[str, str]:
    """Return the columns of intensities that the headers of the first table of a source tell."""
    table = _first_table(source, fmt, mapping)
    if table is None:
        return {}
    found = fmt or recognise(table, mapping.columns)
    headers = {
        marker.name: intensity_header(table, found, marker.channel, marker.compartment) for marker in markers
    }
    return {name: header for name, header in headers.items() if header is not None}


def _first_table(source: Path, fmt: Format | None, mapping: TableMapping) -> TableFile | None:
    """Return the first table that can be read; what is wrong with a source is told by `open_table`."""
    paths = sorted(filter(is_table, source.iterdir())) if source.is_dir() else [source]
    for path in paths:
        if path.is_file():
            table = open_file(path)
            if fmt is None or len(paths) == 1 or recognise(table, mapping.columns) == fmt:
                return table
    return None


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "", identity(name).casefold())


def _called_column(table: CellTable, marker: Marker) -> str | None:
    """Return the table's own calls of a marker, by the name of marker or channel."""
    wanted = {_plain(marker.name), _plain(marker.channel)}
    return next((name for name in table.markers if _plain(name.removesuffix("_positive")) in wanted), None)


def _markers_of(table: CellTable) -> list[Marker]:
    """Return the markers of a table that are known to tell states."""
    names = dict.fromkeys(identity(name.removesuffix("_positive")) for name in table.markers)
    return [
        Marker(name=name, channel=name, role="checkpoint" if name in CHECKPOINTS else "state")
        for name in names
        if is_known(name)
    ]


def _slide_of_table(
    name: str, frame: pd.DataFrame, markers: Sequence[Marker], table: CellTable, calls: Mapping[str, str]
) -> SourceSlide:
    is_cd8 = frame["is_cd8"].fillna(False).to_numpy(bool)
    cd8, other = frame[is_cd8], frame[~is_cd8]
    measured = [marker.name for marker in markers if intensity_column(marker.name) in table.intensities]
    reason = "a table of cells has no tumour border, so no zones"
    return SourceSlide(
        slide_id=name,
        cells=StateCells(
            # The place in the table, from 1.
            cell_id=cd8.index.to_numpy(np.int64) + 1,
            x_um=cd8["x_um"].to_numpy(np.float64),
            y_um=cd8["y_um"].to_numpy(np.float64),
            zone=np.full(len(cd8), ""),
            signed_distance_um=np.full(len(cd8), np.nan),
            values={marker: cd8[intensity_column(marker)].to_numpy(np.float64) for marker in measured},
            calls={marker: cd8[column].array for marker, column in calls.items()},
        ),
        areas=Areas(
            by_zone={"all": None},
            reasons={"all": "a table of cells does not say its area", **dict.fromkeys(ZONES, reason)},
        ),
        other={marker: other[intensity_column(marker)].to_numpy(np.float64) for marker in measured},
        other_region=other["region"].to_numpy(object),
    )


def _folders(names: Sequence[str]) -> list[str]:
    """Return a safe folder name for each slide of a batch; two that would be one get a number."""
    folders: list[str] = []
    for name in names:
        safe = safe_name(name)
        taken = {folder.lower() for folder in folders}
        n, unique = 1, safe
        while unique.lower() in taken:
            n += 1
            unique = f"{safe}-{n}"
        folders.append(unique)
    return folders
