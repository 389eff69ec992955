"""The server: what it gives to the page, and what it refuses to everyone else."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.testclient import TestClient

from histo.config import load_config
from histo.errors import ConfigError, HistoError, ReviewError
from histo.review.actions import Sign
from histo.review.command import is_loopback
from histo.review.guard import MAX_BODY, MAX_URL, Secrets
from histo.review.log import append, read_log
from histo.review.picture import compose, parse_channels
from histo.review.server import Desk, make_app
from histo.review.slide import SlideUnderReview, Who
from histo.review.web import page_folder
from histo.run.batch import run_batch
from histo.slide import Box

HOST = "127.0.0.1:8765"
SLIDE = "MEYER_liver"
LOG = f"/api/slides/{SLIDE}/log"
DELETE = {"kind": "delete_cells", "cells": [1]}


class Served(Protocol):
    url: str


def client_of(results: Path, who: Who, secrets: Secrets) -> TestClient:
    page = results.parent / "page"
    (page / "assets").mkdir(parents=True, exist_ok=True)
    app = make_app(Desk(results, who), page, hosts=[HOST], secrets=secrets)
    return TestClient(app, base_url=f"http://{HOST}", follow_redirects=False)


@pytest.fixture
def secrets() -> Secrets:
    return Secrets()


@pytest.fixture
def client(results: Path, secrets: Secrets) -> Iterator[TestClient]:
    with client_of(results, Who("Dr A"), secrets) as client:
        yield client


def write(client: TestClient, secrets: Secrets, action: object, **headers: str):  # type: ignore[no-untyped-def]
    return client.post(LOG, json=action, headers={"x-histo-write": secrets.write, **headers})


# What the page gets


def test_the_work_list_tells_what_is_known(client: TestClient) -> None:
    good, failed = client.get("/api/slides").json()["slides"]
    assert (good["key"], good["patient"], good["site"]) == (SLIDE, "Meyer", "metastasis")
    assert good["state"] == "not looked at"
    assert good["numbers"]["n_cd8"] > 0
    assert 0 <= good["uncertain_share"] <= 1
    assert failed["label"] == "broken"
    assert failed["error"]
    assert client.get("/api/slides/broken/state").status_code == 409


def test_tiles_are_the_slide(client: TestClient, slide: SlideUnderReview) -> None:
    detail = client.get(f"/api/slides/{SLIDE}").json()
    top = detail["max_level"]
    answer = client.get(f"/api/slides/{SLIDE}/tiles/{top}/1_0.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    tile = np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)
    true = slide.slide.read(Box(512, 0, 512, tile.shape[0]), detail["mpp"])
    assert np.abs(tile - true[:, : tile.shape[1]]).mean() < 4
    assert client.get(f"/api/slides/{SLIDE}/tiles/0/0_0.jpg").status_code == 200
    for missing in (
        f"tiles/{top + 1}/0_0.jpg",
        f"tiles/{top}/99_0.jpg",
        "tiles/-1/0_0.jpg",
        "tiles/3/x_0.jpg",
    ):
        assert client.get(f"/api/slides/{SLIDE}/{missing}").status_code in (404, 409), missing


def test_a_cell_is_told_whole(client: TestClient, slide: SlideUnderReview) -> None:
    x, y = float(slide.cells.x_um[5]), float(slide.cells.y_um[5])
    cell = client.get(f"/api/slides/{SLIDE}/pick?x={x}&y={y}").json()["cell"]
    assert cell["cell_id"] == slide.cells.cell_id[5]
    assert {"probability", "area_um2", "cd8_ring_mean"} <= set(cell["measurements"])
    assert cell == client.get(f"/api/slides/{SLIDE}/cell/{cell['cell_id']}").json()["cell"]
    for plane in range(4):
        crop = client.get(f"/api/slides/{SLIDE}/crop/{plane}.jpg?x={x}&y={y}")
        assert Image.open(io.BytesIO(crop.content)).size == (192, 192)
    assert client.get(f"/api/slides/{SLIDE}/pick?x=-500&y=-500").json() == {"cell": None}
    for bad in ("pick?x=nan&y=1", "pick?x=1", "pick?x=1e99&y=0", "cell/abc", "cell/99999999999999"):
        assert client.get(f"/api/slides/{SLIDE}/{bad}").status_code in (400, 404), bad


def test_maps_and_histograms(client: TestClient) -> None:
    for name in ("zones", "density", "excluded"):
        picture = Image.open(io.BytesIO(client.get(f"/api/slides/{SLIDE}/maps/{name}.png").content))
        assert picture.mode == "RGBA"
    histogram = client.get(f"/api/slides/{SLIDE}/histogram?measurement=cd8_ring_mean").json()
    assert sum(histogram["cd8"]) == histogram["n_cd8"] == len(histogram["sorted_cd8"])
    for bad in ("maps/etc.png", "histogram?measurement=geometry", "histogram?measurement=../x", "histogram"):
        assert client.get(f"/api/slides/{SLIDE}/{bad}").status_code == 409, bad


def test_a_correction_answers_with_the_new_numbers(
    client: TestClient, secrets: Secrets, results: Path
) -> None:
    state = write(client, secrets, DELETE).json()
    assert state["entry"] == 1
    assert state["in_force"] == [1]
    assert len(read_log(results / SLIDE).entries) == 1
    assert client.get(f"/api/slides/{SLIDE}/state").json()["revision"] == state["revision"]
    assert client.get("/api/slides").json()["slides"][0]["state"] == "in review"


# What nobody else gets


@pytest.mark.parametrize(
    "path",
    [
        "/api/slides/../../etc/passwd",
        "/api/slides/..%2f..%2fetc%2fpasswd",
        "/api/slides/%2e%2e/thumbnail.jpg",
        f"/api/slides/{SLIDE}%2f..%2f{SLIDE}",
        f"/api/slides/{SLIDE}/..%2f..%2frun.json",
        f"/api/slides/{SLIDE}/summary.json",
        f"/api/slides/{SLIDE}/maps/..%2f..%2frun.png",
        f"/api/slides/{SLIDE}%00",
        "/api/slides/" + "a" * 3000,
        "/assets/../index.html",
        "/assets/..%2f..%2frun.json",
        "/assets/%2e%2e/%2e%2e/etc/passwd",
        "/run.json",
        "/review/log.jsonl",
    ],
)
def test_no_path_leads_out(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (404, 409), answer.text
    assert "root:" not in answer.text
    assert "histo_version" not in answer.text


def test_foreign_names_of_the_server_are_refused(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:8765", "127.0.0.1", "localhost:8765.evil.example", ""):
        assert client.get("/api/session", headers={"host": host}).status_code == 421, host


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_other_origins_get_nothing_and_write_nothing(
    client: TestClient, secrets: Secrets, results: Path, headers: dict[str, str]
) -> None:
    assert client.get("/api/session", headers=headers).status_code == 403
    assert client.get(f"/api/slides/{SLIDE}/thumbnail.jpg", headers=headers).status_code == 403
    assert write(client, secrets, DELETE, **headers).status_code == 403
    assert read_log(results / SLIDE).entries == ()


def test_a_write_needs_the_token_of_this_server(client: TestClient, results: Path) -> None:
    for headers in ({}, {"x-histo-write": ""}, {"x-histo-write": "guess"}, {"x-histo-write": "\u00e9"}):
        sent = {name: value.encode() for name, value in headers.items()}
        assert client.post(LOG, json=DELETE, headers=sent).status_code == 403
    assert read_log(results / SLIDE).entries == ()


def test_forms_and_other_methods_are_refused(client: TestClient, secrets: Secrets, results: Path) -> None:
    token = {"x-histo-write": secrets.write}
    assert client.post(LOG, data={"kind": "undo"}, headers=token).status_code == 415
    text = {**token, "content-type": "text/plain"}
    assert client.post(LOG, content=json.dumps(DELETE), headers=text).status_code == 415
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert client.request(method, LOG, headers=token).status_code == 405, method
    assert client.get(LOG).status_code == 405
    assert read_log(results / SLIDE).entries == ()


def test_bodies_and_addresses_are_bounded(client: TestClient, secrets: Secrets, results: Path) -> None:
    headers = {"x-histo-write": secrets.write, "content-type": "application/json"}
    large = b'{"kind": "sign", "comment": "' + b"x" * MAX_BODY + b'"}'
    assert client.post(LOG, content=large, headers=headers).status_code == 413
    # One that does not say how large it is.
    pieces = (large[k : k + 100_000] for k in range(0, len(large), 100_000))
    assert client.post(LOG, content=pieces, headers=headers).status_code == 413
    for length in ("-1", "1e3", "9" * 40):
        assert (
            client.post(LOG, content=b"{}", headers=headers | {"content-length": length}).status_code == 413
        )
    assert client.get("/api/slides?" + "x" * MAX_URL).status_code == 414
    for body in (b"", b"null", b"[]", b"{" * 50_000, b'{"kind":"add_cell","x_um":NaN}', b"\xff\xfe"):
        assert client.post(LOG, content=body, headers=headers).status_code == 422, body[:20]
    assert read_log(results / SLIDE).entries == ()


def test_every_answer_carries_the_policy(client: TestClient) -> None:
    for path in ("/api/session", "/nothing", f"/api/slides/{SLIDE}/thumbnail.jpg"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


def test_another_address_asks_for_its_token(results: Path) -> None:
    secrets = Secrets(access="sesame")
    with client_of(results, Who("Dr A"), secrets) as client:
        for path in (
            "/",
            "/api/session",
            "/?token=wrong",
            "/?token=",
            "/api/session?token=sesame",
            "/assets/x.js",
        ):
            assert client.get(path).status_code == 401, path
        assert client.get("/api/session", headers={"cookie": "histo_access=wrong"}).status_code == 401
        answer = client.get("/?token=sesame")
        assert answer.status_code == 303
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert client.get("/api/session").status_code == 200


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("127.8.9.1", True),
        ("0.0.0.0", False),
        ("192.168.1.4", False),
        ("::", False),
        ("localhost.evil.example", False),
    ],
)
def test_which_addresses_are_this_machine_alone(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_a_blinded_reader_learns_no_name(results: Path) -> None:
    append(results / SLIDE, Sign(name="Dr B", verdict="accepted"), by="Dr B", fingerprint="f")
    secrets = Secrets()
    with client_of(results, Who("Dr A", alone=True), secrets) as client:
        listed = client.get("/api/slides")
        rows = listed.json()["slides"]
        (key,) = (row["key"] for row in rows if row["error"] is None)
        assert {row["label"] for row in rows} == {"Case 1", "Case 2"}
        told = [listed.text] + [
            client.get(f"/api/slides/{key}{path}").text
            for path in ("", "/state", "/uncertain", "/cell/1", "/maps/none.png", "/histogram?measurement=no")
        ]
        for text in told:
            for name in ("MEYER", "Meyer", "metastasis", "primary", "broken", "Dr B", ".tif", str(results)):
                assert name not in text
        assert client.get(f"/api/slides/{SLIDE}").status_code == 404
        # The other reader's signature does not lock this one out.
        assert client.get(f"/api/slides/{key}/state").json()["signed"] is None


def test_odd_names_of_slides(results: Path, serve: Callable[[Desk], Served]) -> None:
    """A folder can be called anything; its name reaches the page and back as it is."""
    odd = "a b#c?d%2e&<img src=x onerror=alert(1)>'\u00e9"
    (results / SLIDE).rename(results / odd)
    summary = json.loads((results / odd / "summary.json").read_text())
    (results / odd / "summary.json").write_text(json.dumps(summary | {"slide_id": odd}))
    table = pd.read_parquet(results / "slides.parquet")
    table["slide_id"] = table["slide_id"].replace({SLIDE: odd})
    table.to_parquet(results / "slides.parquet")
    url = serve(Desk(results, Who("Dr A"))).url + "api/slides"
    with urllib.request.urlopen(url) as answer:
        assert odd in [row["key"] for row in json.load(answer)["slides"]]
    with urllib.request.urlopen(f"{url}/{quote(odd, safe='')}/thumbnail.jpg") as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    "text",
    ["x", "0:ff:1:2", "0:ffffff:1", "9:ffffff:0:1", "0:ffffff:nan:1", "0:ffffff:0:1e9", ",", "0:ffffff:0:1,"],
)
def test_channels_are_checked(text: str) -> None:
    with pytest.raises(ReviewError):
        parse_channels(text, 5)


def test_channels_add_up() -> None:
    channels = parse_channels("0:0000ff:100:200,1:ff0000:0:50", 2)
    pixels = np.array([[[100, 0], [200, 0], [150, 50], [400, 80]]], np.uint16)
    rgb = compose(pixels, channels)
    assert rgb.tolist() == [[[0, 0, 0], [0, 0, 255], [255, 0, 127], [255, 0, 255]]]


@pytest.mark.fault
def test_a_server_killed_between_two_corrections_loses_none(results: Path, built_page: Path) -> None:
    """Corrections count once they are confirmed, however the process ends right after."""
    command = [sys.executable, "-m", "histo.cli", "review", str(results), "--port", "0", "--reader", "Dr A"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        url = re.search(r"http://\S+/", line.replace("\n", ""))
        assert url is not None, line + server.stderr.read()

        def ask(path: str, body: object = None, token: str = "") -> dict[str, object]:
            request = urllib.request.Request(
                url[0] + path,
                data=None if body is None else json.dumps(body).encode(),
                headers={"content-type": "application/json", "x-histo-write": token},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)

        for _ in range(200):
            try:
                token = str(ask("api/session")["write"])
                break
            except OSError:
                time.sleep(0.1)
        confirmed = [
            ask(f"api/slides/{SLIDE}/log", {"kind": "delete_cells", "cells": [k]}, token)["entry"]
            for k in (1, 2, 3)
        ]
        server.kill()
        server.wait()
    log = read_log(results / SLIDE)
    assert [entry.number for entry in log.entries] == confirmed == [1, 2, 3]
    assert log.notes == ()


def test_without_node_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("histo.review.web.BUILT", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ReviewError, match="Install Node 20"):
        page_folder()


def test_a_signed_slide_that_is_analysed_anew_is_told(
    analysed: Path, results: Path, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    append(
        results / SLIDE, Sign(name="Dr B", verdict="accepted"), by="Dr B", fingerprint="of an earlier result"
    )
    assert "analysed anew after it was signed" in client.get("/api/slides").json()["slides"][0]["why"]
    assert "analysed anew" in client.get(f"/api/slides/{SLIDE}/state").json()["notes"][0]
    # With other settings, infer analyses it anew, and says so.
    slides = Path(json.loads((results / SLIDE / "summary.json").read_text())["path"])
    before = client.get(f"/api/slides/{SLIDE}/state").json()["revision"]
    run_batch([slides], results, load_config(None, ["measure.spatial=false"]))
    assert f"{SLIDE}: analysed anew, though it was signed by Dr B" in caplog.text
    # The server shows the new result.
    assert client.get(f"/api/slides/{SLIDE}/state").json()["revision"] != before


def test_two_servers_on_one_folder_see_each_other(results: Path) -> None:
    headers = {"x-histo-write": "token"}
    one, two = (client_of(results, Who(name), Secrets(None, "token")) for name in ("Dr A", "Dr B"))
    assert one.post(LOG, json=DELETE, headers=headers).json()["entry"] == 1
    assert two.get(f"/api/slides/{SLIDE}/state").json()["in_force"] == [1]
    assert two.post(LOG, json={"kind": "undo", "entry": 1}, headers=headers).json()["entry"] == 2
    assert one.get(f"/api/slides/{SLIDE}/state").json()["in_force"] == []


def test_what_cannot_be_read_tells_a_blinded_reader_no_name(results: Path) -> None:
    summary = json.loads((results / SLIDE / "summary.json").read_text())
    bad = results.parent / "MEYER.geojson"
    bad.write_text('{"type": "FeatureCollection"')
    (results / SLIDE / "summary.json").write_text(json.dumps(summary | {"annotations": str(bad)}))
    answers = []
    for alone in (False, True):
        with client_of(results, Who("Dr A", alone=alone), Secrets()) as client:
            (key,) = (row["key"] for row in client.get("/api/slides").json()["slides"] if not row["error"])
            answers.append(client.get(f"/api/slides/{key}/state"))
    assert [answer.status_code for answer in answers] == [400, 400]
    assert "JSON" in answers[0].json()["error"]
    assert answers[1].json()["error"].startswith("the slide cannot be read")


def test_a_slide_that_has_moved_is_looked_for(results: Path, tmp_path: Path) -> None:
    summary = json.loads((results / SLIDE / "summary.json").read_text())
    true = Path(summary["path"])
    gone = summary | {"path": f"/nowhere/{true.name}"}
    (results / SLIDE / "summary.json").write_text(json.dumps(gone))
    with pytest.raises(ReviewError, match="--slides"):
        Desk(results, Who("Dr A")).slide(SLIDE)
    assert Desk(results, Who("Dr A"), true.parent).slide(SLIDE).slide.path == true
    (tmp_path / true.name).write_bytes(b"another slide")
    with pytest.raises(HistoError):
        Desk(results, Who("Dr A"), tmp_path).slide(SLIDE)
    with pytest.raises(ConfigError, match="configuration"):
        Desk(tmp_path, Who("Dr A"))
