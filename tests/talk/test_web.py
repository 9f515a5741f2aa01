"""The web page: what its buttons do, what it shows, and that it keeps to this machine."""

import importlib.util
import re
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from talking import LIMIT, QUESTION, make_subject, plain

from pkedit.errors import TalkError
from pkedit.run.data import read_splits
from pkedit.settings import RunSettings
from pkedit.stopping import Terminated
from pkedit.talk import page, web
from pkedit.talk.conversation import Conversation, Side
from pkedit.talk.examples import examples
from tiny import changed_weights, snapshot

EVIL = "<script>alert(1)</script></section><img src=x onerror=alert(2)> {{1+1}} ${2+2} `x` \u202eabc"


@pytest.fixture(scope="module")
def server() -> web.Server:
    """A server for a tiny model."""
    return web.Server(make_subject(), limit=LIMIT, strength=1.0)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody drags a slider here."""
    monkeypatch.setattr(web, "SETTLED", 0.0)


class Words(HTMLParser):
    """The tags and the text of a part of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def last(shown: Iterator[web.Shown]) -> web.Shown:
    *_, found = shown
    return found


def answer(pane: str) -> str:
    found = re.search(r'class="pk-answer[^>]*>([^<]*)<', pane)
    assert found
    return found[1].strip()


def test_both_panes_grow_and_end_with_plain_generation(server: web.Server) -> None:
    conversation = server.conversation()
    before = snapshot(server.subject.chat.model)
    shown = list(server.ask(conversation, QUESTION, 1.0, 0))
    lengths = [len(answer(base)) for base, _, _ in shown]
    assert lengths == sorted(lengths)
    assert lengths[0] == 0
    assert "pk-writing" in shown[1][0]
    base, edited, _ = shown[-1]
    assert answer(base) == plain(server.subject)
    assert answer(edited) == plain(server.subject, strength=1.0)
    assert "pk-writing" not in base + edited
    assert not changed_weights(server.subject.chat.model, before)


def test_the_bar_list_names_the_neurons_farthest_from_harmless(server: web.Server) -> None:
    conversation = server.conversation()
    assert "<li" not in server.show(conversation)[2]
    bars = last(server.ask(conversation, QUESTION, 1.0, 0))[2]
    labels = re.findall(r'aria-label="layer (\d) · (\d+): ([+−][\d.]+) edited, ([+−][\d.]+) base"', bars)
    assert {(int(layer), int(index)) for layer, index, _, _ in labels} == {(0, 2), (0, 5), (1, 0), (1, 7), (1, 23)}
    sizes = [float(edited.replace("−", "-")) for _, _, edited, _ in labels]
    assert [abs(size) for size in sizes] == sorted((abs(size) for size in sizes), reverse=True)
    assert "How to read it: of the 5 neurons" in bars
    places = [float(place) for place in re.findall(r"(?:left|width):([\d.-]+)%", bars)]
    assert all(0 <= place <= 100 for place in places)


def test_at_strength_0_the_answers_are_equal_and_the_bars_meet_the_rings(server: web.Server) -> None:
    conversation = server.conversation()
    last(server.ask(conversation, QUESTION, 1.0, 0))
    base, edited, bars = last(server.rescale(conversation, 0, 0))
    assert answer(base) == answer(edited) == plain(server.subject)
    assert "strength 0<" in edited
    assert all(one == other for one, other in re.findall(r": (\S+) edited, (\S+) base", bars))


def test_moving_the_slider_leaves_a_finished_base_answer_alone(server: web.Server) -> None:
    conversation = server.conversation()
    base = last(server.ask(conversation, QUESTION, 1.0, 0))[0]
    for shown in server.rescale(conversation, 0.3, 0):
        assert shown[0] == base
    assert answer(shown[1]) == plain(server.subject, strength=0.3)


def test_moving_the_slider_while_both_write_asks_both_again(server: web.Server) -> None:
    conversation = server.conversation()
    asking = server.ask(conversation, QUESTION, 1.0, 0)
    next(asking)
    next(asking)
    base, edited, _ = last(server.rescale(conversation, 0.3, 0))
    assert not list(asking)
    assert answer(base) == plain(server.subject)
    assert answer(edited) == plain(server.subject, strength=0.3)


