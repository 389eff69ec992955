"""The page in a real browser: what a reader does, and finds again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pandas as pd
import pytest

from histo.review.log import read_log
from histo.review.server import Desk
from histo.review.slide import SlideUnderReview, Who
from histo.review.web import SOURCES

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser here: install chromium")

Page = playwright.Page
expect = playwright.expect
SLIDE = "MEYER_liver"
# What a test makes fail itself.
ABORTED = "net::ERR_FAILED"
READY = '.stage[aria-busy="false"]'


class Served(Protocol):
    url: str


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as running:
        # No sandbox: tests run as root in containers, and open nothing but their own server.
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: playwright.Browser) -> Iterator[Page]:
    """A page of 13 inches that fails the test on any error in the console and on any request elsewhere."""
    context = browser.new_context(viewport={"width": 1280, "height": 760})
    context.set_default_timeout(20_000)
    made = context.new_page()
    errors: list[str] = []
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on(
        "console",
        lambda said: errors.append(said.text) if said.type == "error" and ABORTED not in said.text else None,
    )
    made.on(
        "request",
        lambda asked: (
            errors.append(asked.url)
            if "://127.0.0.1:" not in asked.url and not asked.url.startswith(("data:", "blob:"))
            else None
        ),
    )
    yield made
    context.close()
    assert errors == []


@pytest.fixture
def url(results: Path, serve: Callable[[Desk], Served]) -> str:
    return serve(Desk(results, Who("Dr A"))).url


def open_slide_in(page: Page, url: str) -> None:
    page.goto(f"{url}#/slide/{SLIDE}")
    page.wait_for_selector(READY)


def number(page: Page, name: str, which: str = "new") -> str:
    page.get_by_role("tab", name="Numbers").click()
    return page.locator(f'tr[data-name="{name}"] .{which}').inner_text()


def place_of_cell(page: Page, slide: SlideUnderReview, cell_id: int) -> tuple[float, float]:
    """Return where a cell is on the screen, with the whole slide in view."""
    (at,) = slide.cells.at([cell_id])
    box = page.locator(".stage").bounding_box()
    assert box is not None
    width, height = slide.slide.size_um
    scale = min(box["width"] / width, box["height"] / height)
    x = box["x"] + box["width"] / 2 + (float(slide.cells.x_um[at]) - width / 2) * scale
    y = box["y"] + box["height"] / 2 + (float(slide.cells.y_um[at]) - height / 2) * scale
    return x, y


def lone_cd8(slide: SlideUnderReview) -> int:
    """Return a CD8+ cell that has no other cell near it."""
    from scipy.spatial import cKDTree

    cells = slide.cells
    xy = [*zip(cells.x_um, cells.y_um, strict=True)]
    near = cKDTree(xy).query(xy, 2)[0][:, 1]
    near[~(cells.is_cd8 & cells.in_tissue)] = 0
    # Not under the overview at the top right, nor at the edge.
    near[(cells.x_um > 500) & (cells.y_um < 200)] = 0
    return int(cells.cell_id[near.argmax()])


def drawn_colours(page: Page) -> int:
    """Return how many pixels of the canvas over the slide are drawn."""
    script = """() => {
      const canvas = document.querySelector("canvas.over");
      const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      let n = 0;
      for (let k = 3; k < data.length; k += 4) if (data[k] > 0) n += 1;
      return n;
    }"""
    return int(page.evaluate(script))


def test_open_pan_zoom_and_overlays(page: Page, url: str) -> None:
    page.goto(url)
    row = page.get_by_role("row", name=SLIDE)
    expect(row).to_contain_text("metastasis")
    expect(row).to_contain_text("not looked at")
    expect(page.get_by_role("row", name="broken")).to_contain_text("failed")
    page.get_by_role("link", name=SLIDE).click()
    page.wait_for_selector(READY)
    place = page.locator(".place")
    whole = place.inner_text()
    page.mouse.move(500, 400)
    page.mouse.wheel(0, -400)
    expect(place).not_to_have_text(whole)
    page.wait_for_selector(READY)
    page.get_by_role("button", name="20\u00d7").click()
    expect(place).to_contain_text("20\u00d7")
    page.wait_for_selector(READY)
    everything = drawn_colours(page)
    page.get_by_label("Regions and border").first.uncheck()
    page.wait_for_timeout(100)
    cells_alone = drawn_colours(page)
    assert 0 < cells_alone < everything
    page.keyboard.press("1")
    expect(page.locator("#layer-cells")).not_to_be_checked()
    page.wait_for_timeout(100)
    assert drawn_colours(page) == 0
    for key in "345":
        page.keyboard.press(key)
    page.get_by_role("button", name="Fit").click()
    expect(page.get_by_label("Zones").first).to_be_checked()
    page.wait_for_selector(READY)
    page.wait_for_timeout(500)
    assert drawn_colours(page) > 50_000


def test_correct_and_sign_and_find_it_so(
    page: Page, url: str, slide: SlideUnderReview, results: Path
) -> None:
    open_slide_in(page, url)
    before = int(number(page, "n_cd8").replace(",", ""))
    # A click on a cell tells it; Delete takes it out of the count.
    page.mouse.click(*place_of_cell(page, slide, lone_cd8(slide)))
    expect(page.locator(".cell h2")).to_contain_text(f"Cell {lone_cd8(slide)}")
    expect(page.locator(".planes img")).to_have_count(3)
    expect(page.locator(".cell")).to_contain_text("Tumour border")
    page.get_by_role("button", name="Delete").click()
    expect(page.locator(".cell h2")).to_contain_text("deleted")
    assert int(number(page, "n_cd8").replace(",", "")) == before - 1
    assert int(number(page, "n_cd8", "old").replace(",", "")) == before
    # Another one is added, in the middle of the view.
    page.get_by_role("button", name="Add cell").click()
    box = page.locator(".stage").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator(".cell h2")).to_contain_text("Added cell")
    assert int(number(page, "n_cd8").replace(",", "")) == before
    # A region drawn freehand takes area and cells.
    area = number(page, "assessed_area_mm2")
    page.get_by_role("button", name="Draw region").click()
    page.get_by_label("Region", exact=True).select_option("exclude")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 100, y - 80)
    page.mouse.down()
    for dx, dy in ((100, -80), (100, 80), (-100, 80)):
        page.mouse.move(x + dx, y + dy, steps=6)
    page.mouse.up()
    expect(page.locator(".chip", has_text="3 corrections")).to_be_visible()
    assert number(page, "assessed_area_mm2") != area
    assert number(page, "assessed_area_mm2", "old") == area
    # Undo gives it back, redo takes it again.
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".chip", has_text="2 corrections")).to_be_visible()
    assert number(page, "assessed_area_mm2") == area
    page.get_by_role("button", name="Redo").click()
    expect(page.locator(".chip", has_text="3 corrections")).to_be_visible()
    corrected = number(page, "assessed_area_mm2")
    # Signed, locked, and found so after a reload and in the list.
    page.get_by_role("tab", name="Sign").click()
    page.get_by_label("Name").fill("Dr Anna Meyer")
    page.get_by_label("Comment").fill("one fold excluded")
    page.get_by_role("button", name="Sign and lock").click()
    expect(page.locator(".signed")).to_contain_text("accepted with corrections")
    page.reload()
    page.wait_for_selector(READY)
    expect(page.locator(".chip", has_text="signed, locked")).to_be_visible()
    assert number(page, "assessed_area_mm2") == corrected
    expect(page.get_by_role("button", name="Add cell")).to_be_disabled()
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    page.get_by_role("tab", name="Sign").click()
    expect(page.locator(".signed")).to_contain_text("one fold excluded")
    page.get_by_role("link", name="Work list").click()
    expect(page.get_by_role("row", name=SLIDE)).to_contain_text("Dr Anna Meyer")
    kinds = [entry.action.kind for entry in read_log(results / SLIDE).entries]
    assert kinds == ["delete_cells", "add_cell", "draw_region", "undo", "redo", "sign"]


def test_with_the_keyboard_only(page: Page, url: str, results: Path) -> None:
    page.goto(url)
    page.get_by_role("link", name=SLIDE).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(READY)
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('stage')"):
            break
    expect(page.locator(".stage")).to_be_focused()
    expect(page.locator(".cross")).to_be_visible()
    place = page.locator(".place")
    before = place.inner_text()
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    expect(place).not_to_have_text(before)
    # The least certain cell is picked, and is where the cross is; its class is changed.
    page.keyboard.press("n")
    expect(page.locator(".cell h2")).to_contain_text("Cell")
    uncertain = page.locator(".cell h2").inner_text()
    page.wait_for_timeout(700)
    page.keyboard.press("Escape")
    expect(page.locator(".cell h2")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page.locator(".cell h2")).to_have_text(uncertain)
    page.keyboard.press("c")
    expect(page.locator(".chip", has_text="1 correction")).to_be_visible()
    expect(page.locator(".cell")).to_contain_text("run: CD8+ cell")
    page.keyboard.press("Control+z")
    expect(page.locator(".chip", has_text="no corrections")).to_be_visible()
    page.keyboard.press("Control+Shift+z")
    expect(page.locator(".chip", has_text="1 correction")).to_be_visible()
    # A cell at the cross, then a region from vertices at the cross.
    page.keyboard.press("a")
    page.keyboard.press("a")
    expect(page.locator(".cell h2")).to_contain_text("Added cell")
    page.keyboard.press("0")
    page.keyboard.press("r")
    for keys in (["Space"], ["ArrowRight", "Space"], ["ArrowDown", "Space"]):
        for key in keys:
            page.keyboard.press(key)
            page.wait_for_timeout(700 if key.startswith("Arrow") else 50)
    expect(page.locator(".hint")).to_contain_text("3 vertices")
    page.keyboard.press("Enter")
    expect(page.locator(".chip", has_text="3 corrections")).to_be_visible()
    kinds = [entry.action.kind for entry in read_log(results / SLIDE).entries]
    assert kinds == ["set_class", "undo", "redo", "add_cell", "draw_region"]
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()


def test_histogram_and_its_line(page: Page, url: str) -> None:
    open_slide_in(page, url)
    page.get_by_role("tab", name="Histogram").click()
    told = page.locator(".gate-counts")
    expect(told).to_contain_text("CD8+ cells above")
    before = told.inner_text()
    box = page.locator(".histogram svg").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 50, steps=4)
    page.mouse.up()
    assert told.inner_text() != before
    page.get_by_label("Measurement").select_option("area_um2")
    expect(told).to_contain_text("CD8+ cells above")


def test_blinded(page: Page, results: Path, serve: Callable[[Desk], Served]) -> None:
    url = serve(Desk(results, Who("Dr B", alone=True))).url
    page.goto(url)
    expect(page.locator(".chip.blinded")).to_be_visible()
    page.locator("table.slides tbody a").click()
    page.wait_for_selector(READY)
    for shown in (page.content(), page.title(), page.url):
        for name in ("MEYER", "Meyer", "metastasis", "primary"):
            assert name not in shown


def test_the_server_going_away_is_told(page: Page, url: str, results: Path) -> None:
    open_slide_in(page, url)
    page.route("**/log", lambda route: route.abort())
    page.locator(".stage").focus()
    page.keyboard.press("n")
    expect(page.locator(".cell h2")).to_contain_text("Cell")
    page.keyboard.press("d")
    expect(page.locator(".alert")).to_contain_text("does not answer")
    expect(page.locator(".chip", has_text="no corrections")).to_be_visible()
    assert read_log(results / SLIDE).entries == ()


AXE = SOURCES / "node_modules" / "axe-core" / "axe.min.js"


@pytest.mark.parametrize(("width", "height"), [(1280, 760), (820, 1100)])
def test_accessible(page: Page, url: str, width: int, height: int) -> None:
    """No finding of axe-core that it calls serious or critical; on a 13-inch screen and on a tablet."""
    page.set_viewport_size({"width": width, "height": height})

    def findings() -> list[str]:
        page.evaluate(AXE.read_text())
        told = page.evaluate("axe.run()")
        return [
            f"{one['id']}: {one['help']}: {[node['html'][:120] for node in one['nodes'][:3]]}"
            for one in told["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    page.goto(url)
    page.wait_for_selector("table.slides")
    assert findings() == []
    open_slide_in(page, url)
    for tab in ("Cell", "Numbers", "Histogram", "Log", "Sign"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(100)
        assert findings() == [], tab
    # Nothing to scroll sideways for.
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_counting_blind_to_the_model(page: Page, url: str, results: Path) -> None:
    open_slide_in(page, url)
    page.get_by_role("tab", name="Count").click()
    page.get_by_label("Size").select_option("100")
    page.get_by_role("button", name="Begin counting").click()
    page.wait_for_timeout(800)
    page.wait_for_selector(READY)
    # The frame is drawn, and nothing of the model: no cell, no region.
    frame_alone = drawn_colours(page)
    assert 0 < frame_alone < 20_000
    expect(page.get_by_role("tab", name="Numbers")).to_be_disabled()
    box = page.locator(".stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for dx, dy in ((0, 0), (60, 40), (-70, 30)):
        page.mouse.click(x + dx, y + dy)
    expect(page.locator(".count")).to_contain_text("3 CD8+ cells")
    # A mark that is clicked again is taken back; one more comes from the keyboard.
    page.mouse.click(x + 60, y + 40)
    expect(page.locator(".count")).to_contain_text("2 CD8+ cells")
    page.keyboard.press("n")
    expect(page.locator(".count")).to_contain_text("2 CD8+ cells")
    page.get_by_role("button", name="Done with this frame").click()
    expect(page.locator(".count")).to_contain_text("Frame 2")
    expect(page.locator(".count td").nth(1)).to_have_text("hidden")
    page.get_by_role("button", name="Stop counting").click()
    expect(page.get_by_role("tab", name="Numbers")).to_be_enabled()
    page.wait_for_timeout(200)
    assert drawn_colours(page) > frame_alone
    (entry,) = read_log(results / SLIDE).entries
    assert entry.action.kind == "count_frame"
    assert len(entry.action.marks) == 2


def test_another_slide_beside_and_locked(page: Page, results: Path, serve: Callable[[Desk], Served]) -> None:
    """A slide and itself as its serial section, laid on the same place and locked: they move together."""
    shutil.copytree(results / SLIDE, results / "section 2")
    summary = (results / "section 2" / "summary.json").read_text()
    (results / "section 2" / "summary.json").write_text(summary.replace(SLIDE, "section 2", 1))
    table = pd.read_parquet(results / "slides.parquet")
    second = table[table["slide_id"] == SLIDE].assign(slide_id="section 2")
    pd.concat([table, second]).to_parquet(results / "slides.parquet")
    open_slide_in(page, serve(Desk(results, Who("Dr A"))).url)
    page.get_by_label("Another slide").select_option("section 2")
    label = page.locator(".beside-label")
    expect(label).to_contain_text("section 2")
    page.get_by_label("Locked together").check()
    page.locator(".stage").focus()
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(900)

    def centre() -> list[int]:
        return [int(number) for number in re.findall(r"(?:x|y) (-?\d+)", label.inner_text())]

    one = centre()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(900)
    two = centre()
    assert two[0] > one[0] + 10
    assert two[1] > one[1] + 5
    # Turned by a right angle, right in the one is another way in the other.
    page.get_by_label("Turned by").fill("90")
    page.locator(".stage").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(900)
    three = centre()
    assert abs(three[0] - two[0]) <= 2
    assert abs(three[1] - two[1]) > 10
    # Moved by hand, the other takes the slide along.
    place = page.locator(".scale").inner_text()
    box = page.locator(".beside").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 200)
    page.mouse.wheel(0, -600)
    expect(page.locator(".scale")).not_to_have_text(place)
    page.get_by_label("Another slide").select_option("")
    expect(page.locator(".beside")).to_have_count(0)


def test_scribbling(page: Page, url: str) -> None:
    open_slide_in(page, url)
    before = number(page, "cd8_density_core_per_mm2")
    page.get_by_role("button", name="Scribble").click()
    box = page.locator(".stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for region, side in (("tumour", -1), ("host", 1)):
        page.get_by_label("Region", exact=True).select_option(region)
        page.mouse.move(x + side * 180, y - 80)
        page.mouse.down()
        page.mouse.move(x + side * 140, y, steps=5)
        page.mouse.move(x + side * 180, y + 80, steps=5)
        page.mouse.up()
        expect(page.locator(".banner")).to_be_visible(visible=region == "tumour", timeout=60_000)
    expect(page.locator(".chip", has_text="2 corrections")).to_be_visible(timeout=60_000)
    assert number(page, "cd8_density_core_per_mm2") != before
