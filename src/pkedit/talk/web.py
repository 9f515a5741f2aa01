"""The web page of `pkedit serve`: both sides of an edit, its strength as a slider, and the neurons that fired.

Gradio carries it. It listens on this machine only unless told otherwise, and fetches nothing: no fonts, no analytics,
no share link.
"""

import errno
import importlib.util
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from typing import Any

from pkedit.errors import TalkError
from pkedit.stopping import Terminated
from pkedit.talk import page
from pkedit.talk.conversation import BOTH, Conversation, Side
from pkedit.talk.examples import examples, harmless_texts
from pkedit.talk.firing import WatchedNeurons, usual
from pkedit.talk.subject import Subject

STRONGEST = 1.5
# A slider that is dragged says so many times a second; what it is left at counts.
SETTLED = 0.3
LOOPBACK = ("127.0.0.1", "localhost", "::1")
KIND_NAMES = {"harmless": "Harmless", "borderline": "Harmless, but looks dangerous", "harmful": "Harmful"}
# What the two panes and the bar list show.
Shown = tuple[str, str, str]


def require_gradio() -> None:
    """That the page can be served at all.

    Raises:
        TalkError: Gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise TalkError("the web page needs Gradio, which is not installed; run: pip install 'pkedit[serve]'")


def check_free(host: str, port: int) -> None:
    """That the page can be served there: asked before a model is loaded, which may take minutes.

    Raises:
        TalkError: the port is taken or not allowed, or the address is not one of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = "the port is taken" if error.errno == errno.EADDRINUSE else error.strerror or error
        raise TalkError(
            f"the page cannot be served at {host}:{port} ({reason}); give another --port or --host"
        ) from None


class Server:
    """What the page's buttons do. Each visitor has a `Conversation`; all of them share the model."""

    def __init__(self, subject: Subject, *, limit: int, strength: float) -> None:
        """Reads a few harmless prompts, to know what is usual.

        Args:
            subject: the model and its edit.
            limit: tokens of an answer at most.
            strength: of the edit, to begin with.
        """
        self.subject = subject
        self.strength = strength
        self._limit = limit
        self._watched = WatchedNeurons(subject.chat, subject.delta)
        with subject.speaking(0.0):
            self._usual = usual(subject.chat, self._watched, harmless_texts())

    def conversation(self) -> Conversation:
        """A new visitor."""
        return Conversation(self.subject, limit=self._limit, strength=self.strength, watched=self._watched)

    def show(self, conversation: Conversation, *, writing: bool = False) -> Shown:
        """The page's parts as they are now."""
        sides = [page.pane(conversation, side, writing=writing) for side in BOTH]
        return sides[0], sides[1], page.bars(conversation, self._usual)

    def ask(self, conversation: Conversation, question: str, strength: float, moment: float) -> Iterator[Shown]:
        """Both answers as they grow; `moment`: when it was asked, on the visitor's clock.

        Raises:
            TalkError: nothing was asked, or too much.
        """
        conversation.set_strength(float(strength), moment)
        yield from self._growing(conversation, conversation.ask(question))

    def rescale(self, conversation: Conversation, strength: float, moment: float) -> Iterator[Shown]:
        """The last question once more at another strength, as soon as the slider rests; base need not answer anew.

        Args:
            conversation: the visitor's.
            strength: where the slider was put.
            moment: when, on the visitor's clock: a place that arrives behind a later one counts no more.
        """
        superseded = not conversation.set_strength(float(strength), moment)
        if not superseded:
            turn = conversation.stop()
            time.sleep(SETTLED)
            superseded = conversation.turn != turn
        if superseded:
            # Gradio empties what an event does not fill, so the superseded one shows what there is.
            yield self.show(conversation, writing=True)
            return
        asked = conversation.exchanges(Side.BASE)
        if not asked:
            yield self.show(conversation)
            return
        sides = (Side.EDITED,) if asked[-1].finished else BOTH
        yield from self._growing(conversation, conversation.again(sides))

    def stop(self, conversation: Conversation) -> Shown:
        """Ends the answers where they are."""
        conversation.stop()
        return self.show(conversation)

    def reset(self, conversation: Conversation) -> Shown:
        """An empty page."""
        conversation.reset()
        return self.show(conversation)

    def _growing(self, conversation: Conversation, answers: Iterator[Any]) -> Iterator[Shown]:
        turn = conversation.turn
        yield self.show(conversation, writing=True)
        for _ in answers:
            yield self.show(conversation, writing=True)
        if conversation.turn == turn:
            yield self.show(conversation)


