"""A results folder with one small slide and one that failed, made once and copied for every test."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import uvicorn

from histo.config import load_config
from histo.errors import ReviewError
from histo.review.guard import Secrets
from histo.review.server import Desk, make_app
from histo.review.slide import SlideUnderReview, Who
from histo.review.web import page_folder
from histo.run.batch import run_batch
from histo.synthetic.slide import SlideSpec, render_slide

NARROW = [
    "regions.inner_margin_um=150",
    "regions.outer_margin_um=150",
    "regions.min_border_length_um=300",
    "measure.min_zone_area_mm2=0.01",
    "results.geojson=false",
    "results.label_maps=false",
    "measure.permutations=19",
    "measure.bootstrap_samples=100",
]
SLIDE = "MEYER_liver"


@pytest.fixture(scope="session")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    spec = SlideSpec(slide_id=SLIDE, seed=5, size_um=(800.0, 500.0), phenotype="inflamed", margin_um=60.0)
    render_slide(spec, folder / "slides")
    (folder / "slides" / "broken.svs").write_bytes(b"no slide at all")
    results = folder / "results"
    run_batch([folder / "slides"], results, load_config(None, NARROW))
    # As a manifest would say it, without the comparison of sites that comes with one.
    table = pd.read_parquet(results / "slides.parquet")
    table["patient"] = "Meyer"
    table["site"] = ["metastasis" if name == SLIDE else "primary" for name in table["slide_id"]]
    table.to_parquet(results / "slides.parquet")
    return results


@pytest.fixture
def results(analysed: Path, tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    return Path(shutil.copytree(analysed, tmp_path / "results"))


@pytest.fixture
def slide(results: Path) -> SlideUnderReview:
    desk = Desk(results, Who("Dr A"))
    return desk.slide(SLIDE)


@pytest.fixture(scope="session")
def built_page() -> Path:
    """The built page; skipped where there is no Node to build it."""
    if shutil.which("npm") is None:
        pytest.skip("the review page cannot be built: no Node here")
    try:
        return page_folder()
    except ReviewError as error:
        pytest.skip(f"the review page cannot be built: {error.what.splitlines()[-1]}")


@dataclass(frozen=True)
class Served:
    url: str
    secrets: Secrets


@pytest.fixture
def serve(built_page: Path) -> Iterator[Callable[[Desk], Served]]:
    """Serve desks in threads of this process, until the test ends."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(desk: Desk) -> Served:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        secrets = Secrets()
        app = make_app(desk, built_page, hosts=[host], secrets=secrets)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        running.append((server, thread))
        return Served(f"http://{host}/", secrets)

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)
