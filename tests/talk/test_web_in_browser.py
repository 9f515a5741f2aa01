"""The web page in a real browser, with the embedded model: type, read both answers, move the slider."""

import shutil
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pkedit
from pkedit.edit.hooked import HookedDelta
from pkedit.locate.region import Region, RegionNeuron
from pkedit.talk.subject import Subject
from pkedit.talk.web import Server, launch, make_page

pytestmark = pytest.mark.slow
CHROMIUM = "/usr/bin/chromium"
QUESTION = "Name a fruit. <b>{{1+1}}</b>"
DONE = "document.querySelectorAll('.pk-answer').length == 2 && !document.querySelector('.pk-writing')"
AT_0 = "document.querySelector('.pk-edited h2').innerText.endsWith('strength 0')"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where a page for the embedded model with a random edit is served."""
    pytest.importorskip("gradio", reason="the extra `serve` is not installed")
    chat = pkedit.load_model("smollm2")
    neurons = tuple(RegionNeuron(layer, index, score=0.0) for layer in (14, 16) for index in range(8))
    hooked = HookedDelta(chat, Region(neurons, {"given": 1.0}), ("write", "read0"))
    generator = torch.Generator().manual_seed(0)
    for free in hooked.free.values():
        free.data.normal_(generator=generator).mul_(8.0)
    server = Server(Subject(chat, hooked.freeze(), source="random edit"), limit=8, strength=1.0)
    blocks = make_page(server)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield launch(blocks, host="127.0.0.1", port=port)
    blocks.close(verbose=False)


@pytest.fixture
def tab(address: str) -> Iterator[Any]:
    """An open page, which fails the test if it asks another machine for anything."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"there is no {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(address)
        tab.wait_for_selector(".pk-edited")
        yield tab
        browser.close()
    assert asked
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert errors == []


def answers(tab: Any) -> list[str]:
    texts: list[str] = tab.locator(".pk-answer").all_inner_texts()
    return texts


def test_a_question_is_answered_by_both_and_at_strength_0_alike(tab: Any) -> None:
    tab.get_by_label("Question").fill(QUESTION)
    tab.get_by_label("Question").press("Enter")
    tab.wait_for_selector(".pk-writing")
    tab.wait_for_function(DONE)
    base, edited = answers(tab)
    assert base.strip()
    assert base != edited
    assert tab.locator(".pk-question").first.inner_text() == QUESTION
    assert tab.locator(".pk-fired li[aria-label]").count() == 10
    assert tab.locator(".pk-fired li").first.get_attribute("aria-label").startswith("layer 1")

    slider = tab.get_by_role("slider")
    slider.focus()
    # A place that is left again at once, as when it is dragged, and whose message is overtaken by the next.
    held: list[Any] = []
    tab.route("**/queue/join*", lambda route: route.continue_() if held else held.append(route))
    with tab.expect_request("**/queue/join*"):
        slider.press("ArrowLeft")
    slider.press("Home")
    tab.wait_for_function(AT_0)
    # What was said at the strength before stays until the first new word.
    tab.wait_for_function(f"{DONE} && document.querySelector('.pk-edited .pk-answer').innerText != {edited!r}")
    assert answers(tab) == [base, base]
    with tab.expect_response("**/queue/join*"):
        held[0].continue_()
    tab.wait_for_timeout(1500)
    assert tab.evaluate(AT_0)
    assert answers(tab) == [base, base]
    assert slider.input_value() == "0"

    tab.get_by_role("button", name="New conversation").click()
    tab.wait_for_function("!document.querySelector('.pk-answer')")
    tab.set_viewport_size({"width": 390, "height": 844})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
