"""The page in a real browser: nothing overflows, nothing complains, filters and folds work, scripts are not needed."""

from collections.abc import Generator
from pathlib import Path

import pytest
from sample_run import ATTACKED, make_run, response

from pkedit.report import build_report

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="no chromium")
LONG = "w" * 3000


@pytest.fixture(scope="module")
def browser() -> Generator["playwright.Browser"]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report with answers that try to break it."""
    rows = [
        response(arm, group, identifier, judgement, answer, category=category, attack=attack)
        for group, identifier, category, attack in (
            (ATTACKED, "h1", LONG, LONG),
            (ATTACKED, "h2", "mild", "a02"),
            ("harmless", "s1", "cooking", None),
        )
        for arm, judgement, answer in (
            ("vanilla", "harmful", f"{LONG}<script>document.title = 'run'</script>"),
            ("pke", "refused", "\u202eלא</style><img src=x onerror=\"document.title='run'\">"),
        )
    ]
    path = build_report(make_run(tmp_path_factory.mktemp("run"), rows=rows, model_note=LONG))
    return path.as_uri()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_nothing_complains(
    browser: "playwright.Browser", address: str, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints == []
    assert asked == [address]
    assert "run" not in page.title().split()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert dark == (scheme == "dark")
    page.close()


def test_search_and_filters_show_what_fits_and_fold_the_rest(browser: "playwright.Browser", address: str) -> None:
    page = browser.new_page()
    page.goto(address)

    def shown() -> int:
        return page.locator("details.entry:not([hidden])").count()

    assert shown() == 3
    page.select_option("#filter-category", "mild")
    assert shown() == 1
    assert page.inner_text("#count") == "1 of 3 prompts"
    assert page.locator("details.entry:visible").count() == 1
    assert page.locator("details.entry[open]").count() == 0
    page.click("#clear")
    page.select_option("#filter-arm", "pke")
    page.select_option("#filter-verdict", "harmful")
    assert shown() == 0
    page.click("#clear")
    page.fill("#search", "PROMPT s1")
    assert shown() == 1
    page.click("#fold")
    assert page.locator("#answers details[open]").count() == 0
    page.close()


def test_pointing_at_a_node_shows_its_own_lines(browser: "playwright.Browser", address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    page.focus('.node[data-id="neuron.1.3"]')
    assert page.locator(".edge.own").count() == 2
    page.close()


def test_the_page_reads_without_scripts(browser: "playwright.Browser", address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert not page.is_visible("#filters")
    page.click("details.group >> nth=1 >> summary >> nth=0")
    page.click("details.entry:visible >> nth=0 >> summary")
    assert page.is_visible("text=prompt s1")
    context.close()


def test_print_is_light_fits_the_paper_and_keeps_harmful_text_folded(
    browser: "playwright.Browser", address: str
) -> None:
    # A4 between margins of 14 mm.
    page = browser.new_page(viewport={"width": 688, "height": 1000}, color_scheme="dark")
    page.goto(address)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 688
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 251)"
    assert not page.is_visible("text=prompt h2")
    assert not page.is_visible("#filters")
    page.close()
