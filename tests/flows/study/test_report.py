"""The report of a study: its files, and its pages in a real browser, opened from disk."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from extractors.errors import ConfigError, OutputError
from flows.study.report import write_report
from tests.flows.study.reports import HOSTILE, SIDE, condition, episode, frames, report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
CHROMIUM = shutil.which("chromium")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "a report"
    write_report(report(), folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(15_000)
    complaints, asked = [], []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert complaints == []
    assert all(url.startswith(("file://", "data:")) for url in asked)
    page.close()


def open_page(page, path):
    page.goto(path.as_uri())
    page.wait_for_selector("body.ready")


def canvases(page, what):
    return page.eval_on_selector_all("canvas[data-panel]", f"all => all.map(one => {what})")


def ids(page):
    return page.eval_on_selector_all("#episode-list tbody tr", "rows => rows.map(row => row.dataset.id)")


def test_numbers_are_written_for_scripts_too(folder):
    numbers = json.loads((folder / "report.json").read_text())
    assert [row["name"] for row in numbers["conditions"]] == ["A", "D", "C-8", "E", "G", "F"]
    assert numbers["conditions"][1]["change"] == -0.16
    assert numbers["probes"]["A"][1]["numbers"]["flag"] == "collapsed"
    assert numbers["episodes"][1]["errors"]["static"] == pytest.approx(np.mean([0.1 * at for at in range(1, 12)]))


def test_sheets_hold_each_frame_and_only_what_is_retrieved_of_the_bank(folder):
    data = json.loads((folder / "episodes" / "ep_2.html").read_text().split('id="data">')[1].split("</script>")[0])
    sheets = data["sheets"]["episode"]
    assert [len(data["sheets"][name]["files"]) for name in ("episode", "bank")] == [2, 2]
    sheet = np.asarray(Image.open(folder / sheets["files"][70 // 64]))
    cell = 70 % 64
    top, left = cell // sheets["columns"] * sheets["stride"][1], cell % sheets["columns"] * sheets["stride"][0]
    # JPEG spoils colours at edges by some steps of 256.
    difference = sheet[top : top + SIDE, left : left + SIDE].astype(int) - frames(90, 2)[70]
    assert np.abs(difference).mean() < 6


def test_equal_reports_are_equal_files_and_an_older_one_is_replaced(folder, tmp_path):
    write_report(report(), tmp_path / "again")
    (tmp_path / "again" / "of the older one").touch()
    write_report(report(), tmp_path / "again")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    again = sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file())
    assert again == files
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_what_cannot_be_shown_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not a study's report"):
        write_report(report(probes={}), tmp_path / "mine")
    for fault, words in (
        (episode("x", 0, retrieved={"A": {"global": [999], "same": []}}), "must point into 200 frames, got 999"),
        (episode("x", 0, link="javascript:alert(1)"), "must be a page's address"),
        (episode("x", 0, start=15), "1 to 14 given frames"),
    ):
        with pytest.raises(ValueError, match=words):
            write_report(report(probes={}, episodes=[fault]), tmp_path / "report")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(report(probes={}), tmp_path / "file" / "report")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine"]
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


@in_browser
def test_the_overview_tells_verdicts_in_words(page, folder):
    open_page(page, folder / "index.html")
    rows = page.eval_on_selector_all("#conditions tbody tr", "all => all.map(row => row.innerText.split('\\t'))")
    assert [row[2] for row in rows] == ["baseline", "helps", "regularises only", "nothing", "hurts", "cannot tell"]
    assert rows[1][3].startswith("\N{MINUS SIGN}16.0 %")
    assert rows[0][11:16] == [
        "0.0 %",
        "\N{MINUS SIGN}1.0 %",
        "\N{EN DASH}",
        "\N{MINUS SIGN}10.0 %",
        "\N{MINUS SIGN}20.0 %",
    ]
    assert rows[5][-1] == "2 (+1 diverged)"
    assert "D \N{MINUS SIGN}16.0 %" in page.locator(".forest svg").get_attribute("aria-label")
    assert page.locator(".warning").inner_text() == "1 run diverged and is not averaged in: F seed 1."
    assert page.locator("#curves path.curve title").count() == 6
    page.eval_on_selector_all("#probes details", "all => all.forEach(one => { one.open = true; })")
    figures = page.locator("#probes img")
    assert figures.count() == 4
    for index in range(4):
        figures.nth(index).scroll_into_view_if_needed()
        page.wait_for_function("at => document.querySelectorAll('#probes img')[at].naturalWidth > 0", arg=index)


@in_browser
def test_episodes_are_sorted_by_tag_and_error_and_narrowed_by_a_tag(page, folder):
    open_page(page, folder / "index.html")
    assert ids(page) == ["ep_0", "ep_1", "ep_2", HOSTILE] or ids(page) == [HOSTILE, "ep_0", "ep_1", "ep_2"]
    page.click("#episode-list th button:text-is('Tags')")
    tagged = [name for name in ids(page) if name != HOSTILE]
    assert tagged == ["ep_0", "ep_2", "ep_1"]  # models-beat-static, static-dominates, tight-tie
    page.click("#episode-list th button:text-is('Tags')")
    assert [name for name in ids(page) if name != HOSTILE] == ["ep_1", "ep_2", "ep_0"]
    page.click("#episode-list th button:text-is('Error, A')")
    assert ids(page) == ["ep_0", "ep_1", HOSTILE, "ep_2"]
    assert page.locator("th[aria-sort='ascending']").inner_text().startswith("Error, A")
    page.click(".chips button[data-tag='tight-tie']")
    assert ids(page) == ["ep_1"]
    assert page.locator(".chips button[data-tag='tight-tie']").inner_text() == "tight-tie · 1"
    assert page.locator("tr[data-id='ep_0'] a").count() == 0
    page.click(".chips button[data-tag='tight-tie']")
    links = page.eval_on_selector_all("tr[data-id='ep_0'] a", "all => all.map(one => one.getAttribute('href'))")
    assert links == ["episodes/ep_0.html", "view/episode.html?id=ep_0"]


@in_browser
def test_one_scrubber_moves_every_picture(page, folder):
    open_page(page, folder / "episodes" / "ep_2.html")
    panels = canvases(page, "one.dataset.panel")
    assert panels == ["truth", "static", "global A", "global D", "same A", "same D"]
    assert set(canvases(page, "one.dataset.row")) == {"3"}
    before = canvases(page, "one.dataset.shown")
    page.locator("#scrubber").fill("70")
    assert set(canvases(page, "one.dataset.row")) == {"70"}
    after = canvases(page, "one.dataset.shown")
    assert after[:2] == ["episode 70", "episode 2"]
    # Truth and A move on; static and D stand still, as they were given.
    assert [a != b for a, b in zip(after, before, strict=True)] == [True, False, True, False, True, False]
    page.keyboard.press("ArrowRight")
    assert set(canvases(page, "one.dataset.row")) == {"71"}
    page.keyboard.press("End")
    assert canvases(page, "one.dataset.shown")[-1] == ""  # predicted two frames less
    page.keyboard.press("Home")
    assert set(canvases(page, "one.dataset.shown")) == {"episode 0"}
    assert page.locator("output").inner_text() == "0 / 89 · given"


@in_browser
def test_pictures_show_the_frame_that_they_name(page, folder):
    open_page(page, folder / "episodes" / "ep_0.html")
    page.locator("#scrubber").fill("13")
    # The light square is at the right end in the truth, near its start in the copy of frame 2. A page from disk may not
    # read its canvases, so a screenshot is looked at.
    for panel, share in (("truth", 0.83), ("static", 0.17 + 2 / 13 * 0.66)):
        path = folder.parent / "panel.png"
        page.locator(f"canvas[data-panel='{panel}']").screenshot(path=path)
        shown = np.asarray(Image.open(path).convert("RGB")).astype(int)
        light = np.flatnonzero((shown[shown.shape[0] // 2, :, 0] > 150) & (shown[shown.shape[0] // 2, :, 2] < 120))
        assert light.mean() / shown.shape[1] == pytest.approx(share, abs=0.06)


@in_browser
def test_playing_runs_to_the_end_and_links_lead_on(page, folder):
    open_page(page, folder / "episodes" / "ep_0.html")
    page.locator("#scrubber").fill("11")
    page.click("#play")
    page.wait_for_selector("canvas[data-row='13']")
    page.wait_for_selector("#play:text-is('Play')")
    viewer = page.locator("nav a:text-is('packet in the viewer')")
    assert viewer.get_attribute("href") == "../view/episode.html?id=ep_0"
    page.click("nav a:has-text('next')")
    page.wait_for_selector("body.ready")
    assert page.locator("h1").inner_text() == "ep_1"
    page.click("nav a:text-is('all episodes')")
    page.wait_for_selector("body.report.ready")


@in_browser
def test_names_and_instructions_are_never_markup(page, folder):
    open_page(page, folder / "index.html")
    assert page.title() == "Which cue helps"
    assert page.locator("#episodes img, #episodes script").count() == 0
    page.click("#episode-list a:has-text('onerror')")
    page.wait_for_selector("body.episode.ready")
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.locator("img").count() == 0
    assert page.title().startswith(HOSTILE[:20])


@in_browser
def test_a_report_with_nothing_measured_opens_too(page, tmp_path):
    bare = report(
        conditions=[condition("A", "baseline", None, errors={}, by_fifth=[], inverse_dynamics=None, copy_ratio=None)],
        curves={"Held-out error": []},
        probes={},
        episodes=[],
        bank=np.zeros((0, SIDE, SIDE, 3), np.uint8),
        warnings=[],
    )
    open_page(page, write_report(bare, tmp_path / "report"))
    assert "No condition was compared with A" in page.locator("#verdicts").inner_text()
    assert ids(page) == []


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_light_and_dark(browser, folder, scheme):
    page = browser.new_page(color_scheme=scheme)
    open_page(page, folder / "index.html")
    colours = page.evaluate(
        """() => [...document.querySelectorAll("h1, p, td, th, dt, dd, figcaption, summary, button")].map((one) => {
          let ground = one;
          const clear = (node) => getComputedStyle(node).backgroundColor === "rgba(0, 0, 0, 0)";
          while (ground.parentElement && clear(ground)) ground = ground.parentElement;
          return [getComputedStyle(one).color, getComputedStyle(ground).backgroundColor];
        })"""
    )
    page.close()
    assert len(colours) > 50
    # WCAG 2.1, 1.4.3: a contrast of 4.5 for small text.
    assert min(contrast(*pair) for pair in set(map(tuple, colours))) >= 4.5


def contrast(one, other):
    def luminance(colour):
        shares = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
