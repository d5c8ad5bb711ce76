"""The viewer in a real browser: Debian's chromium, driven by Playwright."""

import re
import shutil

import pytest

from flows.output.annotations import Annotation, read_annotations
from flows.output.manifest import Manifest
from flows.viewing.library import Library
from flows.viewing.server import export_site
from tests.flows.viewing.served import SCRIPT, served, write_output

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser") / "an output"
    write_output(root, height=48, width=64)
    return root


@pytest.fixture(scope="module")
def address(output):
    with served(Library(output)) as address:
        yield address


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(15_000)
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    yield page
    page.close()
    assert page.complaints == []


def ids(page):
    return page.eval_on_selector_all("a.card", "cards => cards.map(card => card.dataset.id)")


def until_all_show(page, frame):
    """Every panel, the curves and the space: each draws when its own pictures are there, in any order."""
    parts = "[...document.querySelectorAll('canvas[data-panel], #space canvas, #curves .charts')]"
    until(page, f"{parts}.length > 0 && {parts}.every(part => part.dataset.frame === '{frame}')")


def until(page, expression):
    """Waits in Python: the pages' security policy forbids what Playwright's own waiting evaluates in them."""
    for _ in range(300):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"still not so: {expression}")


def open_page(page, url):
    page.goto(url)
    page.wait_for_selector("body.ready")


def test_the_overview_sorts_filters_and_searches(page, address):
    open_page(page, address)
    assert ids(page) == ["ep_0", "ep_1", "ep_2", "failed", "filtered", "damaged"]
    page.click("#direction")
    assert ids(page)[:3] == ["ep_2", "ep_1", "ep_0"]
    page.select_option("#sort", "episode_index")
    assert ids(page)[0] == "damaged"
    page.click("[data-tag='mask-flicker']")
    assert ids(page) == ["ep_0"]
    page.keyboard.press("Escape")
    page.fill("#search", "fork")
    until(page, "document.querySelectorAll('a.card').length === 1")
    assert ids(page) == ["ep_1"]
    assert "q=fork" in page.url
    assert all(url.startswith((address, "data:")) for url in page.asked)


def test_every_column_can_be_filtered_and_the_address_keeps_it(page, address):
    open_page(page, address)
    names = page.eval_on_selector_all("#add option", "all => all.map(one => one.value).filter(Boolean)")
    assert {"episode_id", "status", "score", "score_task", "quality_masks", "n_frames", "tags", "verdict"} <= set(names)
    page.select_option("#add", "status")
    page.select_option("form.editor select", label="failed · 1")
    assert ids(page) == ["failed"]
    open_page(page, f"{address}#f=score%3A0.2..0.7&sort=score")
    page.reload()
    page.wait_for_selector("body.ready")
    assert ids(page) == ["ep_2", "ep_1"]
    page.click("button.chip.on")
    assert len(ids(page)) == 6


def test_dragging_over_a_distribution_filters(page, address):
    open_page(page, address)
    box = page.locator("[data-column='score'] svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.99, box["y"] + 20)
    page.mouse.up()
    assert ids(page) == ["ep_0", "ep_1"]
    assert "f=score" in page.url


def test_texts_from_the_data_are_never_markup(page, address):
    open_page(page, address)
    assert page.locator("[data-id='filtered'] .instruction").inner_text() == SCRIPT
    open_page(page, f"{address}#q=script")
    assert page.locator("#cards img, #cards script").count() == 0
    assert "owned" not in page.title()


def test_scrubbing_moves_every_panel_the_curves_and_space(page, address):
    open_page(page, f"{address}episode.html?id=ep_0")
    assert page.locator("#panels canvas[data-panel]").count() == 9
    until_all_show(page, 0)

    def picture(name):
        return page.evaluate("name => document.querySelector(`canvas[data-panel=${name}]`).toDataURL()", name)

    before = {name: picture(name) for name in ("rgb", "masks", "tracks", "depth", "stabilized", "object_depth")}
    page.locator("#scrubber").fill("23")
    until_all_show(page, 23)
    assert all(picture(name) != old for name, old in before.items())
    assert page.locator("#frame").inner_text().startswith("23 / 39")


def test_keys_step_play_zoom_and_leaf_through(page, address):
    open_page(page, f"{address}episode.html?id=ep_1#list=sort%3Depisode_index")
    page.wait_for_selector("body.listed")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    until_all_show(page, 11)
    page.keyboard.press("3")
    assert page.locator(".panel.large").get_attribute("data-panel") == "tracks"
    page.keyboard.press("Escape")
    assert page.locator(".panel.large").count() == 0
    for _ in range(3):
        page.keyboard.press("+")
    page.keyboard.press(" ")
    until(page, "Number(document.querySelector('canvas[data-panel=rgb]').dataset.frame) > 14")
    page.keyboard.press(" ")
    page.keyboard.press("]")
    page.wait_for_url(re.compile("id=ep_2"))
    page.wait_for_selector("body.listed")
    page.keyboard.press("u")
    page.wait_for_url(re.compile("index.html#sort=episode_index"))
    page.wait_for_selector("body.ready")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.id") == "ep_1"
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("id=ep_1"))