def test_of_a_dragged_slider_only_the_last_place_is_answered(
    server: web.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = server.conversation()
    before = last(server.ask(conversation, QUESTION, 1.0, 0))
    monkeypatch.setattr(web.time, "sleep", lambda _: conversation.stop())
    (shown,) = server.rescale(conversation, 0.2, 0)
    assert answer(shown[1]) == answer(before[1])


def test_a_place_of_the_slider_that_arrives_late_does_not_undo_a_later_one(server: web.Server) -> None:
    conversation = server.conversation()
    last(server.ask(conversation, QUESTION, 1.0, 0))
    shown = last(server.rescale(conversation, 0.3, 20))
    assert list(server.rescale(conversation, 0.95, 10)) == [shown]
    # What is asked is answered all the same, at the strength that the visitor sees.
    assert answer(last(server.ask(conversation, "w7", 0.95, 15))[1]) == answer(
        last(server.rescale(conversation, 0.3, 20))[1]
    )
    assert conversation.strength == 0.3
    last(server.ask(conversation, QUESTION, 0.95, 30))
    assert conversation.strength == 0.95


def test_moving_the_slider_before_a_question_changes_the_heading_only(server: web.Server) -> None:
    base, edited, _ = last(server.rescale(server.conversation(), 0.5, 0))
    assert "strength 0.5" in edited
    assert "Ask something" in base


def test_stop_keeps_what_there_is_and_reset_forgets_it(server: web.Server) -> None:
    conversation = server.conversation()
    asking = server.ask(conversation, QUESTION, 1.0, 0)
    next(asking)
    next(asking)
    base, _, _ = server.stop(conversation)
    assert len(answer(base).split()) == 1
    assert "pk-writing" not in base
    assert not list(asking)
    base, edited, bars = server.reset(conversation)
    assert "pk-answer" not in base + edited
    assert "<li" not in bars


def test_visitors_do_not_hear_each_other(server: web.Server) -> None:
    one, other = server.conversation(), server.conversation()
    first, second = server.ask(one, QUESTION, 1.0, 0), server.ask(other, "w7 w8", 0.3, 0)
    for _ in range(3):
        next(first)
        next(second)
    assert answer(last(first)[1]) == plain(server.subject, strength=1.0)
    assert answer(last(second)[1]) == plain(server.subject, "w7 w8", strength=0.3)


def test_text_of_users_and_models_is_shown_and_never_run() -> None:
    conversation = Conversation(make_subject(), limit=2)
    next(conversation.ask(EVIL))
    conversation.exchanges(Side.BASE)[-1].answer = EVIL
    html = page.pane(conversation, Side.BASE, writing=False) + page.head(EVIL)
    found = Words(html)
    assert set(found.tags) == {"section", "h2", "small", "div", "p", "h1"}
    assert found.text.count(EVIL.replace("\u202e", "⟦U+202E⟧")) == 3
    # The page's own templates would read these.
    assert "{{" not in html
    assert "${" not in html


def test_examples_are_prompts_that_no_edit_learns_from_by_default() -> None:
    test = read_splits(RunSettings()).test
    for kind, texts in examples().items():
        assert len(texts) == 3
        assert set(texts) <= {prompt.text for prompt in getattr(test, kind)}


def test_without_gradio_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TalkError, match=r"pip install 'pkedit\[serve\]'"):
        web.require_gradio()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def address(server: web.Server) -> Iterator[str]:
    """Where the page is served."""
    pytest.importorskip("gradio", reason="the extra `serve` is not installed")
    blocks = web.make_page(server)
    yield web.launch(blocks, host="127.0.0.1", port=free_port())
    blocks.close(verbose=False)


def test_the_page_is_served_on_this_machine_without_analytics_or_share_link(address: str) -> None:
    import httpx

    config: dict[str, Any] = httpx.get(f"{address}config").json()
    assert config["analytics_enabled"] is False
    assert not config["is_colab"]
    text = httpx.get(address).text
    sources = re.findall(r"""(?:src|href)=["'](https?://[^"']+)""", text)
    assert all(source.startswith(address) for source in sources)
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    others = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)]
    for other in others:
        if other.startswith("127."):
            continue
        with socket.socket() as probe:
            assert probe.connect_ex((other, port)) != 0


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid"])
def test_a_place_where_nothing_can_be_served_is_one_line(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(TalkError, match="give another --port or"):
        web.check_free(host, taken.getsockname()[1])


def served_until(ended: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Where the page is served, without a server, and whether it was closed; waiting ends by this."""
    pytest.importorskip("gradio", reason="the extra `serve` is not installed")
    served: dict[str, Any] = {}

    class Page:
        def close(self, **_: object) -> None:
            served["closed"] = True

    class Ended:
        def wait(self) -> None:
            raise ended

    monkeypatch.setattr(web, "make_page", lambda _: Page())
    monkeypatch.setattr(web, "launch", lambda _, **where: served.update(where) or "http://there/")
    monkeypatch.setattr(web.threading, "Event", Ended)
    return served


def test_sigterm_closes_the_page_and_is_not_taken_for_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    served = served_until(Terminated, monkeypatch)
    with pytest.raises(Terminated):
        web.serve(make_subject(), host="127.0.0.1", port=1, limit=2, strength=1.0, tell=lambda _: None)
    assert served["closed"]


def test_listening_elsewhere_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    served = served_until(KeyboardInterrupt, monkeypatch)
    for host, warned in (("127.0.0.1", False), ("0.0.0.0", True)):
        told: list[str] = []
        web.serve(make_subject(), host=host, port=1, limit=2, strength=1.0, tell=told.append)
        assert served == {"host": host, "port": 1, "closed": True}
        assert any("no password" in line for line in told) is warned
        assert any("http://there/" in line for line in told)
