"""The chat in the terminal, driven by a script of lines."""

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console
from talking import LIMIT, QUESTION, make_run, make_subject, plain

from pkedit.cli import main
from pkedit.stopping import TERMINATED, Terminated
from pkedit.talk import terminal as talk_terminal
from pkedit.talk import web
from pkedit.talk.subject import Subject
from pkedit.talk.terminal import chat_in_terminal
from tiny import changed_weights, leftovers, snapshot

Line = str | type[BaseException]


def reading(lines: Sequence[Line]) -> Callable[[str], str]:
    """`input` for a person who types these lines, or presses Ctrl-C or Ctrl-D, and then Ctrl-D."""
    remaining = iter(lines)

    def read(_: str) -> str:
        line = next(remaining, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read


def chatting(
    lines: Sequence[Line], *, subject: Subject | None = None, terminal: bool = False, width: int = 100, **options: float
) -> str:
    """Everything that such a chat prints."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=width, height=30, color_system=None)
    chat_in_terminal(
        subject or make_subject(),
        console,
        **{"limit": LIMIT, "strength": 1.0, **options},  # type: ignore[arg-type]
        read=reading(lines),
    )
    return written.getvalue()


def test_both_sides_answer_as_plain_generation_does_and_the_weights_stay() -> None:
    subject = make_subject()
    before = snapshot(subject.chat.model)
    text = chatting([QUESTION], subject=subject)
    assert f"> {QUESTION}\n" in text
    assert f"base: {plain(subject)}\n" in text
    assert f"edited × 1: {plain(subject, strength=1.0)}\n" in text
    assert not changed_weights(subject.chat.model, before)
    assert not leftovers(subject.chat.model)


def test_scale_sets_the_strength_from_the_next_question_on() -> None:
    subject = make_subject()
    text = chatting(["/scale 0", QUESTION, "/reset", "/scale 0.3", QUESTION], subject=subject)
    assert f"base: {plain(subject)}\n" in text
    assert f"edited × 0: {plain(subject)}\n" in text
    assert f"edited × 0.3: {plain(subject, strength=0.3)}\n" in text


@pytest.mark.parametrize("value", ["", "x", "-1", "nan", "inf", "9"])
def test_a_scale_that_is_none_changes_nothing_and_says_what_is_asked(value: str) -> None:
    text = chatting([f"/scale {value}", QUESTION])
    assert "the strength is 1; give a number from 0 (no edit) to 4, like /scale 0.5" in text
    assert "edited × 1:" in text


def test_base_edited_and_both_choose_who_answers() -> None:
    subject = make_subject()
    text = chatting(["/base", QUESTION, "/edited", QUESTION, "/both", "/reset", QUESTION], subject=subject)
    alone, other, both = text.split(f"> {QUESTION}\n")[1:]
    assert "base: " in alone
    assert "edited × 1: " not in alone.split("now answering")[0]
    assert f"edited × 1: {plain(subject, strength=1.0)}" in other
    assert "base: " not in other.split("now answering")[0]
    assert "base: " in both
    assert "edited × 1: " in both


def test_reset_forgets_the_conversation() -> None:
    subject = make_subject()
    text = chatting([QUESTION, "/reset", QUESTION], subject=subject)
    assert "forgotten" in text
    assert text.count(f"base: {plain(subject)}\n") == 2


def test_help_names_every_command() -> None:
    text = chatting(["/help"])
    assert all(name in text for name in ("/both", "/base", "/edited", "/scale", "/reset", "/help", "/quit"))


def test_quit_leaves_at_once() -> None:
    assert f"> {QUESTION}" not in chatting(["/quit", QUESTION])


def test_the_end_of_the_input_leaves_and_ctrl_c_at_the_prompt_does_not() -> None:
    text = chatting([KeyboardInterrupt, QUESTION, EOFError, "w7"])
    assert "/quit or Ctrl-D leaves" in text
    assert f"> {QUESTION}" in text
    assert "> w7" not in text


def test_an_unknown_command_is_no_question() -> None:
    text = chatting(["/scle 1"])
    assert "no command /scle; /help lists them" in text
    assert "base: " not in text


def test_an_empty_line_asks_nothing() -> None:
    assert "base: " not in chatting(["", "   "])


def test_a_question_that_is_too_long_is_refused_and_the_chat_goes_on() -> None:
    text = chatting([" ".join(["w1"] * 200), QUESTION])
    assert "at most 128; shorten it" in text
    assert f"> {QUESTION}" in text


def test_what_no_longer_fits_is_said() -> None:
    assert "it no longer sees the first" in chatting(["/base", *[" ".join(["w1"] * 25)] * 5], limit=3)


@pytest.mark.parametrize("terminal", [False, True])
def test_escape_sequences_and_markup_in_an_answer_are_shown_not_obeyed(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = make_subject()
    evil = "\x1b[31m\x1b]0;title\x07 [bold]x[/bold] \u202eabc"
    monkeypatch.setattr(type(subject.chat.tokenizer), "decode", lambda *_, **__: evil)
    text = chatting([QUESTION], subject=subject, terminal=terminal)
    assert "␛[31m␛]0;title␇ [bold]x[/bold] ⟦U+202E⟧abc" in text
    assert "\x1b[31m" not in text
    assert not {"\x07", "\u202e"} & set(text)


def test_on_a_terminal_both_answers_stand_side_by_side() -> None:
    subject = make_subject()
    lines = chatting([QUESTION], subject=subject, terminal=True).splitlines()
    final = next(line for line in reversed(lines) if plain(subject).split()[0] in line)
    assert plain(subject, strength=1.0).split()[0] in final
    assert final.index(plain(subject, strength=1.0).split()[0]) > 40


def test_on_a_narrow_terminal_they_stand_one_below_the_other() -> None:
    subject = make_subject()
    text = chatting([QUESTION], subject=subject, terminal=True, width=40)
    end = text[text.rindex("base") :]
    assert end.index(plain(subject).split()[0]) < end.index("edited × 1")
    assert all(len(line) <= 40 for line in end.splitlines())


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make_subject()
    before = snapshot(subject.chat.model)
    original = type(subject.chat.model).generate
    steps = []

    def interrupted(*given: object, **options: object) -> object:
        steps.append(1)
        if len(steps) == 4:
            # In the middle of a step of the edited side: the edit is in the weights now.
            assert changed_weights(subject.chat.model, before)
            os.kill(os.getpid(), signal.SIGINT)
        return original(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(subject.chat.model), "generate", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    text = chatting([QUESTION, "/quit"], subject=subject, limit=40)
    assert len(steps) == 4
    assert "base: " in text
    assert not changed_weights(subject.chat.model, before)
    assert signal.getsignal(signal.SIGINT) is handler


def interrupting_once(original: Callable[..., object]) -> Callable[..., object]:
    """The function, which Ctrl-C reaches after its first call has begun."""
    calls: list[object] = []

    def interrupted(*given: object, **options: object) -> object:
        calls.append(given)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*given, **options)

    return interrupted


@pytest.mark.parametrize("method", ["_prepared", "_print"])
def test_ctrl_c_beside_the_writing_of_an_answer_does_not_end_the_chat(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = talk_terminal._Chat if method == "_print" else talk_terminal.Conversation
    monkeypatch.setattr(owner, method, interrupting_once(getattr(owner, method)))
    text = chatting([QUESTION, "w7"], limit=2)
    assert "/quit or Ctrl-D leaves" in text
    assert "> w7\nbase: " in text


@pytest.mark.parametrize("command", ["/reset", "/scale 0.5", "/help", "/base", "/scle"])
def test_ctrl_c_during_a_command_does_not_end_the_chat(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first line of all is said before anything is asked.
    subject = make_subject()
    original = talk_terminal._Chat._say
    interrupted = interrupting_once(original)
    begun: list[str] = []

    def say(chat: object, text: str) -> None:
        begun.append(text)
        (original if len(begun) == 1 else interrupted)(chat, text)  # type: ignore[arg-type]

    monkeypatch.setattr(talk_terminal._Chat, "_say", say)
    text = chatting([command, QUESTION], subject=subject, limit=2)
    assert "/quit or Ctrl-D leaves" in text
    assert f"> {QUESTION}\n" in text


def test_ctrl_c_while_it_is_answered_does_not_end_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    original = talk_terminal._Chat._say
    told: list[str] = []

    def say(chat: talk_terminal._Chat, text: str) -> None:
        if "Ctrl-D leaves" in text:
            told.append(text)
            if len(told) < 3:
                os.kill(os.getpid(), signal.SIGINT)
        original(chat, text)

    monkeypatch.setattr(talk_terminal._Chat, "_say", say)
    text = chatting([KeyboardInterrupt, QUESTION], limit=2)
    assert text.count("Ctrl-D leaves") == 1
    assert f"> {QUESTION}\n" in text


def test_sigterm_at_the_prompt_ends_the_chat() -> None:
    with pytest.raises(Terminated):
        chatting([Terminated, QUESTION])


def test_sigterm_ends_the_command_with_its_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminating(io.StringIO):
        def readline(self, _: int | None = -1, /) -> str:
            os.kill(os.getpid(), signal.SIGTERM)
            return f"{QUESTION}\n"

    monkeypatch.setattr(sys, "stdin", Terminating())
    with pytest.raises(SystemExit) as stopped:
        main(["chat", str(make_run(tmp_path))])
    assert stopped.value.code == TERMINATED
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_a_byte_that_is_no_character_is_read_as_a_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"w3 \xff w14\n"), encoding="utf-8"))
    with pytest.raises(SystemExit) as stopped:
        main(["chat", str(make_run(tmp_path)), "--max-tokens", "2"])
    assert stopped.value.code == 0
    assert "> w3 \ufffd w14\nbase: " in capsys.readouterr().out


def test_the_command_talks_to_a_run_folder_through_pipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n"))
    with pytest.raises(SystemExit) as stopped:
        main(["chat", str(make_run(tmp_path)), "--max-tokens", str(LIMIT), "--scale", "0.3"])
    assert stopped.value.code == 0
    subject = make_subject()
    printed = capsys.readouterr().out
    assert f"base: {plain(subject)}\n" in printed
    assert f"edited × 0.3: {plain(subject, strength=0.3)}\n" in printed
    assert "\x1b" not in printed


@pytest.mark.parametrize("command", ["chat", "serve"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name either a run folder or an edit"),
        (["runs/x", "--delta", "d.safetensors"], "name either a run folder or an edit"),
        (["runs/x", "--model", "m"], "--model and --chat-template go with --delta"),
        (["no-such-folder"], "not a run folder"),
    ],
)
def test_wrong_arguments_are_one_line(
    command: str,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Somebody may be using the usual port.
    monkeypatch.setattr(web, "check_free", lambda *_: None)
    with pytest.raises(SystemExit) as stopped:
        main([command, *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