def test_a_verdict_is_kept_beside_the_manifest(page, address, output):
    open_page(page, f"{address}episode.html?id=ep_2")
    page.wait_for_selector("#accept")
    page.keyboard.press("r")
    page.fill("#note", "gripper slips")
    page.locator("#note").blur()
    until(page, "document.querySelector('#saved').textContent.startsWith('saved')")
    page.wait_for_timeout(200)
    assert read_annotations(output) == {"ep_2": Annotation("reject", "gripper slips")}
    open_page(page, f"{address}#f=verdict%3A%3Dreject")
    assert ids(page) == ["ep_2"]
    (output / "annotations.csv").unlink()


def test_a_damaged_packet_says_so_and_the_rest_goes_on(page, address):
    open_page(page, address)
    page.click("[data-id='damaged']")
    page.wait_for_selector(".notice")
    assert "damaged" in page.locator(".notice").first.inner_text()
    page.wait_for_selector("body.listed")
    page.click("#back")
    page.wait_for_selector("body.ready")
    assert len(ids(page)) == 6


def test_a_running_batch_appears_by_itself(page, tmp_path):
    write_output(tmp_path / "out", count=1)
    with served(Library(tmp_path / "out")) as address:
        open_page(page, address)
        page.wait_for_timeout(300)
        Manifest(tmp_path / "out").add({"episode_id": "new", "episode_index": 9, "status": "failed", "error": "no"})
        page.wait_for_selector("[data-id='new']")
        # The server goes before the page does; what the page asks for then is not counted.
        page.goto("about:blank")


def test_the_export_works_from_disk(page, output, tmp_path):
    export_site(Library(output), tmp_path / "a site")
    open_page(page, (tmp_path / "a site" / "index.html").as_uri())
    page.fill("#search", "plate")
    until(page, "document.querySelectorAll('a.card').length === 1")
    page.click("a.card")
    page.wait_for_selector("body.listed")
    page.keyboard.press("End")
    until_all_show(page, 39)
    page.keyboard.press("a")
    until(page, "document.querySelector('#saved').textContent !== ''")
    page.click("#back")
    page.wait_for_selector(".verdict.accept")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.path().read_text() == "episode_id,verdict,note\nep_0,accept,\n"
    assert all(url.startswith(("file:", "data:")) for url in page.asked)


def test_two_packets_side_by_side(page, output, tmp_path):
    write_output(tmp_path / "two", height=48, width=64)
    with served(Library(output), Library(tmp_path / "two")) as address:
        open_page(page, f"{address}episode.html?id=ep_0")
        page.wait_for_selector("body.listed")
        page.click("#compare")
        page.wait_for_selector("body.ready")
        page.keyboard.press("ArrowRight")
        until_all_show(page, 1)
        assert "mask overlap (IoU)" in page.locator("#numbers").inner_text()
        page.goto("about:blank")


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_no_page_is_wider_than_the_screen(page, address, width):
    page.set_viewport_size({"width": width, "height": 900})
    for url in (address, f"{address}episode.html?id=ep_0"):
        open_page(page, url)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_statistics_page_has_its_tables_and_leads_back(page, address):
    page.goto(address)
    page.click('a[href="stats.html"]')
    page.wait_for_selector("#tables table")
    titles = page.eval_on_selector_all("#tables h3", "all => all.map(one => one.textContent)")
    assert {"Frames an episode", "Tags", "Coverage"} <= set(titles)
    assert "kB a frame" in page.inner_text("#counts")
    page.click("#back")
    page.wait_for_selector("a.card")
