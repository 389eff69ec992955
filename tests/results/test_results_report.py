from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import make_summary
from PIL import Image

from histo.errors import ResultsError
from histo.measure.summary import Flag, StainSummary
from histo.results.report import render_report, write_report


class _Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._silent = 0
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data


def _picture(path: Path, width: int = 3000, height: int = 900) -> Path:
    Image.fromarray(np.full((height, width, 3), 200, np.uint8)).save(path)
    return path


def test_it_tells_the_numbers_their_intervals_and_where_they_come_from() -> None:
    page = _Page(render_report(make_summary(), confidence_level=0.95))
    for text in (
        "slide-1",
        "2,951 CD8+ cells",
        "219 per mm²",
        "95 % interval 211 to 227",
        "4.82 %",
        "-1.83",
        "excluded",
        "1 tile could not be read.",
        "unread_tiles",
        "Excluded: out of focus",
        "0.55 mm²",
        "/slides/slide-1.svs",
        "0.25 x 0.27 µm, from metadata",
        "libjpeg-turbo",
        "nuclear (0.650, 0.700, 0.290) estimated; cd8 (0.270, 0.570, 0.780) config",
        "a" * 64,
        "b" * 64,
        "histo 0.1.0",
        "10.7554/eLife.36967",
        "research use only",
        "CD8 staining alone says nothing about exhaustion",
    ):
        assert text in page.text, text
    assert "467 (443 to 490)" in page.text


def test_what_cannot_be_assessed_says_why_and_no_number_is_made_up() -> None:
    page = _Page(render_report(make_summary(assessable=False)))
    assert page.text.count("no tumour annotation") >= 6
    assert "NA" in page.text
    assert "None" not in page.text
    assert "nan" not in page.text.lower().split()
    assert "Kather et al." not in page.text
    assert not any(tag == "svg" for tag, _ in page.tags)


def test_hostile_names_are_text() -> None:
    name = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    # A slide's name is that of its folder: without a slash.
    slide_id = name.replace("/", "")
    summary = make_summary(slide_id, flags=[Flag(code="x", message=name)], annotations=name)
    html = render_report(summary)
    page = _Page(html)
    assert name in page.text
    assert slide_id in page.text
    assert not any(tag in ("script", "img") for tag, _ in page.tags)
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)


def test_it_asks_nothing_of_the_network(tmp_path: Path) -> None:
    html = render_report(make_summary(), overlay=_picture(tmp_path / "overlay.png"))
    page = _Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for key in ("src", "href", "xlink:href", "srcset", "poster"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#")), (tag, key, value)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    policy = next(a for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert "default-src 'none'" in str(policy["content"])


def test_the_picture_is_embedded_smaller(tmp_path: Path) -> None:
    import base64
    from io import BytesIO

    page = _Page(render_report(make_summary(), overlay=_picture(tmp_path / "overlay.png")))
    (source,) = [a["src"] for t, a in page.tags if t == "img"]
    assert source is not None
    kind, data = source.split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(BytesIO(base64.b64decode(data))).size == (1600, 480)


def test_the_profile_is_drawn_in_the_colour_of_the_page() -> None:
    html = render_report(make_summary())
    assert html.count("<svg") == 1
    assert "<?xml" not in html
    assert "currentColor" in html
    assert "#010203" not in html
    assert html == render_report(make_summary())


def test_fluorescence_tells_channels_instead_of_vectors() -> None:
    summary = make_summary()
    stain = StainSummary(
        unit="share of full scale",
        channels={"nuclear": "DAPI", "cd8": "Opal 520"},
        background={"nuclear": 12.0, "cd8": 3.5},
        full_scale={"nuclear": 900.0, "cd8": 410.0},
    )
    image = summary.image.model_copy(update={"kind": "fluorescence", "channels": ["DAPI", "Opal 520"]})
    page = _Page(render_report(summary.model_copy(update={"stain": stain, "image": image})))
    assert "cd8: Opal 520, background 3.5, full scale 410" in page.text
    assert "deconvolution" not in page.text
    assert "Stain vectors" not in page.text


def test_many_failed_tiles_are_cut_short() -> None:
    summary = make_summary()
    tissue = summary.tissue.model_copy(update={"failed_tiles": summary.tissue.failed_tiles * 50})
    page = _Page(render_report(summary.model_copy(update={"tissue": tissue})))
    assert page.text.count("cannot be decoded") == 20
    assert "30 more" in page.text


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, make_summary("Präparat"))
    assert "Präparat" in path.read_text(encoding="utf-8")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ResultsError, match="picture"):
        write_report(tmp_path / "b.html", make_summary(), overlay=tmp_path / "broken.png")
    assert not (tmp_path / "b.html").exists()