def make_page(server: Server) -> Any:
    """The page as Gradio's `Blocks`, not yet served."""
    gradio = _gradio()

    def asked(conversation: Conversation, question: str, strength: float, moment: float) -> Iterator[tuple[Any, ...]]:
        try:
            for shown in server.ask(conversation, question, strength, moment):
                yield ("", *shown)
        except TalkError as error:
            gradio.Warning(str(error))
            yield (question, *server.show(conversation))

    def asked_example(
        question: str, conversation: Conversation, strength: float, moment: float
    ) -> Iterator[tuple[Any, ...]]:
        # Afresh: a model that has just refused something is quick to refuse again.
        conversation.reset()
        yield from asked(conversation, question, strength, moment)

    blank = server.conversation()
    with gradio.Blocks(title="pkedit: base and edited", analytics_enabled=False) as blocks:
        # Every visitor gets a copy, without asking for it first: the earliest event already finds one.
        conversation = gradio.State(blank)
        gradio.HTML(page.head(server.subject.title), elem_classes="pk-head", apply_default_css=False)
        with gradio.Row(equal_height=True, elem_classes="pk-ask"):
            question = gradio.Textbox(
                label="Question", placeholder="Ask both sides …", lines=1, max_lines=6, scale=3, autofocus=True
            )
            strength = gradio.Slider(
                0,
                STRONGEST,
                server.strength,
                step=0.05,
                label="Strength of the edit",
                info="0: none; 1: as made. Moving it asks again.",
                scale=2,
                min_width=220,
            )
        with gradio.Row(elem_classes="pk-do"):
            ask = gradio.Button("Ask", variant="primary", size="md", scale=0, min_width=110)
            stop = gradio.Button("Stop", size="md", scale=0, min_width=90)
            reset = gradio.Button("New conversation", size="md", scale=0, min_width=170)
        buttons = []
        with gradio.Row(elem_classes="pk-examples"):
            for kind, texts in examples().items():
                with gradio.Column(min_width=280, elem_classes="pk-kind"):
                    gradio.HTML(f"<p>{KIND_NAMES[kind]}</p>", apply_default_css=False)
                    buttons += [(text, gradio.Button(text, size="sm")) for text in texts]
        base, edited, bars = server.show(blank)
        with gradio.Row(elem_classes="pk-panes", equal_height=True):
            panes = [gradio.HTML(value, apply_default_css=False) for value in (base, edited)]
        fired = gradio.HTML(bars, apply_default_css=False)

        # Filled in by the visitor's browser: events that follow each other closely may arrive in another order.
        moment = gradio.Number(0, visible=False)
        outputs = [*panes, fired]
        running: dict[str, Any] = {
            "show_progress": "hidden",
            "api_visibility": "private",
            "trigger_mode": "multiple",
            "concurrency_limit": None,
        }
        for event in (question.submit, ask.click):
            event(
                asked, [conversation, question, strength, moment], [question, *outputs], js=_with_moment(3), **running
            )
        for text, button in buttons:
            example = partial(asked_example, text)
            button.click(example, [conversation, strength, moment], [question, *outputs], js=_with_moment(2), **running)
        strength.change(server.rescale, [conversation, strength, moment], outputs, js=_with_moment(2), **running)
        at_once = {**running, "queue": False}
        stop.click(server.stop, conversation, outputs, **at_once)
        reset.click(server.reset, conversation, outputs, **at_once)
    return blocks


def _with_moment(count: int) -> str:
    """JavaScript that passes on an event's first `count` inputs and, behind them, when it happened."""
    return f"(...values) => [...values.slice(0, {count}), performance.now()]"


def launch(blocks: Any, *, host: str, port: int) -> str:
    """Serves the page from a thread, and returns its address; `blocks.close()` ends it.

    Raises:
        TalkError: as `check_free`.
    """
    gradio = _gradio()
    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    check_free(host, port)
    _, address, _ = blocks.queue().launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css=(files("pkedit.talk") / "page.css").read_text(encoding="utf-8"),
    )
    return str(address)


def serve(subject: Subject, *, host: str, port: int, limit: int, strength: float, tell: Callable[[str], None]) -> None:
    """Serves the page until Ctrl-C.

    Args:
        subject: the model and its edit.
        host: where to listen.
        port: there.
        limit: tokens of an answer at most.
        strength: of the edit, to begin with.
        tell: receives lines for the user.

    Raises:
        TalkError: Gradio is not installed, or the page cannot be served there.
    """
    require_gradio()
    if host not in LOOPBACK:
        tell(
            f"pkedit: listening on {host}, not on this machine alone: whoever reaches this port can use the model, "
            "and there is no password"
        )
    tell(f"{subject.title}\nreading harmless prompts, to know what is usual …")
    blocks = make_page(Server(subject, limit=limit, strength=strength))
    address = launch(blocks, host=host, port=port)
    tell(f"{address}  (Ctrl-C ends)")
    try:
        threading.Event().wait()
    except Terminated:
        raise
    except KeyboardInterrupt:
        tell("")
    finally:
        blocks.close(verbose=False)


def _gradio() -> Any:
    # Read when Gradio is imported and again later: nothing is reported to anyone.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio

    return gradio
