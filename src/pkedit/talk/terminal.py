"""A chat in the terminal: the model as it is and the edited one side by side, or one after the other where that is
a file or a pipe."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from pkedit.errors import TalkError
from pkedit.stopping import Terminated
from pkedit.talk.conversation import BOTH, Conversation, Side
from pkedit.talk.subject import Subject
from pkedit.visible import visible

HELP = """\
/both            both sides answer (each remembers what it was asked and has answered itself)
/base            only the model as it is answers
/edited          only the edited model answers
/scale NUMBER    strength of the edit: 0 is none, 1 as it was made; acts from the next question on
/reset           forget the conversation
/help            this list
/quit            leave; so does Ctrl-D. Ctrl-C stops an answer"""
STRONGEST = 4.0
# Narrower than this, two columns are hard to read.
TWO_COLUMNS = 60
PROMPT = "> "


def chat_in_terminal(
    subject: Subject,
    console: Console,
    *,
    limit: int,
    strength: float,
    read: Callable[[str], str] = input,
) -> None:
    """Asks for questions and shows the answers until the input ends.

    Args:
        subject: the model and its edit.
        console: where to; columns that grow on a terminal, plain text elsewhere.
        limit: tokens of an answer at most.
        strength: of the edit, to begin with.
        read: shows a prompt and gives a line; raises EOFError at the end of the input.
    """
    _Chat(subject, console, limit=limit, strength=strength, read=read).run()


class _Chat:
    def __init__(
        self, subject: Subject, console: Console, *, limit: int, strength: float, read: Callable[[str], str]
    ) -> None:
        self._subject = subject
        self._console = console
        self._read = read
        self._conversation = Conversation(subject, limit=limit, strength=strength)
        self._sides: Sequence[Side] = BOTH
        self._commands: dict[str, Callable[[str], None]] = {
            "/both": lambda _: self._choose(BOTH),
            "/base": lambda _: self._choose((Side.BASE,)),
            "/edited": lambda _: self._choose((Side.EDITED,)),
            "/scale": self._scale,
            "/reset": lambda _: self._reset(),
            "/help": lambda _: self._say(HELP),
        }

    def run(self) -> None:
        self._say(f"{self._subject.title}\nType a question, or /help.")
        with _line_history():
            goes_on, interrupted = True, False
            while goes_on:
                try:
                    if interrupted:
                        # Said inside, for Ctrl-C that is held down comes many times.
                        self._say("\n/quit or Ctrl-D leaves")
                        interrupted = False
                    goes_on = self._turn()
                except Terminated:
                    raise
                except KeyboardInterrupt:
                    interrupted = True

    def _turn(self) -> bool:
        """Reads a line and does what it says; False at the end."""
        try:
            line = self._read(PROMPT if sys.stdin.isatty() else "").strip()
        except EOFError:
            self._console.print()
            return False
        name, _, value = line.partition(" ")
        if name in ("/quit", "/exit"):
            return False
        if name.startswith("/"):
            self._commands.get(name, self._unknown)(value.strip() if name in self._commands else name)
        elif line:
            self._answer(line)
        return True

    def _answer(self, question: str) -> None:
        try:
            answers = self._conversation.ask(question, self._sides)
        except TalkError as error:
            self._say(str(error))
            return
        texts: Mapping[Side, str] = dict.fromkeys(self._sides, "")
        with _interrupting(self._conversation.stop), self._growing() as show:
            for texts in answers:
                show(texts)
        self._print(question, {side: self._conversation.exchanges(side)[-1].answer for side in self._sides})
        left_out = max(self._conversation.left_out(side) for side in self._sides)
        if left_out:
            self._say(f"(the model cannot read so much: it no longer sees the first {left_out} questions)")

    @contextmanager
    def _growing(self) -> Generator[Callable[[Mapping[Side, str]], None]]:
        """Shows answers while they grow, where the output is a terminal; what is left at the end is printed anew."""
        if not self._console.is_terminal:
            yield lambda texts: None
            return
        with Live(console=self._console, transient=True, auto_refresh=False, redirect_stderr=False) as live:
            yield lambda texts: live.update(self._table(texts, height=self._console.height - 3), refresh=True)

    def _print(self, question: str, texts: Mapping[Side, str]) -> None:
        if not (self._console.is_terminal and sys.stdin.isatty()):
            self._say(f"{PROMPT}{question}")
        if self._console.is_terminal:
            self._console.print(self._table(texts))
            return
        for side, text in texts.items():
            self._say(f"{self._label(side)}: {text or '(no answer)'}")

    def _table(self, texts: Mapping[Side, str], *, height: int | None = None) -> Table:
        """The sides beside each other, or below where there is no room; only the last lines that fit into `height`."""
        beside = len(texts) if self._console.width >= TWO_COLUMNS else 1
        width = (self._console.width - 2 * (beside - 1)) // beside
        lines = None if height is None else max(1, height * beside // len(texts) - 1)
        cells = []
        for side, text in texts.items():
            style = "cyan" if side is Side.EDITED else "default"
            title = Rule(Text(self._label(side), style=f"bold {style}"), style="dim", align="left")
            cells.append((title, self._last_lines(text, width, lines)))
        table = Table.grid(padding=(0, 2), expand=True)
        for _ in range(beside):
            table.add_column(ratio=1)
        if beside == 1:
            for title, text_lines in cells:
                table.add_row(title)
                table.add_row(text_lines)
        else:
            table.add_row(*(title for title, _ in cells))
            table.add_row(*(text_lines for _, text_lines in cells))
        return table

    def _last_lines(self, text: str, width: int, lines: int | None) -> Text:
        # Text and not a string: rich would read an answer's brackets as its markup.
        wrapped = Text(visible(text)).wrap(self._console, width)
        return Text("\n").join(wrapped if lines is None else wrapped[-lines:])

    def _label(self, side: Side) -> str:
        return "base" if side is Side.BASE else f"edited × {self._conversation.strength:g}"

    def _choose(self, sides: Sequence[Side]) -> None:
        self._sides = sides
        self._say(f"now answering: {', '.join(self._label(side) for side in sides)}")

    def _scale(self, value: str) -> None:
        try:
            strength = float(value)
        except ValueError:
            strength = -1.0
        # Written so that NaN fails.
        if not 0.0 <= strength <= STRONGEST:
            self._say(
                f"the strength is {self._conversation.strength:g}; give a number from 0 (no edit) to {STRONGEST:g}, "
                "like /scale 0.5"
            )
            return
        self._conversation.strength = strength
        said = bool(self._conversation.exchanges(Side.EDITED))
        self._say(
            f"strength {strength:g}{' (the edited side still remembers what it said; /reset forgets)' if said else ''}"
        )

    def _reset(self) -> None:
        self._conversation.reset()
        self._say("both sides have forgotten the conversation")

    def _unknown(self, name: str) -> None:
        self._say(f"no command {name}; /help lists them")

    def _say(self, text: str) -> None:
        self._console.print(Text(visible(text)), soft_wrap=not self._console.is_terminal)


@contextmanager
def _line_history() -> Generator[None]:
    """Arrow keys recall earlier questions, where there is readline; nothing is written to disk."""
    with contextlib.suppress(ImportError):
        import readline

        readline.set_auto_history(True)
    yield


@contextmanager
def _interrupting(stop: Callable[[], object]) -> Generator[None]:
    """Ctrl-C calls `stop` inside: the token being computed is finished, so that no edit stays half written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
