"""The server of the review page. Slides and cells are known by keys of the work list, never by paths."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from histo import __version__
from histo.cells.table import CELL_CLASSES
from histo.errors import HistoError, ReviewError
from histo.regions.place import REGION_NAMES, ZONE_NAMES
from histo.results.geojson import CLASS_COLOURS, REGION_COLOURS
from histo.results.maps import ZONE_COLOURS
from histo.results.stored import stored_config
from histo.review.actions import VERDICTS, Action
from histo.review.cells import BLOCK_UM, TILE_UM
from histo.review.guard import Guard, Secrets
from histo.review.overlay import outline_tile, point_block
from histo.review.picture import (
    TILE_PX,
    Channel,
    Pyramid,
    TilePictures,
    crop,
    parse_channels,
    planes_of,
    thumbnail,
)
from histo.review.slide import SlideUnderReview, Stamp, Who, read_summary, stamp_of
from histo.review.worklist import Case, cases_of, rows_of

logger = logging.getLogger("histo")

# Slides that are held open, with their cells, at a time.
_MAX_OPEN: Final = 3
_ACTION: TypeAdapter[Action] = TypeAdapter(Action)
Answer = TypeVar("Answer")


class Desk:
    """What one server holds: the cases of a results folder, and the slides that are open.

    Parameters
    ----------
    results : a results folder of `infer`. who : the reader. slides : where slides are looked for that are not
        where they were analysed.

    Raises
    ------
    HistoError : the folder is no results folder.
    """

    def __init__(self, results: Path, who: Who, slides: Path | None = None) -> None:
        self.results = results
        self.who = who
        self.config = stored_config(results)
        self.cases: dict[str, Case] = {case.key: case for case in cases_of(results, who)}
        self.tiles = TilePictures()
        # Few threads: each holds a handle of each open slide. Tiles do not wait behind numbers.
        self.for_tiles = ThreadPoolExecutor(3, "tiles")
        self.for_work = ThreadPoolExecutor(2, "work")
        self._slides_folder = slides
        self._open: OrderedDict[str, tuple[tuple[Stamp, Stamp], SlideUnderReview]] = OrderedDict()
        self._lock = threading.Lock()

    def slide(self, key: str) -> SlideUnderReview:
        """Return an open slide, as it was analysed last; raises ReviewError where it cannot be reviewed."""
        case = self.case(key)
        if case.error is not None:
            raise ReviewError(f"the slide was not analysed: {case.error}")
        folder = self.results / case.slide_id
        stamps = (stamp_of(folder / "summary.json"), stamp_of(self.results / "gates.json"))
        with self._lock:
            before, slide = self._open.get(key, (None, None))
            if slide is None or before != stamps:
                slide = SlideUnderReview(folder, self.config, self.who, self._slides_folder)
                self._open[key] = (stamps, slide)
            self._open.move_to_end(key)
            while len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
            return slide

    def case(self, key: str) -> Case:
        """Return a case; answers "not found" where there is none with this key."""
        case = self.cases.get(key)
        if case is None:
            raise HTTPException(404, "no such slide")
        return case


def make_app(desk: Desk, page: Path, *, hosts: Sequence[str], secrets: Secrets) -> Starlette:
    """Return the ASGI app.

    Parameters
    ----------
    page : folder of the built page. hosts : what the Host header may say, with the port.
    """

    async def index(request: Request) -> Response:
        return Response(await asyncio.to_thread((page / "index.html").read_bytes), media_type="text/html")

    async def session(request: Request) -> Response:
        return JSONResponse(
            {
                "version": __version__,
                "reader": desk.who.name,
                "blinded": desk.who.alone,
                "write": secrets.write,
                "classes": [{"name": name, "colour": CLASS_COLOURS[name]} for name in CELL_CLASSES],
                "regions": [{"name": name, "colour": REGION_COLOURS[name]} for name in REGION_NAMES if name],
                "zones": [{"name": name, "colour": ZONE_COLOURS.get(name)} for name in ZONE_NAMES],
                "verdicts": VERDICTS,
                "tile_um": TILE_UM,
                "block_um": BLOCK_UM,
            }
        )

    async def slides(request: Request) -> Response:
        rows = await _in(desk.for_work, lambda: rows_of(desk.results, list(desk.cases.values()), desk.who))
        return JSONResponse({"slides": rows})

    async def small(request: Request) -> Response:
        case = desk.case(request.path_params["key"])

        def make() -> bytes:
            folder = desk.results / case.slide_id
            return thumbnail(folder / "maps.zarr", read_summary(folder).image.kind)

        return Response(await _in(desk.for_tiles, make), media_type="image/jpeg")

    async def detail(request: Request) -> Response:
        key = request.path_params["key"]
        return JSONResponse(await _in(desk.for_work, lambda: _detail(desk.case(key), desk.slide(key))))

    async def tile(request: Request) -> Response:
        key = request.path_params["key"]
        level, column, row = _numbers(request, "level", "column", "row")

        def make() -> bytes:
            slide = desk.slide(key)
            channels = _channels(request, slide)
            return desk.tiles.tile(key, slide.slide, level, column, row, channels)

        return Response(await _in(desk.for_tiles, make), media_type="image/jpeg")

    async def state(request: Request) -> Response:
        key = request.path_params["key"]
        return JSONResponse(await _in(desk.for_work, lambda: _state(desk.slide(key))))

    async def act(request: Request) -> Response:
        key = request.path_params["key"]
        try:
            action = _ACTION.validate_json(await request.body())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return _wrong(422, f"not a correction: {first['loc']}: {first['msg']}")

        def do() -> dict[str, Any]:
            slide = desk.slide(key)
            entry = slide.act(action)
            return _state(slide) | {"entry": entry.number}

        return JSONResponse(await _in(desk.for_work, do))

    async def cells(request: Request) -> Response:
        key, kind = request.path_params["key"], request.path_params["kind"]
        column, row = _numbers(request, "column", "row")
        write = {"outlines": outline_tile, "points": point_block}.get(kind)
        if write is None:
            raise HTTPException(404, "no such tiles")

        def make() -> bytes:
            slide = desk.slide(key)
            return write(slide.cells, slide.now().corrected, column, row, slide.gates())

        return Response(await _in(desk.for_tiles, make), media_type="application/octet-stream")

    async def map_picture(request: Request) -> Response:
        key, name = request.path_params["key"], request.path_params["name"]
        picture = await _in(desk.for_work, lambda: desk.slide(key).map_picture(name))
        return Response(picture, media_type="image/png")

    async def pick(request: Request) -> Response:
        key = request.path_params["key"]
        x, y = _coordinate(request, "x"), _coordinate(request, "y")

        def find() -> dict[str, Any] | None:
            slide = desk.slide(key)
            cell_id = slide.cell_near(x, y)
            return None if cell_id is None else slide.cell(cell_id)

        return JSONResponse({"cell": await _in(desk.for_work, find)})

    async def cell(request: Request) -> Response:
        key = request.path_params["key"]
        (cell_id,) = _numbers(request, "cell_id")
        return JSONResponse({"cell": await _in(desk.for_work, lambda: desk.slide(key).cell(cell_id))})

    async def crop_picture(request: Request) -> Response:
        key = request.path_params["key"]
        x, y = _coordinate(request, "x"), _coordinate(request, "y")
        (plane,) = _numbers(request, "plane")

        def make() -> bytes:
            of = desk.slide(key)
            return crop(of.slide, of.summary, x, y, plane, _channels(request, of))

        return Response(await _in(desk.for_tiles, make), media_type="image/jpeg")

    async def histogram(request: Request) -> Response:
        key, name = request.path_params["key"], request.query_params.get("measurement", "")
        return JSONResponse(await _in(desk.for_work, lambda: desk.slide(key).histogram(name)))

    async def uncertain(request: Request) -> Response:
        key = request.path_params["key"]
        return JSONResponse({"cells": await _in(desk.for_work, lambda: desk.slide(key).least_certain(200))})

    async def frames(request: Request) -> Response:
        key, edge_um = request.path_params["key"], _coordinate(request, "edge_um")
        if not 50 <= edge_um <= 1000:
            raise HTTPException(400, "a frame is 50 to 1000 um wide")
        return JSONResponse(await _in(desk.for_work, lambda: desk.slide(key).frames(edge_um)))

    async def spatial(request: Request) -> Response:
        key = request.path_params["key"]
        found = await _in(desk.for_work, lambda: desk.slide(key).spatial_numbers())
        return JSONResponse({"numbers": [number.model_dump(mode="json") for number in found]})

    async def histo_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HistoError)
        if isinstance(error, ReviewError):
            # Without its path: that may say what a blinded reader must not know.
            return _wrong(409, error.what, error.fix)
        logger.warning("%s", error)
        if desk.who.alone:
            return _wrong(400, "the slide cannot be read; the terminal of histo review says why")
        return _wrong(400, error.what, error.fix)

    of = "/api/slides/{key}"
    routes: list[Route | Mount] = [
        Route("/", index),
        Route("/api/session", session),
        Route("/api/slides", slides),
        Route(of, detail),
        Route(of + "/thumbnail.jpg", small),
        Route(of + "/tiles/{level:int}/{column:int}_{row:int}.jpg", tile),
        Route(of + "/state", state),
        Route(of + "/log", act, methods=["POST"]),
        Route(of + "/cells/{kind}/{column:int}_{row:int}.bin", cells),
        Route(of + "/maps/{name}.png", map_picture),
        Route(of + "/pick", pick),
        Route(of + "/cell/{cell_id}", cell),
        Route(of + "/crop/{plane:int}.jpg", crop_picture),
        Route(of + "/histogram", histogram),
        Route(of + "/uncertain", uncertain),
        Route(of + "/frames", frames),
        Route(of + "/numbers", spatial),
        Mount("/assets", StaticFiles(directory=page / "assets", check_dir=False)),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts, secrets=secrets)],
        exception_handlers={HistoError: histo_error, HTTPException: _http_error},
    )


def _detail(case: Case, of: SlideUnderReview) -> dict[str, Any]:
    pyramid = Pyramid.of(of.slide)
    stained = of.summary.stain.channels or {}
    markers = [] if of.summary.panel is None else [marker.channel for marker in of.summary.panel.markers]
    shown = {stained.get("nuclear"), stained.get("cd8"), *markers[:1]}
    summary = of.summary
    return {
        "key": case.key,
        "label": case.label,
        "site": case.site,
        "patient": case.patient,
        "kind": of.slide.kind,
        "size_px": pyramid.size_px,
        "mpp": pyramid.mpp,
        "size_um": of.slide.size_um,
        "tile_px": TILE_PX,
        "max_level": pyramid.max_level,
        "channels": [
            {"name": name, "shown": name in shown, **asdict(channel)}
            for name, channel in zip(of.slide.channels, of.channels, strict=False)
        ],
        "planes": planes_of(of.slide, summary),
        "flags": [flag.model_dump() for flag in summary.flags],
        "measurements": of.measurements(),
        "markers": list(of.gates_of_run),
        "n_cells": summary.n_cells,
        "map_um": of.map_um(),
    }


def _state(of: SlideUnderReview) -> dict[str, Any]:
    now = of.now()
    signed = now.standing.signed
    notes = [*of.log.notes, *of.ground_notes()]
    if signed is not None and signed.fingerprint != of.summary.fingerprint:
        notes.append("The slide was analysed anew after it was signed: reopen it to review what is here now.")
    return {
        # A new one wherever what is shown may have changed.
        "revision": f"{of.summary.fingerprint[:8]}-{of.entries[-1].number if of.entries else 0}",
        "entries": [entry.model_dump(mode="json") for entry in of.entries],
        "in_force": [number for number, _ in now.standing.corrections],
        "undone": now.standing.undone,
        "signed": None if signed is None else signed.model_dump(mode="json"),
        "stale": now.standing.stale,
        "notes": notes,
        "numbers": [number.model_dump(mode="json") for number in now.numbers],
        "phenotypes": now.phenotypes,
        "outlines": of.outlines(),
        "gates": of.gates(),
        "gates_of_run": {marker: threshold for marker, (_, threshold) in of.gates_of_run.items()},
    }


def _channels(request: Request, of: SlideUnderReview) -> tuple[Channel, ...]:
    if of.slide.kind == "brightfield":
        return ()
    text = request.query_params.get("channels")
    return of.channels if text is None else parse_channels(text, len(of.slide.channels))


async def _in(pool: ThreadPoolExecutor, do: Callable[[], Answer]) -> Answer:
    return await asyncio.get_running_loop().run_in_executor(pool, do)


def _numbers(request: Request, *names: str) -> list[int]:
    """Return whole numbers of the address; answers "not found" where one is none."""
    try:
        numbers = [int(request.path_params[name]) for name in names]
    except ValueError:
        raise HTTPException(404, "no such thing") from None
    if any(abs(number) > 2**31 for number in numbers):
        raise HTTPException(404, "no such thing")
    return numbers


def _coordinate(request: Request, name: str) -> float:
    try:
        value = float(request.query_params[name])
    except (KeyError, ValueError):
        raise HTTPException(400, f"{name} must be a number of um") from None
    if not abs(value) < 1e7:
        raise HTTPException(400, f"{name} must be a number of um")
    return value


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _wrong(error.status_code, error.detail)


def _wrong(status: int, what: str, fix: str | None = None) -> Response:
    return JSONResponse({"error": what if fix is None else f"{what}. {fix}"}, status_code=status)
